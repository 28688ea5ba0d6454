"""From a loaded transformer and its pool to forwards in the forms that are fastest here."""

from __future__ import annotations

from dataclasses import replace

import torch

from services.worker.models.slots import Pool
from services.worker.models.wan.choose import Chooser
from services.worker.models.wan.config import WanConfig
from services.worker.models.wan.form import PLAIN, Wishes
from services.worker.models.wan.fp8 import native_works
from services.worker.models.wan.graphs import CudaCapture, Graphs
from services.worker.models.wan.kernels import usable
from services.worker.models.wan.noise_ahead import NoiseAhead
from services.worker.models.wan.stepper import Forms, Stepper
from services.worker.models.wan.swift import Swift
from services.worker.models.wan.transformer import Transformer
from services.worker.models.wan.turned import EightBits, Workspace

_MOST_GRAPHS = 128


def workspace_bytes(config: WanConfig, wishes: Wishes, device: torch.device) -> int:
    """What a slot's window takes beside its state."""
    if not _in_place(wishes, device):
        return 0
    numbers = config.kv_bytes // config.element_bytes
    if wishes.window == "slots8":
        return numbers
    return numbers * config.element_bytes // (2 if wishes.kv == "model" else 1)


def made_stepper(
    config: WanConfig, transformer: Transformer, pool: Pool, noise: NoiseAhead, wishes: Wishes
) -> Stepper:
    """On a GPU this takes seconds: forms are compared. `noise`: of one chunk's latents."""
    kv, cross = pool["kv"], pool["cross"]
    if kv.device.type == "cuda":
        torch.cuda.set_device(kv.device)  # Triton's kernels and captures go to the thread's present device
    cuda, in_place = kv.device.type == "cuda", _in_place(wishes, kv.device)
    eight = wishes.window == "slots8"
    swift = Swift(
        transformer,
        turned=Workspace(kv, cross.dtype) if in_place and not eight else None,
        eight=EightBits(kv) if in_place and eight else None,
        native_fp8=native_works(kv.device),
    )
    graphs = Graphs(CudaCapture(kv.device), _MOST_GRAPHS) if cuda and wishes.graphs else None
    stepper = Stepper(config, swift, pool, noise, graphs)
    if cuda:
        _choose(stepper, Chooser(config, swift, kv, cross), wishes, native=swift.native_fp8)
    else:
        stepper.forms = _wished(wishes)
        stepper.fp8_forms = _wished(replace(wishes, fp8=True)) if wishes.fp8 else stepper.forms
    return stepper


def _choose(stepper: Stepper, chooser: Chooser, wishes: Wishes, *, native: bool) -> None:
    """fp8 products serve rungs that ask for them, or all where they are wished for, or none."""
    forms = chooser.forms(replace(wishes, fp8=None))
    eight_bits = forms
    if native and wishes.fp8 is not False and forms.alone.pieces != "plain":
        eight_bits = chooser.in_eight_bits(forms, forced=wishes.fp8 is True)
    stepper.forms, stepper.fp8_forms = eight_bits if wishes.fp8 else forms, eight_bits
    stepper.compared = chooser.took


def _wished(wishes: Wishes) -> Forms:
    """Without a choice: the plain form, but for what is wished."""
    form = wishes.on(PLAIN)
    elsewhere = replace(form, window="gather")
    return Forms(form, elsewhere if form.window == "turned" else form, elsewhere)


def _in_place(wishes: Wishes, device: torch.device) -> bool:
    """Whether windows may be read where they lie."""
    if wishes.window == "gather" or wishes.pieces == "plain":
        return False
    return wishes.window is not None or usable(device)
