"""The best way between two workers, and the next one where that can't be opened."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from services.worker.main import EXIT_USAGE, main
from services.worker.mover import links as links_module
from services.worker.mover.links import Links, Transfer, transports_of
from services.worker.transfer.choose import BEST_FIRST, choose_transport, kind_of, wished
from services.worker.transfer.ipc import IpcTransport
from services.worker.transfer.link import LinkLost, LinkRefused
from services.worker.transfer.manifest import tag_of
from services.worker.transfer.tcp import TcpTransport
from shared.bus import Refused
from shared.contracts.moves import LinkOpening, OpenLink
from tests.fixtures.waiting import until
from tests.unit.worker.transfer.lent_files import Files
from tests.unit.worker.transfer.peer import HOST, ME, PEER, soon

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="CUDA IPC is Linux's")

TAG = tag_of("m-1", 0)


class Wire:
    """Between two workers in one process. `asked`: for links by which transports."""

    def __init__(self) -> None:
        self.ends: dict[str, Links] = {}
        self.asked: list[str] = []

    async def request(self, _address: Any, asked: OpenLink, _wait_s: float) -> LinkOpening:
        self.asked.append(asked.transport)
        return self.ends[PEER if asked.peer == ME else ME].answer(asked)

    def add(self, me: str, files: Files, host: str = "here") -> Links:
        transports = [TcpTransport(HOST), IpcTransport(files, host)]
        self.ends[me] = Links(self, "cell", me, transports)  # type: ignore[arg-type]
        return self.ends[me]

    def close(self) -> None:
        for links in self.ends.values():
            links.close()


async def sent(wire: Wire, transport: str, files: dict[str, Files]) -> list[int]:
    """What arrives at the peer of what is sent to it."""
    state, into = files[ME].filled([1, 2, 3]), files[PEER].blank(3)
    arriving = wire.ends[PEER].receive(ME, transport, Transfer([into], TAG, soon(), lambda: None))
    await wire.ends[ME].send(PEER, transport, Transfer([state], TAG, soon(), lambda: None))
    await arriving
    return list(into)


@pytest.mark.parametrize("who", ["", ME, PEER])
async def test_the_next_transport_where_the_best_cant_be_opened_and_that_is_remembered(
    tmp_path: Path, who: str
) -> None:
    """`who`: whose GPU can't map the other's memory, if any."""
    wire, files = Wire(), {ME: Files(tmp_path), PEER: Files(tmp_path)}
    mine, theirs = wire.add(ME, files[ME]), wire.add(PEER, files[PEER])
    if who:
        files[who].refusal = "peer access is not supported"
    expected = "tcp" if who else "ipc-here"
    try:
        assert mine.names == ["ipc-here", "tcp"]
        assert await mine.open_best(PEER, theirs.names, 40) == expected
        assert await sent(wire, expected, files) == [1, 2, 3]
        assert await mine.open_best(PEER, theirs.names, 40) == expected
        assert wire.asked == (["ipc-here", "tcp"] if who else ["ipc-here"])
        assert mine.choose(PEER, theirs.names) == expected
        assert mine.choose("another", theirs.names) == "ipc-here"
    finally:
        wire.close()


async def test_memory_of_a_peer_that_is_gone_is_let_go(tmp_path: Path) -> None:
    wire, files = Wire(), {ME: Files(tmp_path), PEER: Files(tmp_path)}
    mine, theirs = wire.add(ME, files[ME]), wire.add(PEER, files[PEER])
    try:
        assert await mine.open_best(PEER, theirs.names, 40) == "ipc-here"
        assert await sent(wire, "ipc-here", files) == [1, 2, 3]
        await theirs.forget_lost()
        assert files[PEER].mapped
        mine.close()
        await theirs.forget_lost()
        assert not files[PEER].mapped
    finally:
        wire.close()


async def test_memory_of_a_peer_that_is_lost_in_a_move_is_let_go_in_a_quiet_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links_module, "_LOST_EVERY_S", 0.001)
    wire, files = Wire(), {ME: Files(tmp_path), PEER: Files(tmp_path)}
    mine, theirs = wire.add(ME, files[ME]), wire.add(PEER, files[PEER])
    asked, moment = asyncio.Event(), asyncio.Event()

    async def quiet() -> None:
        asked.set()
        await moment.wait()

    assert await mine.open_best(PEER, theirs.names, 40) == "ipc-here"
    assert await sent(wire, "ipc-here", files) == [1, 2, 3]
    forgetting = asyncio.create_task(theirs.keep_forgetting_lost(quiet))
    try:
        arriving = theirs.receive(ME, "ipc-here", Transfer([files[PEER].blank(3)], TAG, soon(), lambda: None))
        mine.close()
        with pytest.raises(LinkLost):
            await arriving
        async with asyncio.timeout(40):
            await asked.wait()
        assert files[PEER].mapped
        moment.set()
        await until(lambda: not files[PEER].mapped, "its memory let go")
    finally:
        forgetting.cancel()
        wire.close()


async def test_where_nothing_is_left_to_try_the_last_reason_is_told(tmp_path: Path) -> None:
    wire, files = Wire(), {ME: Files(tmp_path), PEER: Files(tmp_path)}
    mine, theirs = wire.add(ME, files[ME]), wire.add(PEER, files[PEER], "elsewhere")
    files[PEER].refusal = "peer access is not supported"
    try:
        assert await mine.open_best(PEER, theirs.names, 40) == "tcp"
        with pytest.raises(LinkRefused, match="no common transport"):
            await mine.open_best(PEER, ["ipc-elsewhere"], 40)
        stage = Transfer([], TAG, time.monotonic(), lambda: None)
        with pytest.raises(Refused, match="no link"):
            mine.receive(PEER, "ipc-here", stage)
    finally:
        wire.close()


async def test_a_peer_that_is_late_is_not_waited_for_twice(tmp_path: Path) -> None:
    """By the first transport half the time at most; what is late today may be in time tomorrow."""
    wire, files = Wire(), {ME: Files(tmp_path), PEER: Files(tmp_path)}
    mine, theirs = wire.add(ME, files[ME]), wire.add(PEER, files[PEER])
    held = asyncio.Event()
    answer = theirs.answer

    def silent(asked: OpenLink) -> LinkOpening:
        held.set()
        return answer(asked) if kind_of(asked.transport) == "tcp" else LinkOpening(b"")

    theirs.answer = silent  # type: ignore[method-assign]
    try:
        assert await mine.open_best(PEER, theirs.names, 4) == "tcp"
        assert held.is_set()
        assert mine.choose(PEER, theirs.names) == "ipc-here"
    finally:
        wire.close()


def test_transports_are_chosen_by_kind_and_only_what_both_can_have_in_common() -> None:
    mine = ["tcp", "nccl", "ipc-one"]
    assert choose_transport(mine, ["tcp", "nccl", "ipc-one"]) == "ipc-one"
    assert choose_transport(mine, ["tcp", "nccl", "ipc-two"]) == "nccl"
    assert choose_transport(mine, ["tcp", "nccl", "ipc-one"], ["ipc-one", "nccl"]) == "tcp"
    with pytest.raises(LinkRefused, match="these can't be used: ipc-one"):
        choose_transport(mine, ["ipc-one"], ["ipc-one"])


def test_a_setting_leaves_transports_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert wished("") == BEST_FIRST
    assert wished(" nccl, tcp,") == ("nccl", "tcp")
    assert [transport.name for transport in transports_of("cpu", HOST, ("nccl", "tcp"))] == ["tcp"]
    assert transports_of("cpu", HOST, ("nccl",)) == []
    assert main({"transports": "tcp,pigeon"}) == EXIT_USAGE
    assert "TURBOSERVE_WORKER_TRANSPORTS='tcp,pigeon': pigeon is no transport" in capsys.readouterr().err
