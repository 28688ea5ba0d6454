"""Mirrors of states in page-locked memory, with copies that run beside what the GPU does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from services.worker.models import load_model
from services.worker.models.protocol import Part, SessionModel, State
from services.worker.models.wan.preset import random_model
from services.worker.models.wan.taehv import TaehvDecoder
from services.worker.offload import HostPool, Mirror
from tests.unit.worker.models.wan import tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
PROMPT, LATER = "a big red ball over the sea", "now a white one at night"
MIB = 1 << 20


def wan() -> SessionModel:
    decoder = TaehvDecoder(tiny.DECODER_WIDTHS)
    return random_model(tiny.config(), 1, slots=3, device="cuda", dtype=torch.float32, decoder=decoder)


def sprites() -> SessionModel:
    return load_model("sprites", device="cuda")


def leased(pool: HostPool) -> Mirror:
    mirror = pool.lease()
    assert mirror is not None
    return mirror


def chunk(model: SessionModel, state: State, behind: Callable[[], Any] = lambda: None) -> Tensor:
    """`behind`: as the engine copies, after the last forward and after the decode."""
    for _ in range(model.begin_chunk(state, model.spec.rungs[0])):
        model.forward([state])
    behind()
    frames: Tensor = model.decode(state)
    behind()
    return frames


@pytest.mark.parametrize("make", [sprites, wan])
def test_suspended_is_uninterrupted_bit_for_bit(make: Callable[[], SessionModel]) -> None:
    """Copied behind every chunk, suspended and resumed again and again, a prompt on its way among it."""
    model = make()
    pool = HostPool(1, model.spec.state_bytes, "cuda")
    stayed, left = (model.open(seed=5, prompt=PROMPT) for _ in range(2))
    mirror = leased(pool)
    for number in range(7):

        def behind(state: State = left) -> None:
            pool.save(mirror, model.memory(state), model.parts(state))

        expected, made = chunk(model, stayed), chunk(model, left, behind)
        assert torch.equal(expected, made), f"chunk {number}"
        if number == 4:
            model.set_prompt(stayed, LATER)
            model.set_prompt(left, LATER)
        counters = model.counters(left)
        pool.join(pool.save(mirror, model.memory(left), model.parts(left)))
        del left, behind
        left = model.reserve()
        pool.join(pool.load(mirror, model.memory(left)))
        model.take_over(left, counters)
        mirror.versions = {name: part.version for name, part in model.parts(left).items()}
        assert torch.equal(model.memory(left), model.memory(stayed))


def test_a_copy_is_over_before_what_the_device_was_told_after_it() -> None:
    pool = HostPool(1, 64 * MIB, "cuda")
    memory = torch.full((64 * MIB,), 7, dtype=torch.uint8, device="cuda")
    wide = torch.randn(8192, 8192, device="cuda")
    copying = pool.save(leased(pool), memory, whole(1, 64 * MIB))
    for _ in range(200):
        wide = torch.tanh(wide @ wide)
    computed = torch.cuda.current_stream().record_event()
    assert not copying.over or not computed.query()
    copying.ended.synchronize()
    assert not computed.query(), "the copy waited for the computation"
    assert copying.duration_s > 0
    torch.cuda.synchronize()


def test_a_place_used_again_keeps_what_was_copied_out_of_it() -> None:
    pool, size = HostPool(2, 256 * MIB, "cuda"), 256 * MIB
    memory = torch.full((size,), 1, dtype=torch.uint8, device="cuda")
    one, two = leased(pool), leased(pool)
    pool.join(pool.save(one, memory, whole(1, size)))
    memory.fill_(2)
    pool.join(pool.save(two, memory, whole(1, size)))
    memory.zero_()
    pool.join(pool.load(one, memory))
    assert bool((memory == 1).all())
    pool.join(pool.load(two, memory))
    assert bool((memory == 2).all())


def test_a_host_slot_used_again_keeps_what_was_copied_out_of_it() -> None:
    pool, size = HostPool(1, 256 * MIB, "cuda"), 256 * MIB
    first, second = (torch.full((size,), value, dtype=torch.uint8, device="cuda") for value in (1, 2))
    mirror = leased(pool)
    pool.save(mirror, first, whole(1, size))
    back = torch.zeros_like(first)
    loading = pool.load(mirror, back)
    pool.free(mirror)
    mirror = leased(pool)
    pool.save(mirror, second, whole(1, size))
    pool.join(loading)
    assert bool((back == 1).all())
    pool.join(pool.load(mirror, back))
    assert bool((back == 2).all())


def test_a_fence_lets_another_thread_see_what_was_told_before_it() -> None:
    pool = HostPool(1, MIB, "cuda")
    wide = torch.randn(4096, 4096, device="cuda")
    for _ in range(50):
        wide = torch.tanh(wide @ wide)
    memory = torch.full((MIB,), 9, dtype=torch.uint8, device="cuda")
    pool.fence()()
    with torch.cuda.stream(torch.cuda.Stream()):
        assert bool((memory.cpu() == 9).all())


def test_host_memory_is_page_locked_to_the_byte() -> None:
    pool = HostPool(3, MIB + 4096, "cuda")
    assert pool._memory.is_pinned()
    assert pool._memory.nbytes == 3 * (MIB + 4096)


def whole(version: int, size: int) -> dict[str, Part]:
    return {"whole": Part(version, ((0, size),))}
