"""From a preset's name and a folder to a model that can be stepped."""

from __future__ import annotations

import os
from concurrent.futures import Future
from dataclasses import replace
from math import prod
from pathlib import Path

import torch
from torch import nn

from services.worker.models import WeightsError
from services.worker.models.slots import Layout
from services.worker.models.wan import random_weights, rehearsal
from services.worker.models.wan.checkpoint import Checkpoint, read, read_folder
from services.worker.models.wan.config import (
    LONGLIVE,
    SELF_FORCING,
    Architecture,
    Geometry,
    Recipe,
    WanConfig,
)
from services.worker.models.wan.form import UnknownForm, Wishes, wishes
from services.worker.models.wan.forms_kept import default_folder
from services.worker.models.wan.loading import digest, load_decoder, load_transformer, published_shapes
from services.worker.models.wan.model import RANDOM, Wan
from services.worker.models.wan.session import Decoder, regions
from services.worker.models.wan.start import workspace_bytes
from services.worker.models.wan.taehv import TaehvDecoder
from services.worker.models.wan.text import EncodedElsewhere, StandInEncoder, TextEncoder
from services.worker.models.wan.transformer import Transformer
from services.worker.models.wan.vae import VaeDecoder

WORKSPACE_BYTES = 8 << 30
_MOST_SLOTS = 8
_DECODERS = {"": TaehvDecoder, "vae": VaeDecoder}
"""Of random weights, by what follows their seed."""


def load_preset(
    architecture: Architecture,
    recipe: Recipe,
    device: str,
    weights_path: str,
    *,
    encoder: TextEncoder | None = None,
    geometry: Geometry | None = None,
    slots: int | None = None,
) -> Wan:
    """`weights_path`: a folder with a transformer, perhaps a LoRA (LongLive's), and a decoder; or
    `random:SEED`, with the small decoder, or `random:SEED+vae`, with the Wan VAE.

    Where both decoders are there, the small one is taken. `encoder` None: prompts come encoded, by the
    service `turboserve text`. `slots` None: as many as the device has room for,
    up to 8. Raises `WeightsError`.
    """
    wished = _wishes()
    config = WanConfig(architecture, recipe, geometry or Geometry(), _dtype(device).itemsize)
    if weights_path.startswith(RANDOM):
        seed, _, painter = weights_path.removeprefix(RANDOM).partition("+")
        if not seed.isdecimal() or painter not in _DECODERS:
            message = f"a number follows {RANDOM}, and +vae where the Wan VAE is to decode"
            raise WeightsError(f"weights {weights_path!r}: {message}")
        decoder = _DECODERS[painter]()
        room = slots or _room(config, decoder, device, wished)
        return random_model(
            config, int(seed), slots=room, device=device, dtype=_dtype(device), decoder=decoder, wishes=wished
        )
    folder = Path(weights_path)
    if not weights_path or not folder.is_dir():
        raise WeightsError(
            f"{architecture.name} ships no weights, and weights_path {weights_path!r} is no folder; name"
            f" one that holds a transformer and a decoder, or {RANDOM}SEED for benchmarks"
        )
    encoder = encoder or EncodedElsewhere(architecture)
    return _load_folder(config, read_folder(folder), folder, device, encoder, slots, wished)


def random_model(
    config: WanConfig,
    seed: int = 0,
    *,
    slots: int = 2,
    device: str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    decoder: nn.Module | None = None,
    wishes: Wishes = Wishes(),  # noqa: B008 frozen
) -> Wan:
    """For benchmarks and tests: a model of true sizes and costs that paints nothing."""
    decoder = decoder or TaehvDecoder()
    rehearsed = _rehearsed(config, decoder, slots, torch.device(device), dtype, wishes)  # type: ignore[arg-type]
    with torch.device("meta"):
        transformer = Transformer(config)
    random_weights.fill(transformer, seed, torch.device(device), dtype)
    random_weights.fill(decoder, seed, torch.device(device), dtype)
    encoder = StandInEncoder(config.architecture)
    return Wan(config, transformer, decoder, encoder, slots, f"{RANDOM}{seed}", wishes, rehearsed)


