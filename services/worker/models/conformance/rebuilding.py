"""A session lost with its worker is made again of its last clean latents, and goes on much the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from services.worker.models.conformance import tensors
from services.worker.models.conformance.result import Result, differs, equal
from services.worker.models.conformance.trial import PROMPTS, SEEDS, Frames, Trial, differing
from services.worker.models.protocol import PastChunk, State

NEARNESS = 0.75
"""A rebuilt session's next chunk lies nearer to the lost one's than that share of another session's
distance."""


def goes_on(trial: Trial) -> Iterator[Result]:
    """Young, and with a full window."""
    if not trial.model.spec.recent_chunks:
        return
    for chunks in (1, trial.window_chunks + 1):
        past, lost = played(trial, chunks)
        rebuilt = trial.model.rebuild(seed=SEEDS[0], prompt=PROMPTS[0], past=past)
        made = trial.chunk([rebuilt])[0]
        del rebuilt
        stranger = trial.baseline.frames[1][min(chunks, len(trial.baseline.frames[1]) - 1)]
        share = _distance(made, lost) / max(_distance(stranger, lost), 1e-9)
        name = f"rebuilt from {len(past)} chunks' latents it goes on much the same"
        yield Result(name, share < NEARNESS, f"{share:.2f} of a stranger's distance", f"below {NEARNESS}")


def is_itself(trial: Trial) -> Iterator[Result]:
    """Latents are the newest chunk's; a rebuilt state moves, and can be rebuilt, like any other."""
    if not trial.model.spec.recent_chunks:
        return
    past, _ = played(trial, 2)
    rebuilt = trial.model.rebuild(seed=SEEDS[0], prompt=PROMPTS[0], past=past)
    one, two = trial.model.latents(rebuilt), past[-1]
    place = (one.index, one.origin, one.prompt) == (two.index, two.origin, two.prompt)
    yield Result("a rebuilt state's latents are those it was made of", place, f"chunk {one.index}")
    yield equal("… to the bit", *tensors.differing(_raw(one), _raw(two)), "bytes")
    yield differs("latents differ from chunk to chunk", tensors.differing(_raw(past[0]), _raw(past[1]))[0])
    saved = trial.save(rebuilt)
    stayed = trial.chunk([rebuilt])[0]
    del rebuilt
    moved = trial.chunk([trial.restore(saved)])[0]
    yield equal("moved = stayed, after a rebuild", *differing([moved], [stayed]))


def played(trial: Trial, chunks: int) -> tuple[list[PastChunk], Frames]:
    """What the cold tier would hold of row 0 after so many chunks, and the chunk that followed."""
    spec, past = trial.model.spec, []
    state: State = trial.open([0])[0]
    for _ in range(chunks):
        trial.chunk([state])
        past.append(trial.model.latents(state))
    recent = max(0, chunks - spec.recent_chunks)
    return [*past[: min(spec.sink_chunks, recent)], *past[recent:]], trial.chunk([state])[0]


def _raw(chunk: PastChunk) -> tensors.Bytes:
    held = chunk.latents
    return tensors.to_host(
        held.contiguous().flatten().view(torch.uint8) if isinstance(held, Tensor) else held
    )


def _distance(one: Frames, two: Frames) -> float:
    if one.shape != two.shape:
        return float("inf")
    return float(np.abs(one.astype(np.int16) - two.astype(np.int16)).mean())
