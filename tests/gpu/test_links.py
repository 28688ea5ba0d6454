"""NCCL links between two GPUs, both ends in one process: bytes both ways, lateness, what an abort leaves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch

from services.worker.offload import HostPool
from services.worker.transfer.link import LinkLate, LinkLost
from services.worker.transfer.manifest import tag_of
from services.worker.transfer.nccl import NcclLink, NcclTransport, nccl_available

pytestmark = pytest.mark.skipif(
    torch.cuda.device_count() < 2 or not nccl_available(), reason="no pair of GPUs"
)
TAG, OTHER = tag_of("m-1", 0), tag_of("m-1", 1)
SIZES = (1, 4096, 64 << 20)

Aside = Callable[..., Future]


def soon(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


@pytest.fixture
def aside() -> Iterator[Aside]:
    with ThreadPoolExecutor(2) as pool:
        yield pool.submit


@pytest.fixture
def ends(aside: Aside) -> Iterator[list[NcclLink]]:
    transports = [NcclTransport(torch.device("cuda", number)) for number in range(2)]
    invitation = transports[0].invite()
    opening = [
        aside(transport.open, invitation, me, peer, soon())
        for transport, me, peer in zip(transports, "ab", "ba", strict=True)
    ]
    links = [each.result(40) for each in opening]
    yield links
    for link in links:
        link.close()


def filled(device: int) -> list[torch.Tensor]:
    made = [torch.randint(0, 256, (size,), dtype=torch.uint8, device=f"cuda:{device}") for size in SIZES]
    torch.cuda.synchronize(device)
    return made


def blank(device: int) -> list[torch.Tensor]:
    made = [torch.zeros(size, dtype=torch.uint8, device=f"cuda:{device}") for size in SIZES]
    torch.cuda.synchronize(device)
    return made


def test_bytes_go_both_ways_again_and_again(ends: list[NcclLink], aside: Aside) -> None:
    for number in range(4):
        source, target = number % 2, 1 - number % 2
        held, into = filled(source), blank(target)
        receiving = aside(ends[target].receive, into, TAG, soon())
        ends[source].send(held, TAG, soon())
        receiving.result(40)
        assert all(torch.equal(one.cpu(), two.cpu()) for one, two in zip(held, into, strict=True))


def test_another_transfer_than_the_expected_one_ends_the_link(ends: list[NcclLink], aside: Aside) -> None:
    receiving = aside(ends[1].receive, blank(1), OTHER, soon())
    ends[0].send(filled(0), TAG, soon())
    with pytest.raises(LinkLost, match="its tag is not the expected one"):
        receiving.result(40)
    assert not ends[1].healthy()


def test_who_waits_for_a_peer_that_sends_nothing_is_late_and_the_device_goes_on(ends: list[NcclLink]) -> None:
    with pytest.raises(LinkLate):
        ends[1].receive(blank(1), TAG, soon(0.5))
    product = torch.ones(64, 64, device="cuda:1") @ torch.ones(64, 64, device="cuda:1")
    assert float(product[0, 0]) == 64


def test_a_fence_waits_for_the_device_without_a_host_pool_too() -> None:
    pool = HostPool(0, 1 << 20, "cuda:0")
    with torch.cuda.device(0):
        matrix = torch.ones(4096, 4096, device="cuda:0")
        for _ in range(50):
            matrix = matrix @ matrix * 0
        pool.fence()()
        assert torch.cuda.current_stream().query()
