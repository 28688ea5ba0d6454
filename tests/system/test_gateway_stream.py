"""Viewers of real gateways, with placement and the worker by script."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from shared.contracts import subjects
from shared.ids import DEFAULT_CELL, DEFAULT_TENANT, new_session_id
from tests.fixtures.gateway import LARGE_MEDIA, LOG_CHUNKS, GatewayProgram, Stage, media_of, open_stage
from tests.fixtures.nats_server import NatsServer
from tests.fixtures.waiting import WAIT_S

pytestmark = pytest.mark.anyio


class View:
    """One viewer, as a test drives it."""

    def __init__(self, socket: ClientConnection, session: str) -> None:
        self.socket = socket
        self.session = session
        self.hello: dict[str, Any] = {}

    async def event(self) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_S):
            text = await self.socket.recv()
        assert isinstance(text, str), "a binary message without its announcement"
        event: dict[str, Any] = json.loads(text)
        if event["type"] == "chunk":
            async with asyncio.timeout(WAIT_S):
                media = await self.socket.recv()
            assert media == media_of(self.session, event["index"])
            assert event["bytes"] == len(media)
        return event

    async def until(self, kind: str) -> dict[str, Any]:
        while (event := await self.event())["type"] != kind:
            assert event["type"] not in {"chunk", "end", "cut"}, f"{event} before {kind}"
        return event

    async def chunks(self, *indices: int) -> None:
        for index in indices:
            assert (await self.until("chunk"))["index"] == index

    async def grant(self, through: int) -> None:
        await self.socket.send(json.dumps({"type": "grant", "granted_through": through}))

    async def closed(self) -> tuple[int, str]:
        """The close code and the code of the error event before it, if there was one."""
        error = ""
        try:
            while True:
                event = await self.event()
                error = event["code"] if event["type"] == "error" else error
        except ConnectionClosed as closing:
            return closing.rcvd.code if closing.rcvd else 0, error


@asynccontextmanager
async def watching(gateway: GatewayProgram, session: str, query: str = "") -> AsyncIterator[View]:
    async with connect(gateway.sockets(session, query)) as socket:
        view = View(socket, session)
        view.hello = await view.until("session")
        yield view


async def refused(gateway: GatewayProgram, session: str, query: str = "") -> tuple[int, dict[str, Any]]:
    """The close code and the error event of a viewer that is not let in."""
    async with connect(gateway.sockets(session, query)) as socket:
        view = View(socket, session)
        error = await view.until("error")
        return (await view.closed())[0], error


async def test_viewers_with_different_froms_get_every_chunk_once_in_order(
    gateway: GatewayProgram, stage: Stage
) -> None:
    session = stage.new_session()
    await stage.make(session, 0, 1, 2, 3)
    async with (
        watching(gateway, session, "?from=0&credit=auto") as first,
        watching(gateway, session, "?from=3") as second,
        watching(gateway, session) as live,
    ):
        expected = {"from": 0, "oldest_held": 0, "next_chunk": 4, "granted_through": -1, "credit_window": 2}
        assert first.hello.items() >= expected.items()
        assert first.hello["session"]["id"] == session
        assert (live.hello["from"], live.hello["granted_through"]) == (4, 3)
        await first.chunks(0, 1, 2, 3)
        await second.chunks(3)
        await stage.report(session, viewers=3, granted_through=3)
        await stage.make(session, 4, 5)
        for view in (first, second, live):
            await view.chunks(4)
        await first.chunks(5)
        await live.chunks(5)
        await stage.report(session, viewers=3, granted_through=5)
        await stage.make(session, 6, hint=False)
        await first.chunks(6)
        await live.grant(4)
        await live.chunks(6)
        await second.grant(3)
        await second.chunks(5)
        event = {
            "index": 5,
            "frames": 12,
            "fps": 12.0,
            "codec": "avc1.42c00b",
            "worker": "w-1",
            "rung": "standard",
        }
        await second.grant(4)
        assert (await second.until("chunk")).items() >= (event | {"index": 6}).items()
    await stage.report(session, viewers=0, granted_through=6)


async def test_the_window_is_two_chunks_beyond_the_grant(gateway: GatewayProgram, stage: Stage) -> None:
    session = stage.new_session()
    await stage.make(session, 0, 1, 2, 3, 4)
    async with watching(gateway, session, "?from=0") as view:
        await view.chunks(0, 1)
        await view.socket.send("nonsense")
        assert (await view.until("error"))["code"] == "nonsense", "before any further chunk"
        await view.grant(7)
        assert (await view.until("error"))["code"] == "bad_grant"
        await view.grant(1)
        await view.grant(0)
        await view.chunks(2, 3)
        await stage.report(session, viewers=1, granted_through=1)


async def test_a_viewer_that_stays_behind_is_cut_to_the_live_edge(
    gateway: GatewayProgram, stage: Stage
) -> None:
    session = stage.new_session()
    await stage.make(session, 0, 1)
    async with (
        watching(gateway, session, "?from=0") as slow,
        watching(gateway, session, "?credit=auto") as quick,
    ):
        await slow.chunks(0, 1)
        live_edge = LOG_CHUNKS + 4
        for index in range(2, live_edge):  # one by one: the log may not lose what the gateway has yet to read
            await stage.make(session, index)
            await quick.chunks(index)
        await slow.grant(1)
        assert await slow.until("cut") == {"type": "cut", "from": 2, "to": live_edge}
        await stage.report(session, viewers=2, granted_through=live_edge - 1)
        await stage.make(session, live_edge)
        await slow.chunks(live_edge)


async def test_a_from_that_can_not_be_had(gateway: GatewayProgram, stage: Stage) -> None:
    session = stage.new_session()
    await stage.make(session, *range(LOG_CHUNKS + 3))
    for query in ("?from=99", "?from=-1", "?from=x", "?from=", "?credit=much", f"?from={'9' * 400}"):
        assert (await refused(gateway, session, query))[0] == 4400, query
    code, error = await refused(gateway, session, "?from=2")
    assert (code, error["code"], error["oldest_held"]) == (4410, "from_gone", 3)
    async with watching(gateway, session, "?from=3") as view:
        await view.chunks(3)
    for unknown in (new_session_id(DEFAULT_CELL), "nonsense"):
        assert (await refused(gateway, unknown))[0] == 4404


async def test_nonsense_is_answered_and_at_last_ends_the_stream(
    gateway: GatewayProgram, stage: Stage
) -> None:
    session = stage.new_session()
    async with watching(gateway, session) as view:
        nonsense: list[str | bytes] = [
            "no json",
            "[]",
            '{"type": "dance"}',
            '{"type": "grant"}',
            '{"type": "grant", "granted_through": "5"}',
            '{"type": "grant", "granted_through": 1e400}',
            b"\x00\xff",
            "[" * 10_000,
        ]
        for message in nonsense:
            await view.socket.send(message)
            assert (await view.until("error"))["code"] == "nonsense", message
        await view.socket.send("one too many")
        assert await view.closed() == (4400, "nonsense")
    async with watching(gateway, session) as view:
        await view.socket.send("x" * 20_000)
        assert (await view.closed())[0] == 1009
    await stage.report(session, viewers=0, granted_through=-1)


async def test_who_waits_is_told_of_its_turn(gateway: GatewayProgram, stage: Stage) -> None:
    session = stage.new_session(status="queued", worker="", position=4)
    async with watching(gateway, session) as view:
        for position, wait_s in ((4, 9.5), (1, 3.0)):  # the row stays as it is
            await stage.tell(session, position=position, expected_wait_s=wait_s)
            state = await view.until("state")
            assert (state["position"], state["expected_wait_s"]) == (position, wait_s)
        await stage.tell(session, phase="recovering")
        assert (await view.until("state"))["phase"] == "recovering"
        await stage.change(session, status="active", position=None, expected_wait_s=None, served_rung="fast")
        state = await view.until("state")
        assert (state["status"], state["position"], state["served_rung"]) == ("active", None, "fast")


async def test_changes_of_the_session_are_told_and_its_end_ends_the_stream(
    gateway: GatewayProgram, stage: Stage
) -> None:
    session = stage.new_session()
    async with watching(gateway, session) as view:
        await stage.change(session, status="paused", phase="paused", reason="asked")
        state = await view.until("state")
        assert (state["status"], state["reason"], state["inputs_version"]) == ("paused", "asked", 1)
        await stage.change(session, next_chunk=0)
        await stage.change(session, status="active", phase="generating", reason="")
        assert (await view.until("state"))["status"] == "active"
        await stage.make(session, 0, 1, hint=False)
        await stage.change(session, status="closed", phase="closed", reason="max_chunks", next_chunk=2)
        told = [await view.event()]
        while told[-1]["type"] != "end":
            told.append(await view.event())
        assert [event["index"] for event in told if event["type"] == "chunk"] == [0, 1]
        assert [event["status"] for event in told if event["type"] == "state"] == ["closed"]
        assert told[-1] == {"type": "end", "status": "closed", "reason": "max_chunks"}
        assert await view.closed() == (1000, "")
    async with watching(gateway, session, "?from=0") as late:
        await late.chunks(0, 1)
        await late.until("end")
    await stage.change(session, status="closed", reason="lost on the way")


async def test_an_ended_session_waits_for_a_viewers_grants_but_not_for_ever(
    gateway: GatewayProgram, stage: Stage
) -> None:
    session = stage.new_session(status="closed", reason="asked")
    await stage.make(session, *range(5))
    async with watching(gateway, session, "?from=0") as view:
        await view.chunks(0, 1)
        await view.grant(0)
        await view.chunks(2)
        assert await view.closed() == (1000, "")


async def test_undecodable_bytes_on_a_sessions_subjects_disturb_no_viewer(
    gateway: GatewayProgram, stage: Stage
) -> None:
    session = stage.new_session()
    at = {"cell": DEFAULT_CELL, "tenant": DEFAULT_TENANT, "session": session}
    async with watching(gateway, session, "?credit=auto") as view:
        await stage.make(session, 0)
        await view.chunks(0)
        for subject in (subjects.CHUNK_READY, subjects.SESSION_CHANGED):
            await stage.bus.client.publish(subject.at(**at).subject, b"\xc1\xff")
        hint = subjects.CHUNK_READY
        await stage.bus.publish(hint.at(**at), hint.struct(index=1_000_000, sequence=0, epoch=9))
        await stage.make(session, 1, 2)
        await view.chunks(1, 2)


async def test_a_viewer_that_never_reads_holds_nobody_up_and_is_let_go(
    gateway: GatewayProgram, stage: Stage
) -> None:
    session = stage.new_session()
    loop = asyncio.get_running_loop()
    with socket.create_connection(("127.0.0.1", gateway.port)) as deaf:
        deaf.setblocking(False)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_sendall(deaf, handshake(session, "?from=0&credit=auto"))
        await stage.report(session, viewers=1, granted_through=-1)
        await stage.make(session, 0, 1, 2, media=LARGE_MEDIA)
        await stage.reported_once(session, viewers=1, granted_through=0)
        await until_seen(gateway, session, next_chunk=3)
        async with watching(gateway, session) as other:
            await stage.make(session, 3)
            await other.chunks(3)
            await stage.report(session, viewers=1, granted_through=2)
    assert [r.granted_through for name, r in stage.reports if name == session][-1] == 2


async def until_seen(gateway: GatewayProgram, session: str, next_chunk: int) -> None:
    """Until whoever joins the live edge joins there."""
    async with asyncio.timeout(WAIT_S):
        while True:
            async with watching(gateway, session) as view:
                if view.hello["next_chunk"] == next_chunk:
                    return


def handshake(session: str, query: str) -> bytes:
    lines = [
        f"GET /v1/sessions/{session}/stream{query} HTTP/1.1",
        "Host: 127.0.0.1",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


async def test_a_page_of_another_origin_may_not_watch(gateway: GatewayProgram, stage: Stage) -> None:
    address = gateway.sockets(stage.new_session())
    with pytest.raises(InvalidStatus) as denied:
        await connect(address, origin=Origin("http://elsewhere.example"))
    assert denied.value.response.status_code == 403
    async with connect(address, origin=Origin(gateway.url)) as own:
        assert json.loads(await own.recv())["type"] == "session"


async def test_two_gateways_show_one_session(
    gateway: GatewayProgram, stage: Stage, nats_url: str, tmp_path: Path
) -> None:
    other = GatewayProgram(tmp_path, nats_url)
    other.start()
    session = stage.new_session()
    async with (
        watching(gateway, session, "?credit=auto") as here,
        watching(other, session, "?from=0") as there,
    ):
        await stage.report(session, viewers=1, granted_through=-1, gateways=2)
        await stage.make(session, 0, 1)
        await here.chunks(0, 1)
        await there.chunks(0, 1)
        assert other.program.stop() == 0
        assert (await there.closed())[0] == 1012
        await stage.report(session, viewers=0, granted_through=-1)
    async with watching(gateway, session, "?from=2") as again:
        await stage.make(session, 2)
        await again.chunks(2)


async def test_streams_go_on_after_nats_was_away(fresh_nats: NatsServer, tmp_path: Path) -> None:
    gateway = GatewayProgram(tmp_path, fresh_nats.url, poll_s=0.2, refresh_s=3600.0)
    gateway.start()
    try:
        async with open_stage(fresh_nats.url) as stage:
            session = stage.new_session()
            async with watching(gateway, session, "?credit=auto") as view:
                await stage.make(session, 0, 1, 2)
                await view.chunks(0, 1, 2)
                fresh_nats.kill()
                assert (await view.until("error"))["code"] == "service_away"
                assert (await refused(gateway, session))[0] == 1013
                async with httpx.AsyncClient() as client:
                    unready = await client.get(f"{gateway.url}/readyz")
                assert unready.json()["reasons"] == ["NATS is away"]
                stage.change_unheard(session, phase="recovering")
                fresh_nats.start()
                await stage.wait_connected()
                stage.log_is_gone()
                while (await view.until("state"))["phase"] != "recovering":
                    pass
                await stage.make(session, 3, hint=False)
                await view.chunks(3)
                await stage.make(session, 4)
                await view.chunks(4)
    finally:
        assert gateway.program.stop() == 0


async def test_viewers_are_sent_away_when_nats_stays_away(fresh_nats: NatsServer, tmp_path: Path) -> None:
    gateway = GatewayProgram(tmp_path, fresh_nats.url, away_limit_s=0.5, poll_s=0.1)
    gateway.start()
    try:
        async with open_stage(fresh_nats.url) as stage:
            async with watching(gateway, stage.new_session()) as view:
                fresh_nats.kill()
                assert await view.closed() == (1013, "service_away")
            fresh_nats.start()
            await stage.wait_connected()
    finally:
        assert gateway.program.stop() == 0


async def test_a_hundred_viewers_leave_nothing_behind(gateway: GatewayProgram, stage: Stage) -> None:
    async def round_of_viewers() -> None:
        sessions = [stage.new_session() for _ in range(10)]
        async with AsyncExitStack() as views:
            for session in sessions:
                for _ in range(5):
                    await views.enter_async_context(watching(gateway, session))
            for session in sessions:
                await stage.report(session, viewers=5, granted_through=-1)
        for session in sessions:
            await stage.report(session, viewers=0, granted_through=-1)

    async with httpx.AsyncClient(base_url=gateway.url) as client:
        await round_of_viewers()
        before = await _footprint(client)
        await round_of_viewers()
        async with asyncio.timeout(WAIT_S):
            while not _is_back(await _footprint(client), before):
                await asyncio.sleep(0.05)


def _is_back(now: dict[str, float], before: dict[str, float]) -> bool:
    return all(now[name] <= count for name, count in before.items())


async def _footprint(client: httpx.AsyncClient) -> dict[str, float]:
    """Of the gateway: tasks, viewers, feeds, open files."""
    shown = {}
    names = (
        "turboserve_gateway_tasks",
        "turboserve_gateway_viewers",
        "turboserve_gateway_feeds",
        "process_open_fds",
    )
    for line in (await client.get("/metrics")).text.splitlines():
        name, _, value = line.partition(" ")
        if name in names:
            shown[name] = float(value)
    assert set(shown) == set(names)
    return shown
