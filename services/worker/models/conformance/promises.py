"""What `ModelSpec` says is so: frames, sizes, rungs; prompts show when they should; nothing grows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from services.worker.models.conformance import tensors
from services.worker.models.conformance.result import Result, differs, equal
from services.worker.models.conformance.trial import (
    OTHER_PROMPT,
    PROMPTS,
    SEEDS,
    Frames,
    Trial,
    differing,
    within,
)
from services.worker.models.protocol import Rung, State

SIZE_TOLERANCE = 0.01
"""By how much of it a state may hold more than its memory: allocators round up."""
MAX_COUNTERS_BYTES = 16 << 10
GROWTH_BYTES = 16
"""Numbers get longer."""


def frames(trial: Trial) -> Iterator[Result]:
    made = [chunk for row in trial.baseline.frames for chunk in row]
    per_row = len(trial.baseline.frames[0])
    wrong = [n % per_row for n, chunk in enumerate(made) if not _as_promised(trial, chunk, n % per_row == 0)]
    spec = trial.model.spec
    promised = f"{spec.first_chunk_frames}, then {spec.chunk_frames} of {spec.width}×{spec.height}, uint8"
    seen = f"{len(made)} chunks" if not wrong else f"chunk {wrong[0]} is {made[wrong[0]].shape}"
    yield Result("frames are what the spec says", not wrong, seen, promised)
    lost = trial.chunk([trial.model.open(seed=SEEDS[0], prompt=PROMPTS[0], first_chunk=7)])[0]
    passed = _as_promised(trial, lost, first=True)
    yield Result("a lost session begins a picture anew", passed, f"{len(lost)} frames", "a first chunk's")
    yield differs("… with the noise of its own chunk", differing([lost], [trial.baseline.frames[0][0]])[0])


def _as_promised(trial: Trial, chunk: Frames, first: bool) -> bool:
    spec = trial.model.spec
    count = spec.first_chunk_frames if first else spec.chunk_frames
    return chunk.shape == (count, spec.height, spec.width, 3) and chunk.dtype == np.uint8


def prompts(trial: Trial) -> Iterator[Result]:
    """One set while a chunk is under way leaves that chunk and shows in the next; others don't notice."""
    states = trial.at_cut()
    forwards = [trial.model.begin_chunk(state, trial.default_rung) for state in states]
    trial.model.forward(states)
    trial.model.set_prompt(states[0], OTHER_PROMPT)
    trial.finish(states, [count - 1 for count in forwards])
    present = trial.decode(states[0])
    trial.model.decode(states[1])
    following = trial.chunk(states)
    expected = [row[trial.window_chunks :] for row in trial.baseline.frames]
    yield equal("a prompt leaves the chunk under way", *differing([present], expected[0][:1]))
    yield differs("a prompt shows in the next chunk", differing(following[:1], expected[0][1:2])[0])
    # A new prompt may cost its row a forward of its own, which changes the batch shape of the other.
    yield within(trial, "… and in no other session", following[1], expected[1][1])


def words(trial: Trial) -> Iterator[Result]:
    """Warnings are words for any text, and a prompt of the greatest length is taken."""
    longest = ("é" + PROMPTS[0] + " ") * trial.model.spec.max_prompt_chars
    odd = ["", "🙂 \n\t", longest[: trial.model.spec.max_prompt_chars]]
    warnings = [warning for prompt in odd for warning in trial.model.prompt_warnings(prompt)]
    are_words = all(isinstance(warning, str) and warning for warning in warnings)
    yield Result("prompt warnings are words", are_words, f"{len(warnings)} for {len(odd)} odd prompts")
    trial.chunk([trial.model.open(seed=0, prompt=odd[-1])])
    yield Result("the longest prompt is taken", True, f"{len(odd[-1])} characters")


def sizes(trial: Trial) -> Iterator[Result]:
    promised, saved = trial.model.spec.state_bytes, trial.baseline.at_cut[0]
    size = saved.memory.size
    yield Result("state_bytes is true", size == promised, f"{size:,}", f"{promised:,}")
    least = f"at most {MAX_COUNTERS_BYTES:,}"
    small = len(saved.counters) <= MAX_COUNTERS_BYTES
    yield Result("counters are small", small, f"{len(saved.counters):,} bytes", least)
    before = tensors.device_bytes(trial.device)
    state = trial.at_cut([0])[0]
    trial.chunk([state])
    held = max(_held(trial, state), tensors.device_bytes(trial.device) - before)
    most = int(promised * (1 + SIZE_TOLERANCE)) + MAX_COUNTERS_BYTES
    yield Result("held bytes fit state_bytes", held <= most, f"{held:,}", f"at most {most:,}")


def growth(trial: Trial) -> Iterator[Result]:
    """A long session is as large as a young one with a full window, and its chunks are as they were."""
    state = trial.at_cut([0])[0]
    made = trial.chunk([state])[0]
    before = _size(trial, state)
    for _ in range(trial.long_run_chunks):
        made = trial.chunk([state])[0]
    grown = _size(trial, state) - before
    name, most = f"no growth in {trial.long_run_chunks} chunks past the window", f"at most {GROWTH_BYTES}"
    yield Result(name, grown <= GROWTH_BYTES, f"{grown:+,} bytes", most)
    yield Result("… and frames as before", _as_promised(trial, made, first=False), str(made.shape))


def _size(trial: Trial, state: State) -> int:
    return tensors.device_bytes(trial.device) + _held(trial, state) + len(trial.save(state).counters)


def _held(trial: Trial, state: State) -> int:
    """Its memory, wherever that lies, and all else that the state alone holds."""
    return trial.model.spec.state_bytes + tensors.held_bytes(state, beside=trial.model.memory(state))


def rungs(trial: Trial) -> Iterator[Result]:
    spec = trial.model.spec
    names = [rung.name for rung in spec.rungs]
    sound = len(set(names)) == len(names) and spec.steps == spec.rungs[0].steps
    yield Result("rungs have different names, the first one's steps are the spec's", sound, ", ".join(names))
    for rung in spec.rungs[1:]:
        states = trial.at_cut() if _go_together(rung, trial.default_rung) else trial.at_cut([0])
        mixed = trial.chunk(states, [rung, trial.default_rung][: len(states)])
        passed = all(_as_promised(trial, chunk, first=False) for chunk in (*mixed, *trial.chunk(states)))
        name = f"rung {rung.name}: {'beside another, ' * (len(states) > 1)}and back at a chunk boundary"
        yield Result(name, passed, "frames as the spec says" if passed else "other frames")
        del states
    for rung in spec.rungs:
        forwards = trial.model.begin_chunk(trial.at_cut([0])[0], rung)
        name = f"rung {rung.name}: its steps are forwards"
        yield Result(name, forwards >= rung.steps, f"{forwards} forwards", f"at least {rung.steps}")


def _go_together(one: Rung, two: Rung) -> bool:
    """Whether rows at these rungs may be in one forward."""
    return (one.window_latent_frames, one.kv_dtype) == (two.window_latent_frames, two.kv_dtype)
