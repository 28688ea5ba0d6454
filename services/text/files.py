"""The encoder's files on disk, in either of the layouts they are published in. Nothing in a file is ever
executed.

Wan's: `models_t5_umt5-xxl-enc-bf16.pth` beside a folder `google/umt5-xxl`. Hugging Face's: `config.json` and
safetensors, alone, as `text_encoder` and `tokenizer` in one folder, or as the first of these two.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

Tensors = dict[str, Tensor]

_TOKENIZERS = ("", "tokenizer", "google/umt5-xxl", "../tokenizer")
_WAN = "token_embedding.weight"
_WAN_NAMES = (
    (r"^token_embedding\.", "shared."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (r"^blocks\.(\d+)\.norm1\.", r"encoder.block.\1.layer.0.layer_norm."),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.block.\1.layer.1.layer_norm."),
    (r"^blocks\.(\d+)\.attn\.", r"encoder.block.\1.layer.0.SelfAttention."),
    (
        r"^blocks\.(\d+)\.pos_embedding\.embedding\.",
        r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.",
    ),
    (r"^blocks\.(\d+)\.ffn\.gate\.0\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_0."),
    (r"^blocks\.(\d+)\.ffn\.fc1\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_1."),
    (r"^blocks\.(\d+)\.ffn\.fc2\.", r"encoder.block.\1.layer.1.DenseReluDense.wo."),
)
_UNUSED = ("decoder.", "lm_head.", "encoder.embed_tokens.")


class EncoderError(ValueError):
    """Files that make no encoder. The message names them, what was expected and what to do."""


@dataclass(frozen=True)
class EncoderFiles:
    """`tensors` under Hugging Face's names; `config` {}: there was no config.json."""

    tensors: Tensors
    config: dict[str, Any]
    tokenizer: Path


def read(weights_path: str) -> EncoderFiles:
    """Raises `EncoderError`."""
    root = Path(weights_path)
    if not weights_path or not root.is_dir():
        raise EncoderError(
            f"weights path {weights_path!r} is no folder; name one that holds the encoder's weights and its"
            " tokenizer.json (setting TURBOSERVE_TEXT_WEIGHTS_PATH)"
        )
    folder = root / "text_encoder" if (root / "text_encoder").is_dir() else root
    tokenizer = _tokenizer(root)
    tensors: Tensors = {}
    for path in _weight_files(folder):
        tensors |= _read_file(path)
    if _WAN in tensors:
        tensors = {_from_wan(name): tensor for name, tensor in tensors.items()}
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(_UNUSED)}
    return EncoderFiles(kept, _config(folder / "config.json"), tokenizer)


def _tokenizer(root: Path) -> Path:
    places = [root / place / "tokenizer.json" for place in _TOKENIZERS]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        looked = ", ".join(str(path) for path in places)
        raise EncoderError(f"no tokenizer.json of umT5 found (looked for: {looked}); put it there")
    return found


def _weight_files(folder: Path) -> list[Path]:
    """Safetensors if there are any; else one .pth or the shards of a .bin."""
    for pattern in ("*.safetensors", "*t5*.pth", "pytorch_model*.bin"):
        if found := sorted(folder.glob(pattern)):
            return found
    raise EncoderError(
        f"folder {folder} holds no weights of a text encoder (*.safetensors, models_t5_*.pth or"
        " pytorch_model*.bin)"
    )


def _read_file(path: Path) -> Tensors:
    if path.suffix == ".safetensors":
        return _reading(path, lambda: load_file(path))
    mapped = zipfile.is_zipfile(path)
    content = _reading(path, lambda: torch.load(path, map_location="cpu", weights_only=True, mmap=mapped))
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise EncoderError(f"weights file {path} holds other things than named tensors")
    return {str(name): tensor for name, tensor in content.items()}


def _reading(path: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except UnpicklingError as error:
        raise EncoderError(
            f"weights file {path} is truncated or holds more than tensors ({_first(error)}); loading objects"
            " could run code, so it is refused"
        ) from None
    except (SafetensorError, ValueError, RuntimeError, EOFError) as error:
        raise EncoderError(f"file {path} is truncated or not what its name says ({_first(error)})") from None
    except OSError as error:
        raise EncoderError(f"file {path} can't be read: {error.strerror}") from None


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _config(path: Path) -> dict[str, Any]:
    content = _reading(path, lambda: json.loads(path.read_bytes())) if path.exists() else {}
    if not isinstance(content, dict):
        raise EncoderError(f"file {path} holds no object")
    return content


def _from_wan(name: str) -> str:
    for theirs, ours in _WAN_NAMES:
        name, changed = re.subn(theirs, ours, name)
        if changed:
            return name
    return name


def some(names: Iterable[str], count: int = 3) -> str:
    shown = sorted(names)
    more = f" and {len(shown) - count} more" if len(shown) > count else ""
    return ", ".join(shown[:count]) + more
