"""Wan's rotary embedding: a head's pairs are shared out over time, height and width; neighbours pair up."""

from __future__ import annotations

import torch
from torch import Tensor

_THETA = 10_000.0


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """Pairs of a head for time, height and width."""
    third = head_dim // 6
    return head_dim // 2 - 2 * third, third, third


def rope_table(frames: int, grid: tuple[int, int], head_dim: int) -> Tensor:
    """cos and sin for every token of a window, [2, frames, frame tokens, head_dim / 2], float32.

    Computed in float64 once; positions never exceed the window, so no table ever runs out.
    """
    axes = []
    for size, pairs in zip((frames, *grid), axis_pairs(head_dim), strict=True):
        speeds = _THETA ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
        axes.append(torch.arange(size, dtype=torch.float64)[:, None] * speeds)
    time, down, across = axes
    shape = (frames, *grid)
    angles = torch.cat(
        [
            time[:, None, None].expand(*shape, -1),
            down[None, :, None].expand(*shape, -1),
            across[None, None].expand(*shape, -1),
        ],
        dim=-1,
    ).flatten(1, 2)
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """x [rows, frames, tokens, heads, head_dim] turned by table [2, frames, tokens, head_dim / 2]."""
    cos, sin = table[0, :, :, None], table[1, :, :, None]
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)
