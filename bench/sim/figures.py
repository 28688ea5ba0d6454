"""What a meter counted, as the object that `turboserve simulate` and `turboserve replay` print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.sim.meter import Meter, percentiles_ms, weighted_ms


def figures(meter: Meter) -> dict[str, Any]:
    latencies = meter.latencies_s
    mean, worst_s = sum(latencies) / max(1, len(latencies)), sum(meter.worst.values())
    points = percentiles_ms(latencies, (0.5, 0.95, 0.99, 1.0))
    ttfc = percentiles_ms(meter.ttfc_s, (0.5, 0.95, 0.99, 1.0))
    decisions = percentiles_ms(meter.decisions_s, (0.5, 0.99))
    return {
        "chunks": len(latencies),
        "chunk_latency_ms": {"mean": round(1000 * mean, 3), **_named(points)},
        "worst_latency_ms": {
            "mean": round(1000 * sum(v * w for v, w in meter.worst.items()) / worst_s, 3) if worst_s else 0.0,
            "p99": weighted_ms(meter.worst, 0.99),
            "max": round(1000 * max(meter.worst, default=0.0), 3),
        },
        "ttfc_ms": _named(ttfc),
        "continuous_play_ratio": round(meter.continuous_play_ratio, 6),
        "gpu_seconds": round(meter.gpu_s, 3),
        "node_seconds": round(meter.node_s, 3),
        "cost": round(meter.cost, 3),
        "moves": meter.moves,
        "suspends": meter.suspends,
        "scale_events": meter.scale_events,
        "queued_s": round(meter.queued_s, 3),
        "refused": meter.refusals,
        "beyond_capacity": round(_ratio(meter.beyond_s, meter.active_s), 6),
        "decision_ms": {"p50": decisions[0], "p99": decisions[1]},
    }


def _named(points: Sequence[float | None]) -> Mapping[str, float | None]:
    return dict(zip(("p50", "p95", "p99", "max"), points, strict=True))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0.0 else 0.0
