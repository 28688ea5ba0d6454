"""From checkpoints to modules on a device, and what is wrong with those that can't be used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from services.worker.models import WeightsError
from services.worker.models.wan.checkpoint import Checkpoint, Tensors
from services.worker.models.wan.config import LATENT_CHANNELS, PATCH, Architecture

_SHOWN = 3
_SAMPLE = 4096
_UNUSED = {"vae": ("encoder.", "conv1."), "taehv": ("encoder.",), "transformer": ()}
_LORA_ENDINGS = {
    ".lora_A.default.weight": ".lora_B.default.weight",
    ".lora_A.weight": ".lora_B.weight",
    ".lora_down.weight": ".lora_up.weight",
}


def published_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """The tensors of a published text-to-video transformer."""
    dim, patch_values = arch.dim, LATENT_CHANNELS * PATCH * PATCH
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (dim, LATENT_CHANNELS, 1, PATCH, PATCH),
        "patch_embedding.bias": (dim,),
        "head.modulation": (1, 2, dim),
        **_linear("head.head", dim, patch_values),
        **_linear("text_embedding.0", arch.text_dim, dim),
        **_linear("text_embedding.2", dim, dim),
        **_linear("time_embedding.0", arch.time_dim, dim),
        **_linear("time_embedding.2", dim, dim),
        **_linear("time_projection.1", dim, 6 * dim),
    }
    for block in (f"blocks.{layer}" for layer in range(arch.layers)):
        for attention in (f"{block}.self_attn", f"{block}.cross_attn"):
            for part in "qkvo":
                shapes |= _linear(f"{attention}.{part}", dim, dim)
            shapes |= {f"{attention}.norm_q.weight": (dim,), f"{attention}.norm_k.weight": (dim,)}
        shapes |= {f"{block}.norm3.weight": (dim,), f"{block}.norm3.bias": (dim,)}
        shapes |= _linear(f"{block}.ffn.0", dim, arch.ffn_dim) | _linear(f"{block}.ffn.2", arch.ffn_dim, dim)
        shapes[f"{block}.modulation"] = (1, 6, dim)
    return shapes


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


class Differences(NamedTuple):
    """Names of tensors that a checkpoint lacks, has too many of, or has in another shape (and in which)."""

    missing: list[str]
    unknown: list[str]
    reshaped: list[str]

    def told(self) -> list[str]:
        return [
            *(f"{name} is missing" for name in self.missing),
            *(f"{name} is unknown" for name in self.unknown),
            *self.reshaped,
        ]


@dataclass(frozen=True)
class Update:
    """A low-rank change of one weight."""

    down: Tensor
    up: Tensor
    scale: float

    def on(self, weight: Tensor) -> Tensor:
        down, up = self.down.to(weight.device).float(), self.up.to(weight.device).float()
        return weight.float() + self.scale * (up @ down)


def load_transformer(
    module: nn.Module,
    checkpoint: Checkpoint,
    arch: Architecture,
    device: torch.device,
    dtype: torch.dtype,
    lora: Checkpoint | None = None,
) -> None:
    """Fills `module` (which may be on the meta device), tensor by tensor. Raises `WeightsError`."""
    _refuse(checkpoint, mismatches(checkpoint, arch))
    updates = low_rank_updates(lora, published_shapes(arch)) if lora else {}

    def published(name: str) -> Tensor:
        tensor = checkpoint.tensors[name].to(device)
        return (updates[name].on(tensor) if name in updates else tensor).to(dtype)

    made = {name: torch.cat([published(part) for part in parts_of(name)]) for name in module.state_dict()}
    _fill(module, made, checkpoint.path)


def load_decoder(module: nn.Module, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
    """The same for a `VaeDecoder` or a `TaehvDecoder`. Raises `WeightsError`."""
    _refuse(checkpoint, decoder_mismatches(checkpoint, module))
    made = {
        name: _last_rows(checkpoint.tensors[name], tensor).to(device, dtype, copy=True)
        for name, tensor in module.state_dict().items()
    }
    _fill(module, made, checkpoint.path)


def parts_of(name: str) -> list[str]:
    """The published tensors that one of the module is put together from: self-attention has one product."""
    return [name.replace(".qkv.", f".{part}.") for part in "qkv"] if ".qkv." in name else [name]


def low_rank_updates(lora: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Update]:
    """By the weight they change; a scale of 1 where the file gives no alpha. Raises `WeightsError`."""
    updates = {}
    for name, down in lora.tensors.items():
        ending = next((ending for ending in _LORA_ENDINGS if name.endswith(ending)), None)
        if ending is None:
            continue
        target = name.removesuffix(ending)
        up = lora.tensors.get(target + _LORA_ENDINGS[ending])
        if up is None or (up.shape[0], down.shape[-1]) != shapes.get(f"{target}.weight"):
            raise WeightsError(f"LoRA file {lora.path}: {name} fits no weight of the transformer")
        alpha = lora.tensors.get(f"{target}.alpha")
        scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
        updates[f"{target}.weight"] = Update(down, up, scale)
    return updates


def digest(*modules: nn.Module) -> str:
    """Of what is served: every tensor's name, shape, type and a spread sample of its values.

    A sample is enough to tell checkpoints apart, and hashing 28 GB would double the time to ready.
    """
    sum_ = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            sum_.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
            step = max(1, tensor.numel() // _SAMPLE)
            sample = tensor.flatten()[::step].float().cpu()
            sum_.update(sample.numpy().tobytes())
    return sum_.hexdigest()


def size(tensors: Tensors) -> tuple[int, int]:
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    return tensors["patch_embedding.weight"].shape[0], len(blocks)


def mismatches(checkpoint: Checkpoint, arch: Architecture) -> list[str]:
    foreign = foreign_to(checkpoint, arch)
    return [foreign] if foreign else differences(checkpoint, arch).told()


def foreign_to(checkpoint: Checkpoint, arch: Architecture) -> str:
    """Why it can't be a transformer of `arch` at all, "" if it may be one."""
    if checkpoint.kind != "transformer":
        return f"is no transformer of the Wan family but {_named(checkpoint)}"
    tensors = checkpoint.tensors
    channels = tensors["patch_embedding.weight"].shape[1]
    if channels != LATENT_CHANNELS:
        return f"takes {channels} input channels instead of {LATENT_CHANNELS}: not a text-to-video model"
    if size(tensors) != (arch.dim, arch.layers):
        dim, layers = size(tensors)
        return f"has {layers} layers of width {dim}, but {arch.name} has {arch.layers} of {arch.dim}"
    return ""


