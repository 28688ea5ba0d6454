"""What a policy sees of the fleet and the sessions, made of rows and reports.

A session is laid on the worker it goes to: its owner, the target of its move, or where it is just being
placed. The worker that it is about to leave has one place fewer meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from services.placement import homes
from services.placement.groups import Groups
from services.placement.policies.latency import latencies_s
from services.placement.policies.view import Session, View, Worker
from shared.contracts.fleet import CopyReport, LatencyPoint, LoadReport, ModelReport
from shared.store.rows import SessionRow

STUCK_S = 1e6
"""The cost of a move that can't be made now: more than any latency is worth."""
REBUILT_S = 10.0
"""What going on elsewhere costs a session whose state can't be handed over: there it is rebuilt, for which
everybody else on that device waits, or begins anew. More than most differences are worth.
"""

_LOST = "lost"
"""The home of a session that had a worker, and whose state nobody has: it was taken once."""

Copies = Mapping[str, Mapping[str, CopyReport]]
"""By session, then worker."""


class Standing(NamedTuple):
    """A session that wants chunks. `since_s`: of a waiting one since it was opened, which is its turn; of
    others since they became active. `going_to`: who has it, or is about to, "" for none. `leaving`: who still
    has it meanwhile. `stuck`: it can't be moved now. `beat_s`: when one of its chunks fell due lately, or its
    viewer will run dry; None: not known. `avoid`: workers on which it just failed. `anchored`: of a waiting
    one, its home can't hand it over now.
    """

    row: SessionRow
    since_s: float
    going_to: str = ""
    leaving: str = ""
    stuck: bool = False
    beat_s: float | None = None
    avoid: tuple[str, ...] = ()
    anchored: bool = False


class Terms(NamedTuple):
    """What is the same for all. `since_s`: since when workers are in their states. `floor_rung` "": sessions
    aren't stepped down. `spell_s`, `move_pause_s`, `away_s`: as learned so far; the last is what it costs to
    hand a session over to where it is resumed. `holding`: workers that can't do so at this moment.
    """

    now_s: float
    since_s: Mapping[str, float]
    floor_rung: str
    spell_s: float
    move_pause_s: float
    away_s: float
    holding: Collection[str] = ()


def view_of(
    standings: Sequence[Standing], reports: Sequence[LoadReport], copies: Copies, terms: Terms
) -> View:
    """`reports`: of the workers that are alive, drained ones as such. `copies`: at least those of the
    sessions without a worker. As long as somebody's worker isn't heard, as after a start, nobody can tell
    how long a turn takes, so that nobody is refused for it.
    """
    groups = Groups(reports)
    leaving = Counter(standing.leaving for standing in standings if standing.leaving)
    workers = [_worker(r, groups.of_worker[r.worker], leaving[r.worker], terms) for r in reports]
    silent = {s.going_to for s in standings} - {report.worker for report in reports} - {""}
    workers += [Worker(name, "", "silent", 0, 0, (0.0,)) for name in sorted(silent)]
    groups.fill(workers, [standing.going_to for standing in standings])
    sessions = [_session(standing, groups, copies, terms) for standing in standings]
    placed = sum(bool(standing.going_to) for standing in standings)
    return View(
        now_s=terms.now_s,
        workers=tuple(workers),
        sessions=tuple(sessions),
        chunk_s=next((chunk_s(report.model) for report in reports if report.state != "starting"), 1.0),
        freed_per_s=0.0 if silent else placed / terms.spell_s,
        spell_s=terms.spell_s,
    )


def _worker(report: LoadReport, group: str, leaving: int, terms: Terms) -> Worker:
    return Worker(
        worker=report.worker,
        kind=report.device.kind,
        state=_state(report),
        capacity=max(0, min(report.capacity, report.slots) - leaving),
        slots=report.slots,
        latency_s=worker_latencies_s(report),
        group=group,
        node=report.node,
        since_s=terms.since_s.get(report.worker, 0.0),
    )


