"""Wan and sprites on a GPU: what the protocol promises, graphs, forms, eight bits."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from services.worker.models import load_model
from services.worker.models.conformance import check
from services.worker.models.protocol import Rung, SessionModel
from services.worker.models.wan.config import LONGLIVE, Architecture, Geometry, WanConfig
from services.worker.models.wan.form import Wishes
from services.worker.models.wan.kernels import usable
from services.worker.models.wan.model import FP8, Wan
from services.worker.models.wan.preset import random_model
from services.worker.models.wan.session import State

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
DEVICE = torch.device("cuda", 0)
ARCH = Architecture("tiny", layers=3, dim=256, ffn_dim=512, heads=4, text_tokens=16, text_dim=32)
GEOMETRY = Geometry(96, 64, 3)
FULL = Rung("full", 4, 12, "bfloat16")
EXACT, ROUNDED = 0.002, 0.015
"""How far two forms may be apart: in float32, where tensor cores multiply in TF32; in bfloat16, where
rounding alone makes 0.006. A window without its oldest frame is 0.011 off, attention to nothing 0.13.
"""


def model(wished: Wishes, dtype: torch.dtype = torch.bfloat16) -> Wan:
    config = WanConfig(ARCH, LONGLIVE, GEOMETRY, dtype.itemsize)
    return random_model(config, 1, slots=3, device="cuda", dtype=dtype, wishes=wished)


@cache
def plain(dtype: torch.dtype) -> Tensor:
    return played(model(Wishes(pieces="plain", graphs=False), dtype))


def latents(made: Wan, states: list[State], rung: Rung, chunks: int) -> Tensor:
    for _ in range(chunks):
        forwards = [made.begin_chunk(state, rung) for state in states]
        for _ in range(max(forwards)):
            made.forward([state for state in states if state.passes])
        last = torch.stack([state.latent for state in states if state.latent is not None]).float()
        for state in states:
            made.decode(state)
    return last


def played(made: Wan, rung: Rung = FULL) -> Tensor:
    """Of a session past its full window, with a change of prompt."""
    state = made.open(seed=5, prompt="a cat")
    latents(made, [state], rung, 6)
    made.set_prompt(state, "a dog")
    return latents(made, [state], rung, 2)


def off(mine: Tensor, wanted: Tensor) -> float:
    return float((mine - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name", ["wan", "sprites"])
def test_keeps_what_the_protocol_promises(name: str) -> None:
    made: SessionModel = model(Wishes()) if name == "wan" else load_model("sprites", "cuda")
    failed = [f"{r.name}: {r.measured}; {r.tolerance}" for r in check(made, "cuda") if not r.passed]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("window", ["gather", "turned", "slots"])
def test_replayed_is_computed(window: str) -> None:
    if window != "gather" and not usable(DEVICE):
        pytest.skip("no Triton")
    wished = Wishes(window=window)
    replayed, computed = model(wished), model(replace(wished, graphs=False))
    computed._stepper.forms = replayed.forms  # each chose for itself; as fast may round otherwise
    assert torch.equal(played(replayed), played(computed))


FORMS = [(pieces, window) for pieces in ("triton", "eager") for window in ("gather", "turned", "slots")]


@pytest.mark.parametrize(("pieces", "window"), [*FORMS, ("compiled", "turned")])
def test_forms_compute_the_same(pieces: str, window: str) -> None:
    if (pieces == "triton" or window == "slots") and not usable(DEVICE):
        pytest.skip("no Triton")
    made = model(Wishes(pieces=pieces, window=window, graphs=False), torch.float32)
    assert (made.forms.alone.pieces, made.forms.alone.window) == (pieces, window)
    assert off(played(made), plain(torch.float32)) < EXACT


@pytest.mark.parametrize("attention", ["cudnn", "flash", "efficient"])
def test_ways_to_attention_compute_the_same(attention: str) -> None:
    made = model(Wishes(pieces="eager", window="gather", attention=attention, graphs=False))
    assert made.forms.alone.attention == attention
    assert off(played(made), plain(torch.bfloat16)) < ROUNDED


def test_what_is_fastest_here_computes_the_same() -> None:
    assert off(played(model(Wishes())), plain(torch.bfloat16)) < ROUNDED


@pytest.mark.skipif(not usable(DEVICE), reason="no Triton on this machine")
def test_what_is_compiled_beside_the_model_is_what_is_launched() -> None:
    from triton import knobs

    from services.worker.models.wan.kernels import attention, pointwise, window

    for each in (value for module in (attention, pointwise, window) for value in vars(module).values()):
        if hasattr(each, "device_caches"):
            each.device_caches.clear()
    compiled: dict[bool, list[str]] = {True: [], False: []}

    def noted(*, fn: Any, is_manual_warmup: bool, **_: Any) -> None:
        compiled[is_manual_warmup].append(fn.name)

    knobs.runtime.jit_post_compile_hook = noted
    try:
        model(Wishes())
    finally:
        knobs.runtime.jit_post_compile_hook = None
    assert len(compiled[True]) > 5
    assert compiled[False] == []


@pytest.mark.parametrize(
    ("wished", "limit"),
    [
        (Wishes(fp8=True), 0.05),
        (Wishes(kv="float8_e4m3"), 0.02),
        (Wishes(window="slots8"), 0.02),
        (Wishes(kv="float8_e4m3", window="slots8", fp8=True), 0.05),
    ],
    ids=["products", "ring", "attention", "all"],
)
def test_eight_bits_are_close(wished: Wishes, limit: float) -> None:
    """Emulated in float32 they are 0.017, 0.006, 0.006 and 0.017 off, rounding included."""
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no 8-bit floating point")
    made, rung = model(wished), replace(FULL, precision=FP8) if wished.fp8 else FULL
    assert made.forms.alone == wished.on(made.forms.alone), "what was wished for doesn't work here"
    assert off(played(made, rung), plain(torch.bfloat16)) < limit


def test_together_is_alone_but_for_rounding() -> None:
    one, many = model(Wishes()), model(Wishes())
    alone = [latents(one, [one.open(seed=seed, prompt="a cat")], FULL, 6) for seed in (3, 4)]
    states = [many.open(seed=seed, prompt="a cat") for seed in (3, 4)]
    assert off(latents(many, states, FULL, 6), torch.cat(alone)) < ROUNDED


def test_a_captured_step_waits_for_nothing() -> None:
    """Between two pictures the host tells the device what to do and never waits for it."""
    made = model(Wishes())
    state = made.open(seed=5, prompt="a cat")
    latents(made, [state], FULL, 7)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(made.begin_chunk(state, FULL)):
            made.forward([state])
        later = made.decode_later(state)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert later().shape[0] == made.spec.chunk_frames
