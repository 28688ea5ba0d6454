"""Policies side by side, each beside what was predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.gpu.policies.phases import Prediction
from bench.live.prediction import figure
from bench.live.report import WITHIN

_ROWS = (
    ("worst-case chunk latency, mean over time", "worst_latency_ms.mean", "ms"),
    ("worst-case chunk latency, p99 over time", "worst_latency_ms.p99", "ms"),
    ("chunk latency, p50", "chunk_latency_ms.p50", "ms"),
    ("chunk latency, p95", "chunk_latency_ms.p95", "ms"),
    ("chunk latency, p99", "chunk_latency_ms.p99", "ms"),
    ("continuous-play ratio", "continuous_play_ratio", ""),
    ("time to first chunk, p50", "ttfc_ms.p50", "ms"),
    ("time to first chunk, p95", "ttfc_ms.p95", "ms"),
    ("GPU-seconds", "gpu_seconds", ""),
    ("queued, session-seconds", "queued_s", ""),
    ("beyond capacity, share of active time", "beyond_capacity", ""),
    ("chunks", "chunks", ""),
    ("chunks lost", "lost_chunks", ""),
    ("sessions refused", "refused", ""),
    ("sessions lost", "failed", ""),
    ("moves of active sessions", "moves", ""),
    ("moves with their state", "carried.n", ""),
    ("pause of a move, p50", "carried.p50", "ms"),
    ("pause of a move, p95", "carried.p95", "ms"),
    ("states suspended", "suspends", ""),
    ("states resumed", "resumes", ""),
    ("scale events", "scale_events", ""),
    ("placement's decision, p50", "decision_ms.p50", "ms"),
    ("placement's decision, p99", "decision_ms.p99", "ms"),
    ("least possible worst-case latency, mean", "bound.worst_latency_ms", "ms"),
    ("least possible GPU-seconds", "bound.gpu_seconds", ""),
)
_JUDGED = ("chunk_latency_ms.p50", "chunk_latency_ms.p95", "gpu_seconds")
_OWN_WAY = ("suspends", "decision_ms.p50", "decision_ms.p99")
"""The simulator counts these otherwise: nothing to compare."""


def table(played: Mapping[str, dict[str, Any]], said: Mapping[str, dict[str, Any]]) -> str:
    """`played`, `said`: by phase, what `turboserve replay` and `turboserve simulate` tell."""
    heads = ["what", *(f"`{name}`" for name in played)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for what, name, unit in _ROWS:
        cells = [_cell(name, figure(told, name), said.get(phase)) for phase, told in played.items()]
        lines.append("| " + " | ".join([f"{what}{f', {unit}' if unit else ''}", *cells]) + " |")
    return "\n".join(lines)


def _cell(name: str, live: float | None, said: dict[str, Any] | None) -> str:
    predicted = None if said is None or name in _OWN_WAY else figure(said, name)
    if live is None:
        return "–"
    if predicted is None or name.startswith("bound."):
        return f"{live:g}"
    off = f", {live / predicted - 1:+.0%}" if name in _JUDGED and predicted else ""
    return f"{live:g} ({predicted:g}{off})"


def compared(played: Mapping[str, dict[str, Any]]) -> str:
    """Each phase against `fixed-rr`; "" without it."""
    base = played.get("fixed-rr")
    if base is None:
        return ""
    lines = [_against(name, told, base) for name, told in played.items() if told is not base]
    return "\n".join(["Against `fixed-rr`, live:", "", *lines])


def _against(name: str, told: dict[str, Any], base: dict[str, Any]) -> str:
    parts = []
    for what, path in (
        ("worst-case latency", "worst_latency_ms.mean"),
        ("p99 chunk latency", "chunk_latency_ms.p99"),
        ("GPU-seconds", "gpu_seconds"),
    ):
        now, before = figure(told, path), figure(base, path)
        parts.append(f"{what} {now / before - 1:+.1%}" if now is not None and before else f"{what} –")
    return f"- `{name}`: {', '.join(parts)}"


def page(
    words: Sequence[str], said: Prediction | None, own: bool, played: Mapping[str, dict[str, Any]]
) -> str:
    """`own`: what was `said` is by the run's own figures; else it was made earlier."""
    problems = [f"- `{name}`: {why}" for name, told in played.items() for why in told["problems"]]
    parts = [
        "# Policies side by side, live",
        *words,
        _explained(said, own) if said else "",
        table(played, said.told if said else {}),
        compared(played),
        "What went wrong:\n\n" + "\n".join(problems) if problems else "",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _explained(said: Prediction, own: bool) -> str:
    origin = "after the run, from its own figures" if own else f"made earlier, {said.made_at}"
    return (
        f"In brackets what the simulator says ({origin}). To be within {WITHIN:.0%}: p50 and p95 of chunk "
        "latency, GPU-seconds, where the difference is given. Worst-case latency is by each worker's own "
        "curve and the sessions it has at the moment, or the longest wait for a worker if that is more, as "
        "in the simulator. The least possible worst-case latency is that of all workers all the time."
    )
