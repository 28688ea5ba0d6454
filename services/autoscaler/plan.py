"""What is to be done about the fleet now, and why. Pure: `now` is an argument, nothing is done here.

How many workers there should be is the policy's to say. Here it is shown what is known, and its answer is
bounded by what operators set, by back-off after crashes, and by what may be done safely.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from services.autoscaler.controls import Controls
from services.autoscaler.hanging import Deadlines, hanging
from services.autoscaler.knowledge import Knowledge, in_silence, learn
from services.autoscaler.outlook import ANY_CAPACITY, Leaving, Outlook, Terms, goes, outlook
from services.autoscaler.policies.change import to_count
from services.autoscaler.policies.view import Change, Decision, Policy, View
from services.autoscaler.provider import Member
from services.autoscaler.steps import Steps, can_go, drained, in_words
from services.autoscaler.supply import Crashes, Patience, Supply, supply
from shared.contracts.fleet import FleetLoad

LOAD_STALE_S = 5.0
"""Placement speaks every second; after this long its last word says nothing about demand any more."""

_ENDED_KEPT_S = 30.0


class Limits(msgspec.Struct, frozen=True):
    terms: Terms
    deadlines: Deadlines
    patience: Patience


class Seen(msgspec.Struct, frozen=True):
    """What the loop observed. `load` None: placement has never spoken; `load_at`: when it last did."""

    members: tuple[Member, ...]
    load: FleetLoad | None = None
    load_at: float = -math.inf

    def fresh(self, now: float) -> FleetLoad | None:
        return self.load if now - self.load_at <= LOAD_STALE_S else None


class History(msgspec.Struct, frozen=True):
    """What must be remembered between two plans. `desired`: the last plan's. `memory`: the policy's own.
    `frozen_at`: the size when it was frozen; None: it isn't.
    """

    leaving: Leaving
    desired: int = 0
    memory: Any = None
    crashes: Crashes = Crashes()
    knowledge: Knowledge = Knowledge()
    frozen_at: int | None = None

    def crashed(self, at: float, *, in_vain: bool) -> History:
        """`in_vain`: it had been ordered and was never ready."""
        return msgspec.structs.replace(self, crashes=self.crashes.and_one(at, in_vain=in_vain))

    def ended(self, worker: str, at: float) -> History:
        leaving = msgspec.structs.replace(self.leaving, ended=self.leaving.ended | {worker: at})
        return msgspec.structs.replace(self, leaving=leaving)

    def ordered(self, workers: list[str], at: float) -> History:
        return msgspec.structs.replace(self, knowledge=self.knowledge.order(workers, at))


class Decided(msgspec.Struct, frozen=True):
    """The policy's answer and what it was a function of. `change`: what is done about it, which is not the
    policy's where the size is frozen.
    """

    view: View
    memory: Any
    decision: Decision
    change: Change


class Plan(msgspec.Struct, frozen=True):
    """`desired`: workers of the provider there should be. `failed`: no worker is started although some are
    missing, since too many have ended. `decided` None: placement is silent, the size is held. `would`: what
    would be done but for an operator's word. `ask_again_s`: plan anew after this long even if nothing
    happens.
    """

    desired: int
    reason: str
    steps: Steps
    failed: bool
    ask_again_s: float
    history: History
    decided: Decided | None
    would: str = ""


class _Wish(msgspec.Struct, frozen=True):
    """What there should be, before anything is checked. `would`: as in `Plan`."""

    desired: int
    reason: str
    change: Change
    history: History
    decided: Decided | None
    ask_again_s: float = 1.0
    would: str = ""


def plan(
    seen: Seen, history: History, policy: Policy, controls: Controls, limits: Limits, now: float
) -> Plan:
    load = seen.fresh(now)
    history = _remember(seen, load, history, limits, now)
    if load is None:
        wish, kill = _hold(seen, history, controls, limits.terms, now), {}
    else:
        wish = _decide(seen, load, history, policy, controls, limits.terms, now)
        heard, since = history.knowledge.heard, history.leaving.begun_at
        kill = hanging(seen.members, heard, since, limits.deadlines, now)
    if controls.dry_run:
        would = wish.would or in_words(wish.change, kill)
        return _plan(wish, Steps(history.leaving), wish.reason, Supply(0), would)
    return _act(seen, wish, kill, controls, limits, now)


def _act(
    seen: Seen, wish: _Wish, kill: dict[str, str], controls: Controls, limits: Limits, now: float
) -> Plan:
    leaving = drained(wish.history.leaving, wish.change, seen.members, now)
    told = {worker.worker: worker for worker in seen.load.workers} if seen.load else {}
    ordered = wish.history.knowledge.ordered
    let_go, stop = can_go(wish.change.release, leaving, seen.members, told, ordered)
    size = limits.terms.node_size
    # Who goes, whoever asked for it, is one fewer to be had while it is there.
    room = (controls.maximum - len(seen.members)) // size
    nodes = max(0, min(math.ceil(sum(wish.change.start.values()) / size), room))
    given = Supply(0)
    if nodes:
        given = supply(nodes, len(ordered), wish.history.crashes, wish.desired, limits.patience, now)
    reason = given.reason if given.failed else "; ".join(filter(None, (wish.reason, given.reason)))
    return _plan(wish, Steps(leaving, given.most, let_go, stop, kill), reason, given)


def _plan(wish: _Wish, steps: Steps, reason: str, given: Supply, would: str = "") -> Plan:
    history = msgspec.structs.replace(wish.history, leaving=steps.leaving, desired=wish.desired)
    ask_again_s = max(0.0, min(wish.ask_again_s, given.pause_s or math.inf))
    would = would or wish.would
    return Plan(wish.desired, reason, steps, given.failed, ask_again_s, history, wish.decided, would)


def _remember(seen: Seen, load: FleetLoad | None, history: History, limits: Limits, now: float) -> History:
    """Learn what reports say, and forget what is too old to matter."""
    known = history.knowledge
    known = in_silence(known, now) if load is None else learn(known, seen.members, load, now)
    ended = {worker: at for worker, at in history.leaving.ended.items() if now - at < _ENDED_KEPT_S}
    return msgspec.structs.replace(
        history,
        knowledge=known,
        leaving=msgspec.structs.replace(history.leaving, ended=ended),
        crashes=history.crashes.remembered(limits.patience, known.ready_at, now),
    )


def _hold(seen: Seen, history: History, controls: Controls, terms: Terms, now: float) -> _Wish:
    """Without placement's word nothing is known of demand: what was wanted is kept, or begun with the
    minimum.
    """
    desired = min(max(history.desired, controls.minimum), controls.maximum)
    told = {worker.worker: worker for worker in seen.load.workers} if seen.load else {}
    going = [m for m in seen.members if goes(m, told.get(m.worker), history.leaving, now)]
    staying = len(seen.members) - len(going) - sum(m.worker in history.leaving.draining for m in seen.members)
    missing = math.ceil((desired - staying) / terms.node_size) * terms.node_size
    change = Change(start={"": missing} if missing > 0 else {})
    reason = "placement has not spoken yet" if seen.load is None else "placement is silent: holding"
    return _Wish(desired, reason, change, history, None)


def _decide(
    seen: Seen,
    load: FleetLoad,
    history: History,
    policy: Policy,
    controls: Controls,
    terms: Terms,
    now: float,
) -> _Wish:
    shown = outlook(seen.members, load, history.knowledge, history.leaving, terms, controls, now)
    decision = policy.decide(shown.view, history.memory)
    decided = Decided(shown.view, history.memory, decision, decision.change)
    desired = max(0, decision.desired - shown.kept)
    reason = _with_kept(decision.reason, shown)
    after = msgspec.structs.replace(history, memory=decision.memory)
    if not controls.frozen:
        after = msgspec.structs.replace(after, frozen_at=None)
        return _Wish(desired, reason, decision.change, after, decided, decision.ask_again_s)
    size = history.frozen_at
    if size is None:
        size = max(_staying(shown), controls.minimum)
    change = to_count(size + shown.kept, shown.view)
    otherwise = f"; else it would be {desired}" if desired != size else ""
    return _Wish(
        size,
        f"the size is frozen at {size}{otherwise}: {reason}",
        change,
        msgspec.structs.replace(after, frozen_at=size),
        msgspec.structs.replace(decided, change=change),
        decision.ask_again_s,
        in_words(decision.change, {}),
    )


def _staying(shown: Outlook) -> int:
    return sum(worker.state != "draining" and not worker.kept for worker in shown.view.workers)


def _with_kept(reason: str, shown: Outlook) -> str:
    if shown.view.kinds[0].capacity == ANY_CAPACITY:
        reason += "; no worker has told its capacity yet"
    return f"{reason}; {shown.kept} started by hand serve too" if shown.kept else reason
