"""Which transport two workers use: the best that both offer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from services.worker.transfer.link import LinkRefused

BEST_FIRST = ("ipc", "nccl", "tcp")
"""Kinds. A transport's name may say more, behind a dash: with whom alone it can be had in common."""


def kind_of(transport: str) -> str:
    return transport.partition("-")[0]


def best_first(transports: Iterable[str]) -> list[str]:
    return sorted(transports, key=lambda name: BEST_FIRST.index(kind_of(name)))


def choose_transport(mine: Iterable[str], theirs: Sequence[str], without: Collection[str] = ()) -> str:
    """Either side finds the same. `without`: names that were tried. Raises `LinkRefused`."""
    for name in best_first(mine):
        if name in theirs and name not in without:
            return name
    tried = f", and these can't be used: {', '.join(without)}" if without else ""
    raise LinkRefused(f"no common transport: this worker offers {mine}, its peer {list(theirs)}{tried}")


def wished(kinds: str) -> tuple[str, ...]:
    """Of a setting: kinds, apart by commas; "": all. Raises `ValueError`, in words."""
    named = tuple(kind.strip() for kind in kinds.split(",") if kind.strip()) or BEST_FIRST
    if unknown := [kind for kind in named if kind not in BEST_FIRST]:
        raise ValueError(f"{', '.join(unknown)} is no transport; there are {', '.join(BEST_FIRST)}")
    return named
