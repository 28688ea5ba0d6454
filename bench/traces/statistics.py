"""What a trace asks for: how many are active when, and how long they act and pause."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from bench.traces.events import Event

_CHANGE = {"active": 1, "idle": -1}


def demand(events: Iterable[Event]) -> list[tuple[float, int]]:
    """(since when, active sessions from then on), in order, ending with the trace's last moment."""
    steps: list[tuple[float, int]] = []
    active: dict[str, bool] = {}
    count, at_s = 0, 0.0
    for event in events:
        before = active.get(event.session, False)
        now = event.active is True if event.event == "arrive" else event.event == "active"
        active[event.session] = now
        count, at_s = count + now - before, event.time_s
        if steps and steps[-1][0] == at_s:
            steps[-1] = (at_s, count)
        else:
            steps.append((at_s, count))
    return steps


def peak_active(events: Iterable[Event]) -> int:
    return max((count for _, count in demand(events)), default=0)


def spells(events: Iterable[Event]) -> tuple[list[float], list[float]]:
    """Lengths of the active spells and of the gaps that ended by an active or idle event, in seconds."""
    since: dict[str, tuple[bool, float]] = {}
    lengths: dict[bool, list[float]] = {True: [], False: []}
    for event in events:
        if event.event == "arrive":
            since[event.session] = (event.active is True, event.time_s)
        elif event.event in _CHANGE:
            active, from_s = since[event.session]
            lengths[active].append(event.time_s - from_s)
            since[event.session] = (event.event == "active", event.time_s)
    return lengths[True], lengths[False]


def summary(events: Sequence[Event]) -> dict[str, Any]:
    """What `turboserve trace check` tells."""
    kinds = {kind: sum(e.event == kind for e in events) for kind in ("arrive", "active", "idle", "depart")}
    retained = peak = 0
    for event in events:
        retained += (event.event == "arrive") - (event.event == "depart")
        peak = max(peak, retained)
    active, idle = spells(events)
    return {
        "duration_s": events[-1].time_s,
        "sessions": kinds["arrive"],
        "events": kinds,
        "peak_retained": peak,
        "peak_active": peak_active(events),
        "active_s": _spread(active),
        "idle_s": _spread(idle),
    }


def _spread(lengths: list[float]) -> dict[str, float]:
    if len(lengths) < 2:
        return {}
    mean = statistics.fmean(lengths)
    return {
        "mean": round(mean, 2),
        "median": round(statistics.median(lengths), 2),
        "cv": round(statistics.stdev(lengths) / mean, 2) if mean else 0.0,
    }