def differences(checkpoint: Checkpoint, arch: Architecture) -> Differences:
    return _differences(checkpoint.tensors, published_shapes(arch))


def decoder_mismatches(checkpoint: Checkpoint, module: nn.Module) -> list[str]:
    if checkpoint.kind != module.name:
        return [f"is no {module.name} decoder but {_named(checkpoint)}"]
    return decoder_differences(checkpoint, module).told()


def decoder_differences(checkpoint: Checkpoint, module: nn.Module) -> Differences:
    """Of a checkpoint of the module's kind."""
    state = module.state_dict()
    used = {
        name: _last_rows(tensor, state[name]) if name in state else tensor
        for name, tensor in checkpoint.tensors.items()
        if not name.startswith(_UNUSED[checkpoint.kind])
    }
    return _differences(used, {name: tuple(tensor.shape) for name, tensor in state.items()})


def _differences(tensors: Tensors, wanted: Mapping[str, tuple[int, ...]]) -> Differences:
    return Differences(
        [name for name in wanted if name not in tensors],
        [name for name in tensors if name not in wanted],
        [
            f"{name} is {list(tensor.shape)} instead of {list(wanted[name])}"
            for name, tensor in tensors.items()
            if name in wanted and tuple(tensor.shape) != wanted[name]
        ],
    )


def _last_rows(tensor: Tensor, wanted: Tensor) -> Tensor:
    """TAEHV's growth layers: trained to make more frames than are asked for, they use those of the last."""
    if tensor.ndim == wanted.ndim and tensor.shape[1:] == wanted.shape[1:]:
        return tensor[-wanted.shape[0] :]
    return tensor


def _fill(module: nn.Module, tensors: Tensors, path: Path) -> None:
    spoilt = [
        f"{name} holds NaN or infinity"
        for name, tensor in tensors.items()
        if not torch.isfinite(tensor).all()
    ]
    if spoilt:
        raise WeightsError(f"weights file {path} can't be used: {some(spoilt, '; ')}")
    module.load_state_dict(tensors, assign=True)


def _refuse(checkpoint: Checkpoint, problems: list[str]) -> None:
    if problems:
        raise WeightsError(f"weights file {checkpoint.path} can't be used: it {some(problems, '; ')}")


def _named(checkpoint: Checkpoint) -> str:
    if checkpoint.kind == "unknown":
        return f"something unknown ({some(list(checkpoint.tensors))})"
    return f"a {checkpoint.kind}"


def some(items: list[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return separator.join(items[:_SHOWN]) + more
