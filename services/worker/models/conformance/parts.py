"""A state's parts tell truly which of its bytes changed: on that rest write-behind and pre-copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np

from services.worker.models.conformance import tensors
from services.worker.models.conformance.result import Result, equal
from services.worker.models.conformance.tensors import Bytes
from services.worker.models.conformance.trial import OTHER_PROMPT, Trial
from services.worker.models.protocol import Final, Part, State, TellsFinal
from services.worker.models.slots import merged

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


def are_final_when_said(trial: Trial) -> Iterator[Result]:
    """What a forward calls final is read as soon as it may be, while that still runs, and is what the chunk
    leaves; also of a chunk that shows a new prompt.
    """
    if not hasattr(trial.model, "final"):
        return
    model, state = cast(TellsFinal, trial.model), trial.at_cut([0])[0]
    wrong, said = set[str](), 0
    for prompt in ("", OTHER_PROMPT):
        if prompt:
            trial.model.set_prompt(state, prompt)
        read: dict[str, tuple[int, Bytes]] = {}
        for _ in range(trial.model.begin_chunk(state, trial.default_rung)):
            before = trial.model.parts(state)
            trial.model.forward([state])
            final, parts = model.final(state), trial.model.parts(state)
            read |= {name: (parts[name].version, _read(trial, state, final[name])) for name in final}
            wrong |= {name for name in final if not _covers(final[name], parts[name].spans)}
            wrong |= {name for name in final if parts[name].version == before[name].version}
        trial.model.decode(state)
        parts, memory = _look(trial, state)
        for name, (version, held) in read.items():
            left = np.concatenate([memory[start:end] for start, end in parts[name].spans])
            wrong |= {name} if parts[name].version != version or (left != held).any() else set()
        said += len(read)
    seen = f"{said} parts" if not wrong else f"not so: {', '.join(sorted(wrong))}"
    yield Result(
        "what is called final while it is made stays so", not wrong and said > 0, seen, "some, all so"
    )


def _read(trial: Trial, state: State, spans: Sequence[Final]) -> Bytes:
    """Each as soon as it may be, beside whatever the device is at."""
    memory = trial.model.memory(state)
    return np.concatenate([tensors.read_after(memory[start:end], after) for start, end, after in spans])


def _covers(final: Sequence[Final], spans: Sequence[tuple[int, int]]) -> bool:
    """Whether they are those spans, cut."""
    said = merged((start, end) for start, end, _ in final)
    return said == merged(spans) and sum(end - start for start, end, _ in final) == sum(
        end - start for start, end in said
    )


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
