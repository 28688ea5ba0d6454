"""What `turboserve model check` says of tiny files with the published key structure, good and bad."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from torch import Tensor

from services.worker.models.noise import draw
from services.worker.models.wan import check as checking
from services.worker.models.wan import config as wan_config
from services.worker.models.wan import random_weights, unread
from services.worker.models.wan.taehv import TaehvDecoder
from services.worker.models.wan.vae import VaeDecoder
from tests.unit.worker.models.wan import tiny
from turboserve.cli import main

Changed = Mapping[str, Tensor | None]
LORA = "base_model.model.blocks.0.self_attn.q.lora_{}.weight"


@pytest.fixture(autouse=True)
def presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(wan_config.ARCHITECTURES, "tiny", tiny.ARCH)
    monkeypatch.setitem(checking._DECODERS, "taehv", lambda: TaehvDecoder(tiny.DECODER_WIDTHS))
    monkeypatch.setitem(checking._DECODERS, "vae", lambda: VaeDecoder((32, 32, 32, 16, 8)))
    monkeypatch.setattr(checking, "TEXT_LAYERS", 2)


def run(path: Path, *arguments: str) -> Result:
    given = ["model", "check", str(path), *arguments]
    return CliRunner().invoke(main, given, env={"COLUMNS": "200"})


def transformer(folder: Path, changed: Changed | None = None, name: str = "tiny.safetensors") -> Path:
    tensors = {**tiny.published(), **(changed or {})}
    path = folder / name
    save_file({key: value for key, value in tensors.items() if value is not None}, path)
    return path


def decoder(folder: Path, module: torch.nn.Module, name: str) -> Path:
    random_weights.fill(module, 5, torch.device("cpu"), torch.float32)
    torch.save(dict(module.state_dict()), folder / name)
    return folder / name


def text_encoder(layers: int = 2, width: int = 4096) -> dict[str, Tensor]:
    parts = {"norm1.weight": 1, "attn.q.weight": 2, "pos_embedding.embedding.weight": 3}
    blocks = {f"blocks.{layer}.{part}": torch.ones(n) for layer in range(layers) for part, n in parts.items()}
    return {"token_embedding.weight": torch.zeros(3, width), "norm.weight": torch.ones(width), **blocks}


def test_a_whole_transformer_fits_and_is_described(tmp_path: Path) -> None:
    path = transformer(tmp_path)
    shown = run(path)
    assert shown.exit_code == 0, shown.output
    numbers = sum(tensor.numel() for tensor in tiny.published().values())
    assert f"transformer of tiny: {numbers:,} numbers in float32" in shown.stdout
    assert "sessions on 80 GB" in shown.stdout
    told = json.loads(run(path, "--model", "tiny", "--json").stdout)
    assert (told["files"][0]["kind"], told["lacking"], told["files"][0]["missing"]) == ("transformer", [], [])
    assert told["estimate"]["recipe"] == "self-forcing"


def test_what_is_wrong_is_counted_and_named(tmp_path: Path) -> None:
    gone: Changed = {f"blocks.0.self_attn.{part}.weight": None for part in "qkvo"}
    infinite = torch.full((1, 2, tiny.ARCH.dim), torch.inf)
    wrong = {"surprise": torch.zeros(1), "head.modulation": infinite, "head.head.bias": torch.zeros(3)}
    path = transformer(tmp_path, {**gone, **wrong})
    shown = run(path)
    assert shown.exit_code == 1
    names = ", ".join(f"blocks.0.self_attn.{part}.weight" for part in "qkv")
    assert f"4 missing: {names} and 1 more" in shown.stdout
    assert "1 unknown: surprise" in shown.stdout
    assert "1 of another shape: head.head.bias is [3] instead of [64]" in shown.stdout
    assert "1 with NaN or infinity: head.modulation" in shown.stdout


def test_another_model_s_transformer_is_refused_by_name(tmp_path: Path) -> None:
    path = transformer(tmp_path)
    shown = run(path, "--model", "wan2.1-t2v-14b")
    assert (shown.exit_code, "has 2 layers of width 48, but wan2.1-t2v-14b has 40" in shown.stdout) == (
        1,
        True,
    )
    larger = transformer(tmp_path, {"blocks.2.modulation": torch.zeros(1)})
    assert "is a transformer of 3 layers of width 48, which is no preset" in run(larger).stdout


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_values_are_read_piece_by_piece_to_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(unread, "_PIECE_NUMBERS", 100)
    tensors = tiny.published()
    tensors["blocks.1.ffn.0.weight"][-1, -1] = torch.nan
    path = tmp_path / f"tiny{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save({"generator_ema": tensors}, path)
    held = unread.open_unread(path).pieces["blocks.1.ffn.0.weight"]
    sizes = [piece.numel() for piece in held()]
    assert (max(sizes) <= 100, sum(sizes)) == (True, tensors["blocks.1.ffn.0.weight"].numel())
    assert "1 with NaN or infinity: blocks.1.ffn.0.weight" in run(path).stdout


def test_half_precision_is_said(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in tiny.published().items()}, path)
    assert "numbers in bfloat16" in run(path).stdout


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_truncated_file_is_said_to_be_one(tmp_path: Path, suffix: str) -> None:
    whole = transformer(tmp_path)
    if suffix == ".pt":
        whole = tmp_path / "whole.pt"
        torch.save(tiny.published(), whole)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[:20_000])
    shown = run(cut)
    assert (shown.exit_code, "truncated" in shown.stdout, "Traceback" in shown.output) == (1, True, False)


def test_a_folder_must_hold_all_that_a_worker_needs(tmp_path: Path) -> None:
    transformer(tmp_path)
    (tmp_path / "notes.safetensors").write_bytes(b"")
    assert run(tmp_path).exit_code == 1, "an empty file can't be read"
    (tmp_path / "notes.safetensors").unlink()
    shown = run(tmp_path)
    assert (shown.exit_code, "it holds no decoder" in shown.stdout) == (1, True)
    decoder(tmp_path, TaehvDecoder(tiny.DECODER_WIDTHS), "taew.pth")
    low_rank = {LORA.format("A"): draw((2, 48), 1, 1), LORA.format("B"): draw((48, 2), 1, 2)}
    torch.save({"generator_lora": low_rank}, tmp_path / "lora.pt")
    save_file({"conv_in.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    shown = run(tmp_path)
    assert shown.exit_code == 0, shown.output
    assert "lora of tiny" in shown.stdout
    assert "stepped as longlive is (window of 12 latent frames)" in shown.stdout
    assert "other.safetensors unknown" in shown.stdout
    transformer(tmp_path, name="again.safetensors")
    assert "2 files of kind transformer (again.safetensors, tiny.safetensors)" in run(tmp_path).stdout


def test_decoders_and_low_rank_updates_alone(tmp_path: Path) -> None:
    vae = run(decoder(tmp_path, VaeDecoder((32, 32, 32, 16, 8)), "Wan2.1_VAE.pth"))
    assert (vae.exit_code, "vae: " in vae.stdout) == (0, True)
    alpha = LORA.replace("lora_{}.weight", "alpha")
    low_rank = {
        LORA.format("A"): draw((2, 48), 1, 1),
        LORA.format("B"): draw((48, 2), 1, 2),
        alpha: torch.tensor(4.0),
    }
    path = tmp_path / "lora.safetensors"
    save_file(low_rank, path)
    assert (run(path).exit_code, "lora of tiny" in run(path).stdout) == (0, True)
    refused = run(path, "--model", "wan2.1-t2v-1.3b")
    assert (refused.exit_code, "fits no weight of the transformer" in refused.stdout) == (1, True)


def test_a_text_encoder_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "models_t5_umt5-xxl-enc-bf16.pth"
    torch.save(text_encoder(), path)
    assert (run(path).exit_code, "text encoder: " in run(path).stdout) == (0, True)
    torch.save(text_encoder(layers=1, width=8), path)
    shown = run(path)
    assert (shown.exit_code, "encodes to width 8, but Wan reads 4096" in shown.stdout) == (1, True)
    assert "3 missing: blocks.1.norm1.weight" in shown.stdout


def test_bad_arguments(tmp_path: Path) -> None:
    assert run(tmp_path / "nowhere").exit_code == 2
    unknown = run(transformer(tmp_path), "--model", "huge")
    assert (unknown.exit_code, "wan2.1-t2v-1.3b" in unknown.stderr) == (2, True)
    sprites = run(transformer(tmp_path), "--model", "sprites")
    assert (sprites.exit_code, "brings its own weights" in sprites.stderr) == (2, True)
    empty = tmp_path / "empty"
    empty.mkdir()
    nothing = run(empty)
    assert (nothing.exit_code, "holds no weights file" in nothing.stderr) == (1, True)
    other = tmp_path / "model.gguf"
    other.write_bytes(b"GGUF")
    assert (run(other).exit_code, "none of .safetensors" in run(other).stdout) == (1, True)
