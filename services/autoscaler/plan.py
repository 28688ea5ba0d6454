"""How many workers there should be, which of them go, and why. Pure: `now` is an argument, nothing is done
here.

The count follows demand: up at once, since somebody waits; down only after `hold_s` in which fewer would
always have been enough, since the next user may be a second away. A worker that ends unexpectedly is replaced
after a pause that doubles, and not at all once too many have ended within a window: a model that can't start
must not burn the machine for ever.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from shared.contracts.fleet import FleetLoad

LOAD_STALE_S = 5.0
"""Placement speaks every second; after this long its last word says nothing about demand any more."""

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_NEVER_S = 3600.0


class Limits(msgspec.Struct, frozen=True):
    """What the operator set; see `AutoscalerSettings`."""

    minimum: int
    maximum: int
    hold_s: float
    start_deadline_s: float
    silent_s: float
    restart_limit: int
    restart_window_s: float


class Member(msgspec.Struct, frozen=True):
    """A worker as its provider knows it. `stopping`: it was told to go, whether it has gone or not."""

    worker: str
    state: Literal["alive", "stopping"]
    started_at: float


class Seen(msgspec.Struct, frozen=True):
    """What the loop observed. `load` None: placement has never spoken; `load_at`: when it last did."""

    members: tuple[Member, ...]
    load: FleetLoad | None = None
    load_at: float = -math.inf


class History(msgspec.Struct, frozen=True):
    """What must be remembered between two plans, as times since when.

    `desired`: the last plan's count. `surplus_since`: since when fewer would do (None: they wouldn't), and
    `surplus_peak` the most that was needed meanwhile. `crashes`: when workers ended unexpectedly. `capacity`:
    sessions a worker carries, as reports said (0: not known yet). `heard`: when each worker was last among
    those placement hears.
    """

    desired: int = 0
    surplus_since: float | None = None
    surplus_peak: int = 0
    crashes: tuple[float, ...] = ()
    capacity: int = 0
    heard: dict[str, float] = {}

    def crashed(self, at: float) -> History:
        return msgspec.structs.replace(self, crashes=(*self.crashes, at))


class Plan(msgspec.Struct, frozen=True):
    """What to do now. `start`: how many new workers. `drain`: idle ones to release. `kill`: ones that hang,
    by reason.

    `failed`: no worker is started although some are missing, since too many have ended. `ask_again_s`: plan
    anew after this long even if nothing happens.
    """

    desired: int
    reason: str
    start: int
    drain: tuple[str, ...]
    kill: dict[str, str]
    failed: bool
    ask_again_s: float
    history: History


def plan(seen: Seen, history: History, limits: Limits, now: float) -> Plan:
    history = _remember(seen, history, limits, now)
    needed, reason = _needed(seen, history, limits, now)
    history, reason = _hold(needed, reason, history, limits, now)
    kill = _hanging(seen, history, limits, now)
    alive = [m for m in seen.members if m.state == "alive" and m.worker not in kill]
    start, pause_s = _starts(history.desired - len(alive), history, limits, now)
    failed = math.isinf(pause_s)
    if failed:
        reason = (
            f"{len(history.crashes)} workers ended unexpectedly within {limits.restart_window_s:g} s; "
            "no other is started until some time has passed"
        )
    elif pause_s:
        reason += f"; a worker ended unexpectedly, the next starts in {pause_s:.1f} s"
    return Plan(
        desired=history.desired,
        reason=reason,
        start=start,
        drain=_drain(seen, alive, history.desired, now),
        kill=kill,
        failed=failed,
        ask_again_s=_ask_again_s(pause_s, history, limits, now),
        history=history,
    )


def _fresh(seen: Seen, now: float) -> FleetLoad | None:
    return seen.load if now - seen.load_at <= LOAD_STALE_S else None


def _remember(seen: Seen, history: History, limits: Limits, now: float) -> History:
    """Learn what reports say, and forget crashes older than the window."""
    members = {m.worker for m in seen.members}
    heard = {worker: at for worker, at in history.heard.items() if worker in members}
    capacity = history.capacity
    load = _fresh(seen, now)
    if load is None:
        # Nobody can be blamed for silence while placement itself is silent.
        heard = dict.fromkeys(heard, now)
    else:
        heard |= {w.worker: now for w in load.workers if w.worker in members and w.state != "starting"}
        told = [w.capacity for w in load.workers if w.state == "ready" and w.capacity > 0]
        capacity = sum(told) // len(told) if told else capacity
    return msgspec.structs.replace(
        history,
        crashes=tuple(at for at in history.crashes if at > now - limits.restart_window_s),
        capacity=capacity,
        heard=heard,
    )


def _needed(seen: Seen, history: History, limits: Limits, now: float) -> tuple[int, str]:
    """The count that demand asks for right now, before any holding."""
    load = _fresh(seen, now)
    if load is None:
        kept = _clamp(history.desired, limits)
        return kept, "placement has not spoken yet" if seen.load is None else "placement is silent: holding"
    demand = load.active + load.queued
    if not demand:
        return limits.minimum, f"no active session; the minimum is {limits.minimum}"
    if not history.capacity:
        return _clamp(max(history.desired, 1), limits), "no worker has told its capacity yet"
    wanted = math.ceil(demand / history.capacity)
    reason = f"sessions: {demand}, {load.queued} of them queued, at {history.capacity} a worker"
    if wanted > limits.maximum:
        reason += f" need {wanted}, the maximum is {limits.maximum}"
    return _clamp(wanted, limits), reason


def _clamp(count: int, limits: Limits) -> int:
    return max(limits.minimum, min(count, limits.maximum))


def _hold(needed: int, reason: str, history: History, limits: Limits, now: float) -> tuple[History, str]:
    """Up at once; down after `hold_s`, to the most that was needed in that time."""
    desired, since, peak = history.desired, history.surplus_since, history.surplus_peak
    if needed >= desired:
        desired, since, peak = needed, None, 0
    else:
        peak = needed if since is None else max(peak, needed)
        since = now if since is None else since
        if now - since >= limits.hold_s:
            desired = peak
            since, peak = (now, needed) if needed < peak else (None, 0)
        else:
            reason += f"; {desired} kept for {since + limits.hold_s - now:.0f} s more"
    held = msgspec.structs.replace(history, desired=desired, surplus_since=since, surplus_peak=peak)
    return held, reason


def _hanging(seen: Seen, history: History, limits: Limits, now: float) -> dict[str, str]:
    """Workers whose process runs but who say nothing: never since their start, or no longer."""
    if _fresh(seen, now) is None:
        return {}
    hanging = {}
    for member in seen.members:
        heard_at = history.heard.get(member.worker)
        if member.state != "alive":
            continue
        if heard_at is None and now - member.started_at > limits.start_deadline_s:
            hanging[member.worker] = f"not ready within {limits.start_deadline_s:g} s"
        elif heard_at is not None and now - heard_at > limits.silent_s:
            hanging[member.worker] = f"reported nothing for {limits.silent_s:g} s"
    return hanging


def _starts(missing: int, history: History, limits: Limits, now: float) -> tuple[int, float]:
    """How many to start now, and how long until the next may start (infinite: too many have ended)."""
    if missing <= 0:
        return 0, 0.0
    if not history.crashes:
        return missing, 0.0
    if len(history.crashes) > limits.restart_limit * max(1, history.desired):
        return 0, math.inf
    pause_s = min(_FIRST_PAUSE_S * 2.0 ** (len(history.crashes) - 1), _LONGEST_PAUSE_S)
    left_s = history.crashes[-1] + pause_s - now
    return (0, left_s) if left_s > 0 else (missing, 0.0)


def _drain(seen: Seen, alive: list[Member], desired: int, now: float) -> tuple[str, ...]:
    """Workers to release: only ones that placement knows to be without any copy, the newest first."""
    load = _fresh(seen, now)
    surplus = len(alive) - desired
    if load is None or surplus <= 0:
        return ()
    idle = {w.worker for w in load.workers if w.state == "ready" and not w.copies and not w.active}
    newest_first = sorted(alive, key=lambda m: (m.started_at, m.worker), reverse=True)
    return tuple(m.worker for m in newest_first if m.worker in idle)[:surplus]


def _ask_again_s(pause_s: float, history: History, limits: Limits, now: float) -> float:
    moments = [_NEVER_S]
    if math.isinf(pause_s):
        moments.append(history.crashes[0] + limits.restart_window_s - now)
    elif pause_s:
        moments.append(pause_s)
    if history.surplus_since is not None:
        moments.append(history.surplus_since + limits.hold_s - now)
    return max(0.0, min(moments))
