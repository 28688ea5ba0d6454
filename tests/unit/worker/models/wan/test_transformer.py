"""The slots' transformer against the plain one, on weights under their published names."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from services.worker.models.noise import draw
from services.worker.models.wan.checkpoint import read
from services.worker.models.wan.config import KREA, LONGLIVE, SELF_FORCING, Recipe
from services.worker.models.wan.loading import load_transformer
from services.worker.models.wan.model import Wan
from services.worker.models.wan.rope import axis_pairs, rope_table
from services.worker.models.wan.session import State
from services.worker.models.wan.taehv import TaehvDecoder
from services.worker.models.wan.text import StandInEncoder
from services.worker.models.wan.transformer import Transformer
from tests.unit.worker.models.wan import tiny
from tests.unit.worker.models.wan.reference import Session, self_forcing_chunk

PROMPT, LATER = "a red ball rolls over the sand", "and now it snows"
SHAPE = (3, *tiny.GEOMETRY.latent_shape)


def loaded(folder: Path, recipe: Recipe) -> Wan:
    path = folder / "transformer.safetensors"
    save_file(tiny.published(), path)
    config = tiny.config(recipe)
    with torch.device("meta"):
        transformer = Transformer(config)
    load_transformer(transformer, read(path), tiny.ARCH, torch.device("cpu"), torch.float32)
    decoder = TaehvDecoder(tiny.DECODER_WIDTHS)
    return Wan(config, transformer, decoder, StandInEncoder(tiny.ARCH), 2, "tiny")


def plain(prompt: str) -> Session:
    text = StandInEncoder(tiny.ARCH).encode(prompt)
    return Session(tiny.published(), tiny.ARCH.heads, tiny.ARCH.layers, text, tiny.ARCH.text_tokens)


def latents_of_chunk(model: Wan, state: State) -> torch.Tensor:
    for _ in range(model.begin_chunk(state, model.spec.rungs[0])):
        model.forward([state])
    assert state.latent is not None
    latents = state.latent.clone()
    model.decode(state)
    return latents


def seen_at(end: int, window: int, sink: int) -> list[int]:
    return list(range(end)) if end <= window else [*range(sink), *range(end - window + sink, end)]


@pytest.mark.parametrize(("recipe", "chunks"), [(LONGLIVE, 7), (SELF_FORCING, 9)])
@torch.inference_mode()
def test_session_is_the_plain_one_past_its_window(tmp_path: Path, recipe: Recipe, chunks: int) -> None:
    model, session = loaded(tmp_path, recipe), plain(PROMPT)
    state = model.open(seed=11, prompt=PROMPT)
    for chunk in range(chunks):
        fed = list(range(3 * chunk, 3 * chunk + 3))
        seen = seen_at(fed[-1] + 1, recipe.window_frames, recipe.sink_frames)
        expected = self_forcing_chunk(session, SHAPE, 11, chunk, fed, seen)
        torch.testing.assert_close(latents_of_chunk(model, state), expected, atol=2e-4, rtol=2e-4)
    assert chunks * 3 > recipe.window_frames


@pytest.mark.parametrize("before", [2, 6])
@torch.inference_mode()
def test_new_prompt_recaches_the_window_as_the_plain_one_does(tmp_path: Path, before: int) -> None:
    model, session = loaded(tmp_path, LONGLIVE), plain(PROMPT)
    state, kept = model.open(seed=4, prompt=PROMPT), []
    for chunk in range(before):
        fed = list(range(3 * chunk, 3 * chunk + 3))
        kept.append(self_forcing_chunk(session, SHAPE, 4, chunk, fed, seen_at(fed[-1] + 1, 12, 3)))
        latents_of_chunk(model, state)
    model.set_prompt(state, "not this one")
    model.set_prompt(state, LATER)
    session.say(StandInEncoder(tiny.ARCH).encode(LATER))
    end = 3 * before
    seen = seen_at(end, 12, 3)
    fed = [frame for frame in seen if frame >= end - 12]
    session.velocity(torch.cat(kept)[fed], 0.0, fed, seen)
    fed = list(range(end, end + 3))
    expected = self_forcing_chunk(session, SHAPE, 4, before, fed, seen_at(end + 3, 12, 3))
    torch.testing.assert_close(latents_of_chunk(model, state), expected, atol=2e-4, rtol=2e-4)


@torch.inference_mode()
def test_recomputed_context_is_the_plain_one(tmp_path: Path) -> None:
    model, session = loaded(tmp_path, KREA), plain(PROMPT)
    state = model.open(seed=6, prompt=PROMPT)
    kept: list[torch.Tensor] = []
    for chunk in range(4):
        fed, context = list(range(3 * chunk, 3 * chunk + 3)), list(range(3 * chunk - 3, 3 * chunk))
        if chunk:
            session.velocity(kept[-1], 0.0, context, context)
        seen = [*context, *fed] if chunk else fed
        kept.append(self_forcing_chunk(session, SHAPE, 6, chunk, fed, seen))
        torch.testing.assert_close(latents_of_chunk(model, state), kept[-1], atol=2e-4, rtol=2e-4)


def test_rope_shares_a_head_as_published() -> None:
    assert axis_pairs(128) == (22, 21, 21)
    table = rope_table(2, (2, 3), 12)
    assert table.shape == (2, 2, 6, 6)
    assert table.dtype == torch.float32
    speeds = torch.tensor([1.0, 10_000 ** (-1 / 2)])
    torch.testing.assert_close(table[0, 1, 5, :2], speeds.cos())
    torch.testing.assert_close(table[1, 1, 5, 2:4], speeds.sin())
    torch.testing.assert_close(table[1, 1, 5, 4:], (2 * speeds).sin())


def test_keys_are_stored_before_the_rotary_embedding(tmp_path: Path) -> None:
    """So a place's content says nothing of its position: two frames alike have keys alike."""
    model = loaded(tmp_path, LONGLIVE)
    state = model.open(seed=1, prompt=PROMPT)
    model.begin_chunk(state, model.spec.rungs[0])
    state.latent = draw((1, *SHAPE[1:]), 2, 0).expand(SHAPE).clone()
    model.forward([state])
    keys = model.pool["kv"][state.slot, 0, 0]
    torch.testing.assert_close(keys[0], keys[2])
    assert keys[0].abs().max() > 0
