"""Every form of a forward computes what the plain one does."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from services.worker.models.protocol import Rung
from services.worker.models.wan.chunks import batch_key
from services.worker.models.wan.config import KREA, LONGLIVE, SELF_FORCING, Recipe, WanConfig
from services.worker.models.wan.form import UnknownForm, Wishes, wishes
from services.worker.models.wan.model import FP8, Wan
from services.worker.models.wan.preset import random_model
from services.worker.models.wan.session import State
from services.worker.models.wan.taehv import TaehvDecoder
from services.worker.models.wan.vae import VaeDecoder
from tests.unit.worker.models.wan import tiny

FULL = Rung("full", 4, 12, "float32")
SHORT = Rung("short", 2, 6, "float32")
EIGHT = Rung("eight", 2, 12, "float32", FP8)


def model(wished: Wishes, recipe: Recipe = LONGLIVE) -> Wan:
    decoder = TaehvDecoder(tiny.DECODER_WIDTHS)
    return random_model(tiny.config(recipe), 1, slots=3, dtype=torch.float32, decoder=decoder, wishes=wished)


def latents(made: Wan, states: list[State], rung: Rung, chunks: int) -> Tensor:
    """Of the last chunk of each."""
    for _ in range(chunks):
        forwards = [made.begin_chunk(state, rung) for state in states]
        for _ in range(max(forwards)):
            made.forward([state for state in states if state.passes])
        last = torch.stack([state.latent for state in states if state.latent is not None])
        for state in states:
            made.decode(state)
    return last


@pytest.mark.parametrize("recipe", [LONGLIVE, SELF_FORCING, KREA])
@pytest.mark.parametrize("window", ["gather", "turned"])
def test_pieces_are_the_plain_forward(recipe: Recipe, window: str) -> None:
    """Young and full windows, prompts that change, rungs of a shorter window, alone and two together."""
    made = []
    for wished in (Wishes(), Wishes(pieces="eager", window=window)):
        one = model(wished, recipe)
        states = [one.open(seed=seed, prompt="a cat") for seed in (3, 4)]
        results = [latents(one, states[:1], FULL, 9), latents(one, states, FULL, 2)]
        one.set_prompt(states[0], "a dog")
        results += [latents(one, states[:1], FULL, 1), latents(one, states[:1], SHORT, 2)]
        made.append([*results, latents(one, states, FULL, 1), one.pool["kv"][states[0].slot].clone()])
    for mine, plain in zip(made[1], made[0], strict=True):
        torch.testing.assert_close(mine, plain, rtol=2e-4, atol=2e-5)


def test_a_window_read_in_place_notices_what_others_wrote() -> None:
    """A state taken over lies in a slot whose workspace is of another session."""
    one = model(Wishes(pieces="eager", window="turned"))
    first = one.open(seed=1, prompt="a cat")
    latents(one, [first], FULL, 6)
    memory, counters = one.memory(first).clone(), one.counters(first)
    wanted = latents(one, [first], FULL, 1)
    other = one.open(seed=2, prompt="a dog")
    latents(one, [other], FULL, 6)
    slot = other.slot
    one.close(other)
    copy = one.reserve()
    assert copy.slot == slot
    one.memory(copy).copy_(memory)
    one.take_over(copy, counters)
    assert torch.equal(latents(one, [copy], FULL, 1), wanted)


def test_eight_bit_products_are_close() -> None:
    plain, coarse = model(Wishes(pieces="eager")), model(Wishes(pieces="eager", fp8=True))
    exact = latents(plain, [plain.open(seed=1, prompt="a cat")], FULL, 3)
    rough = latents(coarse, [coarse.open(seed=1, prompt="a cat")], FULL, 3)
    error = (rough - exact).norm() / exact.norm()
    assert 0.001 < error < 0.2
    assert coarse.spec.rungs[1].precision == FP8
    assert plain.spec.rungs[1].precision == ""


@pytest.mark.parametrize("window", ["gather", "turned"])
def test_an_eight_bit_ring_takes_half_the_bytes_and_is_close(window: str) -> None:
    plain = model(Wishes(pieces="eager", window=window))
    coarse = model(Wishes(pieces="eager", window=window, kv="float8_e4m3"))
    reference = model(Wishes(kv="float8_e4m3"))
    exact, rough, wanted = (
        latents(one, [one.open(seed=1, prompt="a cat")], FULL, 6) for one in (plain, coarse, reference)
    )
    assert 0.0 < (rough - exact).norm() / exact.norm() < 0.1
    torch.testing.assert_close(rough, wanted, rtol=0.02, atol=0.02)
    assert coarse.pool["kv"].dtype == torch.float8_e4m3fn
    assert "float8_e4m3" in coarse.spec.dtype
    assert coarse.spec.rungs[0].kv_dtype == "float8_e4m3fn"


def test_rows_of_another_precision_go_apart() -> None:
    one = model(Wishes(pieces="eager", fp8=None))
    states = [one.open(seed=seed, prompt="a cat") for seed in (3, 4)]
    for state, rung in zip(states, (FULL, EIGHT), strict=True):
        one.begin_chunk(state, rung)
    assert batch_key(states[0]) != batch_key(states[1])


def test_a_window_read_in_place_is_the_same_after_a_thousand_chunks() -> None:
    made = []
    for wished in (Wishes(), Wishes(pieces="eager", window="turned")):
        one = random_model(
            WanConfig(replace(tiny.ARCH, layers=1), LONGLIVE, tiny.FRAME_GEOMETRY, element_bytes=4),
            dtype=torch.float32,
            decoder=TaehvDecoder((8, 8, 8, 8)),
            wishes=wished,
        )
        state = one.open(seed=12, prompt="a cat")
        state.chunk = state.frames = 1_500  # as a session so old counts; its ring is filled by what follows
        made.append(latents(one, [state], Rung("one", 1, 12, "float32"), 24))
        assert (state.chunk, state.frames) == (1_524, 1_524)
    torch.testing.assert_close(made[1], made[0], rtol=2e-4, atol=2e-5)


def test_the_large_decoder_serves_too() -> None:
    one = random_model(
        tiny.config(),
        1,
        dtype=torch.float32,
        decoder=VaeDecoder((8, 8, 8, 8, 8)),
        wishes=Wishes(pieces="eager"),
    )
    state = one.open(seed=1, prompt="a cat")
    latents(one, [state], EIGHT, 2)
    assert one.latents(state).index == 1


def test_wishes_are_read_and_mistakes_named() -> None:
    assert wishes({}) == Wishes()
    said = wishes({"TURBOSERVE_WAN": "attention=flash graphs=off fp8=on kv=float8_e4m3"})
    assert said == Wishes(attention="flash", graphs=False, fp8=True, kv="float8_e4m3")
    for text in ("speed=high", "pieces=fast", "graphs", "graphs=maybe", "kv=int4"):
        with pytest.raises(UnknownForm, match="TURBOSERVE_WAN"):
            wishes({"TURBOSERVE_WAN": text})
