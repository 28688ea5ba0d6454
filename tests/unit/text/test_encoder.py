"""Loading umT5 from both layouts, against a plain encoder that reads Wan's names; what can't be loaded."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import UMT5EncoderModel

from services.text.encoder import MAX_WORDS, Encoder, load
from services.text.files import EncoderError
from shared.contracts.text import TextEncoded
from tests.fixtures import tiny_umt5
from tests.fixtures.tiny_umt5 import HEADS, LAYERS, WORDS

PROMPT = "a red ball jumps over a blue cube"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The same encoder as Wan publishes it and in Hugging Face's layout."""
    model = tiny_umt5.make_model()
    wan, hugging_face = tmp_path / "wan", tmp_path / "hf"
    tiny_umt5.save_as_wan(model, wan)
    tiny_umt5.save_as_hugging_face(model, hugging_face)
    return wan, hugging_face


def loaded(folder: Path, dtype: str = "float32") -> Encoder:
    return load(str(folder), "cpu", dtype)


def numbers(encoded: TextEncoded) -> Tensor:
    assert len(encoded.embedding) == encoded.words * encoded.dim * 2
    values = torch.frombuffer(bytearray(encoded.embedding), dtype=torch.bfloat16)
    return values.view(encoded.words, encoded.dim).float()


