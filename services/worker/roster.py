"""The copies a worker holds: what placement wants of each, and how far it is.

The only state that the event loop and the device thread share. Every method takes the lock for microseconds;
waiting for work is waiting on its condition.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

import msgspec

from services.worker import pacing
from services.worker.copies import Copy, Order, prompt_of
from services.worker.models.protocol import PastChunk
from services.worker.plan_batch import Candidate
from services.worker.residency import Resident
from shared.contracts.fleet import CopyReport, Own, Owned
from shared.contracts.moves import HandOver
from shared.contracts.session import CREDIT_WINDOW, Input


class Roster:
    """All copies, by session. `changed` is notified on every change; `on_change` is called too, from any
    thread. `encodes`: a prompt shows once `show` has brought its embedding, not before.
    """

    def __init__(
        self, chunk_duration_s: float, on_change: Callable[[], None], *, encodes: bool = False
    ) -> None:
        self.changed = threading.Condition()
        self._encodes = encodes
        self._chunk_duration_s = chunk_duration_s
        self._on_change = on_change
        self._copies: dict[str, Copy] = {}
        self._keys = 0

    def get(self, session: str) -> Copy | None:
        return self._copies.get(session)

    def __len__(self) -> int:
        """Copies that are to come by a move not counted."""
        with self.changed:
            return sum(not copy.arriving for copy in self._copies.values())

    def copies(self) -> list[Copy]:
        with self.changed:
            return list(self._copies.values())

    def reports(self) -> list[CopyReport]:
        with self.changed:
            return [copy.report() for copy in self._copies.values() if not copy.arriving]

    def residents(self) -> list[Resident]:
        with self.changed:
            return [_resident(copy) for copy in self._copies.values()]

    def add(self, own: Own, *, arriving: bool = False) -> Copy:
        """A copy that waits for `locate` (or `land`); it holds its slot from now on."""
        now = time.monotonic()
        with self.changed:
            self._keys += 1
            copy = Copy(self._keys, own, opened_at=now, granted_through=own.granted_through, used_at=now)
            copy.arriving = arriving
            copy.granted_at = copy.credit_at = copy.input_at = now
            self._show_if_encoded(copy, own, now)
            self._copies[own.session] = copy
            self._notify()
        return copy

    def remove(self, copy: Copy) -> None:
        with self.changed:
            self._remove(copy)

    def remove_at(self, copy: Copy, next_chunk: int) -> bool:
        """Unless it went on past `next_chunk`, or what it made before isn't in the log: another worker may
        count on that. One that has ended is of no use to anybody.
        """
        with self.changed:
            stands = copy.next_append == copy.next_chunk <= next_chunk and not copy.arriving
            if stands or copy.ended:
                self._remove(copy)
            return copy.gone

    def _remove(self, copy: Copy) -> None:
        copy.gone = True
        if self._copies.get(copy.session) is copy:
            del self._copies[copy.session]
        self._notify()

    def locate(self, copy: Copy, next_chunk: int, *, seek: bool = False) -> None:
        """The log says where the copy goes on: what was under way is void, and the picture starts anew. With
        `seek` that waits for `found`.
        """
        with self.changed:
            copy.generation += 1
            copy.located = True
            copy.next_chunk = copy.next_append = copy.inputs_from = next_chunk
            copy.past, copy.seeking = (), seek and next_chunk > 0
            self._notify()

    def land(self, copy: Copy, own: Own, hand_over: HandOver, move_id: str) -> None:
        """An arriving copy's state is complete: it goes on where the source froze. It makes nothing before
        `go_ahead` or `arrive`.
        """
        with self.changed:
            copy.own, copy.move_id = own, move_id
            copy.generation += 1
            copy.located = True
            copy.next_chunk = copy.next_append = hand_over.next_chunk
            copy.shows = self._shown_by(hand_over, own)
            copy.inputs_from = hand_over.inputs_from
            self._grant(copy, hand_over.granted_through, time.monotonic())

    def go_ahead(self, copy: Copy) -> None:
        """Its state is on the device but for what its source still decodes: denoise, and decode nothing."""
        with self.changed:
            copy.ahead = True
            copy.used_at = copy.input_at = time.monotonic()
            self._notify()

    def arrive(self, copy: Copy) -> None:
        """All of its state is on the device, as its own."""
        with self.changed:
            copy.arriving = copy.ahead = False
            copy.used_at = copy.input_at = time.monotonic()
            self._notify()

    def commit(self, copy: Copy) -> None:
        with self.changed:
            copy.committed = True
            self._notify()

    def prove(self, copy: Copy) -> None:
        """A chunk of a copy that came by a move is in the log."""
        with self.changed:
            copy.move_id, copy.committed = "", False
            self._notify()

    def leave(self, copy: Copy, leaving: bool) -> None:
        with self.changed:
            copy.leaving = leaving

    def freeze(self, copy: Copy) -> None:
        """Begin no chunk of it. The engine says when none is under way on the device."""
        with self.changed:
            copy.frozen, copy.boundary_told = True, False
            self._notify()

    def thaw(self, copy: Copy) -> None:
        with self.changed:
            copy.frozen = False
            self._notify()

    def at_boundary(self, under_way: Collection[Copy]) -> list[Copy]:
        """Frozen copies without a chunk on the device of which `boundary_told` hasn't been called."""
        with self.changed:
            return [
                c for c in self._copies.values() if c.frozen and not c.boundary_told and c not in under_way
            ]

    def boundary_told(self, copy: Copy) -> None:
        with self.changed:
            copy.boundary_told = True

    def apply(self, copy: Copy, own: Own) -> Owned:
        """What placement wants now. The caller has refused an older epoch or revision. A prompt still to be
        encoded leaves the one before on show.
        """
        now = time.monotonic()
        with self.changed:
            before, copy.own, copy.used_at = copy.own, own, now
            self._show_if_encoded(copy, own, now)
            if before.paused and not own.paused:
                copy.input_at = now
            self._grant(copy, own.granted_through, now)
            self._notify()
            return self._owned(copy)

    def lacks_text(self, copy: Copy) -> Own | None:
        """The command whose prompt is to be encoded, if that of the newest one is."""
        with self.changed:
            has_text = copy.up_to_date and copy.text is not None
            lacking = self._encodes and prompt_of(copy.own.inputs) and not has_text
            return copy.own if lacking else None

    def show(self, copy: Copy, own: Own, text: object) -> None:
        """The prompt of `own` was encoded. Nothing happens if the copy shall show another one by now."""
        with self.changed:
            if not copy.gone and prompt_of(copy.own.inputs) == prompt_of(own.inputs):
                self._show(copy, copy.own, time.monotonic())
                copy.text = text
            self._notify()

    def owned(self, copy: Copy) -> Owned:
        with self.changed:
            return self._owned(copy)

    def _show_if_encoded(self, copy: Copy, own: Own, now: float) -> None:
        prompt = prompt_of(own.inputs)
        shown = copy.shows is not None and prompt_of(copy.shows.inputs) == prompt
        if shown or not prompt or not self._encodes:
            self._show(copy, own, now)

    def _show(self, copy: Copy, own: Own, now: float) -> None:
        before, copy.shows = copy.shows, own
        if before is None or own.inputs_version != before.inputs_version:
            copy.inputs_from, copy.input_at = copy.next_chunk, now

    def _shown_by(self, hand_over: HandOver, own: Own) -> Own:
        """What the state that came shows: the newest inputs, or while their prompt isn't encoded, its own."""
        if not self._encodes or prompt_of(own.inputs) == hand_over.shown:
            return own
        before = {"inputs": [Input("prompt", hand_over.shown)], "inputs_version": own.inputs_version - 1}
        return msgspec.structs.replace(own, **before)

    def _owned(self, copy: Copy) -> Owned:
        """While the newest prompt is being encoded: the first chunk that could show it."""
        from_chunk = copy.inputs_from if copy.up_to_date else copy.next_chunk
        return Owned(next_chunk=copy.next_append, from_chunk=from_chunk)

    def grant(self, copy: Copy, granted_through: int) -> None:
        with self.changed:
            if granted_through > copy.granted_through:
                self._grant(copy, granted_through, time.monotonic())
                self._notify()

    def _grant(self, copy: Copy, granted_through: int, now: float) -> None:
        if granted_through <= copy.granted_through:
            return
        if copy.next_chunk > copy.granted_through + CREDIT_WINDOW:
            copy.credit_at = now
        copy.granted_through, copy.granted_at, copy.used_at = granted_through, now, now

    def candidate(self, copy: Copy, stepping: Order | None) -> Candidate:
        """For planning; the caller holds the lock."""
        held = copy.own.paused or bool(copy.ended) or not copy.located or copy.frozen
        held = held or copy.shows is None or (copy.arriving and not copy.ahead)
        return Candidate(
            copy.key,
            stepping is not None,
            held or copy.seeking,
            copy.next_chunk,
            copy.next_chunk - copy.next_append,
            copy.granted_through,
            stepping.needed_at if stepping else self._needed_at(copy),
            copy.own.max_chunks,
            stepping.rung if stepping else copy.own.rung,
        )

    def _needed_at(self, copy: Copy) -> float:
        return pacing.needed_at(
            copy.granted_at, copy.granted_through, copy.next_chunk, self._chunk_duration_s
        )

    def begin(self, copy: Copy) -> Order:
        """The copy's next chunk begins: inputs that come from now on show in the one after. The caller
        holds the lock.
        """
        now = time.monotonic()
        own, shows, index = copy.own, copy.shows or copy.own, copy.next_chunk
        due_at = pacing.due_at(copy.appended_at, copy.credit_at, copy.input_at)
        order = Order(
            copy,
            copy.generation,
            index,
            own.seed,
            shows.inputs,
            shows.inputs_version,
            copy.text,
            own.rung,
            own.traceparent,
            self._needed_at(copy),
            max(0.0, now - due_at) if copy.next_append == index else 0.0,
            copy.past,
        )
        copy.past = ()
        copy.next_chunk, copy.used_at = index + 1, now
        return order

    def put_back(self, order: Order) -> None:
        """Just begun, and there is no place for it now: as if it hadn't been."""
        with self.changed:
            if not order.stale and order.copy.next_chunk == order.index + 1:
                order.copy.next_chunk, order.copy.past = order.index, order.past

    def appended(self, order: Order) -> None:
        with self.changed:
            if not order.stale:
                order.copy.next_append = order.index + 1
                order.copy.appended_at = order.copy.used_at = time.monotonic()
            self._notify()

    def end(self, copy: Copy, state: str, error: str = "") -> None:
        """`FAILED` or `SUPERSEDED`: the copy makes nothing any more, and stays to be reported until it is
        dropped.
        """
        with self.changed:
            if not copy.ended:
                copy.ended, copy.error = state, error
            self._notify()

    def lost(self, copy: Copy) -> None:
        """Its state left the device and found no place: it makes nothing before `found`."""
        with self.changed:
            copy.seeking = copy.located and copy.next_chunk > 0
            self._notify()

    def found(self, copy: Copy, generation: int, past: tuple[PastChunk, ...]) -> None:
        """What the copy's state can be rebuilt from; empty: its picture begins anew."""
        with self.changed:
            if copy.generation == generation:
                copy.past, copy.seeking = past, False
            self._notify()

    def _notify(self) -> None:
        self.changed.notify_all()
        self._on_change()


def _resident(copy: Copy) -> Resident:
    """A copy in a move counts as an active one: it isn't evicted."""
    moving = copy.arriving or copy.leaving
    ended = copy.state not in {"running", "paused"} and not moving
    return Resident(copy.key, ended, copy.state == "paused" and not moving, copy.used_at)
