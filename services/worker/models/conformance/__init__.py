"""Whether a `SessionModel` keeps the protocol's promises: for anyone who brings one, and for ours.

`turboserve model test` runs it; so does a test: `assert all(result.passed for result in check(model))`. The
worker never does. It takes a few dozen chunks, and never holds more than two states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

from services.worker.models.conformance import (
    isolation,
    moving,
    parts,
    piecewise,
    promises,
    rebuilding,
    sameness,
)
from services.worker.models.conformance.result import Result
from services.worker.models.conformance.trial import Trial
from services.worker.models.protocol import ReadsEmbeddings, SessionModel

__all__ = ["CHECKS", "Result", "check"]

CHECKS: tuple[Callable[[Trial], Iterator[Result]], ...] = (
    promises.frames,
    sameness.repeats,
    moving.goes_on,
    moving.goes_on_young,
    moving.carries_a_prompt,
    moving.leaves_mid_chunk,
    moving.reserved_is_blank,
    parts.cover,
    parts.are_honest,
    parts.are_final_when_said,
    parts.let_others_be,
    sameness.in_company,
    sameness.in_other_shapes,
    sameness.begun_again,
    sameness.shown_early,
    sameness.prompted_ahead,
    isolation.beside_poison,
    isolation.after_poison,
    isolation.frames_stay,
    rebuilding.goes_on,
    rebuilding.is_itself,
    piecewise.rebuilt,
    piecewise.prompted,
    promises.prompts,
    promises.words,
    promises.sizes,
    promises.growth,
    promises.rungs,
)
"""In the order in which a mistake is best understood: what others build on comes first."""


def check(model: SessionModel, device: str = "cpu", long_run_chunks: int = 8) -> Iterator[Result]:
    """Results as they come. A check that raises is a result that didn't pass. A model that reads embeddings
    gets ones that mean nothing.
    """
    if model.spec.text_encoder:
        cast(ReadsEmbeddings, model).read_stand_ins()
    trial = Trial(model, device, long_run_chunks)
    for one in CHECKS:
        try:
            yield from one(trial)
        except Exception as error:  # noqa: BLE001 a model may raise anything
            name = f"{one.__module__.rpartition('.')[2]}.{one.__name__}"
            yield Result(name, False, f"{type(error).__name__}: {error}", "no error")
