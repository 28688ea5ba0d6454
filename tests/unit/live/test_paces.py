"""A worker's paces are found again in chunks that were made by them."""

from __future__ import annotations

import itertools

import pytest

from bench.live.house import Shown
from bench.live.paces import Boot, Paces, paces
from turboserve.errors import TurboserveError

ALONE_S = 0.2
BOOT = Boot(ordered_s=10.0, ready_s=20.0, settled_s=22.0)


def chunk(worker: str, due_s: float, latency_s: float, *, usual: bool = True) -> Shown:
    return Shown("s", worker, due_s, due_s + latency_s, 1.5, usual)


def apart(factors: list[float], begin_s: float) -> list[Shown]:
    return [chunk("a", begin_s + 1.5 * n, ALONE_S * factor) for n, factor in enumerate(factors)]


def test_what_a_chunk_takes_alone_and_beside_a_boot_are_medians() -> None:
    shown = [*apart([0.9, 1.0, 1.0, 1.1, 1.3], 0.0), *apart([1.5, 1.6, 1.7, 1.8, 2.0], 10.5)]
    found = paces(shown, BOOT)
    assert found.alone_s == pytest.approx(ALONE_S)
    assert (found.beside_boot, found.beside_busy) == (1.7, 1.0)
    assert found.spread[::10] == pytest.approx([0.9, 1.0, 1.0, 1.1, 1.3])


def test_what_a_busy_neighbour_takes_is_found_whatever_the_time_beside_it() -> None:
    """Half as long again beside it: 0.1 s of work under way together are 0.15 s."""
    shown = [*apart([1.0] * 6, 0.0), *apart([1.5] * 6, 10.5)]
    for n in range(12):
        at_s, apart_s = 30.0 + 3.0 * n, 0.01 * n
        beside_s = 1.5 * (ALONE_S - apart_s)
        shown.append(chunk("a", at_s, apart_s + beside_s))
        shown.append(chunk("b", at_s + apart_s, beside_s, usual=False))
    assert paces(shown, BOOT) == Paces(ALONE_S, 1.5, 1.5, (1.0,) * 41)


def test_chunks_that_waited_for_others_of_their_worker_say_nothing() -> None:
    shown = [*apart([1.0] * 6, 0.0), *apart([1.0] * 6, 10.5)]
    waited = itertools.chain(*([chunk("a", t, 0.4), chunk("a", t + 0.1, 0.5)] for t in (30.0, 33.0, 36.0)))
    assert paces([*shown, *waited], BOOT) == paces(shown, BOOT)


def test_too_few_chunks_are_refused() -> None:
    with pytest.raises(TurboserveError, match="0 undisturbed chunks are too few"):
        paces(apart([1.0] * 6, 0.0), BOOT)
