"""A session exported and imported in mid-stream goes on as if nothing had been."""

from __future__ import annotations

from collections.abc import Iterator

from services.worker.models.conformance import tensors
from services.worker.models.conformance.result import Result, equal
from services.worker.models.conformance.tensors import Exported
from services.worker.models.conformance.trial import AFTER, OTHER_PROMPT, Trial, differing
from services.worker.models.protocol import State


def goes_on(trial: Trial) -> Iterator[Result]:
    """With a full window: frames, and what the state is afterwards."""
    states = trial.at_cut()
    for row, state in enumerate(states):
        name = f"an import exports what it was made from (row {row})"
        yield _same_state(name, trial.export(state), trial.baseline.at_cut[row])
    made = trial.play(states, AFTER)
    for row, state in enumerate(states):
        later = trial.baseline.frames[row][trial.window_chunks :]
        yield equal(f"moved = stayed, frames (row {row})", *differing(made[row], later))
        name = f"moved = stayed, state bytes (row {row})"
        yield _same_state(name, trial.export(state), trial.baseline.at_end[row])


def goes_on_young(trial: Trial) -> Iterator[Result]:
    """Before its first chunk, and before its window is full."""
    states = _carried(trial, trial.open())
    first = trial.play(states, 1)
    second = trial.play(_carried(trial, states), 1)
    for row, name in enumerate(("row 0", "row 1")):
        made, expected = first[row] + second[row], trial.baseline.frames[row][:2]
        yield equal(f"moved = stayed, before chunks 0 and 1 ({name})", *differing(made, expected))


def carries_a_prompt(trial: Trial) -> Iterator[Result]:
    """A prompt that no chunk has shown yet goes along."""
    stayed = trial.at_cut()
    trial.model.set_prompt(stayed[0], OTHER_PROMPT)
    expected = trial.play(stayed, 1)[0]
    del stayed[:]
    moved = trial.at_cut()
    trial.model.set_prompt(moved[0], OTHER_PROMPT)
    made = trial.play(_carried(trial, moved), 1)[0]
    yield equal("moved = stayed, with a prompt not yet shown", *differing(made, expected))


def shares_nothing(trial: Trial) -> Iterator[Result]:
    """An export is a snapshot, and an import keeps nothing of the tensors it was made from."""
    state = trial.at_cut([0])[0]
    exported = trial.model.export_state(state)
    before = tensors.to_host(exported)
    trial.chunk([state])
    yield _same_state("an export doesn't change as its session goes on", exported, before)
    del state
    given = tensors.to_host(trial.baseline.at_cut[0])
    state = trial.model.import_state(given)
    tensors.poison(given)
    name = "an import doesn't change with the tensors it was given"
    yield _same_state(name, trial.export(state), trial.baseline.at_cut[0])


def _carried(trial: Trial, states: list[State]) -> list[State]:
    """The states after a move, one by one; the old ones are gone."""
    for row in range(len(states)):
        exported = trial.export(states[row])
        states[row] = None
        states[row] = trial.model.import_state(exported)
    return states


def _same_state(name: str, one: Exported, two: Exported) -> Result:
    return equal(name, *tensors.differing(one, two), "bytes")
