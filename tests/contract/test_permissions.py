"""deploy/nats.conf lets every service say and hear what it must, and nothing else. On a real nats-server."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import nats
import pytest
from nats.aio.client import Client

from shared import codec, ids
from shared.bus import Bus, Meta
from shared.chunk_log import ChunkLog
from shared.contracts import subjects
from shared.contracts.decisions import DecisionRecord
from shared.contracts.events import lifecycle_stream, lifecycle_subject
from shared.contracts.fleet import DrainWorker, WorkerDrained
from shared.contracts.session import OpenSession, SessionView
from shared.contracts.stream import Chunk, Latents
from shared.decision_log import DecisionLog
from shared.latent_log import LatentLog, Window
from tests.contract.examples import MESSAGES, PROMPT, SESSION, VIEW
from tests.fixtures.process import Program, accepts_connections, free_port

CONFIG = Path(__file__).parent.parent.parent / "deploy" / "nats.conf"
SERVICES = ("gateway", "placement", "autoscaler", "worker", "text")
ROLES = (*SERVICES, "platform")
COMMANDS = ("OPEN", "STEER", "PAUSE", "RESUME", "SET_RUNG", "CLOSE", "GET", "LIST")
# Who says what, and who hears it. A subject that is missing here fails the test below.
SAY: dict[str, AbstractSet[str]] = dict.fromkeys(COMMANDS, frozenset({"gateway", "platform"})) | {
    "CHUNKS": {"worker"},
    "LATENTS": {"worker"},
    "CHUNK_READY": {"worker"},
    "SESSION_CHANGED": {"placement"},
    "VIEWERS": {"gateway", "platform"},
    "OWN": {"placement"},
    "DROP": {"placement"},
    "DRAIN": {"placement", "autoscaler"},
    "RESERVE": {"placement"},
    "MOVE_OUT": {"placement"},
    "STOW": {"placement"},
    "CALL_OFF": {"placement", "worker"},
    "OPEN_LINK": {"worker"},
    "STAGE": {"worker"},
    "MOVE_NEWS": {"worker"},
    "DRAIN_WORKER": {"gateway", "worker"},  # the worker's user is that of its node, too
    "MOVE_SESSION": {"gateway"},
    "SUSPEND_SESSION": {"gateway"},
    "RESUME_SESSION": {"gateway"},
    "SET_FLEET": {"gateway"},
    "DECISION": set(),  # placement and the autoscaler, each its own
    "LOAD_REPORT": {"worker"},
    "CHECK_PROMPT": {"placement", "platform"},
    "ENCODE_TEXT": {"worker"},
    "WORKER_EXITED": {"autoscaler", "worker"},
    "FLEET_LOAD": {"placement"},
    "FLEET_PLAN": {"autoscaler"},
    "SERVICE_STATUS": set(),  # each its own: tested apart
}
HEAR: dict[str, AbstractSet[str]] = dict.fromkeys(COMMANDS, frozenset({"placement"})) | {
    "CHUNKS": set(),
    "LATENTS": set(),
    "CHUNK_READY": {"gateway", "platform"},
    "SESSION_CHANGED": {"gateway", "platform"},
    "VIEWERS": {"placement", "worker"},
    "OWN": {"worker"},
    "DROP": {"worker"},
    "DRAIN": {"worker"},
    "RESERVE": {"worker"},
    "MOVE_OUT": {"worker"},
    "STOW": {"worker"},
    "CALL_OFF": {"worker"},
    "OPEN_LINK": {"worker"},
    "STAGE": {"worker"},
    "MOVE_NEWS": {"placement"},
    "DRAIN_WORKER": {"placement"},
    "MOVE_SESSION": {"placement"},
    "SUSPEND_SESSION": {"placement"},
    "RESUME_SESSION": {"placement"},
    "SET_FLEET": {"autoscaler"},
    "DECISION": set(),
    "LOAD_REPORT": {"placement", "worker"},
    "CHECK_PROMPT": {"worker"},
    "ENCODE_TEXT": {"text"},
    "WORKER_EXITED": {"placement"},
    "FLEET_LOAD": {"gateway", "autoscaler", "platform"},
    "FLEET_PLAN": {"gateway", "placement"},
    "SERVICE_STATUS": set(),
}
TOKENS = {"cell": "main", "tenant": "default", "session": SESSION, "service": "nobody"}
FAMILIES = {name: value for name, value in vars(subjects).items() if isinstance(value, subjects.Subject)}
WAIT_S = 10.0


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder, number = tmp_path_factory.mktemp("nats"), free_port()
    config = folder / "nats.conf"
    changed = {
        '"0.0.0.0:4222"': f'"127.0.0.1:{number}"',
        '"/data"': f'"{folder}"',
        'http: "0.0.0.0:8222"': "",
    }
    text = CONFIG.read_text()
    for old, new in changed.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    config.write_text(text)
    passwords = {f"NATS_{role.upper()}_PASSWORD": f"of-{role}" for role in ROLES}
    binary = Path(sys.executable).with_name("nats-server")
    program = Program([str(binary), "-c", str(config)], folder / "nats.log", passwords)
    program.start(lambda: accepts_connections(number))
    yield number
    program.kill()


def url(port: int, role: str) -> str:
    return f"nats://{role}:of-{role}@127.0.0.1:{port}"


@asynccontextmanager
async def connected(port: int, role: str) -> AsyncIterator[tuple[Client, list[str]]]:
    """A client and what the broker forbade it."""
    forbidden: list[str] = []

    async def note(error: Exception) -> None:
        forbidden.append(str(error))

    async with await nats.connect(url(port, role), error_cb=note) as client:
        yield client, forbidden


async def settle(client: Client) -> None:
    for _ in range(2):
        await client.flush()


def address(name: str) -> str:
    family = FAMILIES[name]
    return family.at(**{token: TOKENS.get(token, "some-1") for token in family.tokens}).subject


@pytest.mark.parametrize("role", ROLES)
async def test_each_says_what_it_must_and_nothing_else(port: int, role: str) -> None:
    assert SAY.keys() == FAMILIES.keys()
    async with connected(port, role) as (client, forbidden):
        for name in FAMILIES:
            await client.publish(address(name), b"")
        await settle(client)
    said = {name for name in FAMILIES if not any(f'"{address(name)}"' in error for error in forbidden)}
    assert said == {name for name, who in SAY.items() if role in who}


@pytest.mark.parametrize("role", ROLES)
async def test_each_hears_what_it_must_and_nothing_else(port: int, role: str) -> None:
    assert HEAR.keys() == FAMILIES.keys()
    async with connected(port, role) as (client, forbidden):
        for name, family in FAMILIES.items():
            await client.subscribe(
                address(name) if "tenant" in family.tokens else family.pattern(cell="main")
            )
        await settle(client)
    heard = {
        name
        for name, family in FAMILIES.items()
        if not any(
            f'"{subject}"' in error
            for error in forbidden
            for subject in (address(name), family.pattern(cell="main"))
        )
    }
    assert heard == {name for name, who in HEAR.items() if role in who}


@pytest.mark.parametrize("role", SERVICES)
async def test_each_says_its_own_status_and_hears_its_own_answers(port: int, role: str) -> None:
    async with connected(port, role) as (client, forbidden):
        for service in SERVICES:
            await client.publish(f"ts.main.status.{service}.some-1", b"")
            await client.subscribe(f"_INBOX.{service}.>")
        await settle(client)
    assert len(forbidden) == 2 * (len(SERVICES) - 1)
    assert not any(f".{role}." in error for error in forbidden)


async def test_a_platform_stays_in_its_tenant(port: int) -> None:
    async with connected(port, "platform") as (client, forbidden):
        await client.publish("ts.main.session.another.open", b"")
        await client.subscribe("ts.main.changed.another.*")
        await client.subscribe("ts.main.changed.*.*")
        await settle(client)
    assert len(forbidden) == 3


async def test_requests_are_answered_under_these_permissions(port: int) -> None:
    async def answer(_request: OpenSession, _meta: Meta) -> SessionView:
        return VIEW

    placement, gateway = (
        Bus(url(port, "placement"), "p-1", "placement"),
        Bus(url(port, "gateway"), "g-1", "gateway"),
    )
    for bus in (placement, gateway):
        await bus.connect(WAIT_S)
    await placement.serve(subjects.OPEN, answer, queue="placement", cell="main")
    await placement.flush()
    opening = subjects.OPEN.at(cell="main", tenant="default")
    for _ in range(3):
        assert await gateway.request(opening, OpenSession([PROMPT]), WAIT_S) == VIEW
    for bus in (placement, gateway):
        await bus.close()


async def test_a_node_hands_over_with_the_user_of_its_workers(port: int) -> None:
    async def answer(request: DrainWorker, _meta: Meta) -> WorkerDrained:
        return WorkerDrained(request.worker, [], [], [], 0, [])

    placement, node = Bus(url(port, "placement"), "p-1", "placement"), Bus(url(port, "worker"), "n-1", "node")
    for bus in (placement, node):
        await bus.connect(WAIT_S)
    await placement.serve(subjects.DRAIN_WORKER, answer, queue="placement", cell="main")
    await placement.flush()
    drained = await node.request(subjects.DRAIN_WORKER.at(cell="main"), DrainWorker("w-1"), WAIT_S)
    assert drained.worker == "w-1"
    for bus in (placement, node):
        await bus.close()


async def test_the_chunk_log_works_under_these_permissions(port: int) -> None:
    buses = {role: Bus(url(port, role), f"{role}-1", role) for role in ("worker", "gateway", "placement")}
    logs = {}
    for role, bus in buses.items():
        await bus.connect(WAIT_S)
        logs[role] = ChunkLog(bus, "main", timeout_s=WAIT_S)
        await logs[role].ensure()
    chunk = next(message for message in MESSAGES if isinstance(message, Chunk))
    sequence = await logs["worker"].append("default", chunk, 0)
    assert await logs["gateway"].find("default", SESSION, chunk.index) == (sequence, chunk)
    garbage = subjects.CHUNKS.at(cell="main", tenant="default", session=ids.new_session_id("main"))
    await buses["worker"].client.jetstream().publish(garbage.subject, b"garbage")
    assert await logs["gateway"].last("default", garbage.subject.rpartition(".")[2]) is None
    await logs["placement"].forget("default", SESSION)
    assert await logs["worker"].last("default", SESSION) is None
    for bus in buses.values():
        await bus.close()


async def test_the_cold_tier_works_under_these_permissions(port: int) -> None:
    buses = {role: Bus(url(port, role), f"{role}-1", role) for role in ("worker", "placement")}
    logs = {role: LatentLog(bus, "main", timeout_s=WAIT_S) for role, bus in buses.items()}
    for bus in buses.values():
        await bus.connect(WAIT_S)
    window, latents = Window(3, 1), Latents(SESSION, 4, 4, 1, "a red ball", [1], "uint8", b"1")
    await logs["placement"].forget("default", SESSION)  # no worker has made the store yet
    await logs["worker"].ensure()
    await logs["worker"].put("default", latents, window)
    await logs["worker"].renew("default", SESSION, latents.origin, window)
    assert await logs["worker"].past("default", SESSION, window) == [latents]
    await logs["placement"].forget("default", SESSION)
    assert await logs["worker"].past("default", SESSION, window) == []
    for bus in buses.values():
        await bus.close()


async def test_the_log_of_decisions_works_under_these_permissions(port: int) -> None:
    roles = ("placement", "autoscaler", "gateway")
    buses = {role: Bus(url(port, role), f"{role}-1", role) for role in roles}
    logs = {role: DecisionLog(bus, "main", timeout_s=WAIT_S) for role, bus in buses.items()}
    for bus in buses.values():
        await bus.connect(WAIT_S)
    assert await logs["gateway"].newest(1) == []
    example = next(message for message in MESSAGES if isinstance(message, DecisionRecord))
    for role in ("placement", "autoscaler"):
        record = msgspec.structs.replace(example, id=ids.new_decision_id(role), service=role)
        await logs[role].put(record)
        assert await logs["gateway"].get(record.id) == record
        assert await logs["gateway"].newest(1) == [record]
    for bus in buses.values():
        await bus.close()


async def test_events_reach_a_platform_under_these_permissions(port: int) -> None:
    async with (
        connected(port, "placement") as (placement, said),
        connected(port, "platform") as (platform, heard),
    ):
        stream = lifecycle_stream("main")
        placement._inbox_prefix = bytearray(b"_INBOX.placement")
        await placement.jetstream().add_stream(name=stream, subjects=["ts.main.events.>"])
        await placement.jetstream().publish(
            lifecycle_subject("main", "default", "opened"), codec.encode(VIEW)
        )
        events = await platform.jetstream().pull_subscribe("ts.main.events.>", durable="d", stream=stream)
        [message] = await asyncio.wait_for(events.fetch(1), WAIT_S)
        await message.ack_sync()
        assert codec.decode(SessionView, message.data) == VIEW
        assert (said, heard) == ([], [])
