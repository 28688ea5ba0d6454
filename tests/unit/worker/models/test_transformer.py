"""The cached, windowed forward against attention written out the long way."""

import pytest
import torch
from torch import Tensor

from services.worker.models.sprites.transformer import (
    CHUNK,
    FRAME_TOKENS,
    HEAD_DIM,
    KV_SHAPE,
    Parallel,
    Ring,
    Transformer,
    Window,
    slot_of,
    window_of,
)

CHUNKS = 6


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    torch.manual_seed(0)
    model = Transformer().eval().requires_grad_(requires_grad=False)
    for parameter in model.parameters():
        if parameter.std() == 0 and parameter.ndim == 2:
            parameter.normal_(std=0.05)
    return model


def turned(x: Tensor, first_frame: int) -> Tensor:
    """Rotary positions by complex numbers: 12 pairs for time, 10 for the row, 10 for the column."""
    tokens = torch.arange(x.shape[0])
    places = (first_frame + tokens // FRAME_TOKENS, tokens % FRAME_TOKENS // 10, tokens % 10)
    angles = [p[:, None] * 100.0 ** (-torch.arange(n) / n) for p, n in zip(places, (12, 10, 10), strict=True)]
    turn = torch.polar(torch.ones(x.shape[0], HEAD_DIM // 2), torch.cat(angles, 1))[:, None]
    half = HEAD_DIM // 2
    value = torch.complex(x[..., :half], x[..., half:]) * turn
    return torch.cat([value.real, value.imag], -1)


class LongWay:
    """Keeps every chunk's un-roped keys and values for ever and looks at those in the window."""

    def __init__(self) -> None:
        self.past: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self.chunk = 0

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.past[layer, self.chunk] = (k[0], v[0])
        seen = [0, *range(max(1, self.chunk - 2), self.chunk + 1)][: self.chunk + 1]
        keys = torch.cat([turned(self.past[layer, c][0], CHUNK * i) for i, c in enumerate(seen)])
        values = torch.cat([self.past[layer, c][1] for c in seen])
        queries = turned(q[0], CHUNK * (len(seen) - 1))
        scores = torch.einsum("qhd,khd->hqk", queries, keys) / HEAD_DIM**0.5
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)[None]


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clean and noisy latents of six chunks, noise levels, token ids."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, CHUNKS, 1, 3, 16, 12, 20, generator=generator)
    tokens = torch.arange(6)[None] * 5 + torch.arange(CHUNKS)[:, None] % 4
    return latents[0], latents[1], torch.rand(CHUNKS, 1, 1, generator=generator).expand(-1, 1, 3), tokens


@torch.inference_mode()
def test_window_is_attention_the_long_way_also_past_the_window(transformer: Transformer) -> None:
    clean, noisy, t, tokens = inputs()
    ring, long_way = Ring(torch.zeros(KV_SHAPE)), LongWay()
    for chunk in range(CHUNKS):
        text_kv, opening = transformer.text_kv(tokens[chunk : chunk + 1]), torch.tensor([float(chunk == 0)])
        ring.begin(chunk)
        long_way.chunk = chunk
        for latents, level in ((noisy[chunk], t[chunk]), (clean[chunk], torch.zeros(1, 3))):
            made = transformer(latents, level, opening, text_kv, Window([ring], [chunk]))
            expected = transformer(latents, level, opening, text_kv, long_way)
            torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-3)


@torch.inference_mode()
def test_training_sees_what_serving_sees(transformer: Transformer) -> None:
    clean, noisy, t, tokens = inputs()
    opening = torch.tensor([1.0] + [0.0] * (CHUNKS - 1))
    text_kv = transformer.text_kv(tokens)
    levels = torch.cat([torch.zeros(CHUNKS, 3), t[:, 0]])
    both = torch.cat([clean, noisy]).squeeze(1)
    attend = Parallel(1, CHUNKS, torch.device("cpu"))
    trained = transformer(both, levels, opening.repeat(2), text_kv.repeat(2, *[1] * 5), attend)[CHUNKS:]
    ring = Ring(torch.zeros(KV_SHAPE))
    for chunk in range(CHUNKS):
        row = slice(chunk, chunk + 1)
        ring.begin(chunk)
        served = transformer(noisy[chunk], t[chunk], opening[row], text_kv[row], Window([ring], [chunk]))
        torch.testing.assert_close(served, trained[row], atol=1e-4, rtol=1e-3)
        transformer(clean[chunk], torch.zeros(1, 3), opening[row], text_kv[row], Window([ring], [chunk]))


def test_no_two_chunks_of_a_window_share_a_slot() -> None:
    for chunk in range(40):
        slots = [slot_of(seen) for seen in window_of(chunk)]
        assert sorted(slots) == list(range(len(slots)))
        assert slots[0] == 0
