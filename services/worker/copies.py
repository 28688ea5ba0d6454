"""One session's copy on this worker, and the orders for its chunks."""

from __future__ import annotations

from dataclasses import dataclass

from shared.contracts.fleet import CopyReport, Own
from shared.contracts.session import Input

FAILED, SUPERSEDED = "failed", "superseded"


@dataclass(eq=False, slots=True)
class Copy:
    """One session here. Written under the roster's lock only.

    `next_chunk`: the first index not begun. `next_append`: the first not in the log. `generation` changes
    when the copy begins anew, so that chunks under way from before are recognised. `inputs_from`: the first
    chunk showing `inputs`.
    """

    key: int
    own: Own
    opened_at: float
    generation: int = 0
    located: bool = False
    next_chunk: int = 0
    next_append: int = 0
    inputs_from: int = 0
    granted_through: int = -1
    granted_at: float = 0.0
    credit_at: float = 0.0
    input_at: float = 0.0
    appended_at: float = 0.0
    used_at: float = 0.0
    ended: str = ""
    error: str = ""
    gone: bool = False

    @property
    def session(self) -> str:
        return self.own.session

    @property
    def state(self) -> str:
        if self.ended:
            return self.ended
        if self.own.max_chunks is not None and self.next_append >= self.own.max_chunks:
            return "finished"
        return "paused" if self.own.paused else "running"

    def report(self) -> CopyReport:
        own = self.own
        return CopyReport(
            own.session,
            own.tenant,
            own.epoch,
            own.revision,
            self.state,
            self.next_append,
            self.granted_through,
            self.error,
        )


@dataclass(frozen=True, eq=False, slots=True)
class Order:
    """One chunk to make, as the copy stood when it began."""

    copy: Copy
    generation: int
    index: int
    seed: int
    inputs: list[Input]
    inputs_version: int
    rung: str
    traceparent: str
    needed_at: float
    due_to_start_s: float

    @property
    def prompt(self) -> str:
        return next((i.text for i in reversed(self.inputs) if i.kind == "prompt"), "")

    @property
    def stale(self) -> bool:
        """Whether its copy was dropped, ended or begun anew meanwhile."""
        return self.copy.gone or bool(self.copy.ended) or self.copy.generation != self.generation
