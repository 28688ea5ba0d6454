"""A session's move from worker to worker: what placement and the two of them say to each other.

Placement reserves at the target, orders the source, and hears of both by `MoveNews` and load reports. The
workers open a link to each other and send the state over it; the chunk log decides who owns the session in
the end. All times are wall clock seconds; after `deadline_at` a request must not be carried out.
"""

from __future__ import annotations

import msgspec

from shared.contracts.fleet import ModelReport, Own, PhaseTime
from shared.contracts.session import Input


class Compatibility(msgspec.Struct, frozen=True):
    """A state goes on the same only where all of these are equal. `geometry`: width, height and frames of a
    chunk.
    """

    architecture: str
    dtype: str
    weights_digest: str
    geometry: str
    state_bytes: int


class Move(msgspec.Struct, frozen=True):
    """`epoch`: the source's, which the move ends. `target_epoch`: a higher one that nothing else ever gets,
    also if the move is given up.
    """

    move_id: str
    session: str
    source: str
    target: str
    epoch: int
    target_epoch: int


class Reserve(msgspec.Struct, frozen=True):
    """Placement to the target: set a slot aside. `own`: the session as it is now, with the source's epoch."""

    move: Move
    own: Own
    compatibility: Compatibility
    deadline_at: float


class Reserved(msgspec.Struct, frozen=True):
    pass


class MoveOut(msgspec.Struct, frozen=True):
    """Placement to the source, once the target has accepted. `transports`: those the target offers.
    `waited_for`: the session is paused here and is to go on there, so that its viewers wait for all of it.
    """

    move: Move
    transports: list[str]
    deadline_at: float
    waited_for: bool = False


class MovingOut(msgspec.Struct, frozen=True):
    pass


class CallOff(msgspec.Struct, frozen=True):
    """To either worker, from placement or from the other one: this move is over. Repeating it is harmless."""

    move_id: str
    why: str


class OpenLink(msgspec.Struct, frozen=True):
    """Worker to worker: let us be linked. The one with the lower id makes the invitation: here if `peer` is
    that, else in the answer.
    """

    peer: str
    transport: str
    invitation: bytes
    deadline_at: float


class LinkOpening(msgspec.Struct, frozen=True):
    invitation: bytes


class UnderWay(msgspec.Struct, frozen=True):
    """A chunk that the source has begun and the target ends. `steps`: of all of it; `steps_left`: those to
    come. `new_prompt`: its first step began one; `again`: it was begun again for that. `needed_in_s`: from
    the freeze on; the other times are for its timings.
    """

    rung: str
    inputs: list[Input]
    inputs_version: int
    traceparent: str
    steps: int
    steps_left: int
    needed_in_s: float
    due_to_start_s: float
    forward_s: float
    new_prompt: bool = False
    again: bool = False


class HandOver(msgspec.Struct, frozen=True):
    """The source's promise: it has frozen, and makes no chunk from `next_chunk` on unless the move is given
    up.

    `own`: the newest it was told. `inputs_from`: the first chunk showing its inputs. `shown`: the prompt of
    the state, which need not be of `own` yet. `counters`: the model's, MessagePack. `unappended`: so many
    chunks before `next_chunk` were not in the log yet. `under_way`: chunk `next_chunk` as far as it is made;
    None: it hasn't begun. `void`: spans whose bytes mean nothing, whichever were sent.
    """

    next_chunk: int
    own: Own
    inputs_from: int
    shown: str
    counters: bytes
    granted_through: int
    unappended: int = 0
    under_way: UnderWay | None = None
    void: list[tuple[int, int]] = []


class Stage(msgspec.Struct, frozen=True):
    """Source to target: these bytes of the state's memory come now, in this order. `spans`: [start, end)
    pairs.

    `stage` 1 and up are pre-copies, 0 the rest after the freeze, with `hand_over`. `checksum`: where it was
    asked for, with the rest, of all bytes that any stage of the move sent, but for the void ones, in order of
    their place. `transport`: by which link they come; "": the best there is.
    """

    move_id: str
    stage: int
    spans: list[tuple[int, int]]
    deadline_at: float
    checksum: str = ""
    hand_over: HandOver | None = None
    transport: str = ""


class Staged(msgspec.Struct, frozen=True):
    """The target receives. `busy_s`: how long its device is still at a step of other sessions; then it is
    kept free for this one, if they have the time.
    """

    busy_s: float = 0.0


class MoveNews(msgspec.Struct, frozen=True):
    """A worker on a move it takes part in. A hint: load reports tell the same later.

    `state`: of the source "copying", "frozen", "stayed", "gone"; of the target "reserved", "arrived",
    "owner", "freed". `phases`: what this worker did for it so far, in order. `sent_bytes`: over the link.
    """

    move_id: str
    session: str
    worker: str
    state: str
    at: float
    why: str = ""
    phases: list[PhaseTime] = []
    sent_bytes: int = 0


class MoveSession(msgspec.Struct, frozen=True):
    """An operator to placement. `to` "": to whichever worker has most room."""

    session: str
    to: str = ""


class SessionMoved(msgspec.Struct, frozen=True):
    """`outcome`: "moved" (with its state), "placed" (without, `why`: it begins, resumes or is rebuilt there),
    "stayed" (`why`), "lost" (`why`: after it had moved; it is placed anew). `pause_s`: from the
    freeze until the target could go on.
    """

    session: str
    source: str
    target: str
    outcome: str
    why: str = ""
    pause_s: float = 0.0
    sent_bytes: int = 0
    phases: list[PhaseTime] = []


class StowSession(msgspec.Struct, frozen=True):
    """An operator to placement: suspend the session (pause it, its state to host memory) or resume it."""

    session: str


class Stow(msgspec.Struct, frozen=True):
    """Placement to the owner: have the copy's state in this `tier`: "device" or "host"."""

    session: str
    epoch: int
    tier: str
    deadline_at: float


class Stowed(msgspec.Struct, frozen=True):
    """`tier`: where the state is now: "device", "host" or "none" (there was none, or no room for it).

    `bytes`: copied for that now; a state is copied behind its chunks, so it may be none.
    """

    tier: str
    bytes: int = 0
    phases: list[PhaseTime] = []


class SessionStowed(msgspec.Struct, frozen=True):
    """`worker` "": none owns the session; it waits."""

    session: str
    status: str
    worker: str
    tier: str
    bytes: int = 0
    phases: list[PhaseTime] = []


def compatibility_of(model: ModelReport) -> Compatibility:
    return Compatibility(
        model.architecture,
        model.dtype,
        model.weights_digest,
        f"{model.width}×{model.height}, {model.chunk_frames} frames",
        model.state_bytes,
    )
