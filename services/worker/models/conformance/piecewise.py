"""Long work in pieces, with another session's steps between them, comes out as if done at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from services.worker.models.conformance.moving import same_state
from services.worker.models.conformance.rebuilding import played
from services.worker.models.conformance.result import Result, equal
from services.worker.models.conformance.trial import OTHER_PROMPT, PROMPTS, SEEDS, Frames, Trial, differing
from services.worker.models.in_pieces import InPieces, R
from services.worker.models.protocol import State, WorksInPieces


def rebuilt(trial: Trial) -> Iterator[Result]:
    """Also the second time, after a first one that was given up half-way, in whose place it may be."""
    if not trial.model.spec.recent_chunks or not hasattr(trial.model, "rebuild_in_pieces"):
        return
    model = cast(WorksInPieces, trial.model)
    past, _ = played(trial, trial.window_chunks + 1)
    expected = trial.save(trial.model.rebuild(seed=SEEDS[0], prompt=PROMPTS[0], past=past))
    other = _Other(trial)
    given_up = model.rebuild_in_pieces(seed=SEEDS[0], prompt=PROMPTS[0], past=past)
    next(given_up)
    other.step()
    given_up.close()
    state, pieces = other.between(model.rebuild_in_pieces(seed=SEEDS[0], prompt=PROMPTS[0], past=past))
    yield same_state(f"rebuilt in {pieces} pieces beside another = at once", trial.save(state), expected)
    del state
    yield other.undisturbed("a rebuild")


def prompted(trial: Trial) -> Iterator[Result]:
    """Taken to the end, or given up after any piece, when its chunk does what is left."""
    if not hasattr(trial.model, "take_prompt_in_pieces"):
        return
    model, rung = cast(WorksInPieces, trial.model), trial.default_rung
    usual = trial.at_cut([0])[0]
    trial.model.set_prompt(usual, OTHER_PROMPT)
    expected, kept = trial.chunk([usual]), trial.save(usual)
    del usual
    other, wanted, all_pieces = _Other(trial), 0, False
    while not all_pieces:
        wanted, state = wanted + 1, trial.at_cut([0])[0]
        trial.model.set_prompt(state, OTHER_PROMPT)
        taken = model.take_prompt_in_pieces(state, rung)
        all_pieces = other.some(taken, wanted)
        taken.close()
        saved = trial.save(state)
        del state
        state = trial.restore(saved)
        about = "all" if all_pieces else str(wanted)
        yield equal(f"prompt taken in pieces ({about}) = at once", *differing(trial.chunk([state]), expected))
        yield same_state(f"... and so is the state ({about})", trial.save(state), kept)
        del state
    yield other.undisturbed("prompts taken")


class _Other:
    """Another session, which plays on between the pieces."""

    def __init__(self, trial: Trial) -> None:
        self._trial, self._made = trial, list[Frames]()
        self._state: State = trial.at_cut([1])[0]
        self._left = 0

    def between(self, pieces: InPieces[R]) -> tuple[R, int]:
        """What they made, and how many there were."""
        count = 1
        while True:
            try:
                next(pieces)
            except StopIteration as end:
                return end.value, count
            self.step()
            count += 1

    def some(self, pieces: InPieces[None], count: int) -> bool:
        """So many of them; whether those were all."""
        for _ in range(count):
            try:
                next(pieces)
            except StopIteration:
                return True
            self.step()
        return False

    def step(self) -> None:
        model, state = self._trial.model, self._state
        if not self._left:
            self._left = model.begin_chunk(state, self._trial.default_rung)
        model.forward([state])
        self._left -= 1
        if not self._left:
            self._made.append(self._trial.decode(state))

    def undisturbed(self, by: str) -> Result:
        """It played as it would have, alone."""
        while self._left or not self._made:
            self.step()
        self._state = None
        alone = self._trial.play(self._trial.at_cut([1]), len(self._made))[0]
        return equal(f"another session, beside {by} = alone", *differing(self._made, alone))