def _load_folder(
    config: WanConfig,
    found: list[Checkpoint],
    folder: Path,
    device: str,
    encoder: TextEncoder,
    slots: int | None,
    wished: Wishes,
) -> Wan:
    main, lora = _one(found, "transformer", folder), _one(found, "lora", folder, needed=False)
    small = _one(found, "taehv", folder, needed=False)
    painter = small or _one(found, "vae", folder)
    assert main is not None
    assert painter is not None
    if lora is not None:
        main = read(main.path, averaged=False)
    if lora is not None and config.recipe == SELF_FORCING:
        config = WanConfig(config.architecture, LONGLIVE, config.geometry, config.element_bytes)
    with torch.device("meta"):
        transformer = Transformer(config)
        decoder: nn.Module = TaehvDecoder() if small else VaeDecoder()
    room = slots or _room(config, decoder, device, wished)  # type: ignore[arg-type]
    place, dtype = torch.device(device), _dtype(device)
    rehearsed = _rehearsed(config, decoder, room, place, dtype, wished)  # type: ignore[arg-type]
    load_transformer(transformer, main, config.architecture, place, dtype, lora)
    load_decoder(decoder, painter, place, dtype)
    return Wan(config, transformer, decoder, encoder, room, digest(transformer, decoder), wished, rehearsed)


def _one(found: list[Checkpoint], kind: str, folder: Path, *, needed: bool = True) -> Checkpoint | None:
    fitting = [checkpoint for checkpoint in found if checkpoint.kind == kind]
    if len(fitting) > 1:
        names = ", ".join(checkpoint.path.name for checkpoint in fitting)
        raise WeightsError(f"folder {folder} holds {len(fitting)} files of kind {kind} ({names}); leave one")
    if not fitting and needed:
        kinds = ", ".join(f"{checkpoint.path.name}: {checkpoint.kind}" for checkpoint in found)
        raise WeightsError(f"folder {folder} holds no {kind} ({kinds})")
    return fitting[0] if fitting else None


def _wishes() -> Wishes:
    """Of the environment; a worker keeps chosen forms."""
    try:
        wished = wishes(os.environ)
        return wished if wished.kept else replace(wished, kept=default_folder())
    except UnknownForm as error:
        raise WeightsError(str(error)) from None


def _rehearsed(
    config: WanConfig, decoder: Decoder, slots: int, device: torch.device, dtype: torch.dtype, wished: Wishes
) -> Future[None] | None:
    """As of `made_stepper`: begun before the weights are there."""
    layout = Layout(regions(config, decoder, dtype, wished.kv_dtype))
    return rehearsal.begun(config, layout, slots, device, dtype, wished)


def _room(config: WanConfig, decoder: Decoder, device: str, wished: Wishes) -> int:
    """Slots beside the weights, which are still to come, and a forward's workspace. Raises `WeightsError`."""
    if torch.device(device).type != "cuda":
        return 1
    free_bytes, _ = torch.cuda.mem_get_info(device)
    parameters = sum(prod(shape) for shape in published_shapes(config.architecture).values())
    weight_bytes = parameters * config.element_bytes
    slot_bytes = Layout(regions(config, decoder, _dtype(device), wished.kv_dtype)).row_bytes
    slot_bytes += workspace_bytes(config, wished, torch.device(device))
    room = slots_that_fit(free_bytes, weight_bytes, slot_bytes)
    if room < 1:
        raise WeightsError(
            f"{config.architecture.name} doesn't fit {device}: {free_bytes:,} bytes are free, its weights"
            f" take {weight_bytes:,}, a forward {WORKSPACE_BYTES:,} and a session {slot_bytes:,}"
        )
    return min(room, _MOST_SLOTS)


def slots_that_fit(free_bytes: int, weight_bytes: int, slot_bytes: int) -> int:
    """Less than one: it doesn't fit."""
    return (free_bytes - weight_bytes - WORKSPACE_BYTES) // slot_bytes


def _dtype(device: str) -> torch.dtype:
    return torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
