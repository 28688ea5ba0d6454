"""What torch computes, by shapes and types alone. The meta device knows them too, but by way of torch's
compiler, whose import takes longer than a whole rehearsal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_PER_ELEMENT = (
    "abs add cos clamp div exp gelu mul neg reciprocal rms_norm rsub silu sin sub true_divide"
    " __add__ __mul__ __neg__ __radd__ __rdiv__ __rmul__ __rsub__ __rtruediv__ __sub__ __truediv__"
).split()


class ShapesOnly(TorchFunctionMode):
    """Of this thread. Whatever it doesn't know is left to torch."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        rule, named = _RULES.get(getattr(func, "__name__", "")), kwargs or {}
        return func(*args, **named) if rule is None or not _on_meta(args, named) else rule(*args, **named)


def _on_meta(args: Sequence[Any], named: Mapping[str, Any]) -> bool:
    first = args[0][0] if isinstance(args[0], (list, tuple)) else args[0]
    tensors = [each for each in (first, *args[1:]) if isinstance(each, Tensor)]
    device = tensors[0].device if tensors else torch.device(named.get("device") or "cpu")
    return device.type == "meta"


def _per_element(*args: Any, **_: Any) -> Tensor:
    """Numbers that are no tensors leave the type as it is."""
    tensors = [each for each in args if isinstance(each, Tensor)]
    shape = torch.broadcast_shapes(*(each.shape for each in tensors))
    return tensors[0].new_empty(shape, dtype=reduce(torch.promote_types, (each.dtype for each in tensors)))


def _linear(x: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _with_gelu(bias: Tensor, x: Tensor, weight: Tensor, **_: Any) -> Tensor:  # noqa: ARG001
    return x.new_empty(x.shape[0], weight.shape[1])


def _attention(q: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(q)


def _stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    shape = list(tensors[0].shape)
    shape.insert(dim % (len(shape) + 1), len(tensors))
    return tensors[0].new_empty(shape)


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    shape = list(tensors[0].shape)
    shape[dim] = sum(each.shape[dim] for each in tensors)
    return tensors[0].new_empty(shape)


def _arange(end: int, *, dtype: torch.dtype = torch.int64, device: torch.device) -> Tensor:
    return torch.empty(end, dtype=dtype, device=device)


_RULES: Mapping[str, Callable[..., Tensor]] = {
    **dict.fromkeys(_PER_ELEMENT, _per_element),
    "linear": _linear,
    "_addmm_activation": _with_gelu,
    "scaled_dot_product_attention": _attention,
    "stack": _stack,
    "cat": _cat,
    "arange": _arange,
}
