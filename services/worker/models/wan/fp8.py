"""Products in 8-bit floating point (e4m3): weights quantised once, activations as they come, a scale per row
of both.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max
_LEAST = 1e-12


class Scaled(NamedTuple):
    """values × scale; values e4m3 [rows, width], scale float32 [rows, 1]."""

    values: Tensor
    scale: Tensor


def quantised(x: Tensor) -> Scaled:
    """Each row's largest value becomes the largest there is."""
    numbers = x.float()
    most = numbers.abs().amax(-1, keepdim=True).clamp(min=_LEAST)
    return Scaled((numbers * (LARGEST / most)).clamp(-LARGEST, LARGEST).to(E4M3), most / LARGEST)


def saturated(x: Tensor, dtype: torch.dtype) -> Tensor:
    """To `dtype`; what e4m3 can't hold becomes the largest it can, never NaN."""
    return x.clamp(-LARGEST, LARGEST).to(dtype) if dtype == E4M3 else x.to(dtype)


class Product(Protocol):
    """A linear layer. `fp8`: it takes `Scaled`, else plain numbers."""

    fp8: bool

    def __call__(self, x: Tensor | Scaled) -> Tensor: ...


class PlainProduct:
    fp8 = False

    def __init__(self, linear: torch.nn.Module) -> None:
        self._weight, self._bias = linear.weight, linear.bias

    def __call__(self, x: Tensor | Scaled) -> Tensor:
        assert isinstance(x, Tensor)
        return F.linear(x, self._weight, self._bias)  # type: ignore[arg-type]

    def with_gelu(self, x: Tensor | Scaled) -> Tensor:
        """GELU by tanh in the product's own kernel, on GPUs; a CPU's is the exact one."""
        assert isinstance(x, Tensor)
        return torch._addmm_activation(self._bias, x, self._weight.t(), use_gelu=True)  # type: ignore[arg-type,operator] # noqa: SLF001


class Fp8Product:
    """`native`: by the device's own kernel; else the same arithmetic in float32."""

    fp8 = True

    def __init__(self, linear: torch.nn.Module, *, native: bool) -> None:
        weight, bias = linear.weight, linear.bias
        assert isinstance(weight, Tensor)
        assert isinstance(bias, Tensor)
        self._weight, scale = quantised(weight)
        self._scale, self._bias = scale.t().contiguous(), bias
        self._native, self._dtype = native, weight.dtype

    def __call__(self, x: Tensor | Scaled) -> Tensor:
        assert isinstance(x, Scaled)
        if self._native:
            return torch._scaled_mm(  # noqa: SLF001 what torch has of it
                x.values,
                self._weight.t(),
                scale_a=x.scale,
                scale_b=self._scale,
                bias=self._bias,
                out_dtype=self._dtype,
                use_fast_accum=True,
            )
        weight = self._weight.float() * self._scale.t()
        return F.linear(x.values.float() * x.scale, weight, self._bias.float()).to(self._dtype)


def native_works(device: torch.device) -> bool:
    """Whether the device multiplies with a scale per row, and right."""
    if device.type != "cuda":
        return False
    linear = torch.nn.Linear(256, 512, device=device, dtype=torch.bfloat16).requires_grad_(
        requires_grad=False
    )
    x = quantised(torch.randn(128, 256, device=device, dtype=torch.bfloat16))
    try:
        made = Fp8Product(linear, native=True)(x)
    except RuntimeError:
        return False
    wanted = Fp8Product(linear, native=False)(x)
    return torch.allclose(made.float(), wanted.float(), rtol=0.02, atol=0.02)
