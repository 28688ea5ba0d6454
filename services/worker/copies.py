"""One session's copy on this worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.worker import expecting
from services.worker.again import NEVER
from services.worker.expecting import Spell
from services.worker.models.protocol import PastChunk
from services.worker.residency import Resident
from shared.contracts.fleet import CopyReport, Own, Owned
from shared.contracts.session import CREDIT_WINDOW, Input

FAILED, SUPERSEDED = "failed", "superseded"
ENCODING, REBUILDING = "encoding", "rebuilding"
STATES = ("running", "paused", "finished", FAILED, SUPERSEDED, ENCODING, REBUILDING)
"""As a report names them."""


def prompt_of(inputs: Sequence[Input]) -> str:
    """The newest."""
    return next((given.text for given in reversed(inputs) if given.kind == "prompt"), "")


@dataclass(eq=False, slots=True)
class Copy:
    """One session here. Written under the roster's lock only.

    `next_chunk`: the first index not begun. `next_append`: the first not in the log. `generation` changes
    when the copy begins anew, so that chunks under way from before are recognised. `shows`: the command whose
    inputs the next chunk shows, older than `own` while a prompt is being encoded; None: its first one is.
    `text`: keeps that prompt's embedding in the model's reach. `inputs_from`: the first chunk showing these
    inputs. `again_until`: a prompt that comes no later shows in the chunk under way already, which is then to
    be begun `again`.

    In a move: `leaving`: its state is on its way to another worker, `frozen`: so that no chunk may begin, and
    `boundary_told` once the device is at no step of it. `arriving`: its state is on its way here, and until
    then it isn't reported; `expected`: when the device is kept free for it. `move_id`: it
    came by that move, of which no chunk is in the log yet; `committed`: placement has called it the owner's
    since. `tier`: where its state is; written by the device thread.
    """

    key: int
    own: Own
    opened_at: float
    shows: Own | None = None
    text: object = None
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
    again_until: float = NEVER
    again: bool = False
    seeking: bool = False
    """Its state is not here. It makes nothing until it is known what that can be rebuilt from: `past`."""
    past: tuple[PastChunk, ...] = ()
    ended: str = ""
    error: str = ""
    gone: bool = False
    leaving: bool = False
    frozen: bool = False
    boundary_told: bool = False
    arriving: bool = False
    expected: Spell = expecting.NEVER
    move_id: str = ""
    committed: bool = False
    tier: str = "none"

    @property
    def session(self) -> str:
        return self.own.session

    @property
    def playable(self) -> bool:
        """Whether it makes chunks here, as far as credit goes."""
        return self.state == "running" and self.located and not (self.frozen or self.arriving or self.seeking)

    @property
    def up_to_date(self) -> bool:
        """Whether its next chunk shows what was asked for last."""
        return self.shows is not None and self.shows.inputs_version == self.own.inputs_version

    @property
    def state(self) -> str:
        if self.ended:
            return self.ended
        if self.own.max_chunks is not None and self.next_append >= self.own.max_chunks:
            return "finished"
        return "paused" if self.own.paused else "running"

    @property
    def _told(self) -> str:
        """A running one may have to wait for something."""
        if self.state != "running":
            return self.state
        if self.shows is None:
            return ENCODING
        return REBUILDING if self.seeking or self.past else "running"

    def show(self, own: Own, now: float) -> None:
        """The next chunk shows these inputs, or the one under way begun again."""
        before, self.shows = self.shows, own
        if before is not None and own.inputs_version == before.inputs_version:
            return
        if before is not None and prompt_of(own.inputs) != prompt_of(before.inputs):
            self.again = self.again or now <= self.again_until
        self.inputs_from, self.input_at = self.next_chunk - self.again, now

    def take_credit(self, granted_through: int, now: float) -> None:
        """Nothing happens unless it is more than before."""
        if granted_through <= self.granted_through:
            return
        if self.next_chunk > self.granted_through + CREDIT_WINDOW:
            self.credit_at = now
        self.granted_through, self.granted_at, self.used_at = granted_through, now, now

    def owned(self) -> Owned:
        """While the newest prompt is being encoded: the first chunk that could show it."""
        from_chunk = self.inputs_from if self.up_to_date else self.next_chunk
        return Owned(next_chunk=self.next_append, from_chunk=from_chunk)

    def resident(self) -> Resident:
        """In a move it counts as an active one: it isn't evicted."""
        moving = self.arriving or self.leaving
        ended = self.state not in {"running", "paused"} and not moving
        return Resident(self.key, ended, self.state == "paused" and not moving, self.used_at)

    def report(self) -> CopyReport:
        own = self.own
        return CopyReport(
            own.session,
            own.tenant,
            own.epoch,
            own.revision,
            self._told,
            self.next_append,
            self.granted_through,
            self.error,
            self.tier,
            self.move_id,
            self.committed,
        )
