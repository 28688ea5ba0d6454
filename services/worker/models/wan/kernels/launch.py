"""How every kernel here is started."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def launch(kernel: Any, grid: tuple[int, ...], first: Tensor, *others: Any, **options: Any) -> None:
    """On the meta device, where there is nothing to compute with, it is only compiled: for arguments like
    these. What is rehearsed there is thereby what is launched later.
    """
    if first.is_meta:
        kernel.warmup(first, *others, grid=grid, **options)
    else:
        kernel[grid](first, *others, **options)
