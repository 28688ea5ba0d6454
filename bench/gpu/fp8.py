"""Eight bits: products, attention, the ring; how much faster, and how far off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.gpu.errors import Chunk, Error, between, made, twin
from bench.gpu.lab import Lab, Setting, fill_window
from bench.gpu.report import Report
from services.worker.models.protocol import Rung
from services.worker.models.wan.form import Form, Wishes
from services.worker.models.wan.kernels import usable
from services.worker.models.wan.model import FP8

_LAST = 6


def run(setting: Setting, report: Report, out: Path) -> None:  # noqa: ARG001
    _speed(setting, report)
    _products(setting, report)
    _from_the_start(setting, report)


def _speed(setting: Setting, report: Report) -> None:
    lab = Lab(setting)
    best = lab.chooser.forms(Wishes()).alone
    base = lab.ms(best)
    report.row(f"16 bits, {best}", f"{base:.2f} ms", "plain_ms", base)
    forms: dict[str, Form] = {"products": replace(best, fp8=True)}
    if usable(setting.device):
        for shape in range(4):
            forms[f"products and attention, shape {shape}"] = replace(
                best, fp8=True, window="slots8", shape=shape
            )
            forms[f"attention alone, shape {shape}"] = replace(best, window="slots8", shape=shape)
    for name, form in forms.items():
        try:
            ms = lab.ms(form)
        except Exception as error:  # noqa: BLE001 one form that fails is a finding, not the end
            report.row(f"8 bits: {name}", f"failed: {str(error).splitlines()[0][:80]}")
            continue
        report.row(
            f"8 bits: {name}", f"{ms:.2f} ms; ratio {ms / base:.3f}", name, {"ms": ms, "ratio": ms / base}
        )


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
