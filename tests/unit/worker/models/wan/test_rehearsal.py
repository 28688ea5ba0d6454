"""What a first start does beside the model's making, and what one worker of a host does for all."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from services.worker.models.slots import Layout
from services.worker.models.wan import attention, rehearsal
from services.worker.models.wan.compiling import Divided
from services.worker.models.wan.form import Wishes
from services.worker.models.wan.host_lock import host_lock
from services.worker.models.wan.kernels.launch import launch
from services.worker.models.wan.session import regions
from services.worker.models.wan.shapes import ShapesOnly
from services.worker.models.wan.taehv import TaehvDecoder
from tests.unit.worker.models.wan import tiny

CPU, META = torch.device("cpu"), torch.device("meta")
DEADLINE_S = 30.0


class Kernel:
    """Notes how it is started."""

    def __init__(self) -> None:
        self.launched: list[Any] = []
        self.compiled: list[Any] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **options: self.launched.append((grid, args, options))

    def warmup(self, *args: Any, grid: tuple[int, ...], **options: Any) -> None:
        self.compiled.append((grid, args, options))


def test_on_the_meta_device_a_kernel_is_only_compiled() -> None:
    kernel, real, shape = Kernel(), torch.zeros(3), torch.zeros(3, device="meta")
    launch(kernel, (2,), real, 5, BLOCK=8)
    launch(kernel, (2,), shape, 5, BLOCK=8)
    assert kernel.launched == [((2,), (real, 5), {"BLOCK": 8})]
    assert kernel.compiled == [((2,), (shape, 5), {"BLOCK": 8})]


COMPUTED: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: F.linear(x, x.new_ones(5, 4), x.new_ones(5)),
    "with gelu": lambda x: torch._addmm_activation(x.new_ones(5), x, x.new_ones(4, 5), use_gelu=True),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x.new_ones(1, 5, 4), x.new_ones(1, 5, 4)),
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "broadcast": lambda x: x[:, None] + x.new_ones(5, 4),
    "types": lambda x: x.bfloat16() * x,
    "quantised": lambda x: (x * (448.0 / x.abs().amax(-1, keepdim=True).clamp(min=1.0))).clamp(-1, 1),
    "stack": lambda x: torch.stack([x, x]),
    "stack the last": lambda x: torch.stack([x, x], -1),
    "wave": lambda x: torch.cat([torch.arange(4, dtype=torch.float64, device=x.device).cos()] * 2, -1),
}


@pytest.mark.parametrize("what", COMPUTED)
def test_shapes_and_types_are_those_that_torch_computes(what: str) -> None:
    x = torch.ones(3, 4)
    made = COMPUTED[what](x)
    with ShapesOnly():
        shaped = COMPUTED[what](x.to(META))
        assert torch.equal(COMPUTED[what](x), made)
    assert shaped.is_meta
    assert (shaped.shape, shaped.dtype, shaped.stride()) == (made.shape, made.dtype, made.stride())


def test_a_rehearsal_goes_through_every_form_that_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    called = rehearsal.called

    def noted(ways: attention.Ways, *args: Any, **named: Any) -> tuple[str, dict[str, float]]:
        name, took = called(ways, *args, **named)
        asked.extend(took)
        return name, took

    monkeypatch.setattr(rehearsal, "called", noted)
    config = tiny.config()
    layout = Layout(regions(config, TaehvDecoder(tiny.DECODER_WIDTHS), torch.float32))
    rehearsal.rehearse(config, layout, 3, torch.float32, Wishes(pieces="eager", window="gather"))
    assert {name.split()[0] for name in asked if name.startswith("pieces")} == {"pieces=eager"}
    for said in ("fp8=True", "fp8=False", "up+down"):
        assert any(said in name for name in asked), said


def test_without_a_gpu_nothing_is_rehearsed() -> None:
    layout = Layout(regions(tiny.config(), TaehvDecoder(tiny.DECODER_WIDTHS), torch.float32))
    assert rehearsal.begun(tiny.config(), layout, 1, CPU, torch.float32, Wishes()) is None


class Compiled:
    """As Triton's, once it is compiled. `run`: makes its launcher and loads it."""

    def __init__(self, name: str, *, fits: bool = True) -> None:
        self.name, self._fits = name, fits
        self.loaded = False

    @property
    def run(self) -> None:
        if not self._fits:
            raise RuntimeError("out of resource: shared memory")
        self.loaded = True


def _compiles(kernel: Compiled) -> Callable[[], Compiled]:
    return lambda: kernel


def _fails() -> Compiled:
    raise RuntimeError("no such instruction")


def test_every_kernel_that_compiles_is_loaded_too(tmp_path: Path) -> None:
    kernels = [Compiled("attend", fits=False), Compiled("split"), Compiled("attend")]
    with ThreadPoolExecutor(2) as pool:
        divided = Divided(pool, tmp_path)
        asked = [divided.submit(work) for work in (_fails, *map(_compiles, kernels))]
        assert isinstance(asked[0].exception(DEADLINE_S), RuntimeError)
        assert [each.result(DEADLINE_S) for each in asked[1:]] == kernels
    assert [kernel.loaded for kernel in kernels] == [False, True, True]
    assert divided.elsewhere == []


