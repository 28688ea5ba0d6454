"""Mirrors of states in host memory."""

import numpy as np
import torch

from services.worker.models.protocol import Memory, Part
from services.worker.offload import HostPool, Mirror

SIZE = 64


def parts(one: int, two: int) -> dict[str, Part]:
    return {"one": Part(one, ((0, 16), (48, SIZE))), "two": Part(two, ((16, 48),))}


def leased(pool: HostPool) -> Mirror:
    mirror = pool.lease()
    assert mirror is not None
    return mirror


def loaded(pool: HostPool, mirror: Mirror) -> list[int]:
    memory = np.zeros(SIZE, np.uint8)
    pool.join(pool.load(mirror, memory))
    return memory.tolist()


def test_only_parts_of_another_version_are_copied_again() -> None:
    pool = HostPool(1, SIZE, "cpu")
    mirror, memory = leased(pool), torch.arange(SIZE, dtype=torch.uint8)
    assert pool.save(mirror, memory, parts(1, 1)).bytes == SIZE
    assert loaded(pool, mirror) == list(range(SIZE))
    memory.fill_(7)
    assert pool.save(mirror, memory, parts(1, 2)).bytes == 32
    assert loaded(pool, mirror) == [*range(16), *[7] * 32, *range(48, SIZE)]
    assert pool.save(mirror, memory, parts(1, 2)).bytes == 0
    assert pool.save(mirror, memory, parts(3, 2)).over
    assert loaded(pool, mirror) == [7] * SIZE


def test_the_next_owner_of_a_slot_gets_its_own_bytes_only() -> None:
    pool = HostPool(1, SIZE, "cpu")
    mirror = leased(pool)
    pool.save(mirror, np.full(SIZE, 9, np.uint8), parts(1, 1))
    assert pool.lease() is None
    pool.free(mirror)
    assert pool.free_slots == 1
    mirror = leased(pool)
    padded: Memory = np.arange(SIZE, dtype=np.uint8)
    pool.save(mirror, padded, {"one": Part(1, ((0, 16),))})
    assert loaded(pool, mirror) == padded.tolist()
