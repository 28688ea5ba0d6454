"""What suspending sessions and bringing them back took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.gpu.system.crowd import Restored
from bench.gpu.system.run import Run, spread, tell_phases, whole_s, words
from turboserve.messages import Stowed

_BOUNDARY = "stow wait"
"""Of a suspend's phases: what lies before it is a chunk under way."""
_HANDED_OVER = ("move", "hand", "carry")


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
    for how, number in Counter(_how(each) for each in restores).most_common():
        these, name = [each for each in restores if _how(each) == how], f"resume, {how}"
        whole = spread([whole_s(each.stowed.phases) for each in these])
        run.report.row(f"{name}: the operator's call, {number} times", words(whole), name, whole)
        stepped = spread([s for each in these if (s := _stepped_s(each)) is not None])
        run.report.row(f"{name}: asked to its next step told", words(stepped), f"{name} stepped", stepped)
        tell_phases(run, name, [each.stowed.phases for each in these])


def _how(restored: Restored) -> str:
    """Home is where it was suspended to host memory."""
    stowed = restored.stowed
    names = [phase.name for phase in stowed.phases]
    if not stowed.worker:
        return "waits for room"
    if stowed.worker == restored.home:
        return "at home"
    if any(word in name.replace("_", " ").split() for name in names for word in _HANDED_OVER):
        return "handed over"
    return "rebuilt elsewhere"


def _stepped_s(restored: Restored) -> float | None:
    """Until the first step of the first chunk begun after the call. None: none was seen."""
    begun = [seen.begun_at for seen in restored.viewer.seen.chunks_seen]
    after = [at for at in begun if at >= restored.asked_at]
    return min(after) - restored.asked_at if after else None
