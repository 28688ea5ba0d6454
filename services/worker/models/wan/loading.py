"""From checkpoints to modules on a device, and what is wrong with those that can't be used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from services.worker.models import WeightsError
from services.worker.models.wan.checkpoint import Checkpoint, Tensors
from services.worker.models.wan.config import LATENT_CHANNELS, PATCH, Architecture

_SHOWN = 3
_SAMPLE = 4096
_UNUSED = {"vae": ("encoder.", "conv1."), "taehv": ("encoder.",), "transformer": ()}
_LORA_DOWN = (".lora_A.default.weight", ".lora_A.weight", ".lora_down.weight")
_LORA_UP = {".lora_A": ".lora_B", ".lora_down": ".lora_up"}


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


def load_transformer(
    module: nn.Module,
    checkpoint: Checkpoint,
    arch: Architecture,
    device: torch.device,
    dtype: torch.dtype,
    lora: Checkpoint | None = None,
) -> None:
    """Fills `module` (which may be on the meta device). Raises `WeightsError`."""
    _refuse(checkpoint, mismatches(checkpoint, arch))
    tensors = checkpoint.tensors
    if lora is not None:
        tensors = merged(tensors, lora)
    _fill(module, fused(tensors, arch), checkpoint.path, device, dtype)


def load_decoder(module: nn.Module, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
    """The same for a `VaeDecoder` or a `TaehvDecoder`. Raises `WeightsError`."""
    _refuse(checkpoint, decoder_mismatches(checkpoint, module))
    wanted = module.state_dict()
    tensors = {name: _last_rows(checkpoint.tensors[name], wanted[name]) for name in wanted}
    _fill(module, tensors, checkpoint.path, device, dtype)


def fused(tensors: Mapping[str, Tensor], arch: Architecture) -> Tensors:
    """Published names to the module's: self-attention's q, k and v as one product."""
    made = dict(tensors)
    for block in (f"blocks.{layer}.self_attn" for layer in range(arch.layers)):
        for part in ("weight", "bias"):
            made[f"{block}.qkv.{part}"] = torch.cat([made.pop(f"{block}.{name}.{part}") for name in "qkv"])
    return made


def merged(tensors: Mapping[str, Tensor], lora: Checkpoint) -> Tensors:
    """`tensors` with low-rank updates added to them; a scale of 1 where the file gives no alpha."""
    made = dict(tensors)
    for name, down in lora.tensors.items():
        ending = next((ending for ending in _LORA_DOWN if name.endswith(ending)), None)
        if ending is None:
            continue
        target = name.removesuffix(ending)
        kind = next(kind for kind in _LORA_UP if kind in ending)
        up = lora.tensors.get(name.replace(kind, _LORA_UP[kind]))
        weight = made.get(f"{target}.weight")
        if up is None or weight is None or (up.shape[0], down.shape[1]) != weight.shape:
            raise WeightsError(f"LoRA file {lora.path}: {name} fits no weight of the transformer")
        alpha = lora.tensors.get(f"{target}.alpha")
        scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
        made[f"{target}.weight"] = weight.float() + scale * (up.float() @ down.float())
    return made


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
    if checkpoint.kind != "transformer":
        return [f"is no transformer of the Wan family but {_named(checkpoint)}"]
    tensors = checkpoint.tensors
    channels = tensors["patch_embedding.weight"].shape[1]
    if channels != LATENT_CHANNELS:
        return [f"takes {channels} input channels instead of {LATENT_CHANNELS}: not a text-to-video model"]
    if size(tensors) != (arch.dim, arch.layers):
        dim, layers = size(tensors)
        return [f"has {layers} layers of width {dim}, but {arch.name} has {arch.layers} of {arch.dim}"]
    return _differences(tensors, published_shapes(arch))


def decoder_mismatches(checkpoint: Checkpoint, module: nn.Module) -> list[str]:
    if checkpoint.kind != module.name:
        return [f"is no {module.name} decoder but {_named(checkpoint)}"]
    state = module.state_dict()
    used = {
        name: _last_rows(tensor, state[name]) if name in state else tensor
        for name, tensor in checkpoint.tensors.items()
        if not name.startswith(_UNUSED[checkpoint.kind])
    }
    return _differences(used, {name: tuple(tensor.shape) for name, tensor in state.items()})


def _differences(tensors: Tensors, wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    return [
        *(f"{name} is missing" for name in wanted if name not in tensors),
        *(f"{name} is unknown" for name in tensors if name not in wanted),
        *(
            f"{name} is {list(tensor.shape)} instead of {list(wanted[name])}"
            for name, tensor in tensors.items()
            if name in wanted and tuple(tensor.shape) != wanted[name]
        ),
    ]


def _last_rows(tensor: Tensor, wanted: Tensor) -> Tensor:
    """TAEHV's growth layers: trained to make more frames than are asked for, they use those of the last."""
    if tensor.ndim == wanted.ndim and tensor.shape[1:] == wanted.shape[1:]:
        return tensor[-wanted.shape[0] :]
    return tensor


def _fill(module: nn.Module, tensors: Tensors, path: Path, device: torch.device, dtype: torch.dtype) -> None:
    ready, spoilt = {}, []
    for name, tensor in tensors.items():
        ready[name] = tensor.to(device, dtype, copy=True)
        if not torch.isfinite(ready[name]).all():
            spoilt.append(f"{name} holds NaN or infinity")
    if spoilt:
        raise WeightsError(f"weights file {path} can't be used: {some(spoilt, '; ')}")
    module.load_state_dict(ready, assign=True)


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
