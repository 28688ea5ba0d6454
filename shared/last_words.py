"""What a process said last in its log: the one line a person needs when it has ended."""

from __future__ import annotations

import json
import signal
from pathlib import Path

_TAIL_BYTES = 16_384
_LONGEST_CHARS = 500


def how_it_ended(exit_code: int, log: Path | None, since_byte: int = 0) -> str:
    """In words for a person. Who was killed had no time for last words."""
    if exit_code < 0:
        return f"killed by {_signal_name(-exit_code)}"
    words = last_words(log, since_byte) if log else ""
    return f"exit code {exit_code}: {words}" if words else f"exit code {exit_code}"


def last_words(log: Path, since_byte: int = 0) -> str:
    """The newest error in `log` after `since_byte`, or else the last line that is no entry (a traceback's).

    "" if there is neither or the file can't be read: an entry that tells of no error explains no end.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(since_byte, size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    plain = [line.strip() for line in lines if line.strip() and _entry(line) is None]
    errors = [message for line in lines if (message := error_message(line))]
    return (errors or plain or [""])[-1][:_LONGEST_CHARS]


def error_message(line: str) -> str:
    """Message and exception of a JSON log line of level error or critical; "" of any other line."""
    entry = _entry(line)
    if entry is None or entry.get("level") not in ("error", "critical"):
        return ""
    exception = str(entry.get("exception", "")).strip().splitlines()
    return ": ".join([str(entry.get("message", "")), *exception[-1:]])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _entry(line: str) -> dict[str, object] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
