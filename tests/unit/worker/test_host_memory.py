"""Host memory set aside before anyone knows how it will be cut."""

from __future__ import annotations

import pytest

from services.worker.host_memory import HostMemory, beside
from services.worker.offload import HostPool
from services.worker.runner import NoSuchDevice

DEADLINE_S = 60.0


def test_is_cut_once_sizes_are_known() -> None:
    memory = beside(10_000, "cpu").result(DEADLINE_S)
    rows = memory.rows(3, 3_000)
    assert rows.shape == (3, 3_000)
    rows[2] = 7
    pool = HostPool(3, 3_000, "cpu", memory)
    assert (pool.free_slots, pool.size_bytes) == (3, 9_000)
    assert memory.rows(3, 3_000)[2].min() == 7, "the pool is the same bytes"


def test_every_page_is_touched() -> None:
    memory = HostMemory(1_000_003)
    memory.rows(1, 1_000_003)[:] = 7
    memory.touch()
    touched = (memory.rows(1, 1_000_003)[0] == 0).nonzero()[0]
    assert touched[0] == 0
    assert (touched[1:] - touched[:-1]).max() <= 4096
    assert 1_000_003 - touched[-1] <= 4096


def test_none_is_none() -> None:
    memory = beside(0, "cpu").result(DEADLINE_S)
    assert HostPool(0, 3_000, "cpu", memory).lease() is None


def test_what_goes_wrong_is_told_whoever_asks() -> None:
    with pytest.raises(NoSuchDevice, match="cuda:99"):
        beside(10_000, "cuda:99").result(DEADLINE_S)
