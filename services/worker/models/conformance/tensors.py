"""Exported states, and whatever else of a model holds numbers: copied, compared, counted and poisoned.

A value that is no tensor (a counter, a prompt) is compared as it is and counts no bytes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Exported = Mapping[str, Any]


def to_host(exported: Exported) -> dict[str, Any]:
    """Copies in host memory, as a move or a suspension makes them: nothing is shared with the model."""
    return {name: _host_copy(value) for name, value in exported.items()}


def _host_copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True).contiguous()
    return np.array(value) if isinstance(value, np.ndarray) else value


def byte_count(exported: Exported) -> int:
    return sum(_bytes_of(value) for value in exported.values())


def _bytes_of(value: Any) -> int:
    return int(value.nbytes) if isinstance(value, Tensor | np.ndarray) else 0


def differing(one: Exported, two: Exported) -> tuple[int, int]:
    """(bytes or plain values that differ, all of them). NaNs are equal where their bits are."""
    if set(one) != set(two):
        return max(len(set(one) ^ set(two)), 1), max(len(one), len(two))
    pairs = [_difference(one[name], two[name]) for name in one]
    return sum(count for count, _ in pairs), sum(total for _, total in pairs)


def _difference(one: Any, two: Any) -> tuple[int, int]:
    if not isinstance(one, Tensor | np.ndarray):
        return int(one != two), 1
    first, second = _raw(one), _raw(two)
    if first.shape != second.shape:
        return max(len(first), len(second)), max(len(first), len(second))
    return int((first != second).sum()), len(first)


def _raw(value: Tensor | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value.detach().cpu()
    return tensor.contiguous().flatten().view(torch.uint8).numpy()


def poison(exported: Exported) -> int:
    """Make every number in it NaN that isn't a whole one, in place. Returns how many tensors that befell.

    A tensor of bytes is taken for packed numbers: all bits set is NaN in every IEEE width and in fp8 e4m3.
    Counters stay, so that a model goes on as if nothing were wrong.
    """
    numbers = [value for value in exported.values() if _is_numbers(value)]
    for value in numbers:
        tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        tensor.view(torch.uint8).fill_(0xFF)
    return len(numbers)


def _is_numbers(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return bool(np.issubdtype(value.dtype, np.floating)) or value.dtype == np.uint8
    return isinstance(value, Tensor) and (value.is_floating_point() or value.dtype == torch.uint8)


def held_bytes(state: Any) -> int:
    """Bytes of every tensor that `state` reaches, each storage once; what lives in a model's pool isn't
    reached.
    """
    return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in _reached(state))}.values())


def _reached(value: Any, depth: int = 5) -> Iterator[Tensor]:
    """Through the usual containers and objects of Python classes, never through modules of the model."""
    if isinstance(value, Tensor):
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
    gc.collect()
    return torch.cuda.memory_allocated(device) if device.startswith("cuda") else 0
