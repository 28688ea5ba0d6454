"""The copies a worker holds: what placement wants of each, and how far it is.

The only state that the event loop and the device thread share. Every method takes the lock for microseconds;
waiting for work is waiting on its condition.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from services.worker import orders
from services.worker.again import NEVER
from services.worker.copies import Copy, prompt_of
from services.worker.models.protocol import PastChunk
from services.worker.orders import Order
from services.worker.plan_batch import Candidate
from services.worker.residency import Resident
from services.worker.transit import Transit
from shared.contracts.fleet import CopyReport, Own, Owned


class Roster:
    """All copies, by session. `changed` is notified on every change; `on_change` is called too, from any
    thread. `encodes`: a prompt shows once `show` has brought its embedding, not before. `transit`: for moves.
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
        self.transit = Transit(self.changed, self._copies, self._notify, encodes)

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
            return [copy.resident() for copy in self._copies.values()]

    def add(self, own: Own, *, arriving: bool = False) -> Copy:
        """A copy that waits for `locate` (or `transit.land`); it holds its slot from now on."""
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
            copy.again, copy.again_until = False, NEVER
            self._notify()

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
            copy.take_credit(own.granted_through, now)
            self._notify()
            return copy.owned()

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
            return copy.owned()

    def _show_if_encoded(self, copy: Copy, own: Own, now: float) -> None:
        prompt = prompt_of(own.inputs)
        shown = copy.shows is not None and prompt_of(copy.shows.inputs) == prompt
        if shown or not prompt or not self._encodes:
            self._show(copy, own, now)

    def _show(self, copy: Copy, own: Own, now: float) -> None:
        """Once a chunk is to begin again, others' may not before the engine has looked at the time anew."""
        copy.show(own, now)
        for other in self._copies.values() if copy.again else ():
            other.again_until = NEVER

    def grant(self, copy: Copy, granted_through: int) -> None:
        with self.changed:
            if granted_through > copy.granted_through:
                copy.take_credit(granted_through, time.monotonic())
                self._notify()

    def candidate(self, copy: Copy, stepping: Order | None, *, shown: bool = False) -> Candidate:
        """For planning; the caller holds the lock."""
        return orders.candidate(copy, stepping, self._chunk_duration_s, shown=shown)

    def begin(self, copy: Copy) -> Order:
        """The copy's next chunk begins: inputs that come from now on show in the one after, unless it is
        begun again. The caller holds the lock.
        """
        return orders.begin(copy, self._chunk_duration_s, time.monotonic())

    def settle_inputs(self, order: Order) -> bool:
        """The chunk's pictures are made now: what comes from here on shows in the next one. False: it has to
        be begun again first.
        """
        with self.changed:
            order.copy.again_until = NEVER
            return not order.copy.again

    def begin_again(self, order: Order) -> Order | None:
        """The chunk under way with the inputs that came meanwhile, once. None: it needn't be."""
        with self.changed:
            copy = order.copy
            if not copy.again or order.stale:
                return None
            copy.again, copy.again_until = False, NEVER
            return orders.again(order)

    def put_back(self, order: Order) -> None:
        """Just begun, and there is no place for it now: as if it hadn't been."""
        with self.changed:
            copy = order.copy
            if not order.stale and copy.next_chunk == order.index + 1:
                copy.next_chunk, copy.past = order.index, order.past
                copy.again, copy.again_until = False, NEVER

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
