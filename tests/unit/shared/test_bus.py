"""The bus on a real nats-server: what arrives, what is refused, and what happens while NATS is away."""

import asyncio
from collections.abc import AsyncIterator

import nats
import pytest

from shared import bus as bus_module
from shared import codec
from shared.bus import Bus, BusAway, Meta, NoAnswer, Refused
from shared.contracts.fleet import WorkerExited
from shared.contracts.session import ListSessions, OpenSession, SessionPage, SessionView
from shared.contracts.stream import ChunkReady
from shared.contracts.subjects import CHUNK_READY, LIST, OPEN, WORKER_EXITED
from tests.contract.examples import PROMPT, SESSION, VIEW
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.process import START_S
from tests.fixtures.waiting import WAIT_S, until

TENANT = OPEN.at(cell="main", tenant="default")


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    connected = Bus(nats_url, "test-1")
    await connected.connect(WAIT_S)
    yield connected
    await connected.close()


@pytest.fixture
async def peer(nats_url: str) -> AsyncIterator[Bus]:
    connected = Bus(nats_url, "peer-1")
    await connected.connect(WAIT_S)
    yield connected
    await connected.close()


async def answer(_message: OpenSession, _meta: Meta) -> SessionView:
    return VIEW


async def test_a_message_arrives_with_its_tokens(bus: Bus, peer: Bus) -> None:
    arrived: asyncio.Queue[tuple[ChunkReady, Meta]] = asyncio.Queue()
    await bus.subscribe(CHUNK_READY, lambda message, meta: arrived.put_nowait((message, meta)), cell="main")
    await bus.flush()
    address = CHUNK_READY.at(cell="main", tenant="default", session=SESSION)
    assert await peer.publish(address, ChunkReady(1, 2, 3))
    message, meta = await asyncio.wait_for(arrived.get(), WAIT_S)
    assert message == ChunkReady(1, 2, 3)
    assert meta.tokens == {"cell": "main", "tenant": "default", "session": SESSION}


async def test_a_request_is_answered(bus: Bus, peer: Bus) -> None:
    asked: list[tuple[OpenSession, str]] = []

    async def open_session(message: OpenSession, meta: Meta) -> SessionView:
        asked.append((message, meta.tokens["tenant"]))
        return VIEW

    await bus.serve(OPEN, open_session, queue="placement", cell="main")
    await bus.flush()
    assert await peer.request(TENANT, OpenSession([PROMPT]), WAIT_S) == VIEW
    assert asked == [(OpenSession([PROMPT]), "default")]


async def test_one_of_a_queue_group_answers(bus: Bus, peer: Bus) -> None:
    answered = 0

    async def count(_message: OpenSession, _meta: Meta) -> SessionView:
        nonlocal answered
        answered += 1
        return VIEW

    for server in (bus, peer):
        await server.serve(OPEN, count, queue="placement", cell="main")
        await server.flush()
    for _ in range(5):
        await peer.request(TENANT, OpenSession([]), WAIT_S)
    await bus.flush()
    assert answered == 5


async def test_a_refusal_reaches_the_asker(bus: Bus, peer: Bus) -> None:
    async def refuse(_message: OpenSession, _meta: Meta) -> SessionView:
        raise Refused("unknown_model", "there is no model x", "ask for shapes-1")

    await bus.serve(OPEN, refuse, cell="main")
    await bus.flush()
    with pytest.raises(Refused, match="there is no model x") as refused:
        await peer.request(TENANT, OpenSession([]), WAIT_S)
    assert (refused.value.refusal.code, refused.value.refusal.hint) == ("unknown_model", "ask for shapes-1")


async def test_a_failing_handler_is_a_refusal_too(bus: Bus, peer: Bus) -> None:
    async def fail(_message: OpenSession, _meta: Meta) -> SessionView:
        raise KeyError("oops")

    await bus.serve(OPEN, fail, cell="main")
    await bus.flush()
    with pytest.raises(Refused) as refused:
        await peer.request(TENANT, OpenSession([]), WAIT_S)
    assert refused.value.refusal.code == "internal"


async def test_nobody_serving_is_said_at_once(peer: Bus) -> None:
    with pytest.raises(NoAnswer, match=r"nobody serves .*open"):
        await asyncio.wait_for(peer.request(TENANT, OpenSession([]), 3600.0), WAIT_S)


