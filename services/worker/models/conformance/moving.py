"""A state is its memory and its counters: carried to another place between two chunks, it goes on as if
nothing had been.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import product
from typing import cast

import msgspec
import numpy as np

from services.worker.models.conformance import tensors
from services.worker.models.conformance.result import Result, equal
from services.worker.models.conformance.tensors import Saved
from services.worker.models.conformance.trial import AFTER, OTHER_PROMPT, Frames, Trial, differing
from services.worker.models.protocol import Counters, MidChunk, MovesMidChunk, Rung, State


def goes_on(trial: Trial) -> Iterator[Result]:
    """With a full window: frames, and what the state is afterwards."""
    states = trial.at_cut()
    for row, state in enumerate(states):
        name = f"a state that took over is what it was made from (row {row})"
        yield same_state(name, trial.save(state), trial.baseline.at_cut[row])
    made = trial.play(states, AFTER)
    for row, state in enumerate(states):
        later = trial.baseline.frames[row][trial.window_chunks :]
        yield equal(f"moved = stayed, frames (row {row})", *differing(made[row], later))
        name = f"moved = stayed, state bytes (row {row})"
        yield same_state(name, trial.save(state), trial.baseline.at_end[row])


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


def leaves_mid_chunk(trial: Trial) -> Iterator[Result]:
    """To another place after every forward of a chunk, at every rung, with a new prompt and without, and from
    places where what needn't go along is NaN.
    """
    if not hasattr(trial.model, "mid_chunk"):
        return
    for rung, prompt in product(trial.model.spec.rungs, ("", OTHER_PROMPT)):
        about = f"{rung.name}, {'a new' if prompt else 'the same'} prompt"
        stayed, asked = _chunk_that_leaves(trial, rung, prompt, leaving=False)
        moved, told = _chunk_that_leaves(trial, rung, prompt, leaving=True)
        yield equal(f"moved after every forward = stayed ({about})", *differing(moved, stayed))
        name = f"moved after every forward, state bytes ({about})"
        yield same_state(name, told, asked)


def _chunk_that_leaves(trial: Trial, rung: Rung, prompt: str, *, leaving: bool) -> tuple[list[Frames], Saved]:
    """Frames of that chunk and the next, and the state after them. Not `leaving`: it is asked, and stays."""
    model, state = trial.model, trial.at_cut([0])[0]
    if prompt:
        model.set_prompt(state, prompt)
    for left in reversed(range(model.begin_chunk(state, rung))):
        model.forward([state])
        if left:
            told = cast(MovesMidChunk, model).mid_chunk(state)
            state = _carried_mid_chunk(trial, state, told) if leaving else state
    made = [trial.decode(state), *trial.play([state], 1)[0]]
    return made, trial.save(state)


def _carried_mid_chunk(trial: Trial, state: State, told: MidChunk) -> State:
    """Void parts are NaN in every width, and all others what they were."""
    gone = trial.model.reserve()
    _carry_parts(trial, state, gone, set(trial.model.parts(state)) - told.void)
    for start, end in (span for name in told.void for span in trial.model.parts(gone)[name].spans):
        tensors.fill(trial.model.memory(gone)[start:end], np.full(end - start, 0xFF, np.uint8))
    trial.model.take_over(gone, _unpacked(told.counters))
    return gone


def _unpacked(counters: Counters) -> Counters:
    """As they are after a wire."""
    packed: Counters = msgspec.msgpack.decode(msgspec.msgpack.encode(counters))
    return packed


def _carry_parts(trial: Trial, source: State, target: State, names: Collection[str]) -> None:
    """Some parts' bytes."""
    held, parts = tensors.to_host(trial.model.memory(source)), trial.model.parts(source)
    for start, end in (span for name in names for span in parts[name].spans):
        tensors.fill(trial.model.memory(target)[start:end], held[start:end])


def reserved_is_blank(trial: Trial) -> Iterator[Result]:
    """A place that is to be filled shows nothing of who was in it before."""
    states = trial.at_cut()
    for state in states:
        tensors.fill(trial.model.memory(state), np.full(trial.model.spec.state_bytes, 0xA5, np.uint8))
    del states, state
    read = sum(
        int((tensors.to_host(trial.model.memory(state)) == 0xA5).sum())
        for state in [trial.model.reserve(), trial.model.reserve()]
    )
    yield equal("a reserved state is blank", read, 2 * trial.model.spec.state_bytes, "bytes")


def _carried(trial: Trial, states: list[State]) -> list[State]:
    """The states after a move, one by one; the old ones are gone."""
    for row in range(len(states)):
        saved = trial.save(states[row])
        states[row] = None
        states[row] = trial.restore(saved)
    return states


def same_state(name: str, one: Saved, two: Saved) -> Result:
    if one.unpacked() != two.unpacked():
        return Result(name, False, f"counters {one.unpacked()}", f"{two.unpacked()}")
    return equal(name, *tensors.differing(one.memory, two.memory), "bytes")
