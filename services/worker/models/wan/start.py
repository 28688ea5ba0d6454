"""From a loaded transformer and its pool to forwards in the forms that are fastest here."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from services.worker.models.slots import Pool
from services.worker.models.wan.choose import Chooser
from services.worker.models.wan.config import WanConfig
from services.worker.models.wan.form import PLAIN, Wishes
from services.worker.models.wan.forms_kept import OFF, Choice, KeptForms, key_of
from services.worker.models.wan.fp8 import native_works
from services.worker.models.wan.graphs import CudaCapture, Graphs
from services.worker.models.wan.kernels import usable
from services.worker.models.wan.noise_ahead import NoiseAhead
from services.worker.models.wan.stepper import Forms, Stepper
from services.worker.models.wan.swift import Swift
from services.worker.models.wan.transformer import Transformer
from services.worker.models.wan.turned import EightBits, Workspace
from services.worker.phases import timed

logger = logging.getLogger(__name__)

_MOST_GRAPHS = 128
_CHOICE_DEADLINE_S = 20.0
"""For another worker's choice: somewhat longer than comparing takes on any GPU seen."""
_REHEARSAL_DEADLINE_S = 45.0
"""For another worker's kernels (20 s) and one's own."""


def workspace_bytes(config: WanConfig, wishes: Wishes, device: torch.device) -> int:
    """What a slot's window takes beside its state."""
    if not _in_place(wishes, device):
        return 0
    numbers = config.kv_bytes // config.element_bytes
    if wishes.window == "slots8":
        return numbers
    return numbers * config.element_bytes // (2 if wishes.kv == "model" else 1)


def made_stepper(
    config: WanConfig,
    transformer: Transformer,
    pool: Pool,
    noise: NoiseAhead,
    wishes: Wishes,
    rehearsed: Future[None] | None = None,
) -> Stepper:
    """On a GPU this takes seconds: forms are compared. `noise`: of one chunk's latents. `rehearsed`: done
    when the kernels are compiled; None: each is when it is first launched.
    """
    kv, cross = pool["kv"], pool["cross"]
    cuda = kv.device.type == "cuda"
    if cuda:
        torch.cuda.set_device(kv.device)  # Triton's kernels and captures go to the thread's present device
    swift = made_swift(transformer, kv, cross, wishes, native_fp8=native_works(kv.device))
    graphs = Graphs(CudaCapture(kv.device), _MOST_GRAPHS) if cuda and wishes.graphs else None
    stepper = Stepper(config, swift, pool, noise, graphs)
    if cuda:
        chooser, kept = Chooser(config, swift, kv, cross), _kept(config, wishes, kv, cross.dtype)
        if rehearsed is not None and (kept is None or not kept.path.exists()):
            with timed("torch's own kernels"):
                chooser.warm_up()
        _await(rehearsed)
        choice = chosen(chooser, kept, wishes, native=swift.native_fp8)
        stepper.forms = choice.fp8_forms if wishes.fp8 else choice.forms
        stepper.fp8_forms, stepper.compared = choice.fp8_forms, choice.compared
    else:
        stepper.forms = _wished(wishes)
        stepper.fp8_forms = _wished(replace(wishes, fp8=True)) if wishes.fp8 else stepper.forms
    return stepper


def made_swift(
    transformer: Transformer, kv: Tensor, cross: Tensor, wishes: Wishes, *, native_fp8: bool
) -> Swift:
    """With the room that the forms wished for take."""
    in_place, eight = _in_place(wishes, kv.device), wishes.window == "slots8"
    return Swift(
        transformer,
        turned=Workspace(kv, cross.dtype) if in_place and not eight else None,
        eight=EightBits(kv) if in_place and eight else None,
        native_fp8=native_fp8,
    )


def _await(rehearsed: Future[None] | None) -> None:
    """Nothing is timed while kernels are being compiled beside it."""
    if rehearsed is None:
        return
    started = time.perf_counter()
    try:
        rehearsed.result(_REHEARSAL_DEADLINE_S)
    except TimeoutError:
        text = "kernels aren't compiled after another %g s: the others are when they are first launched"
        logger.warning(text, _REHEARSAL_DEADLINE_S)
    logger.info("loaded: kernels waited for in %.2f s", time.perf_counter() - started)


def _kept(config: WanConfig, wishes: Wishes, kv: Tensor, dtype: torch.dtype) -> KeptForms | None:
    """None: nothing is to be kept."""
    if wishes.kept is None or wishes.kept == OFF:
        return None
    return KeptForms(Path(wishes.kept), key_of(config, wishes, kv, dtype))


def chosen(chooser: Chooser, kept: KeptForms | None, wishes: Wishes, *, native: bool) -> Choice:
    """What an earlier start or another worker of this host chose, if it still works; else the fastest, kept
    for the next start.
    """
    if kept is None:
        return _newly_chosen(chooser, None, wishes, native=native)
    with kept.alone(_CHOICE_DEADLINE_S):
        choice = kept.read()
        if choice is None:
            return _newly_chosen(chooser, kept, wishes, native=native)
    started = time.perf_counter()
    if chooser.work(choice.forms, choice.fp8_forms):
        logger.info("forms as chosen before, tried in %.2f s: %s", time.perf_counter() - started, kept.path)
        return choice
    kept.ignored("forms that it names don't work here any more")
    return _newly_chosen(chooser, kept, wishes, native=native)


def _newly_chosen(chooser: Chooser, kept: KeptForms | None, wishes: Wishes, *, native: bool) -> Choice:
    """The plain form isn't kept: choosing it took no time, or all others failed, which the next start finds
    out anew.
    """
    started = time.perf_counter()
    choice = compared(chooser, wishes, native=native)
    logger.info("forms compared in %.2f s", time.perf_counter() - started)
    if kept and choice.forms.alone.pieces != "plain":
        kept.write(choice)
    return choice


def compared(chooser: Chooser, wishes: Wishes, *, native: bool) -> Choice:
    """fp8 products serve rungs that ask for them, or all where they are wished for, or none."""
    forms = chooser.forms(replace(wishes, fp8=None))
    eight_bits = forms
    if native and wishes.fp8 is not False and forms.alone.pieces != "plain":
        eight_bits = chooser.in_eight_bits(forms, forced=wishes.fp8 is True)
    return Choice(forms, eight_bits, chooser.took)


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