async def test_a_request_has_a_deadline(bus: Bus, peer: Bus) -> None:
    async def never(_message: OpenSession, _meta: Meta) -> SessionView:
        await asyncio.Event().wait()
        return VIEW

    await bus.serve(OPEN, never, cell="main")
    await bus.flush()
    with pytest.raises(NoAnswer, match=r"within 0\.05 s"):
        await peer.request(TENANT, OpenSession([]), 0.05)
    await bus.close(wait_s=0.01)


async def test_undecodable_requests_are_refused_and_counted(bus: Bus, nats_url: str) -> None:
    await bus.serve(OPEN, answer, cell="main")
    await bus.flush()
    counted = _undecodable(OPEN.template)
    async with await nats.connect(nats_url) as raw:
        for subject, payload in (
            (TENANT.subject, b"\xc1 garbage"),
            (TENANT.subject, b""),
            ("ts.main.session.Not_A_Tenant.open", codec.encode(OpenSession([]))),
        ):
            reply = await raw.request(subject, payload, timeout=WAIT_S)
            assert reply.headers == {bus_module.ERROR_HEADER: "undecodable"}
        whole = await raw.request(TENANT.subject, codec.encode(OpenSession([])), timeout=WAIT_S)
    assert codec.decode(type(VIEW), whole.data) == VIEW
    assert _undecodable(OPEN.template) == counted + 3


async def test_undecodable_messages_are_skipped(bus: Bus, nats_url: str) -> None:
    arrived: asyncio.Queue[WorkerExited] = asyncio.Queue()
    await bus.subscribe(WORKER_EXITED, lambda message, _meta: arrived.put_nowait(message), cell="main")
    await bus.flush()
    good = WORKER_EXITED.at(cell="main", worker="worker-1")
    async with await nats.connect(nats_url) as raw:
        for subject, payload in (
            (good.subject, b"garbage"),
            ("ts.main.exited.Worker_1", codec.encode(WorkerExited("worker-1"))),
            (good.subject, codec.encode(WorkerExited("worker-1", 3))),
        ):
            await raw.publish(subject, payload)
    assert await asyncio.wait_for(arrived.get(), WAIT_S) == WorkerExited("worker-1", 3)
    assert arrived.empty()


async def test_a_failing_subscriber_gets_the_next_message(bus: Bus, peer: Bus) -> None:
    arrived: asyncio.Queue[int | None] = asyncio.Queue()

    def fail_first(message: WorkerExited, _meta: Meta) -> None:
        arrived.put_nowait(message.exit_code)
        if message.exit_code == 1:
            raise RuntimeError("first")

    await bus.subscribe(WORKER_EXITED, fail_first, cell="main")
    await bus.flush()
    for code in (1, 2):
        await peer.publish(WORKER_EXITED.at(cell="main", worker="worker-1"), WorkerExited("worker-1", code))
    assert [await asyncio.wait_for(arrived.get(), WAIT_S) for _ in range(2)] == [1, 2]


async def test_an_answer_nobody_understands_is_no_answer(peer: Bus, nats_url: str) -> None:
    async with await nats.connect(nats_url) as raw:
        for headers in (None, {bus_module.ERROR_HEADER: "x"}):

            async def garbage(message, headers=headers) -> None:
                await raw.publish(message.reply, b"\xc1", headers=headers)

            subscription = await raw.subscribe(TENANT.subject, cb=garbage)
            await raw.flush()
            await raw.flush()
            with pytest.raises(NoAnswer, match="nobody understands"):
                await peer.request(TENANT, OpenSession([]), WAIT_S)
            await subscription.unsubscribe()


async def test_requests_beyond_the_bound_are_told_to_come_back(
    bus: Bus, peer: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "MAX_REQUESTS_IN_FLIGHT", 2)
    started: asyncio.Queue[None] = asyncio.Queue()
    free = asyncio.Event()

    async def wait(_message: OpenSession, _meta: Meta) -> SessionView:
        started.put_nowait(None)
        await free.wait()
        return VIEW

    await bus.serve(OPEN, wait, cell="main")
    await bus.flush()
    held = [asyncio.create_task(peer.request(TENANT, OpenSession([]), WAIT_S)) for _ in range(2)]
    for _ in held:
        await asyncio.wait_for(started.get(), WAIT_S)
    with pytest.raises(Refused) as refused:
        await peer.request(TENANT, OpenSession([]), WAIT_S)
    assert refused.value.refusal.code == "busy"
    free.set()
    assert await asyncio.gather(*held) == [VIEW, VIEW]
    assert await peer.request(TENANT, OpenSession([]), WAIT_S) == VIEW


