"""States between two chunks, as anybody may keep them, and what else of a model holds numbers: copied,
compared, counted and poisoned.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from services.worker.models.protocol import Counters, Memory, SessionModel, State

Bytes = npt.NDArray[np.uint8]


class Saved(NamedTuple):
    """A state's memory, copied, and its counters as they go over a wire."""

    memory: Bytes
    counters: bytes

    def unpacked(self) -> Counters:
        counters: Counters = msgspec.msgpack.decode(self.counters)
        return counters


def save(model: SessionModel, state: State) -> Saved:
    return Saved(to_host(model.memory(state)), msgspec.msgpack.encode(model.counters(state)))


def restore(model: SessionModel, saved: Saved) -> State:
    state = model.reserve()
    fill(model.memory(state), saved.memory)
    model.take_over(state, saved.unpacked())
    return state


def to_host(memory: Memory) -> Bytes:
    """A copy that shares nothing with the model."""
    on_host = memory.detach().cpu().numpy() if isinstance(memory, Tensor) else memory
    return np.array(on_host, np.uint8)


def read_after(memory: Memory, event: Any) -> Bytes:
    """As the device has it after the event, whatever else it is at. None: as it is now."""
    if event is None:
        return to_host(memory)
    aside = torch.cuda.Stream(memory.device)
    aside.wait_event(event)
    with torch.cuda.stream(aside):
        return to_host(memory)


def fill(memory: Memory, held: Bytes) -> None:
    if isinstance(memory, Tensor):
        memory.copy_(torch.from_numpy(held))
    else:
        memory[:] = held


def poisoned(saved: Saved) -> Saved:
    """All bits set is NaN in every IEEE width and in fp8 e4m3. Counters stay, so that a model goes on as if
    nothing were wrong.
    """
    return saved._replace(memory=np.full_like(saved.memory, 0xFF))


def differing(one: Bytes, two: Bytes) -> tuple[int, int]:
    """(bytes that differ, all of them)."""
    if one.shape != two.shape:
        return max(one.size, two.size), max(one.size, two.size)
    return int((one != two).sum()), one.size


def covered(spans: Iterable[tuple[int, int]], size: int) -> npt.NDArray[np.int_]:
    """How many of the spans each byte lies in."""
    count = np.zeros(size, np.int_)
    for start, end in spans:
        count[start:end] += 1
    return count


def held_bytes(state: Any, beside: Memory) -> int:
    """Bytes of all that `state` reaches, each storage once, but for the one that `beside` lies in."""
    held = dict(_storage(value) for value in _reached(state))
    held.pop(_storage(beside)[0], None)
    return sum(held.values())


def _storage(value: Any) -> tuple[int, int]:
    """(address, bytes) of what holds its numbers."""
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        return storage.data_ptr(), storage.nbytes()
    while isinstance(value.base, np.ndarray):
        value = value.base
    return value.ctypes.data, value.nbytes


def _reached(value: Any, depth: int = 5) -> Iterator[Any]:
    """Through the usual containers and objects of Python classes, never through modules of the model."""
    if isinstance(value, Tensor | np.ndarray):
        yield value
    elif depth and not isinstance(value, type | torch.nn.Module):
        for inner in _inside(value):
            yield from _reached(inner, depth - 1)


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple | set):
        return list(value)
    if not hasattr(type(value), "__module__") or type(value).__module__ in {"builtins", "weakref"}:
        return []
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    held = [getattr(value, name) for name in slots if name != "__weakref__" and hasattr(value, name)]
    return [*held, *vars(value).values()] if hasattr(value, "__dict__") else held


def device_bytes(device: str) -> int:
    """What torch has handed out on the device; 0 where it doesn't count (the CPU)."""
    if not device.startswith("cuda"):
        return 0
    gc.collect()
    return torch.cuda.memory_allocated(device)
