"""The same session gives the same frames: again, beside others, alone, begun again, and decoded early."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np

from services.worker.models.conformance.result import Result, differs, equal
from services.worker.models.conformance.tensors import Saved
from services.worker.models.conformance.trial import (
    OTHER_PROMPT,
    PROMPTS,
    SEEDS,
    Frames,
    Trial,
    differing,
    within,
)
from services.worker.models.protocol import ShowsEarly, State, TakesPromptsAhead


def repeats(trial: Trial) -> Iterator[Result]:
    made = trial.play(trial.open(), 1)
    for row, frames in enumerate(made):
        expected = trial.baseline.frames[row][:1]
        yield equal(f"same seed and prompt, same frames (row {row})", *differing(frames, expected))
    other = trial.model.open(seed=SEEDS[0] + 1, prompt=PROMPTS[0])
    frames = trial.play([other], 1)[0]
    yield differs("another seed, other frames", differing(frames, trial.baseline.frames[0][:1])[0])


def in_company(trial: Trial) -> Iterator[Result]:
    """Rows of the same batch shape don't depend on who is beside them, nor on their place.

    Whoever is beside them has a full window too: a model may step rows of another age apart.
    """
    expected = trial.baseline.frames
    frames = trial.play(trial.at_cut([0, 0]), 1)[0]
    yield equal(
        "batched = alone, same batch shape, another beside it",
        *differing(frames, expected[0][trial.window_chunks :][:1]),
    )
    swapped = trial.play(trial.at_cut([1, 0]), 1)
    for row, frames in ((0, swapped[1]), (1, swapped[0])):
        yield equal(
            f"batched = alone, same batch shape, places swapped (row {row})",
            *differing(frames, expected[row][trial.window_chunks :][:1]),
        )


def in_other_shapes(trial: Trial) -> Iterator[Result]:
    """From the same state, one chunk in another batch shape stays within the model's stated tolerance."""
    at = trial.window_chunks
    alone = trial.chunk(trial.at_cut([0]))[0]
    yield within(trial, "batched = alone, another batch shape", alone, trial.baseline.frames[0][at])
    yield within(trial, "rows at different steps = alone", _staggered(trial), alone)
    first, states = trial.chunk(trial.open([1]))[0], [*trial.at_cut([0]), *trial.open([1])]
    yield within(trial, "rows of different age = alone", trial.chunk(states)[1], first)


def _staggered(trial: Trial) -> Frames:
    """Row 0's chunk, with row 1 joining one step later."""
    first, second = trial.at_cut()
    steps = trial.model.begin_chunk(first, trial.default_rung)
    trial.model.forward([first])
    following = trial.model.begin_chunk(second, trial.default_rung)
    trial.finish([first, second], [steps - 1, following])
    return trial.decode(first)


def begun_again(trial: Trial) -> Iterator[Result]:
    """A chunk begun again after any of its forwards is what it had been, begun once: with a prompt that came
    meanwhile, and with one that was there before.
    """
    model = trial.model
    once = _asked_for(trial, trial.at_cut([0])[0])
    expected, kept = _chunk_and_state(trial, once, model.begin_chunk(once, trial.default_rung))
    del once
    forwards = model.begin_chunk(trial.at_cut([0])[0], trial.default_rung)
    for made, known in dict.fromkeys([(1, False), (forwards, False), (1, True)]):
        state = trial.at_cut([0])[0]
        model.begin_chunk(_asked_for(trial, state) if known else state, trial.default_rung)
        for _ in range(made):
            model.forward([state])
        again = model.begin_chunk(state if known else _asked_for(trial, state), trial.default_rung)
        frames, left = _chunk_and_state(trial, state, again)
        about = f"after {made} forwards, {'the' if known else 'another'} prompt"
        yield equal(f"begun again = begun once ({about})", *differing(frames, expected))
        same = left.unpacked() == kept.unpacked() and bool((left.memory == kept.memory).all())
        yield Result(f"… and so is the state ({about})", same, "another" if not same else "the same")


def prompted_ahead(trial: Trial) -> Iterator[Result]:
    """A prompt taken before its chunk may begin shows as it would have; also when another one follows it, and
    when the state is carried to another place in between.
    """
    if not hasattr(trial.model, "take_prompt"):
        return
    model = cast(TakesPromptsAhead, trial.model)
    usual = _asked_for(trial, trial.at_cut([0])[0])
    expected, kept = _chunk_and_state(trial, usual, trial.model.begin_chunk(usual, trial.default_rung))
    del usual
    for about in ("at once", "after another", "and carried"):
        state = trial.at_cut([0])[0]
        if about == "after another":
            trial.model.set_prompt(state, PROMPTS[1])
            model.take_prompt(state, trial.default_rung)
        model.take_prompt(_asked_for(trial, state), trial.default_rung)
        if about == "and carried":
            saved = trial.save(state)
            del state
            state = trial.restore(saved)
        frames, left = _chunk_and_state(trial, state, trial.model.begin_chunk(state, trial.default_rung))
        yield equal(f"prompt taken ahead = with its chunk ({about})", *differing(frames, expected))
        same = left.unpacked() == kept.unpacked() and bool((left.memory == kept.memory).all())
        yield Result(f"… and so is the state ({about})", same, "another" if not same else "the same")


def _asked_for(trial: Trial, state: State) -> State:
    trial.model.set_prompt(state, OTHER_PROMPT)
    return state


def _chunk_and_state(trial: Trial, state: State, forwards: int) -> tuple[list[Frames], Saved]:
    """A state that is the same goes on the same."""
    trial.finish([state], [forwards])
    return [trial.decode(state)], trial.save(state)


def shown_early(trial: Trial) -> Iterator[Result]:
    """Decoded while forwards are left: pictures, latents and state are what they are without."""
    if not hasattr(trial.model, "pictures_final"):
        return
    model, early = trial.model, trial.at_cut([0])[0]
    usual = trial.at_cut([0])[0]
    trial.finish([usual], [model.begin_chunk(usual, trial.default_rung)])
    expected, told, kept = [trial.decode(usual)], _latents(trial, usual), trial.save(usual)
    del usual
    left = model.begin_chunk(early, trial.default_rung)
    while not cast(ShowsEarly, model).pictures_final(early):
        model.forward([early])
        left -= 1
    made, known = [trial.decode(early)], _latents(trial, early)
    trial.finish([early], [left])
    yield equal("shown early = shown at the end", *differing(made, expected))
    after = trial.save(early)
    same = after.unpacked() == kept.unpacked() and bool((after.memory == kept.memory).all())
    yield Result("… and so is the state", same, "another" if not same else "the same")
    yield Result("… and its latents, told at once", known == told, "the same" if known == told else "others")


def _latents(trial: Trial, state: State) -> tuple[int, int, str, bytes]:
    """Nothing, of a model that keeps none."""
    if not trial.model.spec.recent_chunks:
        return 0, 0, "", b""
    past = trial.model.latents(state)
    values = past.latents.float().numpy() if hasattr(past.latents, "float") else np.asarray(past.latents)
    return past.index, past.origin, past.prompt, values.tobytes()
