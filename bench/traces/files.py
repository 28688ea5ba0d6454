"""Traces as files of JSON Lines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from bench.traces.events import Checker, Event, TraceError, checked

SMALL = Path(__file__).parent / "small.jsonl"
"""A trace for one machine: `turboserve trace make --shape bursts --seed 35 --scale 0.06 --duration-s 300`."""
TWO_WORKERS = Path(__file__).parent / "two_workers.jsonl"
"""19 sessions in 300 s, at most six active: for two workers with three each, now and then for one."""

_LONGEST_LINE_BYTES = 100_000

_decoder = msgspec.json.Decoder(Event)
_encoder = msgspec.json.Encoder()


def read(path: Path) -> list[Event]:
    """Every event, in order. Raises TraceError with the line that is wrong, OSError if it can't be read."""
    events, checker = [], Checker()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            event = _parse(number, line)
            if why := checker.why_not(event):
                raise TraceError(number, why)
            events.append(event)
    if not events:
        raise TraceError(1, "the trace holds no event")
    return events


def _parse(number: int, line: bytes) -> Event:
    if not line.strip():
        raise TraceError(number, "the line is empty: every line holds one event")
    if len(line) > _LONGEST_LINE_BYTES:
        raise TraceError(number, f"longer than {_LONGEST_LINE_BYTES} bytes")
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TraceError(number, str(error)) from None


def write(events: Iterable[Event], path: Path) -> int:
    """How many were written. Raises TraceError before an event that can't be."""
    count = 0
    with path.open("wb") as out:
        for event in checked(events):
            out.write(_encoder.encode(event) + b"\n")
            count += 1
    return count
