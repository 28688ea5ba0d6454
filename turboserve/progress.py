"""How far a long run is, on standard error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

_LINE_EVERY = 0.1


@contextlib.contextmanager
def progress(what: str, *, lines: bool = False) -> Iterator[Callable[[float, str], None] | None]:
    """A bar where a person looks at it; elsewhere a line after each tenth if `lines`, or nothing (None).

    What it yields takes the share that is done and a few words.
    """
    if sys.stderr.isatty():
        yield from _bar(what)
    else:
        yield _Lines(what) if lines else None


def _bar(what: str) -> Iterator[Callable[[float, str], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda share, words: bar.update(task, completed=share, description=f"{what} {words}")


class _Lines:
    def __init__(self, what: str) -> None:
        self._what = what
        self._next = _LINE_EVERY

    def __call__(self, share: float, words: str) -> None:
        if share >= self._next:
            print(f"{self._what}: {share:.0%} {words}", file=sys.stderr, flush=True)
            self._next = share // _LINE_EVERY * _LINE_EVERY + _LINE_EVERY
