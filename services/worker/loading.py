"""What a worker does on the device thread before it is ready: load, measure, set memory aside."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import Future
from typing import NamedTuple

import psutil

from services.worker import curve, early, host_memory, measure, residency, runner
from services.worker.encode import EncodeSettings
from services.worker.encoding import cores, threads_for
from services.worker.host_memory import HostMemory
from services.worker.measure import Measured
from services.worker.models import GeometryError, UnknownModel, WeightsError
from services.worker.offload import HostPool
from services.worker.phases import timed
from services.worker.residency import Room
from services.worker.runner import NoSuchDevice, Runner
from services.worker.settings import WorkerSettings
from shared.process import StartupError

logger = logging.getLogger(__name__)

_MOST_SESSIONS = 64  # active ones, where a setting doesn't say more
_MOST_HOST_SLOTS = 10_000
_MEMORY_DEADLINE_S = 600.0  # a second for each GiB, and a good deal more
_USABLE = 0.9  # of the device's free memory; the rest is for what a forward needs
_GIB = 1 << 30
_NO_MEMORY = ("out of memory", "can't allocate memory")  # torch's words, on a GPU and on a CPU


class Loaded(NamedTuple):
    """`capacity`: active sessions that keep up, for which there are as many hot slots at least."""

    runner: Runner
    measured: Measured
    capacity: int
    room: Room
    pool: HostPool


def load(settings: WorkerSettings) -> Loaded:
    """Raises `StartupError`."""
    early.begin(settings.device)
    memory = _memory_beside(settings)
    with _fitting(settings), timed("model"):
        loaded = _load_model(settings)
    with timed("host pool"):
        pool = _host_pool(settings, loaded, memory)
    with _fitting(settings), timed("measurements"):
        measured = measure.measure(loaded, encode_settings(settings), settings.max_batch)
    duration_s = measure.chunk_duration_s(loaded.spec)
    wanted = settings.capacity or curve.capacity(measured.default, duration_s, _MOST_SESSIONS)
    hot = _hot_slots(settings.slots, wanted, loaded, _free_bytes(loaded, pool))
    if settings.capacity > hot:
        raise StartupError(
            f"TURBOSERVE_WORKER_CAPACITY={settings.capacity}: every active session needs a hot slot, and"
            f" there are {hot}; ask for fewer sessions, or for more TURBOSERVE_WORKER_SLOTS"
        )
    room = Room(hot, residency.host_slots(pool.free_slots))
    return Loaded(loaded, measured, min(wanted, hot), room, pool)


@contextlib.contextmanager
def _fitting(settings: WorkerSettings) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in _NO_MEMORY):
            raise
        raise StartupError(
            f"{settings.model} doesn't fit TURBOSERVE_WORKER_DEVICE={settings.device}: {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def encode_settings(settings: WorkerSettings) -> EncodeSettings:
    return EncodeSettings(
        settings.encode_preset,
        settings.encode_crf,
        settings.encode_max_bits_per_pixel,
        settings.encode_threads or threads_for(cores()),
    )


def _load_model(settings: WorkerSettings) -> Runner:
    try:
        return runner.load(
            settings.model_loader, settings.model, settings.device, settings.weights_path, settings.geometry
        )
    except (UnknownModel, WeightsError) as error:
        raise StartupError(str(error)) from error
    except GeometryError as error:
        raise StartupError(f"TURBOSERVE_WORKER_GEOMETRY={settings.geometry}: {error}") from None
    except NoSuchDevice as error:
        raise StartupError(f"TURBOSERVE_WORKER_DEVICE={settings.device}: {error}") from None
    except ImportError as error:
        raise StartupError(f"TURBOSERVE_WORKER_MODEL_LOADER={settings.model_loader}: {error}") from error


def _memory_beside(settings: WorkerSettings) -> Future[HostMemory]:
    """Set aside while the model is made, since that takes as long. Raises `StartupError`."""
    pool_bytes = int(settings.host_pool_gib * _GIB)
    available_bytes = psutil.virtual_memory().available
    if pool_bytes > available_bytes:
        raise StartupError(
            f"{_pool_setting(settings)}: only {available_bytes / _GIB:.1f} GiB of memory are available; set"
            " aside less"
        )
    return host_memory.beside(pool_bytes, settings.device)


def _host_pool(settings: WorkerSettings, loaded: Runner, memory: Future[HostMemory]) -> HostPool:
    setting, slot_bytes = _pool_setting(settings), loaded.spec.state_bytes
    pool_bytes = int(settings.host_pool_gib * _GIB)
    slots = min(pool_bytes // slot_bytes, _MOST_HOST_SLOTS)
    if pool_bytes and not residency.host_slots(slots):
        text = "%s holds no session: one of %s takes %.2f GiB, and one slot stays free; set aside more, or 0"
        logger.warning(text, setting, loaded.spec.name, slot_bytes / _GIB)
    try:
        set_aside = memory.result(_MEMORY_DEADLINE_S)
        if not slots:
            set_aside.release()
        return HostPool(slots, slot_bytes, loaded.device, set_aside)
    except TimeoutError:
        reason = f"it wasn't set aside and locked within {_MEMORY_DEADLINE_S:g} s"
        raise StartupError(f"{setting}: {reason}; set aside less") from None
    except (MemoryError, RuntimeError) as error:
        reason = f"it can't be set aside and locked: {_first_line(error)}"
        raise StartupError(f"{setting}: {reason}; set aside less, or raise `ulimit -l`") from None


def _pool_setting(settings: WorkerSettings) -> str:
    return f"TURBOSERVE_WORKER_HOST_POOL_GIB={settings.host_pool_gib:g}"


def _free_bytes(loaded: Runner, pool: HostPool) -> int:
    """On a CPU the pool takes of the same memory, only later: where its pages are first written."""
    return loaded.free_bytes() - (pool.size_bytes if loaded.device == "cpu" else 0)


def _hot_slots(wanted: int, capacity: int, loaded: Runner, free_bytes: int) -> int:
    """`wanted` 0: computed. Raises `StartupError` if there isn't room for so many, or for any."""
    spec = loaded.spec
    fitting = max(0, int(_USABLE * free_bytes)) // max(spec.state_bytes, 1)
    slots = residency.hot_slots(wanted, capacity, spec.slots, fitting)
    if slots < max(wanted, 1):
        room = f"{fitting} fit {free_bytes / _GIB:.1f} GiB" if spec.slots is None else f"it has {spec.slots}"
        raise StartupError(
            f"TURBOSERVE_WORKER_SLOTS={wanted}: {spec.name} takes {spec.state_bytes:,} bytes a session on"
            f" {loaded.device}, {room}; ask for fewer, or 0 for as many as there is room for"
        )
    return slots
