"""What suspending sessions and bringing them back took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.gpu.system.crowd import Restored
from bench.gpu.system.run import Run, spread, tell_phases, whole_s, words
from turboserve.messages import Stowed

_BOUNDARY = "stow wait"
"""Of a suspend's phases: what lies before it is a chunk under way."""


def tell_suspends(run: Run, suspends: Sequence[Stowed]) -> None:
    if not suspends:
        return
    whole = spread([whole_s(stowed.phases) for stowed in suspends])
    tiers = Counter(stowed.tier for stowed in suspends)
    ended = ", ".join(f"{tier} {n}" for tier, n in tiers.items())
    run.report.row(f"suspend: whole, {len(suspends)} times ({ended})", words(whole), "suspend", whole)
    copied = [stowed.bytes for stowed in suspends]
    run.report.row("suspend: bytes copied, most", f"{max(copied):,}", "suspend bytes", copied)
    freed = spread([left_s for stowed in suspends if (left_s := _freed_s(stowed)) is not None])
    run.report.row("suspend: from the boundary to its slot free", words(freed), "suspend free", freed)
    tell_phases(run, "suspend", [stowed.phases for stowed in suspends])


def _freed_s(stowed: Stowed) -> float | None:
    """What the worker told of after it had waited for a boundary. None: there was nothing to free."""
    names = [phase.name for phase in stowed.phases]
    if _BOUNDARY not in names:
        return None
    return sum(phase.duration_s for phase in stowed.phases[names.index(_BOUNDARY) + 1 :])


def tell_resumes(run: Run, restores: Sequence[Restored]) -> None:
    """By how they came back, most frequent first."""
    arrivals = [(each, _arrival_s(run, each)) for each in restores]
    by_way: dict[str, list[tuple[Restored, float | None]]] = {}
    for each, arrival_s in arrivals:
        by_way.setdefault(_way(each, arrival_s), []).append((each, arrival_s))
    for way, these in sorted(by_way.items(), key=lambda item: -len(item[1])):
        name, told = f"resume, {way}", [each.stowed.phases for each, _ in these]
        whole = spread([whole_s(phases) for phases in told])
        run.report.row(f"{name}: the operator's call, {len(these)} times", words(whole), name, whole)
        stepped = spread([s for each, _ in these if (s := _stepped_s(each)) is not None])
        run.report.row(f"{name}: asked to its next step told", words(stepped), f"{name} stepped", stepped)
        if arrived := [s for _, s in these if s is not None]:
            there = spread(arrived)
            run.report.row(f"{name}: asked to its state there", words(there), f"{name} there", there)
        tell_phases(run, name, told)


def _arrival_s(run: Run, restored: Restored) -> float | None:
    """None: no state came from elsewhere."""
    session = restored.viewer.session
    return run.fleet.moves.arrival(session, restored.asked_at, restored.answered_at)


def _way(restored: Restored, arrival_s: float | None) -> str:
    if not restored.stowed.worker:
        return "waits for room"
    if restored.stowed.worker == restored.home:
        return "at home"
    return "rebuilt elsewhere" if arrival_s is None else "handed over"


def _stepped_s(restored: Restored) -> float | None:
    """Until the first step of the first chunk begun after the call. None: none was seen."""
    begun = [seen.begun_at for seen in restored.viewer.seen.chunks_seen]
    after = [at for at in begun if at >= restored.asked_at]
    return min(after) - restored.asked_at if after else None
