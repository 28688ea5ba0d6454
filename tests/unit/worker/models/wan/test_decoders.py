"""Streaming decoders against the clip decoded whole."""

from math import prod
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from services.worker.models.noise import draw
from services.worker.models.wan import random_weights
from services.worker.models.wan.config import Geometry
from services.worker.models.wan.taehv import TaehvDecoder
from services.worker.models.wan.vae import LATENT_MEAN, LATENT_SPREAD, VaeDecoder
from tests.unit.worker.models.wan.reference import taehv_clip, vae_clip

Painter = TypeVar("Painter", bound=nn.Module)
GEOMETRY = Geometry(32, 16)
LATENTS = draw((7, *GEOMETRY.latent_shape), 3, 0).double()


def lively(decoder: Painter) -> Painter:
    random_weights.fill(decoder, 5, torch.device("cpu"), torch.float64, variance=2.0)
    for number, (name, parameter) in enumerate(decoder.named_parameters()):
        if name.endswith(("bias", "gamma")):
            parameter.data += draw(parameter.shape, 6, number) / 4
    return decoder.eval()


@pytest.fixture(scope="module")
def vae() -> VaeDecoder:
    return lively(VaeDecoder((32, 32, 32, 16, 8)))


@pytest.fixture(scope="module")
def taehv() -> TaehvDecoder:
    return lively(TaehvDecoder((16, 16, 8, 8)))


@torch.inference_mode()
def streamed(decoder: VaeDecoder | TaehvDecoder, cuts: list[int]) -> tuple[Tensor, Tensor]:
    cache = torch.zeros(sum(map(prod, decoder.cache_shapes(GEOMETRY))), dtype=torch.float64)
    made = []
    for number, latents in enumerate(LATENTS.split(cuts)):
        made.append(decoder.decode(latents, cache, first=number == 0))
    return torch.cat(made), cache


@pytest.mark.parametrize("cuts", [[7], [3, 3, 1], [1] * 7])
def test_vae_chunk_by_chunk_is_the_whole_clip(vae: VaeDecoder, cuts: list[int]) -> None:
    whole = vae_clip(
        dict(vae.state_dict()),
        LATENTS,
        torch.tensor(LATENT_MEAN, dtype=torch.float64),
        torch.tensor(LATENT_SPREAD, dtype=torch.float64),
    )
    made, _ = streamed(vae, cuts)
    assert made.shape == (25, 3, 16, 32)
    assert whole.std() > 0.05
    torch.testing.assert_close(made, whole, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("cuts", [[7], [3, 3, 1], [1] * 7])
def test_taehv_chunk_by_chunk_is_the_whole_clip(taehv: TaehvDecoder, cuts: list[int]) -> None:
    whole = taehv_clip(dict(taehv.state_dict()), LATENTS)
    made, _ = streamed(taehv, cuts)
    assert made.shape == (25, 3, 16, 32)
    assert whole.std() > 0.05
    torch.testing.assert_close(made, whole, atol=1e-9, rtol=1e-9)


@torch.inference_mode()
def test_vae_pieces_of_more_frames_paint_the_same(vae: VaeDecoder) -> None:
    several = VaeDecoder((32, 32, 32, 16, 8), piece=3).double()
    several.load_state_dict(vae.state_dict())
    one_by_one, cache = streamed(vae, [4, 3])
    together, other = streamed(several.eval(), [4, 3])
    torch.testing.assert_close(together, one_by_one, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(other, cache, atol=1e-9, rtol=1e-9)
