import pytest
import torch

from services.worker.models.sprites.autoencoder import Autoencoder


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder().eval()


@torch.inference_mode()
def test_decoding_chunk_by_chunk_is_decoding_the_whole(autoencoder: Autoencoder) -> None:
    latents = torch.randn(1, 9, 16, 4, 6)
    whole, _ = autoencoder.decode(latents)
    cache, pieces = None, []
    for chunk in latents.split(3, dim=1):
        frames, cache = autoencoder.decode(chunk, cache)
        pieces.append(frames)
    assert [piece.shape[1] for piece in pieces] == [9, 12, 12]
    torch.testing.assert_close(torch.cat(pieces, 1), whole)


@torch.inference_mode()
def test_encoding_chunk_by_chunk_is_encoding_the_whole(autoencoder: Autoencoder) -> None:
    frames = torch.rand(1, 33, 3, 32, 48)
    whole, _ = autoencoder.encode(frames)
    first, cache = autoencoder.encode(frames[:, :9])
    rest, _ = autoencoder.encode(frames[:, 9:], cache)
    assert first.shape[1] == 3
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)


@torch.inference_mode()
def test_the_past_does_not_see_the_future(autoencoder: Autoencoder) -> None:
    latents = torch.randn(1, 4, 16, 4, 6)
    other = torch.cat([latents[:, :3], torch.randn(1, 1, 16, 4, 6)], 1)
    torch.testing.assert_close(autoencoder.decode(latents)[0][:, :9], autoencoder.decode(other)[0][:, :9])
