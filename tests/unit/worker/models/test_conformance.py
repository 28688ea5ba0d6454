"""The suite for models: it passes a sound one, and names what is wrong with each unsound one."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from services.worker.models.conformance import check
from services.worker.models.in_pieces import at_once
from services.worker.models.protocol import Final, ModelSpec, Part, PastChunk, Rung
from tests.fixtures.tiny_model import TinyModel
from turboserve.cli import main

SPEC = ModelSpec(
    name="little",
    width=8,
    height=4,
    fps=8.0,
    first_chunk_frames=1,
    chunk_frames=2,
    latent_frames_per_chunk=1,
    steps=2,
    rungs=(Rung("full", 2, 2, "float32"), Rung("fast", 1, 2, "float32")),
    max_prompt_chars=80,
    weights_digest="none",
    state_bytes=2 * 64 * 4,
    architecture="little",
    dtype="float32",
    recent_chunks=2,
)


class Little:
    """Sound: a ring of two hashes of all that was, from which the next picture is drawn."""

    spec = SPEC

    def prompt_warnings(self, prompt: str) -> list[str]:  # noqa: ARG002
        return []

    def open(self, *, seed: int, prompt: str, first_chunk: int = 0) -> Any:
        return SimpleNamespace(
            seed=seed,
            prompt=prompt,
            chunk=first_chunk,
            age=0,
            ring=torch.zeros(2, 64),
            written=[0, 0],
            steps=0,
            shown="",
        )

    def set_prompt(self, state: Any, prompt: str) -> None:
        state.prompt = prompt

    def begin_chunk(self, state: Any, rung: Rung) -> int:
        state.steps, state.shown = rung.steps, state.prompt
        return rung.steps

    def forward(self, states: Sequence[Any]) -> None:
        for state in states:
            state.steps -= 1

    def decode(self, state: Any) -> np.ndarray:
        assert state.steps == 0
        words = sum(map(ord, state.shown)), state.seed, state.chunk, int(state.ring.nansum() * 1000)
        numbers = np.random.default_rng([abs(word) for word in words])
        frames = numbers.integers(0, 255, (1 if state.age == 0 else 2, 4, 8, 3), dtype=np.uint8)
        self.keep(state, torch.from_numpy(frames[0].ravel()[:64]) / 255)
        return frames

    def keep(self, state: Any, latent: torch.Tensor) -> None:
        state.ring[state.age % 2] = latent
        state.written[state.age % 2] += 1
        state.chunk, state.age = state.chunk + 1, state.age + 1

    def memory(self, state: Any) -> torch.Tensor:
        return state.ring.view(-1).view(torch.uint8)

    def parts(self, state: Any) -> dict[str, Part]:
        return {f"ring.{n}": Part(state.written[n], ((n * 256, n * 256 + 256),)) for n in range(2)}

    def counters(self, state: Any) -> dict[str, Any]:
        names = ("seed", "prompt", "chunk", "age", "steps", "shown")
        return {name: getattr(state, name) for name in names}

    def reserve(self) -> Any:
        return self.open(seed=0, prompt="")

    def take_over(self, state: Any, counters: dict[str, Any]) -> None:
        vars(state).update(counters)

    def latents(self, state: Any) -> PastChunk:
        latent = state.ring[(state.age - 1) % 2].clone()
        return PastChunk(state.chunk - 1, state.chunk - state.age, state.shown, latent)

    def rebuild(self, *, seed: int, prompt: str, past: Sequence[PastChunk]) -> Any:
        state = self.open(seed=seed, prompt=prompt, first_chunk=past[0].index)
        state.age = past[0].index - past[0].origin
        for chunk in past:
            state.shown = chunk.prompt
            self.keep(state, chunk.latents)
        return state


class Unseeded(Little):
    def decode(self, state):
        return super().decode(state) ^ np.uint8(np.random.default_rng().integers(1, 255))


class MixesRows(Little):
    def forward(self, states):
        super().forward(states)
        mean = sum(state.ring for state in states) / len(states)
        for state in states:
            state.ring[:] = mean


class ForgetsItsRing(Little):
    def memory(self, state):
        return super().memory(state).clone()


class ForgetsItsPrompt(Little):
    def take_over(self, state, counters):
        super().take_over(state, {**counters, "prompt": counters["shown"] or counters["prompt"]})


class TellsNoChange(Little):
    def parts(self, state):
        return {name: part._replace(version=0) for name, part in super().parts(state).items()}


class WritesAhead(Little):
    """Noise in the place of a part that isn't this chunk's, undone after it: whoever looks meanwhile is led
    astray.
    """

    def forward(self, states):
        super().forward(states)
        for state in states:
            state.ring[(state.age + 1) % 2] += 1

    def decode(self, state):
        state.ring[(state.age + 1) % 2] -= 2
        return super().decode(state)


class SpeaksTooSoon(Little):
    """What is only written by the decode."""

    def final(self, state):
        name = f"ring.{state.age % 2}"
        return {} if state.steps else {name: [Final(*span) for span in self.parts(state)[name].spans]}


class LeavesAPartOut(Little):
    def parts(self, state):
        return {"ring.0": super().parts(state)["ring.0"]}


class RebuildsAnother(Little):
    def rebuild(self, *, seed, prompt, past):
        return super().rebuild(seed=seed + 1, prompt=prompt, past=past)


class SharesItsWorkspace(Little):
    """What a rebuild has between two pieces is gone after a step of anybody."""

    between = torch.zeros(64)

    def forward(self, states):
        super().forward(states)
        self.between.zero_()

    def rebuild(self, *, seed, prompt, past):
        return at_once(self.rebuild_in_pieces(seed=seed, prompt=prompt, past=past))

    def rebuild_in_pieces(self, *, seed, prompt, past):
        self.between.copy_(past[-1].latents)
        yield
        *others, newest = past
        newest = replace(newest, latents=self.between.clone())
        return super().rebuild(seed=seed, prompt=prompt, past=[*others, newest])


class TakesHalfAPrompt(Little):
    """One given up between two pieces is lost."""

    def take_prompt_in_pieces(self, state, rung):  # noqa: ARG002
        prompt, state.prompt = state.prompt, ""
        yield
        state.prompt = prompt


class Impatient(Little):
    def set_prompt(self, state, prompt):
        state.prompt = state.shown = prompt


class Grows(Little):
    def decode(self, state):
        state.past = (*getattr(state, "past", ()), torch.zeros(100))
        return super().decode(state)


class Understates(Little):
    spec = replace(SPEC, state_bytes=100)


class HoldsMore(Little):
    def open(self, *, seed, prompt, first_chunk=0):
        state = super().open(seed=seed, prompt=prompt, first_chunk=first_chunk)
        state.more = torch.zeros(8000)
        return state


class OneFrameShort(Little):
    def decode(self, state):
        return super().decode(state)[:1]


class OneBuffer(Little):
    buffer = np.zeros((2, 4, 8, 3), np.uint8)

    def decode(self, state):
        frames = super().decode(state)
        self.buffer[: len(frames)] = frames
        return self.buffer[: len(frames)]


class LeavesItsSlotDirty(Little):
    left = torch.zeros(2, 64)

    def open(self, *, seed, prompt, first_chunk=0):
        state = super().open(seed=seed, prompt=prompt, first_chunk=first_chunk)
        state.seed += int(self.left.isnan().any())
        return state

    def decode(self, state):
        type(self).left = state.ring
        return super().decode(state)


class LeavesItsPlaceDirty(Little):
    left = torch.zeros(2, 64)

    def reserve(self):
        state = super().reserve()
        state.ring = self.left
        return state

    def take_over(self, state, counters):
        super().take_over(state, counters)
        type(self).left = state.ring


class Breaks(Little):
    def counters(self, state):  # noqa: ARG002
        raise KeyError("no such thing")


def failed(model: Any) -> str:
    results = list(check(model, long_run_chunks=3))
    return "; ".join(f"{result.name}: {result.measured}" for result in results if not result.passed)


def test_a_sound_model_passes() -> None:
    assert failed(Little()) == ""


def test_the_tests_own_model_passes_without_torch_in_it() -> None:
    assert failed(TinyModel()) == ""


@pytest.mark.parametrize(
    ("model", "finding"),
    [
        (Unseeded, "same seed and prompt, same frames"),
        (MixesRows, "another beside it"),
        (MixesRows, "beside a poisoned session"),
        (ForgetsItsRing, "moved = stayed, frames"),
        (ForgetsItsPrompt, "a prompt not yet shown"),
        (TellsNoChange, "bytes it had: changed unsaid: ring.0, ring.1"),
        (WritesAhead, "bytes it had: changed unsaid: ring.0, ring.1"),
        (SpeaksTooSoon, "final while it is made stays so: not so: ring.0"),
        (LeavesAPartOut, "what no part has is padding"),
        (RebuildsAnother, "it goes on much the same"),
        (SharesItsWorkspace, "rebuilt in 2 pieces beside another = at once"),
        (TakesHalfAPrompt, "prompt taken in pieces (1) = at once"),
        (Impatient, "a prompt leaves the chunk under way"),
        (Grows, "no growth in 3 chunks past the window: +1,2"),
        (Understates, "state_bytes is true: 512"),
        (HoldsMore, "held bytes fit state_bytes: 32,512"),
        (OneFrameShort, "frames are what the spec says: chunk 1"),
        (OneBuffer, "frames stay as they are"),
        (LeavesItsSlotDirty, "in the place of a poisoned session"),
        (LeavesItsPlaceDirty, "a reserved state is blank"),
        (Breaks, "KeyError: 'no such thing'"),
    ],
)
def test_an_unsound_model_is_told_what_is_wrong(model: type[Little], finding: str) -> None:
    assert finding in failed(model())


def load_model(name: str, device: str = "cpu", weights_path: str = "") -> Little:
    """This module as a `--loader`."""
    return {"little": Little, "impatient": Impatient}[name]()


def test_the_command_ends_with_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "my_models", sys.modules[__name__])
    arguments = ["model", "test", "--loader", "my_models", "--device", "cpu", "--chunks", "1"]
    sound = CliRunner().invoke(main, [*arguments, "little"], terminal_width=200)
    assert sound.exit_code == 0, sound.output
    assert "checks passed" in sound.output
    unsound = CliRunner().invoke(main, [*arguments, "impatient"])
    assert unsound.exit_code == 1
    assert "1 of" in unsound.output
    assert "FAILED" in unsound.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "unknown model 'nonsense'; known: sprites"),
        (["sprites", "--loader", "no.such"], "--loader no.such"),
        (["sprites", "--loader", "json"], "load_model(name, device=, weights_path=)"),
        (["sprites", "--weights", "/nowhere"], "/nowhere"),
    ],
)
def test_the_command_says_what_it_cannot_load(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["model", "test", "--device", "cpu", *arguments])
    assert result.exit_code == 1
    assert said in result.stderr
