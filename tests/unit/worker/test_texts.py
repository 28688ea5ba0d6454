"""Asking for embeddings: once for each prompt that is still wanted, and not for ever."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest

from services.worker import texts
from services.worker.copies import Copy
from services.worker.models.protocol import ModelSpec
from services.worker.roster import Roster
from services.worker.runner import Runner
from services.worker.texts import Texts
from shared.bus import Bus, NoAnswer, Refused
from shared.contracts.text import EncodeText, TextEncoded
from tests.fixtures.worker_wire import CELL, new_own, steered

WAIT_S = 20.0


class FakeBus:
    """Answers as it is told, prompt by prompt; without an answer, not at all."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, list[Exception | None]] = {}

    async def request(self, _address: object, asked: EncodeText, _timeout_s: float) -> TextEncoded:
        self.asked.append(asked.prompt)
        if asked.prompt not in self.answers:
            await asyncio.Event().wait()
        answer = self.answers[asked.prompt].pop(0)
        if answer is not None:
            raise answer
        return TextEncoded(1, 1, "bfloat16", asked.prompt.encode(), "digest")


@dataclass(frozen=True)
class Embedding:
    """Like a tensor, it can't say whether it is true."""

    prompt: str

    def __bool__(self) -> bool:
        raise RuntimeError("ambiguous")


class FakeRunner:
    spec = cast(ModelSpec, type("Spec", (), {"text_encoder": "umt5-xxl"}))

    def learn(self, prompt: str, encoded: TextEncoded) -> object:
        if prompt == "wide":
            raise ValueError("the text encoder gives 8 numbers a word; this model reads 4096")
        if prompt == "odd":
            raise RuntimeError("nobody thought of that")
        assert encoded.embedding == prompt.encode()
        return Embedding(prompt)


class Bench:
    def __init__(self, prompt: str) -> None:
        self.bus, self.roster = FakeBus(), Roster(1.0, lambda: None, encodes=True)
        self.texts = Texts(cast(Bus, self.bus), CELL, self.roster, cast(Runner, FakeRunner()))
        self.copy = self.roster.add(new_own(prompt))
        self.roster.locate(self.copy, 0)

    def steer(self, prompt: str) -> None:
        self.roster.apply(self.copy, steered(self.copy.own, prompt))

    def shown(self) -> tuple[str, Any]:
        order = self.roster.begin(self.copy)
        return order.prompt, order.text


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


async def test_it_asks_until_somebody_answers_and_whoever_brings_a_prompt_waits() -> None:
    bench = Bench("red")
    bench.bus.answers["red"] = [NoAnswer("nobody serves it"), Refused("busy", "64 wait"), None]
    await bench.texts.want(bench.copy, WAIT_S)
    assert bench.shown() == ("red", Embedding("red"))
    await bench.texts.want(bench.copy, WAIT_S)
    assert bench.bus.asked == ["red"] * 3


async def test_a_newer_prompt_takes_the_place_of_one_that_is_waited_for() -> None:
    bench = Bench("red")
    await bench.texts.want(bench.copy, 0.0)
    await bench.texts.want(bench.copy, WAIT_S)
    bench.steer("blue")
    bench.bus.answers["blue"] = [None]
    await bench.texts.want(bench.copy, WAIT_S)
    assert bench.shown() == ("blue", Embedding("blue"))
    assert bench.bus.asked.count("blue") == 1
    assert not bench.texts._asking


async def test_nobody_asks_for_a_copy_that_is_gone() -> None:
    bench = Bench("red")
    await bench.texts.want(bench.copy, 0.0)
    bench.roster.remove(bench.copy)
    task = bench.texts._asking[bench.copy].task
    bench.texts.forget(bench.copy)
    await asyncio.wait([task], timeout=WAIT_S)
    assert task.cancelled()
    await bench.texts.want(bench.copy, WAIT_S)
    assert not bench.texts._asking


async def test_an_encoder_that_the_model_cannot_read_ends_a_new_session_only() -> None:
    bench = Bench("wide")
    bench.bus.answers = {"wide": [None, None], "red": [None]}
    await bench.texts.want(bench.copy, WAIT_S)
    assert _failed(bench.copy) == "the text encoder gives 8 numbers a word; this model reads 4096"
    bench = Bench("red")
    bench.bus.answers = {"wide": [None], "red": [None]}
    await bench.texts.want(bench.copy, WAIT_S)
    bench.steer("wide")
    await bench.texts.want(bench.copy, WAIT_S)
    assert (bench.copy.state, bench.shown()) == ("running", ("red", Embedding("red")))


async def test_whatever_goes_wrong_with_an_embedding_the_session_says_so() -> None:
    bench = Bench("odd")
    bench.bus.answers = {"odd": [None]}
    await bench.texts.want(bench.copy, WAIT_S)
    assert _failed(bench.copy) == "RuntimeError: nobody thought of that"


async def test_trying_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_GIVE_UP_S", 0.02)
    bench = Bench("red")
    await bench.texts.want(bench.copy, WAIT_S)
    await until(lambda: not bench.texts._asking)
    assert _failed(bench.copy) == "nobody encoded the prompt within 0.02 s"


def _failed(copy: Copy) -> str:
    assert copy.state == "failed"
    return copy.error
