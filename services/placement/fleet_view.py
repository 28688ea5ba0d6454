"""Who is alive, and with which copies: the newest report of every worker, and when silence means death.

Times are any steady clock's seconds, as long as it is the same one in every call.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from shared.contracts.fleet import CopyReport, LoadReport, ModelReport, WorkerExited
from shared.store.rows import SessionRow

_EXIT_SETTLES_S = 1.0
"""A process's last reports may arrive after the word of its end; one that comes later than this shows that it
lives."""
_FORGET_AFTER_S = 300.0
_MAX_WORKERS = 10_000
_ALL_REPORTED_S = 1.0
"""Workers report at least twice a second."""
_WAITED_FOR = ("encoding", "rebuilding")
"""States of a copy that its users are told of: it makes no pictures as yet."""
_PAUSE_OF_ITS_OWN_S = 2.0
"""Asked less often than this, the view was itself not running, and its workers' reports are still to be
read."""


class WorkerState(msgspec.Struct, frozen=True):
    """`exited_at` None: nobody has said that it ended. `superseded_at`: since when copies say that another
    worker wrote to their log, by session and epoch.
    """

    report: LoadReport
    heard_at: float
    exited_at: float | None = None
    copies: dict[str, CopyReport] = {}
    superseded_at: dict[tuple[str, int], float] = {}

    @property
    def gone(self) -> bool:
        return self.exited_at is not None or self.report.state == "stopped"


class FleetView:
    """Filled by reports, asked by placement. Without effects: nothing happens between calls."""

    def __init__(self, silent_s: float, now: float) -> None:
        self.silent_s = silent_s
        self._workers: dict[str, WorkerState] = {}
        self._exits: dict[tuple[str, str], float] = {}
        self._listening_since = now
        self._asked_at = now

    def report(self, report: LoadReport, now: float) -> bool:
        """Take a worker's report in. False: it was an old one, of this process or one before it."""
        ended_at = self._ended_at(report.worker, report.incarnation)
        if ended_at is not None and now - ended_at < _EXIT_SETTLES_S:
            return False
        known = self._workers.get(report.worker)
        if known is not None and not _supersedes(report, now, known, self.silent_s):
            return False
        if known is None and len(self._workers) >= _MAX_WORKERS:
            return False
        copies = {copy.session: copy for copy in report.copies}
        before = known.superseded_at if known is not None else {}
        self._workers[report.worker] = WorkerState(
            report, now, None, copies, _superseded(report, before, now)
        )
        return True

    def exited(self, exited: WorkerExited, now: float) -> bool:
        """Who started the process saw it end. False: that was known, or another one has the name by now.

        It counts once: whoever reports afterwards lives, however often it is said again.
        """
        worker, known = exited.worker, self._workers.get(exited.worker)
        incarnation = exited.incarnation or (known.report.incarnation if known is not None else "")
        told = self._exits.keys() & {(worker, incarnation), (worker, exited.incarnation)}
        if told or len(self._exits) >= _MAX_WORKERS:
            return False
        self._exits[worker, incarnation] = now
        if known is None or known.report.incarnation != incarnation:
            return known is None
        self._workers[worker] = msgspec.structs.replace(known, exited_at=now)
        return True

    def _ended_at(self, worker: str, incarnation: str) -> float | None:
        """When it was said that this process ended, or any of a name that is never given again."""
        return self._exits.get((worker, incarnation), self._exits.get((worker, "")))

    def observe(self, now: float) -> None:
        """To be called at least every second: notices when the caller itself had stopped, and forgets the
        long gone."""
        if now - self._asked_at > _PAUSE_OF_ITS_OWN_S:
            self._listening_since = now
        self._asked_at = now
        for worker in [w for w, state in self._workers.items() if now - state.heard_at > _FORGET_AFTER_S]:
            del self._workers[worker]
        self._exits = {process: at for process, at in self._exits.items() if now - at <= _FORGET_AFTER_S}

    def why_lost(self, worker: str, incarnation: str, now: float, connected_s: float) -> str:
        """Why the process `incarnation` of `worker` can't own anything any more, "" as long as it can.

        `connected_s`: how long the bus has stood. Who just (re)gained it, or was not running, declares nobody
        dead.
        """
        known = self._workers.get(worker)
        deaf = min(connected_s, now - self._listening_since) < self.silent_s
        if known is None and self._ended_at(worker, incarnation) is not None:
            return "its worker ended"
        if known is None:
            return "" if deaf else "its worker has not been heard of"
        if known.report.incarnation != incarnation:
            return "its worker was started anew"
        if known.gone:
            return "its worker ended"
        if now - known.heard_at > self.silent_s and not deaf:
            return "its worker fell silent"
        return ""

    def alive(self, now: float) -> list[WorkerState]:
        """Those heard lately, by name."""
        lately = (state for state in self._workers.values() if now - state.heard_at <= self.silent_s)
        return sorted((state for state in lately if not state.gone), key=lambda state: state.report.worker)

    def alive_report(self, worker: str, now: float) -> LoadReport | None:
        """The newest report of a worker that is alive."""
        return next((state.report for state in self.alive(now) if state.report.worker == worker), None)

    def superseded_s(self, worker: str, copy: CopyReport, now: float) -> float:
        """For how long a copy has said so."""
        known = self._workers.get(worker)
        since = known.superseded_at.get((copy.session, copy.epoch)) if known is not None else None
        return 0.0 if since is None else now - since

    def hears_all(self, now: float) -> bool:
        """Whether everybody who is there had time to say which copies it has."""
        return now - self._listening_since >= _ALL_REPORTED_S

    def hears(self, worker: str, incarnation: str) -> bool:
        """Whether this very process of the worker has reported, and was not the last word."""
        known = self._workers.get(worker)
        return known is not None and not known.gone and known.report.incarnation == incarnation

    def gist(self, worker: str) -> tuple[object, ...]:
        """What of a worker decides how many sessions it takes."""
        known = self._workers.get(worker)
        if known is None:
            return ()
        report = known.report
        return report.incarnation, report.state, report.capacity, report.slots, known.gone

    def state(self, worker: str) -> str:
        """What the worker calls its state, "" if it is not known."""
        known = self._workers.get(worker)
        return "" if known is None else known.report.state

    def copy(self, worker: str, session: str) -> CopyReport | None:
        known = self._workers.get(worker)
        return None if known is None or known.gone else known.copies.get(session)

    def phase(self, row: SessionRow) -> str:
        """What an active session is about, as its owner's newest report says; else as its row has it."""
        copy = self.copy(row.worker, row.id) if row.status == "active" else None
        if copy is None or copy.epoch != row.epoch or not self.hears(row.worker, row.incarnation):
            return row.phase
        return copy.state if copy.state in _WAITED_FOR else row.phase

    def holders(self, session: str, now: float) -> dict[str, CopyReport]:
        """Every copy of a session on workers that are alive."""
        return {
            state.report.worker: state.copies[session] for state in self.alive(now) if session in state.copies
        }

    def copies(self, now: float) -> Iterator[tuple[str, CopyReport]]:
        """(worker, copy) of every worker that is alive."""
        for state in self.alive(now):
            for copy in state.report.copies:
                yield state.report.worker, copy

    def models(self, now: float) -> dict[str, ModelReport]:
        """What the workers that are alive serve, by name. One that still starts doesn't know yet."""
        told = (state.report for state in self.alive(now) if state.report.state != "starting")
        return {report.model.name: report.model for report in told}


def _superseded(
    report: LoadReport, before: dict[tuple[str, int], float], now: float
) -> dict[tuple[str, int], float]:
    said = ((copy.session, copy.epoch) for copy in report.copies if copy.state == "superseded")
    return {copy: before.get(copy, now) for copy in said}


def _supersedes(report: LoadReport, now: float, known: WorkerState, silent_s: float) -> bool:
    if report.incarnation == known.report.incarnation:
        return report.sequence > known.report.sequence
    silent = now - known.heard_at > silent_s
    return known.gone or silent or report.started_at > known.report.started_at
