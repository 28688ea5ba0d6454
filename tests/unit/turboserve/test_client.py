"""The client library against a real gateway, with placement and worker played by script."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
from rich.console import Console
from websockets.asyncio.server import ServerConnection, serve

from shared.contracts.session import ENDED, Input
from shared.ids import DEFAULT_TENANT
from tests.fixtures.gateway import GatewayProgram, Stage, chunk_of, media_of, open_stage
from tests.fixtures.nats_server import NatsServer
from turboserve import Chunk, Client, Session, sessions_command, stream_command
from turboserve.errors import ChunksGone, InvalidRequest, SessionEnded, UnknownSession, Unreachable
from turboserve.http_api import HttpApi
from turboserve.messages import SessionInfo

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def gateway(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProgram]:
    """One for all tests here: what they share of it is nothing but its port."""
    program = GatewayProgram(tmp_path_factory.mktemp("gateway"), nats_server.url, linger_s=2.0)
    program.start()
    yield program
    program.program.stop()
    nats_server.delete_streams()


@pytest.fixture
async def stage(nats_server: NatsServer) -> AsyncIterator[Stage]:
    async with open_stage(nats_server.url) as stage:
        yield stage


@pytest.fixture
async def client(gateway: GatewayProgram, stage: Stage) -> AsyncIterator[Client]:
    async with asyncio.timeout(DEADLINE_S), Client(gateway.url) as client:
        yield client


async def take(session: Session, count: int) -> list[int]:
    return [(await anext(session)).index for _ in range(count)]


async def test_chunks_come_once_each_and_are_granted_when_the_next_is_asked_for(
    client: Client, stage: Stage
) -> None:
    session = await client.open(prompt="a red circle", seed=5, priority=3)
    await stage.make(session.id, 0, 1)
    chunk = await anext(session)
    assert isinstance(chunk, Chunk)
    assert (chunk.index, chunk.media, chunk.prompt) == (0, media_of(session.id, 0), "a red circle")
    assert chunk.duration_s == 1.0
    assert chunk.timings["forward_s"] == pytest.approx(0.1)
    await stage.report(session.id, viewers=1, granted_through=-1)
    assert (await anext(session)).index == 1
    await stage.report(session.id, viewers=1, granted_through=0)
    assert (stage.sessions[session.id].seed, stage.sessions[session.id].priority) == (5, 3)
    assert session.warnings == ["unknown word: zyx"]


async def test_a_session_that_ends_ends_the_iteration(client: Client, stage: Stage) -> None:
    session = await client.open(prompt="a red circle")
    await stage.make(session.id, 0, 1)
    await stage.change(session.id, status="closed", phase="closed", reason="finished", next_chunk=2)
    assert [chunk.index async for chunk in session] == [0, 1]
    assert (session.status, session.info.reason) == ("closed", "finished")


async def test_a_session_that_fails_raises_why(client: Client, stage: Stage) -> None:
    session = await client.open(prompt="a red circle")
    await stage.change(session.id, status="failed", phase="failed", reason="the model exploded")
    with pytest.raises(SessionEnded, match="the model exploded"):
        await anext(session)


async def test_iteration_goes_on_where_it_stopped(client: Client, stage: Stage) -> None:
    session = await client.open(prompt="a red circle")
    await stage.make(session.id, 0, 1, 2, 3)
    assert await take(session, 2) == [0, 1]
    await session.leave()
    assert await take(session, 2) == [2, 3]


async def test_a_killed_gateway_is_found_again_without_a_chunk_lost_or_repeated(
    client: Client, stage: Stage, gateway: GatewayProgram
) -> None:
    session = await client.open(prompt="a red circle")
    await stage.make(session.id, 0, 1)
    assert await take(session, 1) == [0]
    gateway.program.kill()
    coming = asyncio.create_task(take(session, 2))
    gateway.start()
    await stage.make(session.id, 2)
    assert await coming == [1, 2]


async def test_a_held_chunk_is_not_granted(client: Client, stage: Stage) -> None:
    session = await client.open(prompt="a red circle")
    await stage.make(session.id, 0, 1, 2, 3)
    session.hold(4)
    assert await take(session, 4) == [0, 1, 2, 3]
    await stage.report(session.id, viewers=1, granted_through=1)
    assert max(r.granted_through for name, r in stage.reports if name == session.id) == 1
    assert (await session.steer("a blue star")).from_chunk == 5
    session.hold(None)
    await stage.make(session.id, 4)
    assert await take(session, 1) == [4]
    await stage.report(session.id, viewers=1, granted_through=3)


async def test_chunks_thrown_away_meanwhile_are_told(client: Client, stage: Stage) -> None:
    session = await client.open(prompt="a red circle")
    await stage.make(session.id, 0)
    assert await take(session, 1) == [0]
    await session.leave()
    await stage.make(session.id, *range(1, 20))
    assert await take(session, 1) == [12]
    assert session.cuts == [(1, 12)]


async def test_watching_begins_where_asked(client: Client, stage: Stage) -> None:
    session_id = stage.new_session()
    await stage.make(session_id, *range(12))
    assert await take(await client.watch(session_id, 5), 2) == [5, 6]
    live = await client.watch(session_id)
    taking = asyncio.create_task(take(live, 1))
    await stage.report(session_id, viewers=2, granted_through=11)
    await stage.make(session_id, 12)
    assert await taking == [12]
    with pytest.raises(ChunksGone) as gone:
        await anext(await client.watch(session_id, 1))
    assert gone.value.oldest_held == 5
    with pytest.raises(InvalidRequest, match="77"):
        await anext(await client.watch(session_id, 77))


async def test_leaving_closes_connections_and_only_a_sessions_own_block_closes_it(
    gateway: GatewayProgram, stage: Stage
) -> None:
    async with asyncio.timeout(DEADLINE_S), Client(gateway.url) as client:
        kept = await client.open(prompt="kept")
        await stage.make(kept.id, 0)
        await take(kept, 1)
        async with await client.open(prompt="closed") as closed:
            pass
    await stage.report(kept.id, viewers=0, granted_through=-1)
    assert stage.sessions[kept.id].status == "active"
    assert stage.sessions[closed.id].status in ENDED


async def test_calls_change_the_session(client: Client, stage: Stage) -> None:
    session = await client.open(prompt="a red circle")
    await session.pause()
    assert session.status == "paused"
    await session.resume()
    assert session.status == "active"
    await session.close()
    await session.close()
    with pytest.raises(SessionEnded) as ended:
        await session.steer("too late")
    assert (ended.value.code, ended.value.hint) == ("session_ended", "open another")


async def test_sessions_are_listed_over_pages_newest_first(client: Client, stage: Stage) -> None:
    made = [stage.new_session(created_at=float(n)) for n in range(205)]
    stage.new_session(created_at=0.5, status="closed")
    listed = [info.id for info in await client.sessions(limit=1000, live=True)]
    assert listed == made[::-1]
    assert [info.id for info in await client.sessions(limit=2)] == made[:-3:-1]


async def test_what_is_wrong_is_said(client: Client, stage: Stage) -> None:
    with pytest.raises(InvalidRequest):
        await client.open(prompt=" ")
    for unknown in ("main_00000000000000000000", "no such/thing?"):
        with pytest.raises(UnknownSession):
            await client.get(unknown)
    for address in ("localhost:8080", "http://localhost:port", "http://localhost:99999", "http://[::1"):
        with pytest.raises(InvalidRequest, match="not the address"):
            Client(address)
    async with Client("http://127.0.0.1:1") as nobody:
        with pytest.raises(Unreachable, match="no turboserve answers") as away:
            await nobody.sessions()
    assert "TURBOSERVE_URL" in away.value.hint


async def test_gives_up_on_a_gateway_that_stays_away() -> None:
    api = HttpApi("http://127.0.0.1:1", trace=False)
    session = Session(api, SessionInfo("main_00000000000000000000", "active"), 3, patience_s=0.3)
    with pytest.raises(Unreachable):
        await anext(session)
    await api.close()


async def test_gives_up_with_what_the_gateway_said(gateway: GatewayProgram) -> None:
    """It is there; placement, which no stage plays here, is not."""
    api = HttpApi(gateway.url, trace=False)
    session = Session(api, SessionInfo("main_00000000000000000000", "active"), 3, patience_s=0.3)
    with pytest.raises(Unreachable, match="placement") as away:
        await anext(session)
    assert away.value.code == "placement_away"
    await api.close()


async def test_patience_begins_anew_once_a_connection_stood() -> None:
    """A long pause brings no chunk, but may bring several lost connections, each found again."""
    patience_s = 1.0
    info = {"id": "main_00000000000000000000", "status": "paused"}
    chunk = {"type": "chunk", "index": 0, "frames": 1, "fps": 1.0, "width": 8, "height": 8, "codec": ""}
    connections = 0

    async def flaky(socket: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await socket.send(json.dumps({"type": "session", "session": info, "from": 0}))
        if connections == 2:
            await asyncio.sleep(1.2 * patience_s)
        elif connections == 3:
            await socket.send(json.dumps(chunk | {"inputs_version": 1, "inputs": []}))
            await socket.send(b"media")
            await socket.wait_closed()

    async with asyncio.timeout(DEADLINE_S), serve(flaky, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        api = HttpApi(f"http://127.0.0.1:{port}", trace=False)
        session = Session(api, SessionInfo(info["id"], "paused"), 0, patience_s)
        assert (await anext(session)).media == b"media"
        await api.close()


async def test_the_commands_show_a_prompt_as_it_was_typed(gateway: GatewayProgram, stage: Stage) -> None:
    prompt = "a [/red] circle"
    shown = io.StringIO()
    console = Console(file=shown, width=120)
    request = stream_command.Request(gateway.url, prompt, [stream_command.Then("a [/blue] one", 1)], 2)
    async with asyncio.timeout(DEADLINE_S):
        streaming = asyncio.create_task(stream_command.stream(request, console))
        async with stage.reported:
            await stage.reported.wait_for(lambda: bool(stage.sessions))
        [session_id] = stage.sessions
        inputs = [Input("prompt", prompt)]
        sequence = 0
        for index in range(2):
            chunk = msgspec.structs.replace(chunk_of(session_id, index), inputs=inputs)
            sequence = await stage.log.append(DEFAULT_TENANT, chunk, sequence)
        await streaming
        stage.new_session(status="failed", reason="no [/bold] luck")
        await sessions_command.sessions(gateway.url, 5, live=False, as_json=False, console=console)
    assert prompt in shown.getvalue()
    assert "chunk 5: a [/blue] one" in shown.getvalue()
    assert "(no [/bold] luck)" in shown.getvalue()
