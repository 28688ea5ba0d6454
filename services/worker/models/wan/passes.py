"""Which forwards a chunk takes, which places of the window they write and which they see. Integers only.

A frame's place in the ring is fixed when it is made: the first `window` frames fill it in order, later ones
overwrite the oldest that is no sink. A forward lists the places it sees oldest first, so that a frame's
position for the rotary embedding is its index in that list: all full windows look the same, and no index
outgrows a table.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.worker.models import GeometryError
from services.worker.models.wan.config import Recipe

TIMESTEPS = 1000.0


def place_of(frame: int, recipe: Recipe) -> int:
    """The ring's place of a frame, counted from where the picture began."""
    if frame < recipe.window_frames:
        return frame
    return recipe.sink_frames + (frame - recipe.sink_frames) % (recipe.window_frames - recipe.sink_frames)


def window_of(end: int, recipe: Recipe, window_frames: int | None = None) -> tuple[int, ...]:
    """The frames seen by a chunk that ends before frame `end`, oldest first, its own included.

    `window_frames`: a rung's, where shorter.
    """
    limit = min(window_frames or recipe.window_frames, recipe.window_frames)
    if end <= limit:
        return tuple(range(end))
    recent = limit - recipe.sink_frames
    return (*range(recipe.sink_frames), *range(end - recent, end))


def noise_level(step: int, steps: int, shift: float) -> float:
    """The share of noise before denoise step `step`, evenly spaced and then warped; 0.0 when step = steps."""
    even = 1 - step / steps
    return shift * even / (1 + (shift - 1) * even)


@dataclass(frozen=True)
class Pass:
    """One forward of one session.

    `seen` are the ring's places it attends to, oldest first; the last `count` of them are the frames fed,
    whose keys and values it writes. `level` and `next_level` are the noise before and after, both 0.0 for a
    pass that only writes and feeds clean latents: those in the ring (`from_ring`) or the chunk's own.
    """

    seen: tuple[int, ...]
    count: int
    level: float = 0.0
    next_level: float = 0.0
    step: int = 0
    from_ring: bool = False

    @property
    def denoises(self) -> bool:
        return self.level > 0

    @property
    def written(self) -> tuple[int, ...]:
        return self.seen[-self.count :]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of one shape go through one forward: frames fed, frames seen."""
        return self.count, len(self.seen)


def chunk_passes(
    recipe: Recipe,
    start: int,
    count: int,
    *,
    steps: int | None = None,
    window_frames: int | None = None,
    new_prompt: bool = False,
) -> tuple[Pass, ...]:
    """The forwards that make the `count` frames from `start` on. `steps` and `window_frames`: a rung's."""
    steps, limit = steps or recipe.steps, window_frames or recipe.window_frames
    if limit < recipe.sink_frames + count:
        raise GeometryError(
            f"a window of {limit} has no room for the sink and a chunk of {count} latent frames"
        )
    frames = window_of(start + count, recipe, limit)
    seen = tuple(place_of(frame, recipe) for frame in frames)
    levels = [noise_level(step, steps, recipe.shift) for step in range(steps + 1)]
    denoise = [Pass(seen, count, levels[step], levels[step + 1], step) for step in range(steps)]
    if recipe.context_frames:
        context = range(max(0, start - recipe.context_frames), start)
        seen = tuple(place_of(frame, recipe) for frame in (*context, *range(start, start + count)))
        denoise = [Pass(seen, count, p.level, p.next_level, p.step) for p in denoise]
        first = [Pass(seen[:-count], len(context), from_ring=True)] if context else []
        return (*first, *denoise)
    first = [recache(recipe, start)] if new_prompt and recipe.recache_on_prompt and start else []
    return (*first, *denoise, Pass(seen, count))


def recache(recipe: Recipe, start: int, *, sink_too: bool = False) -> Pass:
    """Makes the keys and values of the last `window_frames` frames before `start` anew from clean latents.

    Sink frames older than those keep the ones they have, unless `sink_too`: when nothing is left but
    latents.
    """
    frames = window_of(start, recipe)
    oldest = 0 if sink_too else start - recipe.window_frames
    fed = [frame for frame in frames if frame >= oldest]
    return Pass(tuple(place_of(frame, recipe) for frame in frames), len(fed), from_ring=True)
