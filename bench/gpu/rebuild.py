"""What is computed anew: a lost session of its latents, from the bytes that lay in the cold tier to pictures;
and the window's keys and values with a new prompt.
"""

from __future__ import annotations

import time
from pathlib import Path

from bench.gpu.lab import Setting, chunk, settle
from bench.gpu.report import Report, quantile
from services.worker.latents import to_message, to_past
from services.worker.models.wan.model import Wan
from shared.contracts.fleet import Own
from shared.contracts.session import Input
from shared.contracts.stream import Latents
from shared.latent_log import Window

_ROUNDS = 40
_CHUNKS = 9
_PROMPTS = 12
_PROMPT = "a red ball rolls over the sand"
_OWN = Own("", "", 1, 1, "", 1, [Input("prompt", _PROMPT)], 1, 0.0)


def run(setting: Setting, report: Report, out: Path) -> None:  # noqa: ARG001
    model = setting.model()
    kept, given_s = _played(model)
    report.row("a chunk's latents", f"{len(kept[0].data):,} bytes", "latents_bytes", len(kept[0].data))
    report.row("handing them on, the device waits: p50", f"{1000 * quantile(given_s, 0.5):.2f} ms")
    _rebuild(setting, model, kept)  # whatever is done only once
    times = [_rebuild(setting, model, kept) for _ in range(3 if setting.tiny else _ROUNDS)]
    for number, what in enumerate(("rebuilt", "rebuilt, and the next chunk's pictures on the host")):
        p50, p95 = (quantile([one[number] for one in times], share) for share in (0.5, 0.95))
        report.row(f"{what}, of {len(kept)} chunks: p50; p95", f"{1000 * p50:.0f}; {1000 * p95:.0f} ms")
        report.figures[what] = {"p50_s": p50, "p95_s": p95}
    _prompts(setting, model, report)


def _prompts(setting: Setting, model: Wan, report: Report) -> None:
    """The forward that a new prompt begins with, at a full window, beside the others of its chunk. The first
    one is told apart: a worker has done such a one before it is ready.
    """
    state, rung = model.open(seed=2, prompt=_PROMPT), model.spec.rungs[0]
    for _ in range(_CHUNKS):
        chunk(model, [state], rung)
    begun_s, all_s = [], []
    for number in range(3 if setting.tiny else _PROMPTS):
        settle(setting.device)
        started = time.perf_counter()
        model.set_prompt(state, f"{_PROMPT}, seen {number} times")
        forwards = model.begin_chunk(state, rung)
        model.forward([state])
        settle(setting.device)
        begun_s.append(time.perf_counter() - started)
        for _ in range(forwards - 1):
            model.forward([state])
        model.decode(state)
        all_s.append(time.perf_counter() - started)
    for what, seconds in (
        ("a new prompt's first forward", begun_s),
        ("its whole chunk, pictures on the host", all_s),
    ):
        p50, p95 = (quantile(seconds[1:], share) for share in (0.5, 0.95))
        report.row(
            f"{what}: first; then p50; p95", f"{1000 * seconds[0]:.0f}; {1000 * p50:.0f}; {1000 * p95:.0f} ms"
        )
        report.figures[what] = {"first_s": seconds[0], "p50_s": p50, "p95_s": p95}


def _played(model: Wan) -> tuple[list[Latents], list[float]]:
    """What the cold tier holds of a session with a full window, and how long each chunk's latents took."""
    state = model.open(seed=1, prompt=_PROMPT)
    held: dict[int, Latents] = {}
    given_s = []
    for index in range(_CHUNKS):
        chunk(model, [state], model.spec.rungs[0])
        started = time.perf_counter()
        held[index] = to_message(_OWN, model.latents(state))
        given_s.append(time.perf_counter() - started)
    window = Window(model.spec.recent_chunks, model.spec.sink_chunks)
    return [held[index] for index in window.wanted(_CHUNKS - 1, 0)], given_s


def _rebuild(setting: Setting, model: Wan, kept: list[Latents]) -> tuple[float, float]:
    started = time.perf_counter()
    state = model.rebuild(seed=1, prompt=_PROMPT, past=to_past(kept, _CHUNKS))
    settle(setting.device)
    rebuilt_s = time.perf_counter() - started
    chunk(model, [state], model.spec.rungs[0])
    return rebuilt_s, time.perf_counter() - started
