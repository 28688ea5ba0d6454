"""Sessions played through a model for the checks, and the one run that they are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from services.worker.models.conformance import tensors
from services.worker.models.conformance.result import Result
from services.worker.models.conformance.tensors import Saved
from services.worker.models.protocol import Rung, SessionModel, State

Frames = npt.NDArray[np.uint8]

PROMPTS = ("a big green heart moving left over the sea", "a small red ball at night")
"""Every shipped model tells them apart."""
OTHER_PROMPT = "a big yellow star in the desert"
SEEDS = (11, 2**40 + 7)
AFTER = 2
"""Chunks played after the cut."""


@dataclass(frozen=True)
class Baseline:
    """Two sessions played side by side at the default rung, cut in two once their windows are full.

    `frames[row][chunk]`; `at_cut` and `at_end` are what their states were.
    """

    frames: tuple[list[Frames], ...]
    at_cut: tuple[Saved, ...]
    at_end: tuple[Saved, ...]


@dataclass(frozen=True)
class Trial:
    """`long_run_chunks`: how far past the window the check for growth plays. No check holds more than two
    states at once, so a model with two slots can be tried.
    """

    model: SessionModel
    device: str = "cpu"
    long_run_chunks: int = 8
    rows: Sequence[int] = field(default=(0, 1), init=False)

    @property
    def default_rung(self) -> Rung:
        return self.model.spec.rungs[0]

    @property
    def window_chunks(self) -> int:
        """How many chunks fill the widest window."""
        widest = max(rung.window_latent_frames for rung in self.model.spec.rungs)
        return max(1, math.ceil(widest / self.model.spec.latent_frames_per_chunk))

    @cached_property
    def baseline(self) -> Baseline:
        states = self.open()
        made = self.play(states, self.window_chunks)
        at_cut = tuple(self.save(state) for state in states)
        later = self.play(states, AFTER)
        frames = tuple(one + two for one, two in zip(made, later, strict=True))
        return Baseline(frames, at_cut, tuple(self.save(state) for state in states))

    def open(self, rows: Sequence[int] = (0, 1)) -> list[State]:
        return [self.model.open(seed=SEEDS[row], prompt=PROMPTS[row]) for row in rows]

    def at_cut(self, rows: Sequence[int] = (0, 1)) -> list[State]:
        """The baseline's sessions again, as they were at the cut."""
        return [self.restore(self.baseline.at_cut[row]) for row in rows]

    def save(self, state: State) -> Saved:
        return tensors.save(self.model, state)

    def restore(self, saved: Saved) -> State:
        return tensors.restore(self.model, saved)

    def play(self, states: Sequence[State], chunks: int) -> list[list[Frames]]:
        """Frames of each row, chunk by chunk."""
        made = [self.chunk(states) for _ in range(chunks)]
        return [list(row) for row in zip(*made, strict=True)]

    def chunk(self, states: Sequence[State], rungs: Sequence[Rung] = ()) -> list[Frames]:
        """One chunk of every row, stepped together for as long as each still has steps."""
        rungs = rungs or [self.default_rung] * len(states)
        self.finish(states, [self.model.begin_chunk(s, rung) for s, rung in zip(states, rungs, strict=True)])
        return [self.decode(state) for state in states]

    def decode(self, state: State) -> Frames:
        """The chunk's frames, to keep."""
        return np.asarray(self.model.decode(state)).copy()

    def finish(self, states: Sequence[State], forwards: Sequence[int]) -> None:
        for step in range(max(forwards)):
            self.model.forward([s for s, count in zip(states, forwards, strict=True) if step < count])


def differing(one: Sequence[Frames], two: Sequence[Frames]) -> tuple[int, int]:
    """(pixel values that differ, all of them); frames of other shapes differ wholly."""
    pairs = list(zip(one, two, strict=True))
    total = sum(first.size for first, _ in pairs)
    return sum(int((a != b).sum()) if a.shape == b.shape else a.size for a, b in pairs), total


def within(trial: Trial, name: str, one: Frames, two: Frames) -> Result:
    """Whether one chunk differs by no more than the model says of another batch shape."""
    tolerance = trial.model.spec.batch_tolerance_levels
    most, mean = _largest(one, two)
    measured = f"at most {most}, mean {mean:.4f} levels"
    return Result(name, most <= tolerance, measured, f"at most {tolerance:g} of 255 levels")


def _largest(one: Frames, two: Frames) -> tuple[int, float]:
    """(largest, mean) difference of a pixel value, in levels of 255."""
    if one.shape != two.shape:
        return 255, 255.0
    apart = np.abs(one.astype(np.int16) - two.astype(np.int16))
    return int(apart.max()), float(apart.mean())
