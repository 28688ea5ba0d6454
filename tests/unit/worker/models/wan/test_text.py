"""Embeddings that come from elsewhere: known while they are kept, and read as they are."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from services.worker.models.conformance import check
from services.worker.models.wan.text import UMT5, EncodedElsewhere
from shared.contracts.text import TextEncoded
from tests.fixtures import tiny_wan
from tests.unit.worker.models.wan import tiny

DIM = tiny.ARCH.text_dim


def encoded(numbers: torch.Tensor, dim: int = DIM) -> TextEncoded:
    payload = numbers.bfloat16().view(torch.uint8).numpy().tobytes()
    return TextEncoded(len(numbers), dim, "bfloat16", payload, "digest")


def test_a_prompt_is_known_as_long_as_somebody_keeps_it() -> None:
    encoder, numbers = EncodedElsewhere(tiny.ARCH), torch.arange(3.0 * DIM).view(3, DIM)
    first, second = encoder.learn("red", encoded(numbers)), encoder.learn("red", encoded(numbers))
    assert torch.equal(encoder.encode("red").float(), numbers)
    del first
    assert encoder.knows("red")
    del second
    assert not encoder.knows("red")
    with pytest.raises(LookupError, match="'red' was not encoded"):
        encoder.encode("red")
    assert encoder.encode("").shape == (1, DIM)


def test_an_encoder_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=f"gives {DIM + 1} numbers a word.* reads {DIM}"):
        EncodedElsewhere(tiny.ARCH).learn("red", encoded(torch.zeros(2, DIM + 1), DIM + 1))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"words": 3}, "bytes for 3 words instead of"),
        ({"words": 0, "embedding": b""}, "0 bytes for 0 words"),
        ({"embedding": encoded(torch.full((2, DIM), torch.nan)).embedding}, "NaN or infinity"),
    ],
)
def test_an_embedding_that_is_none_is_refused(changes: dict[str, Any], said: str) -> None:
    answer = msgspec.structs.replace(encoded(torch.zeros(2, DIM)), **changes)
    with pytest.raises(ValueError, match=said):
        EncodedElsewhere(tiny.ARCH).learn("red", answer)


def test_a_model_that_reads_embeddings_can_be_tried_without_an_encoder(tmp_path: Path) -> None:
    tiny_wan.save(tmp_path)
    model = tiny_wan.load_model("tiny", weights_path=str(tmp_path))
    assert model.spec.text_encoder == UMT5
    with pytest.raises(LookupError):
        model.open(seed=1, prompt="red")
    assert next(check(model)).passed


def test_a_rebuild_whose_prompt_is_forgotten_takes_the_next_one() -> None:
    model = tiny.model()
    model._prompts.read(EncodedElsewhere(tiny.ARCH))
    red = model.learn("red", encoded(torch.ones(2, DIM)))
    state = model.open(seed=1, prompt="red")
    for _ in range(model.begin_chunk(state, model.spec.rungs[0])):
        model.forward([state])
    model.decode(state)
    past = [model.latents(state)]
    del red
    blue = model.learn("blue", encoded(torch.full((1, DIM), 2.0)))
    rebuilt = model.rebuild(seed=1, prompt="blue", past=past)
    model.read_stand_ins()
    assert blue is not None
    assert (rebuilt.prompt, rebuilt.new_text) == ("blue", False)
    model.set_prompt(rebuilt, "anything")
