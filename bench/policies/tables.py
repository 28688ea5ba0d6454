"""Tables in Markdown: cases down, shapes across."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from bench.policies.cases import Run
from bench.policies.measures import Value


def mean(runs: Iterable[Run], value: Value) -> float:
    values = [value(run) for run in runs]
    return statistics.fmean(values) if values else float("nan")


def table(
    title: str, runs: Sequence[Run], value: Value, form: str, extra: dict[str, Value] | None = None
) -> str:
    """Cases down, shapes across; `extra` rows are reckoned from the last case's runs."""
    shapes = list(dict.fromkeys(run.shape for run in runs))
    names = list(dict.fromkeys(run.case.name for run in runs))
    lines = [f"| {title} | {' | '.join(shapes)} | all |", "|---" * (len(shapes) + 2) + "|"]
    rows = [(name, [r for r in runs if r.case.name == name], value) for name in names]
    rows += [(name, rows[-1][1], other) for name, other in (extra or {}).items()]
    for name, some, reckon in rows:
        cells = [mean((r for r in some if r.shape == shape), reckon) for shape in shapes]
        lines.append(f"| {name} | {_shown([*cells, statistics.fmean(cells)], form)} |")
    return "\n".join(lines) + "\n"


def _shown(cells: Sequence[float], form: str) -> str:
    return " | ".join("–" if math.isnan(cell) else format(cell, form) for cell in cells)
