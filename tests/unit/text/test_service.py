"""Answering prompts: once each, in time or not at all."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from services.text.cache import Cache
from services.text.encoder import Encoder
from services.text.main import check_payload
from services.text.service import Answering
from shared.bus import Meta, Refused
from shared.contracts.text import EncodeText, TextEncoded
from shared.process import StartupError

META = cast(Meta, None)


class Gated:
    """An encoder that works as far as it is let."""

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.started = threading.Event()
        self.may_go_on = threading.Event()

    def encode(self, prompt: str) -> TextEncoded:
        self.started.set()
        assert self.may_go_on.wait(20)
        self.encoded.append(prompt)
        if prompt == "broken":
            raise RuntimeError("out of memory")
        return TextEncoded(1, 2, "bfloat16", prompt.encode(), "digest")


@pytest.fixture
def gated() -> Gated:
    return Gated()


@pytest.fixture
def answering(gated: Gated) -> Iterator[Answering]:
    with ThreadPoolExecutor(1) as device:
        yield Answering(cast(Encoder, gated), device, Cache(1000), max_waiting=2)
        gated.may_go_on.set()


def ask(answering: Answering, prompt: str, within_s: float = 20.0) -> "asyncio.Task[Any]":
    return asyncio.create_task(answering.answer(EncodeText(prompt, time.time() + within_s), META))


async def turn() -> None:
    """Lets every task that was made ask."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_prompt_asked_for_by_many_is_encoded_once(answering: Answering, gated: Gated) -> None:
    asking = [ask(answering, "a ball"), ask(answering, "  a\nball "), ask(answering, "a &amp; b")]
    await turn()
    gated.may_go_on.set()
    answers = await asyncio.gather(*asking)
    assert answers[0] == answers[1]
    assert (await ask(answering, "a ball")) == answers[0]
    assert gated.encoded == ["a ball", "a & b"]


async def test_more_than_may_wait_are_refused(answering: Answering, gated: Gated) -> None:
    waiting = [ask(answering, "a"), ask(answering, "b"), ask(answering, "a")]
    await turn()
    with pytest.raises(Refused) as refused:
        await ask(answering, "c")
    assert refused.value.refusal.code == "busy"
    gated.may_go_on.set()
    await asyncio.gather(*waiting)
    assert await ask(answering, "c")


async def test_what_nobody_waits_for_any_more_is_not_encoded(answering: Answering, gated: Gated) -> None:
    first, second = ask(answering, "a"), ask(answering, "b", within_s=0.05)
    with pytest.raises(Refused) as refused:
        await second
    assert refused.value.refusal.code == "late"
    gated.may_go_on.set()
    await first
    assert await ask(answering, "c")
    assert gated.encoded == ["a", "c"]


async def test_one_who_waits_longer_keeps_a_prompt_in_line(answering: Answering, gated: Gated) -> None:
    first, brief, patient = ask(answering, "a"), ask(answering, "b", within_s=0.05), ask(answering, "b")
    with pytest.raises(Refused):
        await brief
    gated.may_go_on.set()
    await first
    assert (await patient).embedding == b"b"


async def test_a_late_request_is_refused_at_once(answering: Answering, gated: Gated) -> None:
    with pytest.raises(Refused):
        await ask(answering, "a", within_s=-1.0)
    assert gated.encoded == []


async def test_an_encoder_that_fails_fails_that_prompt(answering: Answering, gated: Gated) -> None:
    gated.may_go_on.set()
    with pytest.raises(RuntimeError, match="out of memory"):
        await ask(answering, "broken")
    assert (await ask(answering, "a")).embedding == b"a"


def test_a_broker_that_takes_small_messages_only_is_refused() -> None:
    with pytest.raises(StartupError, match=r"takes messages of 1,048,576 bytes.* max_payload"):
        check_payload(4 << 20, 1 << 20)
    check_payload(4 << 20, 8 << 20)
