"""Public traces of language-model services, read as if their requests were spells of video sessions.

Azure LLM inference (CSV: TIMESTAMP, ContextTokens, GeneratedTokens) knows no sessions: each request is one
that arrives active and departs when done. Mooncake (JSON Lines: timestamp in ms, input_length,
output_length, hash_ids) does: each hash id stands for a block and all before it, so a request whose blocks
go on from another's belongs to the same conversation.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from bench.traces.events import Event, TraceError

_SHARED_BLOCKS = 1
"""The first blocks of a prompt are the service's own, the same for everybody."""

Spell = tuple[float, float]


class _MooncakeLine(msgspec.Struct, frozen=True):
    timestamp: float
    output_length: int
    hash_ids: list[int]


def azure(path: Path, s_per_token: float = 0.05) -> list[Event]:
    """Raises TraceError with the line."""
    spells: dict[str, list[Spell]] = {}
    first: datetime | None = None
    with path.open(newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines), 2):
            try:
                # Seconds have up to seven digits there; Python reads six.
                at = datetime.fromisoformat(row["TIMESTAMP"].strip()[:26])
                tokens = int(row["GeneratedTokens"])
            except (KeyError, ValueError, AttributeError, TypeError) as error:
                raise TraceError(number, f"not a row of TIMESTAMP, GeneratedTokens: {error!r}") from None
            first = first or at
            begin_s = (at - first).total_seconds()
            spells[f"r{number - 1}"] = [(begin_s, begin_s + tokens * s_per_token)]
    return _events(spells)


def mooncake(path: Path, s_per_token: float = 0.05) -> list[Event]:
    """Raises TraceError with the line."""
    spells: dict[str, list[Spell]] = {}
    conversation_of: dict[int, str] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            request = msgspec.json.decode(line, type=_MooncakeLine)
        except msgspec.MsgspecError as error:
            raise TraceError(number, str(error)) from None
        own = request.hash_ids[_SHARED_BLOCKS:]
        known = (conversation_of[block] for block in reversed(own) if block in conversation_of)
        session = next(known, f"c{number}")
        conversation_of |= dict.fromkeys(own, session)
        begin_s = request.timestamp / 1000.0
        spells.setdefault(session, []).append((begin_s, begin_s + request.output_length * s_per_token))
    return _events(spells)


def _events(spells: dict[str, list[Spell]]) -> list[Event]:
    per_session = (_of_session(name, _merged(given)) for name, given in spells.items())
    return sorted(itertools.chain.from_iterable(per_session), key=lambda event: event.time_s)


def _merged(spells: Iterable[Spell]) -> list[Spell]:
    """Those that touch are one."""
    merged: list[Spell] = []
    for begin_s, end_s in sorted(spells):
        if merged and begin_s <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end_s, merged[-1][1]))
        else:
            merged.append((begin_s, end_s))
    return merged


def _of_session(name: str, spells: list[Spell]) -> Iterator[Event]:
    for number, (begin_s, end_s) in enumerate(spells):
        first, last = number == 0, number == len(spells) - 1
        begin_s, end_s = round(begin_s, 3), round(end_s, 3)
        yield Event(begin_s, name, "arrive", active=True) if first else Event(begin_s, name, "active")
        yield Event(end_s, name, "depart" if last else "idle")
