"""Mirrors of states in host memory."""

import random

import numpy as np
import torch

from services.worker.models.protocol import Memory, Part
from services.worker.offload import HostPool, Mirror
from services.worker.runner import Runner
from services.worker.tiers import Kept, Tiers
from tests.unit.worker.late import LatePool
from tests.unit.worker.models.wan import tiny

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


def test_what_left_beside_the_steps_that_made_it_is_what_an_uninterrupted_session_has() -> None:
    """Copied late, in pieces; young and with a full window, with a new prompt among it."""
    model, chance = tiny.model(slots=3), random.Random(1)
    model.read_stand_ins()
    pool = LatePool(1, model.spec.state_bytes)
    stayed, left = (model.open(seed=5, prompt="a red ball") for _ in range(2))
    mirror = leased(pool)
    for number in range(7):
        if number == 5:
            model.set_prompt(stayed, "a blue one")
            model.set_prompt(left, "a blue one")
        for _ in range(model.begin_chunk(stayed, model.spec.rungs[0])):
            model.forward([stayed])
        for _ in range(model.begin_chunk(left, model.spec.rungs[0])):
            model.forward([left])
            told = pool.save_ahead(mirror, model.memory(left), model.parts(left), model.final(left))
            pool.advance(chance, 2)
        assert bool(told) == (number > 0), "the last step's"
        assert torch.equal(model.decode(left), model.decode(stayed)), f"chunk {number}"
        counters = model.counters(left)
        pool.join(pool.save(mirror, model.memory(left), model.parts(left), urgent=True))
        del left
        left = model.reserve()
        pool.join(pool.load(mirror, model.memory(left)))
        model.take_over(left, counters)
        mirror.versions = {name: part.version for name, part in model.parts(left).items()}
        assert torch.equal(model.memory(left), model.memory(stayed))


def test_more_than_may_wait_is_copied_as_a_whole_instead() -> None:
    pool = LatePool(1, SIZE)
    mirror, memory = leased(pool), np.arange(SIZE, dtype=np.uint8)
    for version in range(50):
        memory[16:48] = version
        pool.save(mirror, memory, parts(1, version))
        assert pool.waiting_bytes <= 2 * SIZE
    assert loaded(pool, mirror) == memory.tolist()


def test_what_a_failed_step_was_told_to_write_is_copied_again() -> None:
    model = tiny.model(slots=1)
    model.read_stand_ins()
    tiers = Tiers(Runner(model, "cpu"), HostPool(1, model.spec.state_bytes, "cpu"), 1)
    state = tiers.take(lambda: model.open(seed=5, prompt="a red ball"))
    kept = Kept(0, state=state, mirror=tiers.pool.lease())
    tiers.save(kept)
    for _ in range(model.begin_chunk(state, model.spec.rungs[0])):
        model.forward([state])
        tiers.save_ahead(kept)
    told, parts = kept.ahead, model.parts(state)
    assert told
    tiers.distrust(kept)
    assert not kept.ahead
    lacking = sum(end - start for name in told for start, end in parts[name].spans)
    assert tiers.save(kept).bytes >= lacking
    assert tiers.save(kept).bytes == 0
