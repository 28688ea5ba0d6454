"""The log of decisions on a real JetStream: found by id and by session, bounded, never waited for."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from shared import ids
from shared.bus import Bus, BusAway
from shared.contracts.subjects import DECISION
from shared.decision_log import (
    MAX_WAITING,
    Decided,
    DecisionLog,
    DecisionLogSettings,
    Recorder,
    dropped_decisions,
    make_record,
    unpack,
)
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.waiting import until

WAIT_S = 10.0


class Seen(msgspec.Struct, frozen=True):
    """Stands for a policy's structs."""

    number: float = 0.1
    names: tuple[str, ...] = ("w-1",)


def decided(*sessions: str, service: str = "placement", size: int = 1) -> Decided:
    view = Seen(names=tuple(ids.new_instance_id("worker") for _ in range(size)))
    decision = ids.new_decision_id(service)
    return Decided(
        decision, 5.0, "turboserve", "a test", list(sessions), ["w-1"], Seen(), view, Seen(), Seen()
    )


async def put(log: DecisionLog, *decisions: Decided, service: str = "placement") -> list[str]:
    for one in decisions:
        await log.put(make_record(one, service, f"{service}-1"))
    return [one.id for one in decisions]


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    connected = Bus(nats_url, "test-1")
    await connected.connect(WAIT_S)
    yield connected
    await connected.close()


@pytest.fixture
def log(bus: Bus) -> DecisionLog:
    return DecisionLog(bus, "main", timeout_s=WAIT_S)


async def test_a_record_comes_back_with_all_it_was_a_function_of(log: DecisionLog) -> None:
    assert await log.get(ids.new_decision_id("placement")) is None  # nor is there a stream yet
    assert await log.newest(5) == []
    given = decided("s-1", size=3)
    record = make_record(given, "placement", "placement-1")
    await log.put(record)
    assert await log.get(given.id) == record
    assert await log.get(ids.new_decision_id("placement")) is None
    assert await log.get("nonsense.>") is None
    assert msgspec.json.decode(unpack(record.view), type=Seen) == given.view


async def test_the_newest_come_first_and_may_be_asked_for_by_whom_they_concern(log: DecisionLog) -> None:
    first = await put(log, *(decided(f"s-{n % 3}") for n in range(40)))
    scaled = await put(log, *(decided(service="autoscaler") for _ in range(2)), service="autoscaler")

    async def found(limit: int, **wanted: str) -> list[str]:
        return [record.id for record in await log.newest(limit, **wanted)]

    assert await found(5) == [*scaled[::-1], *first[:-4:-1]]
    assert await found(100) == [*scaled[::-1], *first[::-1]]
    assert await found(3, service="placement") == first[:-4:-1]
    assert await found(4, session="s-1") == first[1::3][:-5:-1]
    assert await found(4, session="s-9") == []


async def test_the_oldest_goes_when_the_log_is_full(bus: Bus) -> None:
    log = DecisionLog(bus, "full", DecisionLogSettings(max_bytes=20_000), timeout_s=WAIT_S)
    await log.ensure()
    await log.ensure()
    given = await put(log, *(decided(size=200) for _ in range(20)))
    held = [record.id for record in await log.newest(100)]
    assert 0 < len(held) < 20
    assert held == given[: -len(held) - 1 : -1]
    assert await log.get(given[0]) is None


async def test_bytes_that_are_no_record_are_passed_over(log: DecisionLog, bus: Bus) -> None:
    given = await put(log, decided())
    nonsense = ids.new_decision_id("placement")
    address = DECISION.at(cell="main", service="placement", id=nonsense)
    await bus.client.jetstream().publish(address.subject, b"garbage")
    assert await log.get(nonsense) is None
    assert [record.id for record in await log.newest(5)] == given


async def test_recording_never_waits_and_what_is_too_much_is_counted(bus: Bus, log: DecisionLog) -> None:
    recorder = Recorder(bus, "main", "placement", "placement-1", WAIT_S)
    before = dropped_decisions._value.get()
    given = [decided() for _ in range(MAX_WAITING + 3)]
    for one in given:
        recorder.record(one)
    assert dropped_decisions._value.get() == before + 3
    running = asyncio.create_task(recorder.run())
    kept = given[:MAX_WAITING]
    async with asyncio.timeout(30):
        while await log.get(kept[-1].id) is None:
            await asyncio.sleep(0.02)
    running.cancel()
    records = await log.newest(100)
    assert [record.id for record in records] == [one.id for one in kept[::-1]]
    assert (records[0].service, records[0].instance) == ("placement", "placement-1")


async def test_without_nats_decisions_are_dropped_and_afterwards_recorded_again(
    fresh_nats: NatsServer,
) -> None:
    bus = Bus(fresh_nats.url, "test-1")
    await bus.connect(WAIT_S)
    recorder = Recorder(bus, "main", "placement", "placement-1")
    log = DecisionLog(bus, "main", timeout_s=WAIT_S)
    kept = await put(log, decided())
    running = asyncio.create_task(recorder.run())
    before = dropped_decisions._value.get()
    fresh_nats.stop()
    await until(lambda: not bus.connected_s, "the loss of NATS to be noticed", 30)
    recorder.record(decided())
    await until(lambda: dropped_decisions._value.get() == before + 1, "the decision to be dropped")
    with pytest.raises(BusAway, match="log of decisions"):
        await DecisionLog(bus, "main", timeout_s=0.2).get(kept[0])
    fresh_nats.start()
    await until(lambda: bool(bus.connected_s), "NATS to be back", 30)
    given: list[str] = []
    async with asyncio.timeout(30):
        while len(newest := [record.id for record in await log.newest(1000)]) < 2:
            given.append((again := decided()).id)
            recorder.record(again)
            await asyncio.sleep(0.1)
    assert newest[0] in given
    assert newest[-1] == kept[0]
    running.cancel()
    await bus.close()
