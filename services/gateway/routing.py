"""Which cell a new session is opened in, and the pages of several cells as one."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

from shared.contracts.session import SessionPage, cursor_after


class CellState(NamedTuple):
    """A cell as it was heard last. `free`: sessions that its workers could take, less those that wait.
    `models`: those it serves.
    """

    name: str
    ready: bool
    free: int
    models: Collection[str]


def choose_cell(cells: Sequence[CellState], model: str, key: str) -> str:
    """Where a session is opened that asks for no cell: the ready one with most room, of those that serve its
    model (""; any does). None is ready: the first, which queues it or says why not.

    `key`: the caller's, by which it may ask again, "" if it won't. Such an opening goes where the key alone
    says, so that a repetition finds what the first one opened, whatever has become of the cells meanwhile.
    """
    if key:
        return max(cells, key=lambda cell: _weight(key, cell.name)).name
    ready = [cell for cell in cells if cell.ready]
    serving = [cell for cell in ready if not model or model in cell.models]
    return max(serving or ready or cells[:1], key=lambda cell: cell.free).name


def _weight(key: str, cell: str) -> bytes:
    """Another cell in the list leaves most keys where they are."""
    return hashlib.sha256(f"{cell}\n{key}".encode()).digest()


def merge(pages: Sequence[SessionPage], limit: int) -> SessionPage:
    """The newest of all. Each page begins at the same cursor, which is a place in the order of time: it means
    the same in every cell.
    """
    views = {view.id: view for page in pages for view in page.sessions}
    newest_first = sorted(views.values(), key=lambda view: (view.created_at, view.id), reverse=True)
    shown = newest_first[:limit]
    more = len(newest_first) > limit or any(page.cursor for page in pages)
    return SessionPage(shown, cursor_after(shown[-1].created_at, shown[-1].id) if more and shown else "")