async def test_close_lets_running_requests_end(bus: Bus, peer: Bus) -> None:
    started, free = asyncio.Event(), asyncio.Event()

    async def wait(_message: OpenSession, _meta: Meta) -> SessionView:
        started.set()
        await free.wait()
        return VIEW

    await bus.serve(OPEN, wait, cell="main")
    await bus.flush()
    asking = asyncio.create_task(peer.request(TENANT, OpenSession([]), WAIT_S))
    await asyncio.wait_for(started.wait(), WAIT_S)
    closing = asyncio.create_task(bus.close(WAIT_S))
    free.set()
    await closing
    assert await asking == VIEW


async def test_two_thousand_requests_leave_nothing_behind(bus: Bus, peer: Bus) -> None:
    await bus.serve(LIST, lambda _message, _meta: _page(), cell="main")
    await bus.flush()
    address = LIST.at(cell="main", tenant="default")
    await peer.request(address, ListSessions(), WAIT_S)
    before = len(asyncio.all_tasks()), peer.client._subs.keys(), len(peer.client._resp_map)
    for _ in range(20):
        await asyncio.gather(*(peer.request(address, ListSessions(), WAIT_S) for _ in range(100)))
    await until(
        lambda: (len(asyncio.all_tasks()), peer.client._subs.keys(), len(peer.client._resp_map)) == before,
        f"{before} again",
    )


async def _page() -> SessionPage:
    return SessionPage([VIEW])


async def test_nats_away_at_start_is_named_without_its_password(fresh_nats: NatsServer) -> None:
    fresh_nats.stop()
    connecting = Bus(f"nats://user:secret@127.0.0.1:{fresh_nats.port}", "test-1")
    with pytest.raises(BusAway, match=f"nats://127.0.0.1:{fresh_nats.port}") as away:
        await connecting.connect(0.4)
    assert "secret" not in str(away.value)
    assert connecting.connected_s == 0.0


async def test_nats_that_comes_up_later_is_found(fresh_nats: NatsServer) -> None:
    fresh_nats.stop()
    late = Bus(fresh_nats.url, "test-1")
    connecting = asyncio.create_task(late.connect(START_S))
    await asyncio.sleep(0)
    fresh_nats.start()
    await connecting
    assert late.connected_s > 0.0
    await late.close()


async def test_while_nats_is_away_nothing_is_kept_and_all_is_well_afterwards(fresh_nats: NatsServer) -> None:
    here = Bus(fresh_nats.url, "test-1")
    await here.connect(WAIT_S)
    arrived: asyncio.Queue[WorkerExited] = asyncio.Queue()
    await here.subscribe(WORKER_EXITED, lambda message, _meta: arrived.put_nowait(message), cell="main")
    await here.serve(OPEN, answer, cell="main")
    back = asyncio.Event()
    here.on_reconnect(back.set)
    address = WORKER_EXITED.at(cell="main", worker="worker-1")
    stood_s = here.connected_s

    fresh_nats.kill()
    await until(lambda: not here.client.is_connected, "the loss of NATS")
    assert here.connected_s == 0.0
    assert not await here.publish(address, WorkerExited("worker-1", 1))
    with pytest.raises(BusAway, match=fresh_nats.url):
        await here.request(TENANT, OpenSession([]), WAIT_S)

    fresh_nats.start()
    await asyncio.wait_for(back.wait(), WAIT_S)
    assert stood_s > 0.0
    assert here.connected_s > 0.0
    assert await here.publish(address, WorkerExited("worker-1", 2))
    assert await asyncio.wait_for(arrived.get(), WAIT_S) == WorkerExited("worker-1", 2)
    assert await here.request(TENANT, OpenSession([]), WAIT_S) == VIEW
    assert arrived.empty()
    await here.close()


async def test_nats_that_freezes_counts_as_away(
    fresh_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection stands, but who hears nothing through it must not take others for dead."""
    monkeypatch.setattr(bus_module, "_PING_EVERY_S", 0.05)
    here = Bus(fresh_nats.url, "test-1")
    await here.connect(WAIT_S)
    back = asyncio.Event()
    here.on_reconnect(back.set)
    fresh_nats.freeze()
    await until(lambda: not here.connected_s, "the loss of NATS")
    fresh_nats.thaw()
    await asyncio.wait_for(back.wait(), WAIT_S)
    await here.close()


def _undecodable(template: str) -> float:
    return bus_module.undecodable_messages.labels(template)._value.get()
