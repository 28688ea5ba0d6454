"""Cheaper pictures for some before anybody is left waiting, and full ones again once there is room for all.

Who has waited for a while is one that no worker came for. Those who make room are of no higher priority:
the lowest first, then who has been active longest. The one that comes begins one step down itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from services.placement.policies.board import Board
from services.placement.policies.view import Memory, Session, Worker

_ROUNDING = 1e-9


class _Room(NamedTuple):
    """`stepping`: who on `worker` steps down for it."""

    worker: Worker
    stepping: list[Session]


def make_room(board: Board, waiting: Sequence[Session], after_s: float) -> list[Session]:
    """For those who have waited for `after_s`, in their turns. Returns who still waits."""
    if not waiting or not any(session.floor_weight < session.weight for session in board.view.sessions):
        return list(waiting)  # Whoever fits as all are has a place already.
    left: list[Session] = []
    for session in waiting:
        waited_s = board.view.now_s - session.since_s
        room = _room_for(board, session) if waited_s >= after_s else None
        if room is None:
            left.append(session)
            continue
        for other in room.stepping:
            board.step_down(other, room.worker, "others wait for a place")
        if session.floor_weight < session.weight:
            session = board.step_down(session, None, "there is no room for it otherwise")
        board.place(session, room.worker, "room was made by stepping down")
    return left


def could_make_room(board: Board, session: Session) -> bool:
    """Once it has waited for long enough."""
    return _room_for(board, session) is not None


def _room_for(board: Board, session: Session) -> _Room | None:
    """Where the fewest step down."""
    found: list[tuple[int, float, _Room]] = []
    for worker in board.ready:
        here = board.here(worker.worker)
        if worker.group != session.group or len(here) >= worker.slots or worker.worker in session.avoid:
            continue
        over = board.loads[worker.worker] + min(session.weight, session.floor_weight) - worker.capacity
        stepping = _least(here, session.priority, over)
        if stepping is not None:
            found.append((len(stepping), board.latency_s(worker), _Room(worker, stepping)))
    return min(found, key=lambda option: option[:2])[2] if found else None


def _least(here: Sequence[Session], priority: int, over: float) -> list[Session] | None:
    """As few of them as free `over`; None: all of them don't."""
    able = [s for s in here if s.floor_weight < s.weight and s.priority <= priority]
    able.sort(key=lambda s: (s.priority, s.since_s, s.session))
    chosen: list[Session] = []
    while over > _ROUNDING:
        if len(chosen) == len(able):
            return None
        chosen.append(able[len(chosen)])
        over -= chosen[-1].weight - chosen[-1].floor_weight
    return chosen


def step_up(board: Board, waiting: Sequence[Session], memory: Memory, after_s: float) -> Memory:
    """Those that fit where they are, once there has been room for all at full for `after_s`."""
    down = [s for s in board.view.sessions if s.weight < s.full_weight]
    stepped = [(board.workers[s.worker], s) for s in down if _is_served(board, s)]
    if not stepped or waiting or not _roomy(board):
        return msgspec.structs.replace(memory, roomy_s=None)
    now_s = board.view.now_s
    roomy_s = now_s if memory.roomy_s is None else min(memory.roomy_s, now_s)
    if now_s - roomy_s >= after_s:
        for worker, session in sorted(stepped, key=lambda one: (-one[1].priority, one[1].since_s)):
            more = session.full_weight - session.weight
            if board.loads[worker.worker] + more <= worker.capacity + _ROUNDING:
                board.step_up(session, worker, f"there has been room for all for {after_s:.0f} s")
    return msgspec.structs.replace(memory, roomy_s=roomy_s)


def _is_served(board: Board, session: Session) -> bool:
    """By a worker that goes on."""
    return session in board.here(session.worker) and board.workers[session.worker].state == "ready"


def _roomy(board: Board) -> bool:
    """In every group all could be at full."""
    free: dict[str, float] = {}
    for worker in board.ready:
        wanted = sum(max(s.weight, s.full_weight) for s in board.here(worker.worker))
        free[worker.group] = free.get(worker.group, 0.0) + worker.capacity - wanted
    return all(room >= -_ROUNDING for room in free.values())
