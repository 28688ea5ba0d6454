"""What of a session isn't in its slot: a few numbers, between two chunks or between two forwards of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.worker.models.protocol import MidChunk
from services.worker.models.wan.session import DECODER, LATENTS, PRESENT, Begun, State, void_parts

_NAMES = ("seed", "chunk", "frames", "prompt", "shown", "new_text")


def counters(state: State) -> dict[str, Any]:
    assert state.latent is None, "a state has counters between two chunks"
    return _numbers(state)


def mid_chunk(state: State, size: int) -> MidChunk:
    """`size`: `places_together`."""
    assert state.begun is not None
    assert state.passes, "a chunk whose forwards are over can only be decoded"
    told = _numbers(state) | {"begun": list(state.begun), "left": len(state.passes)}
    return MidChunk(told, void_parts(state.passes, size))


def unsettled(state: State) -> frozenset[str]:
    if state.latent is None:
        return frozenset()
    decoder = {DECODER} if state.decoded else set()
    return state.writes | {LATENTS, PRESENT} | decoder


def take_over(state: State, told: Mapping[str, Any]) -> tuple[Begun, int] | None:
    """The chunk under way and how many of its forwards are left. None: there is none."""
    for name in _NAMES:
        setattr(state, name, told[name])
    state.newest = state.latent = state.begun = None
    state.passes = ()
    return (Begun(*told["begun"]), told["left"]) if "left" in told else None


def _numbers(state: State) -> dict[str, Any]:
    return {name: getattr(state, name) for name in _NAMES}