def _state(report: LoadReport) -> Literal["ready", "draining", "starting"]:
    """A state that this version doesn't know takes no session."""
    match report.state:
        case "ready":
            return "ready"
        case "draining":
            return "draining"
    return "starting"


def worker_latencies_s(report: LoadReport) -> tuple[float, ...]:
    """As a worker's curve has it for its model's default rung, the first one. Of a worker that measured
    nothing its capacity tells: so many keep up with a chunk's duration.
    """
    default = report.model.rungs[0] if report.model.rungs else ""
    measured = _latencies_s(tuple(report.curve), report.slots, default)
    if any(measured):
        return measured
    each_s = chunk_s(report.model) / max(report.capacity, 1)
    return tuple(n * each_s for n in range(report.slots + 1))


@lru_cache(maxsize=4096)
def _latencies_s(curve: tuple[LatencyPoint, ...], slots: int, rung: str) -> tuple[float, ...]:
    return latencies_s(curve, slots, rung)


def chunk_s(model: ModelReport) -> float:
    """How long a chunk plays, 1.0 if that isn't known."""
    return model.chunk_frames / model.fps if model.fps > 0 and model.chunk_frames > 0 else 1.0


def _session(standing: Standing, groups: Groups, copies: Copies, terms: Terms) -> Session:
    row = standing.row
    held = {} if standing.going_to else copies.get(row.id, {})
    home = standing.going_to or homes.home_of(row, held, groups.of_worker)
    group = groups.of(row, standing.going_to, home)
    weight, floor_weight, full_weight = weights(row, groups.told(group), terms.floor_rung)
    return Session(
        session=row.id,
        active=True,
        since_s=standing.since_s,
        worker=standing.going_to,
        home=home or (_LOST if row.given_epoch else ""),
        move_cost_s=STUCK_S if standing.stuck else terms.move_pause_s,
        tenant=row.tenant,
        priority=row.priority,
        group=group,
        weight=weight,
        floor_weight=floor_weight,
        full_weight=full_weight,
        avoid=_avoid(standing, held) if held or standing.avoid else (),
        beat_s=standing.beat_s,
        away_cost_s=_away_s(standing, home, held.get(home), groups, terms),
    )


def _avoid(standing: Standing, held: Mapping[str, CopyReport]) -> tuple[str, ...]:
    failed = {worker for worker, copy in held.items() if copy.state in ("failed", "superseded")}
    return tuple(sorted(failed.union(standing.avoid)))


def _away_s(standing: Standing, home: str, copy: CopyReport | None, groups: Groups, terms: Terms) -> float:
    """Of one whose state nobody has it is the same everywhere."""
    if standing.going_to or not home:
        return 0.0
    holds = standing.anchored or home in terms.holding
    able = not holds and homes.can_give(standing.row, copy) and groups.linked(home)
    return terms.away_s if able else REBUILT_S


def weights(row: SessionRow, told: LoadReport | None, floor_rung: str) -> tuple[float, float, float]:
    """What it takes of a worker now, one step down, and stepped up again, in sessions at the default rung."""
    asked = rung_weight(told, row.rung)
    if row.served_rung:
        now = rung_weight(told, row.served_rung)
        return now, now, asked
    floor = rung_weight(told, floor_rung) if _may_step_down(row, told, floor_rung) else asked
    return asked, min(floor, asked), asked


def _may_step_down(row: SessionRow, told: LoadReport | None, floor_rung: str) -> bool:
    return bool(floor_rung) and row.rung != floor_rung and told is not None and floor_rung in told.model.rungs


def rung_weight(told: LoadReport | None, rung: str) -> float:
    """By what one row alone takes. 1.0 where that was not measured."""
    if told is None or not told.model.rungs or not rung:
        return 1.0
    alone_s = {point.rung: point.chunk_s for point in told.curve if point.batch == 1}
    default_s, rung_s = alone_s.get(told.model.rungs[0], 0.0), alone_s.get(rung, 0.0)
    return rung_s / default_s if default_s > 0 and rung_s > 0 else 1.0
