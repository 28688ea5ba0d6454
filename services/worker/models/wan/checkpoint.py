"""Reading files of weights and recognising what they hold, in any of the layouts they are published in.

Names come out as Wan-AI published them. Nothing in a file is ever executed.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from services.worker.models import WeightsError

Tensors = dict[str, Tensor]
SUFFIXES = (".safetensors", ".pt", ".pth")
_INDEX_SUFFIX = ".safetensors.index.json"

_AVERAGED = "generator_ema"
_WRAPPERS = ("generator", "generator_lora", "state_dict", "model", _AVERAGED)
"""What training scripts put a state dict under."""
_MIDDLES = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
_PREFIXES = ("base_model.model.", "module.", "diffusion_model.", "generator.", "model.")

_DIFFUSERS = (
    ("condition_embedder.text_embedder.linear_1.", "text_embedding.0."),
    ("condition_embedder.text_embedder.linear_2.", "text_embedding.2."),
    ("condition_embedder.time_embedder.linear_1.", "time_embedding.0."),
    ("condition_embedder.time_embedder.linear_2.", "time_embedding.2."),
    ("condition_embedder.time_proj.", "time_projection.1."),
    ("proj_out.", "head.head."),
    ("attn1.", "self_attn."),
    ("attn2.", "cross_attn."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".to_out.0.", ".o."),
    ("ffn.net.0.proj.", "ffn.0."),
    ("ffn.net.2.", "ffn.2."),
    (".norm2.", ".norm3."),
    (".scale_shift_table", ".modulation"),
)


TEXT_TABLES = ("token_embedding.weight", "shared.weight", "encoder.embed_tokens.weight")
"""What a text encoder's table of words is called: by Wan-AI, and in Hugging Face's files."""


@dataclass(frozen=True)
class Checkpoint:
    """`kind` is transformer, lora, vae, taehv, text encoder or unknown; `layout` is wan or diffusers."""

    path: Path
    kind: str
    layout: str
    tensors: Tensors


def read(path: Path, *, averaged: bool = True) -> Checkpoint:
    """A .safetensors, a .safetensors.index.json with its shards, or a .pt or .pth. Raises `WeightsError`.

    `averaged`: of a training run's two generators the averaged one, as Self-Forcing's samples do; LongLive's
    low-rank updates belong on the other.
    """
    if is_index(path):
        tensors = _read_shards(path)
    elif path.suffix == ".safetensors":
        tensors = _read_safetensors(path)
    elif path.suffix in SUFFIXES:
        tensors = read_torch(path, averaged=averaged)
    else:
        raise WeightsError(f"weights file {path} is none of {', '.join((*SUFFIXES, _INDEX_SUFFIX))}")
    return recognised(path, tensors)


def recognised(path: Path, tensors: Mapping[str, Tensor]) -> Checkpoint:
    """The same tensors under their published names, and what they are. Reads no values."""
    bare = {_bare(name): tensor for name, tensor in tensors.items()}
    diffusers = any(name.startswith("condition_embedder.") or ".attn1." in name for name in bare)
    if diffusers:
        bare = {_from_diffusers(name): tensor for name, tensor in bare.items()}
    return Checkpoint(path, _kind(bare), "diffusers" if diffusers else "wan", bare)


def read_folder(folder: Path) -> list[Checkpoint]:
    """Every file of weights in a folder, shards through their index. Raises `WeightsError`."""
    return [read(path) for path in files_in(folder)]


def files_in(folder: Path) -> list[Path]:
    """Indices of shards, then single files. Raises `WeightsError`."""
    indices = sorted(folder.glob(f"*{_INDEX_SUFFIX}"))
    shards = {shard for index in indices for shard in shards_of(index)}
    single = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path not in shards)
    if not indices and not single:
        raise WeightsError(f"folder {folder} holds no weights file ({', '.join(SUFFIXES)})")
    return [*indices, *single]


def is_index(path: Path) -> bool:
    return path.name.endswith(_INDEX_SUFFIX)


def _read_safetensors(path: Path) -> Tensors:
    return reading(path, lambda: load_file(path))


def _read_shards(index: Path) -> Tensors:
    tensors: Tensors = {}
    for shard in shards_of(index):
        tensors |= _read_safetensors(shard)
    return tensors


def shards_of(index: Path) -> list[Path]:
    """Raises `WeightsError`."""
    content = reading(index, lambda: json.loads(index.read_bytes()))
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise WeightsError(f"weights index {index} has no weight_map of names to files")
    if any(Path(name).name != name for name in names.values()):
        raise WeightsError(f"weights index {index} names files outside its folder")
    return [index.with_name(name) for name in sorted(set(names.values()))]


def read_torch(path: Path, *, averaged: bool = True) -> Tensors:
    """The values stay on disk until they are used, except in files of torch's oldest format."""

    def load() -> Any:
        mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)

    content = reading(path, load)
    wrappers = (_AVERAGED, *_WRAPPERS) if averaged else _WRAPPERS
    for _ in wrappers:
        inner = next((content[key] for key in wrappers if isinstance(content.get(key), dict)), None)
        content = content if inner is None else inner
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"weights file {path} holds no tensors; its keys are {_some(list(content))}")
    return tensors


def reading(path: Path, load: Callable[[], Any]) -> Any:
    """What `load` returns, its many kinds of failure in words."""
    try:
        content = load()
    except FileNotFoundError:
        raise WeightsError(f"weights file {path} can't be read: no such file") from None
    except UnpicklingError as error:
        reason = str(error).partition(".")[0]
        raise WeightsError(
            f"weights file {path} is truncated or holds more than tensors ({reason}); loading objects could"
            " run code, so it is refused: save the state dict alone, best as safetensors"
        ) from None
    except (SafetensorError, ValueError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"weights file {path} is truncated or no weights file ({reason})") from None
    except OSError as error:
        raise WeightsError(f"weights file {path} can't be read: {error.strerror}") from None
    if not isinstance(content, Mapping):
        raise WeightsError(f"weights file {path} holds a {type(content).__name__}, not named tensors")
    return content


def _bare(name: str) -> str:
    for middle in _MIDDLES:
        name = name.replace(middle, "")
    while prefix := next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return name


def _from_diffusers(name: str) -> str:
    if name == "scale_shift_table":
        return "head.modulation"
    for theirs, published in _DIFFUSERS:
        name = name.replace(theirs, published)
    return name


def _kind(names: Mapping[str, Tensor]) -> str:
    if any(".lora_" in name for name in names):
        return "lora"
    if "patch_embedding.weight" in names:
        return "transformer"
    if "decoder.conv1.weight" in names and "conv2.weight" in names:
        return "vae"
    if "decoder.1.weight" in names and "decoder.3.conv.0.weight" in names:
        return "taehv"
    if any(name in names for name in TEXT_TABLES):
        return "text encoder"
    return "unknown"


def _some(names: list[Any], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(str, names[:count])) + more
