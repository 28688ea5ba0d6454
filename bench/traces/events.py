"""One event of a trace, and what may follow what."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

Kind = Literal["arrive", "active", "idle", "depart"]


class TraceError(Exception):
    """A trace that can't be: where (line or position, from 1) and why, in words."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")
        self.line = line
        self.why = why


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`active`: on arrive, whether the session begins active; elsewhere it must not be given. `prompt`: on
    arrive and active, what the user asks for from here on.
    """

    time_s: float
    session: str
    event: Kind
    active: bool | None = None
    prompt: str | None = None


class Checker:
    """Follows every session of a trace. Fed with events in order; says why one can't be."""

    def __init__(self) -> None:
        self._state: dict[str, str] = {}
        self._time_s = 0.0

    def why_not(self, event: Event) -> str:
        """ "" if the event may come next."""
        if not math.isfinite(event.time_s) or event.time_s < 0:
            return f"time_s is {event.time_s}: give seconds from the trace's start, 0 or more"
        if event.time_s < self._time_s:
            return f"time_s {event.time_s} comes after {self._time_s}: sort the events by time"
        if not event.session:
            return "session is empty: name it"
        why = self._wrong_fields(event) or self._impossible(event)
        if not why:
            self._time_s = event.time_s
            self._state[event.session] = _after(event)
        return why

    def _wrong_fields(self, event: Event) -> str:
        if event.event == "arrive" and event.active is None:
            return 'arrive needs "active": true or false'
        if event.event != "arrive" and event.active is not None:
            return f'"active" belongs to arrive, not to {event.event}'
        if event.event in ("idle", "depart") and event.prompt is not None:
            return f'"prompt" belongs to arrive and active, not to {event.event}'
        return ""

    def _impossible(self, event: Event) -> str:
        state = self._state.get(event.session)
        if event.event == "arrive":
            return "" if state is None else f"session {event.session} arrives a second time"
        if state is None:
            return f"session {event.session} has not arrived"
        if state == "gone":
            return f"session {event.session} has departed"
        if event.event == state:
            return f"session {event.session} is {state} already"
        return ""


def _after(event: Event) -> str:
    if event.event == "arrive":
        return "active" if event.active else "idle"
    return "gone" if event.event == "depart" else event.event


def checked(events: Iterable[Event]) -> Iterator[Event]:
    """The same events. Raises TraceError at the first that can't be, with its position."""
    checker = Checker()
    for position, event in enumerate(events, 1):
        if why := checker.why_not(event):
            raise TraceError(position, why)
        yield event
