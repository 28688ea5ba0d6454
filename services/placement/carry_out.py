"""What a decision means for the rows it is about: events for each session, and moves to begin."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from services.placement.facts import (
    Event,
    MoveProposed,
    Placed,
    RefusedLater,
    ResumedByUser,
    SteppedDown,
    SteppedUp,
    Watched,
)
from services.placement.policies.view import (
    Act,
    Decision,
    Move,
    Place,
    Refuse,
    StepDown,
    StepUp,
    Suspend,
)
from shared.store.rows import SessionRow

Resuming = type[ResumedByUser] | type[Watched]


class Order(NamedTuple):
    """`events`: by session, in the order in which they happen to it. `hand_overs`: of sessions that go on
    where they are placed once their state has been brought there; they are queued until then, and
    the target's epoch is given.
    """

    events: dict[str, list[Event]]
    moves: list[Move]
    hand_overs: list[Place]


class Context(NamedTuple):
    """`rows`: of the sessions that were seen. `resuming`: paused ones that are to go on, and by whom.
    `incarnations`: of the workers that were seen. `carried`: sessions that the decision places elsewhere than
    where their state is, and that can be handed over from there. `later`: those for which it is too early.
    """

    rows: Mapping[str, SessionRow]
    resuming: Mapping[str, Resuming]
    incarnations: Mapping[str, str]
    floor_rung: str
    decision: str
    carried: Collection[str] = ()
    later: Collection[str] = ()


def order(decided: Decision, context: Context) -> Order:
    """A paused session goes on where it is if the policy says so, without a new epoch; else it is queued
    first, and without a place it stays so.
    """
    found = Order({}, [], [])
    for act in decided.acts:
        if isinstance(act, Move):
            found.moves.append(act)
        elif isinstance(act, Place) and act.session in context.later:
            continue
        elif isinstance(act, Place) and act.session in context.carried:
            found.hand_overs.append(act)
            found.events.setdefault(act.session, []).extend(_hand_over(act.session, context))
        elif happens := _events(act, context):
            found.events.setdefault(act.session, []).extend(happens)
    for session, resumes in context.resuming.items():
        if not any(isinstance(event, resumes) for event in found.events.get(session, ())):
            found.events.setdefault(session, []).append(resumes(owner_has_room=False))
    return found


def _events(act: Act, context: Context) -> list[Event]:
    """A paused session's state leaves its device by its worker's own doing, so there is nothing to order."""
    match act:
        case Place(session, worker):
            return _place(session, worker, context)
        case Refuse(_, retry_after_s, reason):
            return [RefusedLater(retry_after_s, reason, context.decision)]
        case StepDown():
            return [SteppedDown(context.floor_rung, context.decision)]
        case StepUp():
            return [SteppedUp(context.decision)]
    return []


def _hand_over(session: str, context: Context) -> list[Event]:
    proposed = MoveProposed(context.rows[session].epoch)
    resumes = context.resuming.get(session)
    return [proposed] if resumes is None else [resumes(owner_has_room=False), proposed]


def _place(session: str, worker: str, context: Context) -> list[Event]:
    row, incarnation = context.rows[session], context.incarnations[worker]
    placed = Placed(worker, incarnation, context.decision)
    if (resumes := context.resuming.get(session)) is None:
        return [placed]
    if (row.worker, row.incarnation) == (worker, incarnation):
        return [resumes(owner_has_room=True)]
    return [resumes(owner_has_room=False), placed]


def workers_of(acts: Sequence[Act]) -> list[str]:
    found: set[str] = set()
    for act in acts:
        if isinstance(act, Place | Suspend):
            found.add(act.worker)
        elif isinstance(act, Move):
            found |= {act.source, act.target}
    return sorted(found)


def reason_of(acts: Sequence[Act], handed_over: Collection[str] = ()) -> str:
    """In one line: how many of what, and why the first of them. `handed_over`: sessions that go on where they
    are placed once their state is there.
    """
    kinds: dict[str, int] = {}
    for act in acts:
        word = "handed over" if act.session in handed_over else _WORDS[type(act)]
        kinds[word] = kinds.get(word, 0) + 1
    counted = ", ".join(f"{number} {word}" for word, number in kinds.items())
    return f"{counted}: {acts[0].reason}" if acts else "queued"


_WORDS: dict[type[Act], str] = {
    Place: "placed",
    Move: "moved",
    Suspend: "suspended",
    Refuse: "refused",
    StepDown: "stepped down",
    StepUp: "stepped up",
}
