"""Weights where no checkpoint is at hand, for benchmarks and tests: meaningless, the same on every device."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from services.worker.models.noise import mix

_BITS = 24


def fill(
    module: nn.Module, seed: int, device: torch.device, dtype: torch.dtype, variance: float = 1.0
) -> None:
    """Replaces every parameter: gains by ones, biases by zeros, the rest so that a product multiplies the
    variance by `variance`; rectifiers halve it.
    """
    for number, (name, parameter) in enumerate(sorted(module.named_parameters())):
        shape = parameter.shape
        if name.endswith("bias"):
            value = torch.zeros(shape, device=device)
        elif name.endswith("gamma") or len(shape) == 1:
            value = torch.ones(shape, device=device)
        else:
            fan_in = shape[-1] if name.endswith("modulation") else prod(shape[1:])
            value = _uniform(shape, mix(seed, number), device) * (3 * variance / fan_in) ** 0.5
        owner, _, leaf = name.rpartition(".")
        made = nn.Parameter(value.to(dtype), requires_grad=False)
        setattr(module.get_submodule(owner), leaf, made)


def _uniform(shape: torch.Size, seed: int, device: torch.device) -> Tensor:
    """In -1..1, by integer arithmetic alone: a device's own generator depends on its size."""
    state = torch.arange(prod(shape), dtype=torch.int64, device=device) + seed
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> shift)) * (factor - (1 << 64))
    top = (state >> (64 - _BITS)).float()
    return (top / (1 << (_BITS - 1))).view(shape)
