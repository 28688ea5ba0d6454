"""The same session gives the same frames: again, with others beside it, alone, and at another place."""

from __future__ import annotations

from collections.abc import Iterator

from services.worker.models.conformance.result import Result, differs, equal
from services.worker.models.conformance.trial import PROMPTS, SEEDS, Frames, Trial, differing, within


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
