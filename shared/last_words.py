"""What a process said last in its log: the one line a person needs when it has ended."""

from __future__ import annotations

import json
from pathlib import Path

_TAIL_BYTES = 16_384
_LONGEST_CHARS = 500


def last_words(log: Path, since_byte: int = 0) -> str:
    """The newest error in `log` after `since_byte`, or else its last line; "" if there is none or it can't be
    read.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(since_byte, size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    lines = [line.strip() for line in lines if line.strip()]
    errors = [message for line in lines if (message := error_message(line))]
    return (errors or lines or [""])[-1][:_LONGEST_CHARS]


def error_message(line: str) -> str:
    """The message of a JSON log line of level error or critical, with its exception's last line; "" of any
    other line.
    """
    try:
        entry = json.loads(line)
    except ValueError:
        return ""
    if not isinstance(entry, dict) or entry.get("level") not in ("error", "critical"):
        return ""
    exception = str(entry.get("exception", "")).strip().splitlines()
    return ": ".join([str(entry.get("message", "")), *exception[-1:]])
