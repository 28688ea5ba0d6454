"""A recorded decision in words: what was seen, what was done about it, and why."""

from __future__ import annotations

from collections import Counter

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table

from services.autoscaler.policies import view as fleet
from services.placement.policies import view as placement
from turboserve.decide_again import Decided
from turboserve.messages import DecisionInfo
from turboserve.phases import duration

MAX_ROWS = 40
"""Of a table; those concerned come first."""
_WIDEST = 500


def show(about: DecisionInfo, decided: Decided, console: Console) -> None:
    when = about.at.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    _print(console, f"{about.id}: {about.reason}")
    _print(console, f"taken {when} by {about.instance}, policy {about.policy}")
    _print(console, f"settings: {_settings(decided.policy)}")
    parts = _of_placement if about.service == "placement" else _of_fleet
    for part in parts(about, decided):
        if isinstance(part, Table):
            print_whole(part, console)
        else:
            _print(console, part)


def print_whole(table: Table, console: Console) -> None:
    """Whole columns, as wide as they are: a narrow terminal breaks the lines, a program gets all of them."""
    needed = console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum
    console.width = max(console.width, needed)
    console.print(table)


def _print(console: Console, words: RenderableType) -> None:
    console.print(words, highlight=False, markup=False, soft_wrap=True)


def _settings(policy: msgspec.Struct) -> str:
    given = msgspec.to_builtins(policy)
    return ", ".join(f"{name} {value}" for name, value in given.items() if name != "type") or "none"


def _of_placement(about: DecisionInfo, decided: Decided) -> list[str | Table]:
    view: placement.View = decided.view
    decision: placement.Decision = decided.decision
    acts = [f"  {_act(act)}" for act in decision.acts] or ["  nothing"]
    waiting = [f"  {_waiting(one)}" for one in decision.waiting[:MAX_ROWS]]
    if waiting:
        waiting = ["", f"waiting: {len(decision.waiting)}", *waiting]
    load = f"highest load of a worker afterwards: {decision.rho_max:.0%} of its capacity"
    return [*_placement_seen(about, view), "", "decided", *acts, *waiting, "", load]


def _placement_seen(about: DecisionInfo, view: placement.View) -> list[str | Table]:
    active = Counter(session.worker for session in view.sessions if session.active and session.worker)
    queued = sum(session.active and not session.worker for session in view.sessions)
    rows = table("worker", "state", "active", "a chunk takes", "with one more", "price/s")
    workers = sorted(view.workers, key=lambda worker: worker.worker not in about.workers)
    for worker in workers[:MAX_ROWS]:
        load = active[worker.worker]
        rows.add_row(
            worker.worker,
            worker.state,
            f"{load}/{worker.capacity}",
            _latency(worker, load),
            _latency(worker, load + 1),
            f"{worker.price_per_s:g}",
        )
    idle = sum(not session.active for session in view.sessions)
    seen = f"seen: {sum(active.values())} active, {queued} queued, {idle} idle sessions"
    return ["", seen, rows, *_more(len(workers))]


def _latency(worker: placement.Worker, sessions: int) -> str:
    if not sessions:
        return "–"
    return duration(worker.latency_s[sessions]) if sessions < len(worker.latency_s) else "not known"


def _act(act: placement.Act) -> str:
    match act:
        case placement.Place(session, worker):
            done = f"place {session} on {worker}"
        case placement.Move(session, source, target):
            done = f"move {session} from {source} to {target}"
        case placement.Suspend(session, worker):
            done = f"suspend {session} on {worker}"
        case placement.Refuse(session, retry_after_s):
            done = f"refuse {session}, to come back in {duration(retry_after_s)}"
        case placement.StepDown(session):
            done = f"step {session} down"
        case placement.StepUp(session):
            done = f"step {session} up again"
    return f"{done}: {act.reason}"


def _waiting(one: placement.Waiting) -> str:
    wait = "" if one.expected_wait_s is None else f", for about {duration(one.expected_wait_s)} more"
    return f"{one.position + 1}. {one.session}{wait}"


def _of_fleet(about: DecisionInfo, decided: Decided) -> list[str | Table]:
    view: fleet.View = decided.view
    decision: fleet.Decision = decided.decision
    wanted = f"{decision.desired} workers wanted, of {view.minimum} to {view.maximum}: {decision.reason}"
    held = ", frozen" if view.frozen else ""
    spare = f", {view.spare} to spare" if view.spare else ""
    changes = _changes(decision.change) or ["nothing to change"]
    return [
        *_fleet_seen(about, view),
        "",
        _kinds(view),
        "",
        f"highest load of a worker: {view.rho_max:.0%} of its capacity{spare}{held}",
        "",
        f"decided: {wanted}",
        *(f"  {change}" for change in changes),
    ]


def _fleet_seen(about: DecisionInfo, view: fleet.View) -> list[str | Table]:
    rows = table("worker", "state", "for", "active", "kind", "node")
    pairs = zip(view.workers, view.loads, strict=True)
    workers = sorted(pairs, key=lambda pair: pair[0].worker not in about.workers)
    for worker, load in workers[:MAX_ROWS]:
        state = f"{worker.state}, not ours" if worker.kept else worker.state
        since = duration(max(0.0, view.now_s - worker.since_s))
        rows.add_row(worker.worker, state, since, str(load), worker.kind, worker.node)
    seen = f"seen: {view.active} active ({view.queued} of them queued), {view.idle} idle sessions"
    return ["", seen, rows, *_more(len(workers))]


def _kinds(view: fleet.View) -> Table:
    rows = table("kind to be had", "capacity", "alone a chunk takes", "boots in", "price/s")
    for kind in view.kinds:
        alone = duration(kind.latency_s[1]) if len(kind.latency_s) > 1 else "not known"
        rows.add_row(kind.kind, str(kind.capacity), alone, duration(kind.boot_s), f"{kind.price_per_s:g}")
    return rows


def _changes(change: fleet.Change) -> list[str]:
    named = (
        ("take back", change.undrain),
        ("drain", change.drain),
        ("release", change.release),
    )
    starts = [f"start {count} of {kind or 'the only kind'}" for kind, count in change.start.items() if count]
    return starts + [f"{verb} {', '.join(workers)}" for verb, workers in named if workers]


def table(*titles: str) -> Table:
    columns = Table(box=None, pad_edge=False)
    for title in titles:
        columns.add_column(title, no_wrap=True)
    return columns


def _more(rows: int) -> list[str]:
    return [f"and {rows - MAX_ROWS} more"] if rows > MAX_ROWS else []
