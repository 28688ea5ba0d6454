"""Which transport two workers use: the best that both offer."""

from __future__ import annotations

from collections.abc import Sequence

from services.worker.transfer.link import LinkRefused

BEST_FIRST = ("nccl", "tcp")


def choose_transport(mine: Sequence[str], theirs: Sequence[str]) -> str:
    """Either side finds the same. Raises `LinkRefused`."""
    for name in BEST_FIRST:
        if name in mine and name in theirs:
            return name
    raise LinkRefused(f"no common transport: this worker offers {list(mine)}, its peer {list(theirs)}")