@pytest.mark.parametrize("folder", [None, "locks"])
def test_nobody_waits_for_threads_that_could_not_begin(tmp_path: Path, folder: str | None) -> None:
    with ThreadPoolExecutor(1, initializer=_fails) as pool:
        divided = Divided(pool, tmp_path / folder if folder else None)
        asked = divided.submit(_compiles(Compiled("split")))
        assert isinstance(asked.exception(DEADLINE_S), BrokenExecutor)


def test_a_kernel_that_another_worker_is_at_comes_last(tmp_path: Path) -> None:
    free = threading.Event()
    other, _ = _held(tmp_path / "0.lock", free)
    with ThreadPoolExecutor(1) as pool:
        divided = Divided(pool, tmp_path)
        first, second = (divided.submit(_compiles(Compiled(name))) for name in ("attend", "split"))
        assert second.result(DEADLINE_S).name == "split"
        assert not first.done()
        free.set()
        assert first.result(DEADLINE_S).name == "attend"
    other.join(DEADLINE_S)
    assert [path.name for path in divided.elsewhere] == ["0.lock"]


@pytest.mark.parametrize("folder", [None, "a file"])
def test_where_nobody_can_be_told_each_compiles_all(tmp_path: Path, folder: str | None) -> None:
    (tmp_path / "a file").write_text("")
    with ThreadPoolExecutor(1) as pool:
        divided = Divided(pool, tmp_path / folder if folder else None)
        assert divided.submit(_compiles(Compiled("split"))).result(DEADLINE_S).loaded


class Mode:
    """As Triton's."""

    def __init__(self, divided: Divided) -> None:
        self.future_kernels: dict[str, Any] = {}
        self._divided = divided

    def ask(self, *works: Callable[[], Compiled]) -> None:
        for work in works:
            made = self._divided.submit(work)
            self.future_kernels[str(len(self.future_kernels))] = SimpleNamespace(kernel=None, made=made)

    def __enter__(self) -> Mode:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.future_kernels.values():
            each.kernel = None if each.made.exception(DEADLINE_S) else each.made.result()


def test_what_was_compiled_is_counted() -> None:
    with ThreadPoolExecutor(2) as pool:
        divided = Divided(pool, None)
        mode = Mode(divided)
        kernels = _fails, _compiles(Compiled("split"))
        assert rehearsal._all(lambda *_, **__: mode, lambda: mode.ask(*kernels), divided) == 1


def _held(path: Path, free: threading.Event) -> tuple[threading.Thread, threading.Event]:
    held = threading.Event()

    def hold() -> None:
        with host_lock(path, DEADLINE_S):
            held.set()
            free.wait(DEADLINE_S)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(DEADLINE_S)
    return thread, held


def test_what_one_holds_the_other_waits_for(tmp_path: Path) -> None:
    free, order = threading.Event(), Future[str]()
    thread, _ = _held(tmp_path / "x.lock", free)

    def later() -> None:
        with host_lock(tmp_path / "x.lock", DEADLINE_S):
            order.set_result("freed before" if free.is_set() else "still held")

    waiting = threading.Thread(target=later)
    waiting.start()
    free.set()
    assert order.result(DEADLINE_S) == "freed before"
    for each in (thread, waiting):
        each.join(DEADLINE_S)


def test_a_holder_that_lasts_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    free = threading.Event()
    thread, _ = _held(tmp_path / "x.lock", free)
    with host_lock(tmp_path / "x.lock", 0.0):
        assert not free.is_set()
    free.set()
    thread.join(DEADLINE_S)
    assert "isn't waited for any more" in caplog.text


def test_a_dead_holder_holds_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hold = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
        " print('held', flush=True); time.sleep(600)"
    )
    path = tmp_path / "x.lock"
    with subprocess.Popen([sys.executable, "-c", hold, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGKILL)
        with caplog.at_level(logging.WARNING), host_lock(path, DEADLINE_S):
            pass
    assert not caplog.records


def test_where_nothing_can_be_locked_all_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with host_lock(tmp_path / "file" / "x.lock", DEADLINE_S):
        pass
    assert "can't be locked" in caplog.text


def test_what_is_clearly_slower_is_timed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    ms = {"plain": 96.0, "turned": 54.0, "slots": 60.0}
    ways: dict[str, Callable[[], Tensor]] = {name: partial(torch.ones, 1) for name in ms}
    named, timed = {id(way): name for name, way in ways.items()}, []

    def fake(way: Callable[[], Tensor], _: torch.device, calls: int) -> float:
        timed.extend([named[id(way)]] * calls)
        return ms[timed[-1]]

    monkeypatch.setattr(attention, "_milliseconds", fake)
    assert attention.fastest(ways, CPU) == ("turned", ms)
    assert [timed.count(name) for name in ms] == [2, 3, 3]
    timed.clear()
    del ways["turned"]
    assert attention.fastest(ways, CPU, first_told=False) == ("slots", {"slots": 60.0})
    assert "plain" not in timed
    del ways["slots"]
    assert attention.fastest(ways, CPU, first_told=False) == ("plain", {})


def test_one_timing_that_was_held_up_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ways: dict[str, Callable[[], Tensor]] = {name: partial(torch.ones, 1) for name in ("slots", "turned")}
    took = {id(ways["slots"]): [60.0] * 3, id(ways["turned"]): [54.0, 54.0, 54.0, 1354.0]}
    monkeypatch.setattr(attention, "_milliseconds", lambda way, *_: took[id(way)].pop())
    assert attention.fastest(ways, CPU) == ("turned", {"slots": 60.0, "turned": 54.0})
