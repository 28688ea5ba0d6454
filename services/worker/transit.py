"""Copies in a move: on their way here, or to another worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from services.worker.again import NEVER
from services.worker.copies import Copy, prompt_of
from services.worker.expecting import Spell
from shared.contracts.fleet import Own
from shared.contracts.moves import HandOver
from shared.contracts.session import Input


@dataclass(frozen=True, slots=True)
class Transit:
    """The roster's part of a move, under its lock. `copies`: all of the roster's, by session. `notify`: to be
    called with the lock held, after every change that others wait for. `encodes`: as the roster does.
    """

    changed: threading.Condition
    copies: Mapping[str, Copy]
    notify: Callable[[], None]
    encodes: bool

    def land(self, copy: Copy, own: Own, hand_over: HandOver, move_id: str) -> None:
        """The source of an arriving copy froze: it goes on there. It makes nothing before `arrive`."""
        with self.changed:
            copy.own, copy.move_id = own, move_id
            copy.generation += 1
            copy.located = True
            copy.next_append = hand_over.next_chunk
            copy.next_chunk = hand_over.next_chunk + (hand_over.under_way is not None)
            copy.shows = self._shown_by(hand_over, own)
            copy.inputs_from = hand_over.inputs_from
            copy.take_credit(hand_over.granted_through, time.monotonic())

    def expect(self, copy: Copy, spell: Spell) -> None:
        """An arriving copy will go on within that time."""
        with self.changed:
            copy.expected = spell
            self.notify()

    def arrive(self, copy: Copy) -> None:
        """All of its state is on the device, as its own."""
        with self.changed:
            copy.arriving = False
            copy.used_at = copy.input_at = time.monotonic()
            self.notify()

    def commit(self, copy: Copy) -> None:
        with self.changed:
            copy.committed = True
            self.notify()

    def prove(self, copy: Copy) -> None:
        """A chunk of a copy that came by a move is in the log."""
        with self.changed:
            copy.move_id, copy.committed = "", False
            self.notify()

    def leave(self, copy: Copy, leaving: bool) -> None:
        with self.changed:
            copy.leaving = leaving

    def freeze(self, copy: Copy) -> None:
        """Begin no chunk of it, and no step once the engine has said that it is between two."""
        with self.changed:
            copy.frozen, copy.boundary_told, copy.again_until = True, False, NEVER
            self.notify()

    def thaw(self, copy: Copy) -> None:
        with self.changed:
            copy.frozen = False
            self.notify()

    def closing(self) -> list[Copy]:
        """Frozen copies of which it isn't told yet that the device is at no step of theirs."""
        with self.changed:
            return [copy for copy in self.copies.values() if copy.frozen and not copy.boundary_told]

    def boundary_told(self, copy: Copy) -> None:
        with self.changed:
            copy.boundary_told = True

    def _shown_by(self, hand_over: HandOver, own: Own) -> Own:
        """What the state that came shows: the newest inputs, or while their prompt isn't encoded, its own."""
        if not self.encodes or prompt_of(own.inputs) == hand_over.shown:
            return own
        before = {"inputs": [Input("prompt", hand_over.shown)], "inputs_version": own.inputs_version - 1}
        return msgspec.structs.replace(own, **before)
