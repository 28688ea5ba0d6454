"""A state's parts tell truly which of its bytes changed: on that rest write-behind and pre-copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from services.worker.models.conformance import tensors
from services.worker.models.conformance.result import Result, equal
from services.worker.models.conformance.tensors import Bytes
from services.worker.models.conformance.trial import OTHER_PROMPT, Trial
from services.worker.models.protocol import Part, State

Look = tuple[Mapping[str, Part], Bytes]


def cover(trial: Trial) -> Iterator[Result]:
    state, size = trial.at_cut([0])[0], trial.model.spec.state_bytes
    before = trial.model.parts(state)
    trial.chunk([state])
    after = trial.model.parts(state)
    spans = [span for part in before.values() for span in part.spans]
    count = tensors.covered(spans, size)
    inside = all(0 <= start < end <= size for start, end in spans)
    clear = inside and int(count.max()) <= 1
    yield Result("parts don't overlap and lie in the memory", clear, f"{len(spans)} spans", "each byte once")
    # What no part has is padding: it never changes.
    held = tensors.to_host(trial.model.memory(state))
    padding = int(held[count == 0].astype(bool).sum())
    yield equal("what no part has is padding", padding, size, "bytes")
    same = {n: p.spans for n, p in before.items()} == {n: p.spans for n, p in after.items()}
    yield Result("parts stay where they are", same, f"{len(before)} parts")


def are_honest(trial: Trial) -> Iterator[Result]:
    """Over a full turn of the ring, a prompt change and every moment of a chunk: wherever one looked before,
    a part of the same version has the same bytes once the chunk is decoded.
    """
    state = trial.at_cut([0])[0]
    lies: list[str] = []
    for number in range(trial.window_chunks + 2):
        looks = [_look(trial, state)]
        if number == 1:
            trial.model.set_prompt(state, OTHER_PROMPT)
            looks.append(_look(trial, state))
        for _ in range(trial.model.begin_chunk(state, trial.default_rung)):
            looks.append(_look(trial, state))
            trial.model.forward([state])
        looks.append(_look(trial, state))
        trial.model.decode(state)
        lies += _lies(looks, _look(trial, state))
    chunks = trial.window_chunks + 2
    seen = f"{chunks} chunks" if not lies else f"changed unsaid: {', '.join(sorted(set(lies)))}"
    yield Result("a part whose version stayed has the bytes it had", not lies, seen, "none changed")


def let_others_be(trial: Trial) -> Iterator[Result]:
    """Much of a state stays as it is for longer than a chunk, or nothing is copied ahead."""
    state = trial.at_cut([0])[0]
    before = trial.model.parts(state)
    trial.chunk([state])
    after = trial.model.parts(state)
    sizes = {name: sum(end - start for start, end in part.spans) for name, part in after.items()}
    changed = sum(sizes[name] for name in after if after[name].version != before[name].version)
    total = trial.model.spec.state_bytes
    name = "a chunk changes some parts, and not all"
    yield Result(name, 0 < changed < total, f"{changed:,} of {total:,} bytes", "fewer than all")


def _look(trial: Trial, state: State) -> Look:
    return trial.model.parts(state), tensors.to_host(trial.model.memory(state))


def _lies(earlier: list[Look], now: Look) -> list[str]:
    parts, memory = now
    return [
        name
        for then, bytes_then in earlier
        for name, part in parts.items()
        if part.version == then[name].version
        and any((memory[start:end] != bytes_then[start:end]).any() for start, end in part.spans)
    ]
