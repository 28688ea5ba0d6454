"""Links between two GPUs, by CUDA IPC and by NCCL, one process at each end: bytes both ways, lateness, a
killed peer, what stays behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from services.worker.offload import HostPool
from services.worker.transfer.link import LinkLate, LinkLost, LinkRefused
from services.worker.transfer.manifest import tag_of
from services.worker.transfer.nccl import nccl_available
from tests.gpu.end import End, Far, linked

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no pair of GPUs")

OTHER = tag_of("m-1", 1)
FEW = (1, 4096, 64 << 20, 77)
MANY = (14 << 20,) * 300
LEFT_BEHIND_BYTES = 256 << 20  # a context on the peer's GPU would be twice that


@pytest.fixture(scope="module")
def near() -> End:
    return End(0)


@pytest.fixture(scope="module")
def far() -> Iterator[Far]:
    far = Far()
    yield far
    far.kill()


@pytest.fixture(params=["ipc", "nccl"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "nccl" and not nccl_available():
        pytest.skip("no NCCL")
    return request.param


@pytest.fixture
def link(near: End, far: Far, kind: str) -> Iterator[str]:
    with linked(near, far, kind) as name:
        yield name


def test_links_closed_and_opened_again_leave_nothing_behind(
    near: End, far: Far, say: Callable[[str], None]
) -> None:
    """Before all other tests: a mapping that made a context on the peer's GPU would do so at once, and its
    process would see it there.
    """
    near.has(FEW, 0)
    far.do("has", FEW, 0)
    near.transport("ipc")
    free = (near.free_bytes(), far.do("free_bytes"))
    times = [there_and_back(near, far, seed) for seed in range(20)]
    less = (free[0] - near.free_bytes(), free[1] - far.do("free_bytes"))
    say(f"opened in {min(times):.3f} to {max(times):.3f} s; {less[0]:,} and {less[1]:,} bytes less free")
    assert max(less) < LEFT_BEHIND_BYTES


def there_and_back(near: End, far: Far, seed: int) -> float:
    """By a link of its own; how long it took to open that."""
    started = time.monotonic()
    with linked(near, far, "ipc"):
        opened_s = time.monotonic() - started
        far.ask("receive", FEW, seed)
        near.send(FEW, seed)
        assert far.answer()
        far.ask("send", FEW, seed)
        assert near.receive(FEW, seed)
        far.answer()
    return opened_s


def test_bytes_go_both_ways_again_and_again(near: End, far: Far, link: str) -> None:
    for seed in range(0, 6, 2):
        far.ask("receive", FEW, seed)
        near.send(FEW, seed)
        assert far.answer()
        far.ask("send", FEW, seed + 1)
        assert near.receive(FEW, seed + 1)
        far.answer()
    assert near.healthy()
    assert far.do("healthy")


def test_hundreds_of_pieces_arrive_while_both_gpus_are_busy(
    near: End, far: Far, link: str, say: Callable[[str], None]
) -> None:
    rates: dict[str, list[float]] = {"idle": [], "busy": []}
    for state, count in (("idle", 3), ("busy", 4)):
        if state == "busy":
            near.be_busy()
            far.do("be_busy")
        try:
            for seed in range(count):
                far.do("blank", MANY)
                far.ask("take", MANY)
                rates[state].append(sum(MANY) / near.send(MANY, seed) / 1e9)
                far.answer()
                assert far.do("has", MANY, seed)
        finally:
            near.rest()
            far.do("rest")
    for state, found in rates.items():
        say(f"{link}, GPUs {state}: {', '.join(f'{rate:.0f}' for rate in found)} GB/s")


def test_another_transfer_than_the_expected_one_ends_the_link(near: End, far: Far, link: str) -> None:
    far.ask("send", FEW, 1, OTHER)
    with pytest.raises(LinkLost, match="its tag is not the expected one"):
        near.receive(FEW, 1)
    assert not near.healthy()
    try:
        far.answer()  # NCCL's sender is done once the bytes are away
    except LinkLost:
        assert not far.do("healthy")


def test_who_waits_for_a_peer_that_sends_nothing_is_late_and_the_device_goes_on(
    near: End,
    link: str,
) -> None:
    with pytest.raises(LinkLate):
        near.receive(FEW, 1, seconds=0.5)
    assert computes()


def test_a_process_does_not_map_its_own_memory(near: End) -> None:
    transport: Any = near.transport("ipc")
    lending = transport._lending
    place = lending.places([lending.proof])[0]
    with pytest.raises(LinkRefused, match="its own memory"):
        lending.map(lending.handle(place.allocation))
    with pytest.raises(LinkRefused, match="what is lent is on"):
        lending.places([torch.zeros(4, dtype=torch.uint8)])


def test_a_fence_waits_for_the_device_without_a_host_pool_too() -> None:
    pool = HostPool(0, 1 << 20, "cuda:0")
    with torch.cuda.device(0):
        matrix = torch.ones(4096, 4096, device="cuda:0")
        for _ in range(50):
            matrix = matrix @ matrix * 0
        pool.fence()()
        assert torch.cuda.current_stream().query()


def test_a_killed_receiver_is_lost_and_the_device_goes_on(near: End) -> None:
    mortal = Far()
    with linked(near, mortal, "ipc"):
        mortal.ask("receive", FEW, 1)
        near.send(FEW, 1)
        assert mortal.answer()
        mortal.kill()
        with pytest.raises(LinkLost):
            near.send(FEW, 1)
        assert not near.healthy()
    assert computes()


def test_a_sender_killed_while_its_memory_is_copied_is_lost_and_the_device_goes_on(
    near: End, far: Far, say: Callable[[str], None]
) -> None:
    """Last in this file: what becomes of a copy whose source's process is gone is nowhere documented."""
    mortal = Far()
    with linked(near, mortal, "ipc"), ThreadPoolExecutor(1) as aside:
        near.blank(MANY)
        mortal.ask("send", MANY, 1)
        taking = aside.submit(near.take, MANY)
        link: Any = near.link
        while link._lane.idle() and not taking.done():
            pass
        mortal.kill()
        lost = taking.exception(60)
        say(f"the sender was killed in mid-copy: {lost or 'all had come'}")
        assert lost is None or isinstance(lost, LinkLost)
    assert computes()
    with linked(near, far, "ipc"):
        far.ask("receive", FEW, 2)
        near.send(FEW, 2)
        assert far.answer()


def computes() -> bool:
    product = torch.ones(64, 64, device="cuda:0") @ torch.ones(64, 64, device="cuda:0")
    return float(product[0, 0]) == 64


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}")

    return say
