"""Random clips of the world for training: scenes with prompt changes in them, never a held-out
combination."""

from __future__ import annotations

import torch
from torch import Tensor

from services.worker.models.sprites.vocabulary import SLOTS

_COUNTS = [len(values) for values in SLOTS.values()]


def random_scenes(clips: int, chunks: int, change: float, generator: torch.Generator) -> Tensor:
    """[clips, chunks, 6]; before each later chunk, with chance `change`, a prompt names one to three
    slots anew."""
    scenes = [_allowed(_random(clips, generator))]
    for _ in range(chunks - 1):
        named = torch.rand(clips, len(_COUNTS), generator=generator, device=generator.device).argsort(1)
        count = torch.randint(1, 4, (clips, 1), generator=generator, device=generator.device)
        changed = torch.rand(clips, 1, generator=generator, device=generator.device) < change
        fresh = torch.where((named < count) & changed, _random(clips, generator), scenes[-1])
        scenes.append(_allowed(fresh))
    return torch.stack(scenes, 1)


def _random(clips: int, generator: torch.Generator) -> Tensor:
    columns = [torch.randint(n, (clips,), generator=generator, device=generator.device) for n in _COUNTS]
    return torch.stack(columns, 1)


def _allowed(scenes: Tensor) -> Tensor:
    """Moves held-out combinations to the next colour, which is never held out beside the same shape and
    background."""
    held = (scenes[:, 0] * 7 + scenes[:, 1] * 3 + scenes[:, 5] * 11) % 10 == 4
    moved = scenes.clone()
    moved[:, 0] = (scenes[:, 0] + 1) % _COUNTS[0]
    return torch.where(held[:, None], moved, scenes)
