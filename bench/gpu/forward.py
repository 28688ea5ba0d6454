"""One forward at 480×832, window 12: all forms, and the best one against its products and attention alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.gpu.lab import Lab, Setting
from bench.gpu.report import Report
from services.worker.models.wan.attention import ATTENTIONS, milliseconds
from services.worker.models.wan.form import PLAIN, Form, Wishes
from services.worker.models.wan.kernels import usable


def run(setting: Setting, report: Report, out: Path) -> None:
    lab = Lab(setting)
    forms = lab.chooser.forms(Wishes())
    for what, took in lab.chooser.took.items():
        report.row(f"compared: {what}", ", ".join(f"{n} {ms:.3f}" for n, ms in took.items()))
    report.figures["compared_ms"] = lab.chooser.took
    best = forms.alone
    forward_ms = lab.ms(best)
    report.row("best form, one row", str(best), "form", str(best))
    report.row("forward, one row", f"{forward_ms:.2f} ms", "forward_ms", forward_ms)
    parts = alone_ms(lab, best)
    for name, ms in parts.items():
        report.row(f"  alone: {name}", f"{ms:.2f} ms a forward")
    report.figures["alone_ms"] = parts
    total = sum(parts.values())
    report.row("attention and products alone, sum", f"{total:.2f} ms", "kernels_ms", total)
    report.row("kernels alone ÷ forward", f"{total / forward_ms:.3f}", "ratio", total / forward_ms)
    lab.profile(best, out / "forward-profile.txt")
    for form in _others(best, lab):
        _try(report, lab, form, 1)
    for rows, form in ((2, forms.together), (2, replace(best, window="gather"))):
        _try(report, lab, form, rows)


def alone_ms(lab: Lab, form: Form) -> dict[str, float]:
    """Each kernel at its shape, times how often a forward runs it."""
    device, config = lab.setting.device, lab.config
    arch, geometry = config.architecture, config.geometry
    tokens = geometry.chunk_latent_frames * geometry.frame_tokens
    keys = config.recipe.window_frames * geometry.frame_tokens

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(lab.setting.dtype)

    def attend(name: str, count: int) -> Callable[[], Tensor]:
        q = random(1, tokens, arch.heads, arch.head_dim)
        k, v = (random(1, count, arch.heads, arch.head_dim) for _ in range(2))
        return lambda: ATTENTIONS[name](q, k, v)

    def product(inputs: int, outputs: int) -> Callable[[], Tensor]:
        x, weight, bias = random(tokens, inputs), random(outputs, inputs), random(outputs)
        return lambda: F.linear(x, weight, bias)

    works: dict[str, tuple[int, Callable[[], Tensor]]] = {
        "attention": (1, attend(form.attention, keys)),
        "attention to the text": (1, attend(form.cross, arch.text_tokens)),
        "qkv": (1, product(arch.dim, 3 * arch.dim)),
        "three of dim × dim": (3, product(arch.dim, arch.dim)),
        "up": (1, product(arch.dim, arch.ffn_dim)),
        "down": (1, product(arch.ffn_dim, arch.dim)),
    }
    return {name: arch.layers * times * milliseconds(work, device) for name, (times, work) in works.items()}


def _others(best: Form, lab: Lab) -> list[Form]:
    """Everything that was not chosen, so that what each piece buys can be seen."""
    forms = [PLAIN, replace(best, window="gather"), replace(best, gelu=not best.gelu)]
    if usable(lab.setting.device):
        forms += [replace(best, window="turned"), replace(best, window="slots")]
    forms.append(replace(best, pieces="compiled"))  # last: compiling takes longest
    return [form for form in dict.fromkeys(forms) if form != best]


def _try(report: Report, lab: Lab, form: Form, rows: int) -> None:
    try:
        ms = lab.ms(form, rows, rounds=9)
    except Exception as error:  # noqa: BLE001 one form that fails is a finding, not the end
        report.row(f"rows {rows}, {form}", f"failed: {str(error).splitlines()[0][:80]}")
        return
    report.row(f"rows {rows}, {form}", f"{ms:.2f} ms", f"rows {rows}, {form}", ms)
