"""The errors that services write into their logs, for whoever watches the launcher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shared.last_words import error_message

_MOST_BYTES = 1024 * 1024
_MOST_PER_LOOK = 3


class LogTail:
    """Begins at the end of the logs that exist; later ones are read from their start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = {log: log.stat().st_size for log in folder.glob("*.log")}

    def new_errors(self) -> Iterator[tuple[str, str]]:
        """(name of the log, message) of each new error, the first few per log: one cause often has a
        hundred."""
        for log in sorted(self._folder.glob("*.log")):
            messages = list(filter(None, map(error_message, self._new_lines(log))))
            for message in messages[:_MOST_PER_LOOK]:
                yield log.stem, message
            if len(messages) > _MOST_PER_LOOK:
                yield log.stem, f"{len(messages) - _MOST_PER_LOOK} more errors, see {log}"

    def _new_lines(self, log: Path) -> list[str]:
        """Whole lines since the last look; a line still being written waits for the next one."""
        start = self._seen.get(log, 0)
        try:
            with log.open("rb") as file:
                file.seek(start)
                fresh = file.read(_MOST_BYTES)
        except OSError:
            return []
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._seen[log] = start + len(whole)
        return whole.decode(errors="replace").splitlines()
