from collections.abc import Mapping
from typing import Any

import torch

from services.worker.offload import HostPool, Stored

EXPORTED: dict[str, Any] = {
    "kv": torch.arange(24, dtype=torch.float32).view(2, 3, 4),
    "seen": torch.tensor(3, dtype=torch.int64),
    "latents": torch.full((5,), 0.5, dtype=torch.bfloat16),
    "seed": 7,
}


def store(pool: HostPool, exported: Mapping[str, Any]) -> Stored:
    stored = pool.store(exported)
    assert stored is not None
    return stored


def test_what_comes_back_is_what_went_in_until_the_slot_is_taken_again() -> None:
    pool = HostPool(1, 256, "cpu")
    stored = store(pool, EXPORTED)
    assert pool.store(EXPORTED) is None, "no second slot"
    loaded = pool.load(stored)
    assert loaded.pop("seed") == 7
    assert all(torch.equal(tensor, EXPORTED[name]) for name, tensor in loaded.items())
    assert {n: t.dtype for n, t in loaded.items()} == {n: EXPORTED[n].dtype for n in loaded}
    pool.free(stored)
    assert pool.free_slots == 1


def test_the_next_owner_of_a_slot_reads_its_own_bytes_only() -> None:
    pool = HostPool(1, 256, "cpu")
    pool.free(store(pool, {"secret": torch.full((256,), 7, dtype=torch.uint8)}))
    stored = store(pool, {"small": torch.ones(3)})
    assert list(pool.load(stored)) == ["small"]
    assert torch.equal(pool.load(stored)["small"], torch.ones(3))


def test_a_state_larger_than_a_slot_is_not_taken() -> None:
    pool = HostPool(1, 64, "cpu")
    assert pool.store({"kv": torch.ones(17)}) is None
    assert pool.free_slots == 1