def plain_encoder(tensors: dict[str, Tensor], ids: list[int]) -> Tensor:
    """T5's encoder as its paper and umT5's have it: a position bias in every layer, a gated GELU."""
    w = {name: tensor.float() for name, tensor in tensors.items()}

    def normed(x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight

    x = w["token_embedding.weight"][ids]
    for n in range(LAYERS):
        part = {k.removeprefix(f"blocks.{n}."): v for k, v in w.items() if k.startswith(f"blocks.{n}.")}
        y = normed(x, part["norm1.weight"])
        q, k, v = (
            (y @ part[f"attn.{name}.weight"].T).view(len(ids), HEADS, -1).transpose(0, 1) for name in "qkv"
        )
        bias = part["pos_embedding.embedding.weight"][buckets(len(ids))].permute(2, 0, 1)
        seen = torch.softmax(q @ k.transpose(1, 2) + bias, -1) @ v
        x = x + seen.transpose(0, 1).flatten(1) @ part["attn.o.weight"].T
        y = normed(x, part["norm2.weight"])
        gate = F.gelu(y @ part["ffn.gate.0.weight"].T, approximate="tanh")
        x = x + (gate * (y @ part["ffn.fc1.weight"].T)) @ part["ffn.fc2.weight"].T
    return normed(x, w["norm.weight"])


def buckets(words: int, count: int = 32, furthest: int = 128) -> Tensor:
    """Of the distance from each word to each: exact when near, by logarithm when far; ahead in the upper
    half.
    """
    half, exact = count // 2, count // 4

    def bucket(ahead: int) -> int:
        far = abs(ahead)
        if far >= exact:
            far = exact + int(math.log(far / exact) / math.log(furthest / exact) * (half - exact))
        return min(far, half - 1) + (half if ahead > 0 else 0)

    return torch.tensor([[bucket(seen - seeing) for seen in range(words)] for seeing in range(words)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_layouts_give_the_same_bits(folders: tuple[Path, Path], dtype: str) -> None:
    wan, hugging_face = (loaded(folder, dtype).encode(PROMPT) for folder in folders)
    assert wan == hugging_face
    assert (wan.words, wan.dim, wan.dtype, wan.cut) == (
        len(PROMPT.split()) + 1,
        tiny_umt5.DIM,
        "bfloat16",
        False,
    )


def test_it_is_what_transformers_loads_by_itself(folders: tuple[Path, Path]) -> None:
    theirs = UMT5EncoderModel.from_pretrained(folders[1], dtype=torch.bfloat16).eval()
    ids = torch.tensor([[WORDS.index(word) for word in PROMPT.split()] + [0]])
    with torch.inference_mode():
        expected = theirs(input_ids=ids).last_hidden_state[0].float()
    assert torch.equal(numbers(loaded(folders[1], "bfloat16").encode(PROMPT)), expected)


def test_it_is_the_encoder_that_wan_was_trained_with(folders: tuple[Path, Path]) -> None:
    prompt = " ".join((WORDS[2:] * 20)[:160])
    ids = [WORDS.index(word) for word in prompt.split()] + [0]
    expected = plain_encoder(tiny_umt5.wan_tensors(tiny_umt5.make_model()), ids)
    assert (numbers(loaded(folders[0]).encode(prompt)) - expected).abs().max() < 0.01 * expected.abs().max()


def test_a_long_prompt_is_cut_and_still_ends(folders: tuple[Path, Path]) -> None:
    encoder = loaded(folders[0])
    long, just = (encoder.encode(" ".join(["red"] * count)) for count in (2000, MAX_WORDS - 1))
    assert (long.words, long.cut, just.cut) == (MAX_WORDS, True, False)
    assert long.embedding == just.embedding
    assert encoder.encode("").words == 1
    assert encoder.answer_bytes == MAX_WORDS * tiny_umt5.DIM * 2


def test_the_digest_tells_encoders_apart(folders: tuple[Path, Path], tmp_path: Path) -> None:
    tiny_umt5.save_as_wan(tiny_umt5.make_model(seed=1), tmp_path / "other")
    assert loaded(folders[0]).digest == loaded(folders[1]).digest != loaded(tmp_path / "other").digest


def test_a_folder_of_diffusers(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model = tiny_umt5.make_model()
    model.save_pretrained(tmp_path / "both" / "text_encoder", max_shard_size="4KB")
    tiny_umt5.save_tokenizer(tmp_path / "both" / "tokenizer")
    assert len(list((tmp_path / "both" / "text_encoder").glob("*.safetensors"))) > 1
    expected = loaded(folders[0]).encode(PROMPT)
    assert loaded(tmp_path / "both").encode(PROMPT) == expected
    assert loaded(tmp_path / "both" / "text_encoder").encode(PROMPT) == expected


def refuses(folder: Path | str, *words: str, device: str = "cpu") -> None:
    with pytest.raises(EncoderError) as refused:
        load(str(folder), device, "float32")
    for word in words:
        assert word in str(refused.value)


def test_missing_files_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    refuses("", "''", "TURBOSERVE_TEXT_WEIGHTS_PATH")
    refuses(tmp_path / "nowhere", "nowhere")
    (folders[1] / "tokenizer.json").unlink()
    refuses(folders[1], "tokenizer.json", "google/umt5-xxl")
    (folders[0] / "models_t5_umt5-xxl-enc-bf16.pth").unlink()
    refuses(folders[0], str(folders[0]), "safetensors", "models_t5_")


def test_spoilt_files_are_refused(folders: tuple[Path, Path]) -> None:
    wan, hugging_face = folders
    weights = hugging_face / "model.safetensors"
    tensors = load_file(weights)
    name = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    save_file({key: value for key, value in tensors.items() if key != name}, weights)
    refuses(hugging_face, "lack", name)
    save_file(tensors | {name: tensors[name] * torch.inf}, weights)
    refuses(hugging_face, "NaN or infinity", name)
    save_file(tensors | {name: tensors[name][:3]}, weights)
    refuses(hugging_face, "another shape", name)
    weights.write_bytes(weights.read_bytes()[:-100])
    refuses(hugging_face, str(weights), "truncated")
    torch.save({"other": torch.zeros(1)}, wan / "models_t5_umt5-xxl-enc-bf16.pth")
    refuses(wan, "no umT5 encoder", "other")


class Trap:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(folders: tuple[Path, Path], tmp_path: Path) -> None:
    trap = Trap(tmp_path / "executed")
    torch.save({"token_embedding.weight": trap}, folders[0] / "models_t5_umt5-xxl-enc-bf16.pth")
    refuses(folders[0], "more than tensors")
    assert not trap.path.exists()


def test_a_device_that_is_not_there(folders: tuple[Path, Path]) -> None:
    refuses(folders[0], "'cuda:99'", device="cuda:99")
