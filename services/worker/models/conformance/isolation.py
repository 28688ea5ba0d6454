"""Nothing of one session reaches another: not beside it, not after it in its place, not in its frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from services.worker.models.conformance import tensors
from services.worker.models.conformance.result import Result, equal
from services.worker.models.conformance.trial import Trial, differing
from services.worker.models.protocol import State


def beside_poison(trial: Trial) -> Iterator[Result]:
    """A batch-mate whose state is NaN throughout changes nothing."""
    for place in trial.rows:
        mate = 1 - place
        states = trial.at_cut([mate])
        bad = _poisoned(trial, place)
        states.insert(place, bad)
        made = trial.play(states, 1)[mate]
        del bad, states
        expected = trial.baseline.frames[mate][trial.window_chunks :][:1]
        yield equal(f"beside a poisoned session in row {place}", *differing(made, expected))


def after_poison(trial: Trial) -> Iterator[Result]:
    """A new session where a poisoned one was reads nothing of it."""
    states = [_poisoned(trial, row) for row in trial.rows]
    trial.play(states, 1)
    del states
    made = trial.play(trial.open(), 1)
    for row in trial.rows:
        name = f"in the place of a poisoned session (row {row})"
        yield equal(name, *differing(made[row], trial.baseline.frames[row][:1]))


def frames_stay(trial: Trial) -> Iterator[Result]:
    """They are encoded on another thread while the model goes on, so they must not be a buffer used again."""
    state = trial.at_cut([0])[0]
    trial.finish([state], [trial.model.begin_chunk(state, trial.default_rung)])
    frames = np.asarray(trial.model.decode(state))
    before = frames.copy()
    trial.chunk([state])
    yield equal("a chunk's frames stay as they are while the next is made", *differing([frames], [before]))


def _poisoned(trial: Trial, row: int) -> State:
    return trial.restore(tensors.poisoned(trial.baseline.at_cut[row]))
