"""Mirrors of states in page-locked memory, with copies that run beside what the GPU does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from services.worker.models import load_model
from services.worker.models.protocol import Final, Part, SessionModel, State
from services.worker.models.slots import Layout, Pool, Region
from services.worker.models.wan.config import LONGLIVE, Architecture, Geometry, WanConfig
from services.worker.models.wan.graphs import CudaCapture
from services.worker.models.wan.marks import LAYERS_TOGETHER, Marks
from services.worker.models.wan.model import Wan
from services.worker.models.wan.preset import random_model
from services.worker.models.wan.taehv import TaehvDecoder
from services.worker.offload import Copying, HostPool, Mirror
from services.worker.pinning import PageLocked
from services.worker.runner import Runner
from services.worker.tiers import Kept, Tiers
from tests.unit.worker.models.wan import tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
PROMPT, LATER = "a big red ball over the sea", "now a white one at night"
MIB = 1 << 20
WAIT_S = 30.0


def wan() -> SessionModel:
    decoder = TaehvDecoder(tiny.DECODER_WIDTHS)
    return random_model(tiny.config(), 1, slots=3, device="cuda", dtype=torch.float32, decoder=decoder)


def sprites() -> SessionModel:
    return load_model("sprites", device="cuda")


def leased(pool: HostPool) -> Mirror:
    mirror = pool.lease()
    assert mirror is not None
    return mirror


def finish(pool: HostPool, copying: Copying) -> None:
    """As the engine does: little is told at a time."""
    deadline = time.monotonic() + WAIT_S
    while not copying.over:
        assert time.monotonic() < deadline
        assert not pool.pump()


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


class Busy:
    """Something for the device to do: some 20 ms each."""

    def __init__(self) -> None:
        self._wide = torch.randn(8192, 8192, device="cuda")

    def told(self, times: int) -> torch.cuda.Event:
        """Returns at once; over when that is done."""
        for _ in range(times):
            self._wide = torch.tanh(self._wide @ self._wide)
        return torch.cuda.current_stream().record_event()


def test_a_copy_is_over_before_what_the_device_was_told_after_it() -> None:
    pool = HostPool(1, 64 * MIB, "cuda")
    memory = torch.full((64 * MIB,), 7, dtype=torch.uint8, device="cuda")
    busy = Busy()
    copying = pool.save(leased(pool), memory, whole(1, 64 * MIB))
    computed = busy.told(200)
    finish(pool, copying)
    assert not computed.query(), "the copy waited for the computation"
    assert copying.duration_s > 0
    torch.cuda.synchronize()


def test_what_somebody_waits_for_is_not_behind_another_states_copy() -> None:
    pool, size = HostPool(2, 1024 * MIB, "cuda"), 1024 * MIB
    memory = torch.full((size,), 7, dtype=torch.uint8, device="cuda")
    played, suspended = leased(pool), leased(pool)
    small = {"one": Part(1, ((0, 64 * MIB),)), "two": Part(1, ((64 * MIB, size),))}
    finish(pool, pool.save(suspended, memory, small))
    memory[: 64 * MIB] = 9
    behind = pool.save(played, memory, whole(1, size))
    changed = small | {"one": Part(2, ((0, 64 * MIB),))}
    urgent = pool.save(suspended, memory, changed, urgent=True)
    finish(pool, urgent)
    assert pool.waiting, "it waited for the other one"
    finish(pool, pool.save(suspended, memory, changed, urgent=True))
    assert not behind.over, "nothing was left to copy"
    finish(pool, behind)
    for mirror in (suspended, played):
        back = torch.zeros_like(memory)
        pool.join(pool.load(mirror, back))
        assert torch.equal(back, memory)


def test_a_mirror_wanted_back_has_all_that_still_waited() -> None:
    pool, size = HostPool(1, 1024 * MIB, "cuda"), 1024 * MIB
    memory, mirror = torch.full((size,), 7, dtype=torch.uint8, device="cuda"), leased(pool)
    copying = pool.save(mirror, memory, whole(1, size))
    assert pool.waiting
    back = torch.zeros_like(memory)
    pool.join(pool.load(mirror, back))
    pool.join(copying)
    memory.zero_()
    assert bool((back == 7).all())


@pytest.mark.parametrize("captured", [True, False])
def test_what_a_layer_wrote_leaves_while_the_forward_still_runs(captured: bool) -> None:
    """Each launch's own bytes, from a graph or without one."""
    layers, layer_bytes, device = 2 * LAYERS_TOGETHER, 16 * MIB, torch.device("cuda", 0)
    memory = torch.zeros(layers * layer_bytes, dtype=torch.uint8, device=device)
    number, busy, marks = torch.zeros(1, dtype=torch.uint8, device=device), Busy(), Marks(device, layers)

    def forward() -> Tensor:
        number.add_(1)
        for layer, part in enumerate(memory.split(layer_bytes)):
            part.copy_(number.expand_as(part))
            marks.wrote(layer)
            busy.told(2)
        return number

    pool = HostPool(1, len(memory), "cuda")
    mirror = leased(pool)
    finish(pool, pool.save(mirror, memory, whole(0, len(memory))))
    launch: Callable[[], Any] = CudaCapture(device)(forward, warm=False)[0] if captured else forward
    for version in range(1, 4):
        torch.cuda.synchronize()
        expected = int(number) + 1
        launch()
        over, taken = torch.cuda.current_stream().record_event(), marks.taken()
        final = {"whole": spans(layers, layer_bytes, taken)}
        assert pool.save_ahead(mirror, memory, whole(version, len(memory)), final)
        begun = pool.waiting_bytes
        assert begun == len(memory), "nothing was final yet"
        until_waiting(pool, begun // 2)
        assert not over.query(), "the first half waited for the second"
        finish(pool, pool.save(mirror, memory, whole(version, len(memory))))
        back = torch.zeros_like(memory)
        pool.join(pool.load(mirror, back))
        assert bool((back == expected).all()), "an earlier launch's"


def spans(layers: int, layer_bytes: int, marks: Sequence[Any]) -> list[Final]:
    ends = [layer * layer_bytes for layer in range(layers + 1)]
    return [Final(*span, marks[layer // LAYERS_TOGETHER]) for layer, span in enumerate(pairwise(ends))]


def until_waiting(pool: HostPool, size_bytes: int) -> None:
    """No more than that is to be told."""
    deadline = time.monotonic() + WAIT_S
    while pool.waiting_bytes > size_bytes:
        assert time.monotonic() < deadline
        pool.pump()


def deep() -> Wan:
    """With several marks a forward, and every form that this GPU has."""
    arch = Architecture("tiny", layers=7, dim=256, ffn_dim=512, heads=4, text_tokens=16, text_dim=32)
    config = WanConfig(arch, LONGLIVE, Geometry(96, 64, 3), torch.bfloat16.itemsize)
    return random_model(config, 1, slots=3, device="cuda", dtype=torch.bfloat16)


def test_suspended_beside_the_last_pass_is_uninterrupted_bit_for_bit() -> None:
    """Young and with a full window, captured and not, with a prompt's recache among it."""
    model = deep()
    pool = HostPool(1, model.spec.state_bytes, "cuda")
    stayed, left = (model.open(seed=5, prompt=PROMPT) for _ in range(2))
    mirror, ahead = leased(pool), list[int]()
    for number in range(9):
        if number == 6:
            model.set_prompt(stayed, LATER)
            model.set_prompt(left, LATER)
        expected = chunk(model, stayed)
        for _ in range(model.begin_chunk(left, model.spec.rungs[0])):
            model.forward([left])
            told = pool.save_ahead(mirror, model.memory(left), model.parts(left), model.final(left))
            ahead.append(len(told))
        made = model.decode(left)
        assert torch.equal(expected, made), f"chunk {number}"
        counters, memory = model.counters(left), model.memory(left)
        saved = pool.save(mirror, memory, model.parts(left), urgent=True)
        assert (saved.bytes < len(memory), ahead[-1] > 0) == (number > 0, number > 0)
        finish(pool, saved)
        del left
        left = model.reserve()
        pool.join(pool.load(mirror, model.memory(left), model.blank(left)))
        model.take_over(left, counters)
        mirror.versions = {name: part.version for name, part in model.parts(left).items()}
        assert torch.equal(model.memory(left), model.memory(stayed))


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


def test_a_state_comes_back_after_its_place_is_blank_and_without_waiting_for_others() -> None:
    pool, size = HostPool(1, 64 * MIB, "cuda"), 64 * MIB
    places = Pool(Layout([Region("all", (size,), torch.uint8)]), 1, torch.device("cuda", 0))
    busy, mirror = Busy(), leased(pool)
    place = places.take()
    places.row(place).fill_(7)
    pool.join(pool.save(mirror, places.row(place), whole(1, size)))
    before = busy.told(40)
    places.give_back(place)
    after = busy.told(200)
    memory = places.row(places.take())
    loading = pool.load(mirror, memory, places.blank(place))
    finish(pool, loading)
    assert before.query(), "the copy came before what the place's last owner told the device"
    assert not after.query(), "the copy waited for what others told the device"
    pool.join(loading)
    assert bool((memory == 7).all())


def test_a_suspended_session_is_fetched_beside_what_others_told_the_device() -> None:
    model = wan()
    tiers = Tiers(Runner(model, "cuda"), HostPool(1, model.spec.state_bytes, "cuda"), 3)
    kept = Kept(0, state=tiers.take(lambda: model.open(seed=5, prompt=PROMPT)), mirror=tiers.pool.lease())
    chunk(model, kept.state)
    expected = model.memory(kept.state).clone()
    finish(tiers.pool, tiers.suspend(kept))
    tiers.settle()
    told = Busy().told(200)
    finish(tiers.pool, tiers.fetch(kept))
    assert not told.query(), "it waited for what others told the device"
    assert torch.equal(model.memory(tiers.usable(kept)), expected)


def test_a_place_given_back_in_a_capture_is_wiped_when_it_is_taken() -> None:
    """And not at every replay."""
    places = Pool(Layout([Region("all", (MIB,), torch.uint8)]), 1, torch.device("cuda", 0))
    place = places.take()
    places.row(place).fill_(7)
    counted, graph = torch.zeros(1, device="cuda"), torch.cuda.CUDAGraph()
    counted += 1
    with torch.cuda.graph(graph):
        counted += 1
        places.give_back(place)
    assert not places.row(places.take()).any()
    places.row(place).fill_(9)
    graph.replay()
    assert bool((places.row(place) == 9).all())


def test_memory_of_a_pool_that_is_gone_can_be_used_for_anything() -> None:
    """Copies into it may still be under way."""
    device_memory = torch.ones(128 * MIB, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    for _ in range(5):
        pool = HostPool(1, 128 * MIB, "cuda")
        pool.save(leased(pool), device_memory, whole(1, 128 * MIB))
        del pool
        plain = np.ones(128 * MIB, np.uint8)
        assert bool(torch.from_numpy(plain).cuda().all())
        assert bool(torch.empty(128 * MIB, dtype=torch.uint8, pin_memory=True).fill_(1).cuda().all())


def test_a_lock_that_fails_is_nobody_elses_error() -> None:
    memory = np.zeros(MIB, np.uint8)
    held = PageLocked(memory, "cuda", torch.cuda)
    with pytest.raises(RuntimeError, match="712"):
        PageLocked(memory, "cuda", torch.cuda)
    assert bool(torch.ones(4096, device="cuda").all())
    held.release()
    PageLocked(memory, "cuda", torch.cuda).release()


def test_a_fence_lets_another_thread_see_what_was_told_before_it() -> None:
    pool = HostPool(1, MIB, "cuda")
    Busy().told(10)
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
