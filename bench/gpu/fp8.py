"""Eight bits: products, attention, the ring; how much faster, and how far off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench.gpu.errors import Chunk, Error, between, made, twin
from bench.gpu.lab import Lab, Setting, fill_window
from bench.gpu.report import Report
from services.worker.models.protocol import Rung
from services.worker.models.wan.form import Form, Wishes
from services.worker.models.wan.fp8 import Fp8Product, PlainProduct
from services.worker.models.wan.kernels import usable
from services.worker.models.wan.model import FP8
from services.worker.models.wan.swift import pieces_of

_LAST = 6


def run(setting: Setting, report: Report, out: Path) -> None:
    _speed(setting, report, out)
    _products(setting, report)
    _from_the_start(setting, report)


def _speed(setting: Setting, report: Report, out: Path) -> None:
    lab = Lab(setting)
    forms = lab.chooser.forms(Wishes(pieces=None if setting.device.type == "cuda" else "eager"))
    best = forms.alone
    _one_by_one(lab, report)
    chosen = lab.chooser.in_eight_bits(forms, forced=True).alone
    for what, took in lab.chooser.took.items():
        if "16 bits" in what:
            report.row(f"compared: {what}", ", ".join(f"{n} {ms:.4f}" for n, ms in took.items()))
    base = lab.ms(best)
    report.row(f"16 bits, {best}", f"{base:.2f} ms", "plain_ms", base)
    for name, form in _forms(setting, best, chosen).items():
        try:
            ms = lab.ms(form)
        except Exception as error:  # noqa: BLE001 one form that fails is a finding, not the end
            report.row(f"8 bits: {name}", f"failed: {str(error).splitlines()[0][:80]}")
            continue
        ratio = ms / base
        report.row(f"8 bits: {name}", f"{ms:.2f} ms; ratio {ratio:.3f}", name, {"ms": ms, "ratio": ratio})
    again = lab.ms(best)
    report.row("16 bits, once more", f"{again:.2f} ms", "plain_again_ms", again)
    lab.profile(chosen, out / "fp8-profile.txt")


def _forms(setting: Setting, best: Form, chosen: Form) -> dict[str, Form]:
    spared = f", but for {chosen.spared}" if chosen.spared else ""
    forms = {f"products{spared}": chosen, "every product": replace(best, fp8=True)}
    for shape in range(4 if usable(setting.device) else 0):
        eight = replace(chosen, window="slots8", shape=shape)
        forms[f"products{spared} and attention, shape {shape}"] = eight
        forms[f"attention alone, shape {shape}"] = replace(eight, fp8=False, spared="")
    return forms


@torch.inference_mode()
def _one_by_one(lab: Lab, report: Report) -> None:
    """Each product and each turning into bytes, alone, over all layers of a forward."""
    arch, geometry, device = lab.config.architecture, lab.config.geometry, lab.setting.device
    tokens, dim, up = geometry.chunk_latent_frames * geometry.frame_tokens, arch.dim, arch.ffn_dim
    pieces = pieces_of("triton" if usable(device) else "eager")
    for name, inputs, outputs in (
        ("qkv", dim, 3 * dim),
        ("dim × dim", dim, dim),
        ("up", dim, up),
        ("down", up, dim),
    ):
        linear = torch.nn.Linear(inputs, outputs, device=device, dtype=lab.setting.dtype)
        x = torch.randn(tokens, inputs, device=device).to(lab.setting.dtype)
        plain, eight = PlainProduct(linear), Fp8Product(linear, native=lab.swift.native_fp8)
        works: dict[str, Callable[[], Tensor]] = {
            "16 bits": partial(plain, x),
            "8 bits": partial(eight, pieces.rows(x, gelu=False)),
            "into bytes": lambda x=x: pieces.rows(x, gelu=False).values,  # type: ignore[misc]
            "GELU, into bytes": lambda x=x: pieces.rows(x, gelu=True).values,  # type: ignore[misc]
        }
        took = {what: arch.layers * lab.one_ms(work) for what, work in works.items()}
        said = ", ".join(f"{what} {ms:.2f}" for what, ms in took.items())
        report.row(f"  alone: {name}, ms a forward", said, f"alone: {name}", took)


def _products(setting: Setting, report: Report) -> None:
    """The same state, a chunk with 16-bit products and one with 8-bit ones; a repeat tells the noise."""
    model = setting.model(slots=3, wishes=Wishes(pieces=None if setting.device.type == "cuda" else "eager"))
    state = model.open(seed=1, prompt="a red ball rolls over the sand")
    fill_window(model, [state])
    if not model.spec.rungs[1].precision:
        report.row("error of 8-bit products", "not measured: not faster here, or not there")
        return
    full = model.spec.rungs[0]
    coarse = Rung("full, 8 bits", full.steps, full.window_latent_frames, full.kv_dtype, FP8)
    copies = [twin(model, state), twin(model, state)]
    exact = made(model, state, full)
    _row(report, "8-bit products, one chunk", between(made(model, copies[0], coarse), exact))
    _row(report, "the same chunk again, 16 bits", between(made(model, copies[1], full), exact))


def _from_the_start(setting: Setting, report: Report) -> None:
    """Rings of another type of numbers can't take over a state: each plays from its first chunk."""
    pieces = None if setting.device.type == "cuda" else "eager"
    kinds = {
        "16 bits": Wishes(pieces=pieces),
        "8-bit ring": Wishes(pieces=pieces, kv="float8_e4m3"),
        "8-bit ring and attention": Wishes(pieces=pieces, kv="float8_e4m3", window="slots8"),
    }
    chunks: dict[str, list[Chunk]] = {}
    for name, wished in kinds.items():
        if wished.window == "slots8" and not usable(setting.device):
            continue
        model = setting.model(slots=1, wishes=wished)
        state = model.open(seed=1, prompt="a red ball rolls over the sand")
        chunks[name] = [made(model, state, model.spec.rungs[0]) for _ in range(_LAST)]
        report.row(
            f"{name}: state", f"{model.spec.state_bytes:,} bytes", f"{name} bytes", model.spec.state_bytes
        )
        del model, state
    for name, played in chunks.items():
        if name != "16 bits":
            for index in (0, _LAST - 1):
                error = between(played[index], chunks["16 bits"][index])
                _row(report, f"{name}, chunk {index} of a session", error)


def _row(report: Report, what: str, error: Error) -> None:
    said = f"latents off by {100 * error.latents:.2f} %, frames {error.psnr_db:.1f} dB"
    report.row(what, said, what, error._asdict())
