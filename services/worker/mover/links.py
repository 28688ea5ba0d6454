"""A worker's links to others, opened off the hot path, and the threads that open and use them."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from services.worker.transfer.choose import BEST_FIRST, best_first, choose_transport
from services.worker.transfer.link import Buffer, LinkLost, LinkRefused, Transport, rank_of
from services.worker.transfer.pairs import Pairs
from services.worker.transfer.tcp import TcpTransport
from shared.bus import Bus, Refused
from shared.contracts.moves import LinkOpening, OpenLink
from shared.contracts.subjects import OPEN_LINK
from shared.process import StartupError

logger = logging.getLogger(__name__)

THREADS = "transfer"
_MOST_LINKS = 8  # open ones; each NCCL communicator takes device memory
_OPEN_S = 5.0
_MOST_REFUSED = 256
_LOST_EVERY_S = 1.0


class Transfer(NamedTuple):
    """`fence` returns once the device is done with the buffers. `until`: monotonic."""

    buffers: Sequence[Buffer]
    tag: bytes
    until: float
    fence: Callable[[], None]


def transports_of(device: str, host: str, may: Sequence[str] = BEST_FIRST) -> list[Transport]:
    """What this worker can offer of the kinds that it `may`. `host`: the address under which others reach it,
    or "auto". Raises `StartupError`.
    """
    offered: list[Transport] = [_tcp(host)] if "tcp" in may else []
    return [*(_between_gpus(device, may) if device.startswith("cuda") else []), *offered]


def _between_gpus(device: str, may: Sequence[str]) -> list[Transport]:
    import torch

    from services.worker.transfer.cuda_lending import cuda_ipc
    from services.worker.transfer.nccl import NcclTransport, nccl_available

    offered: list[Transport] = []
    if "ipc" in may and (ipc := cuda_ipc(device)) is not None:
        offered.append(ipc)
    if "nccl" in may and nccl_available():
        offered.append(NcclTransport(torch.device(device)))
    return offered


def _tcp(host: str) -> TcpTransport:
    try:
        transport = TcpTransport(socket.gethostbyname(socket.gethostname()) if host == "auto" else host)
        transport.invite()
    except OSError as error:
        raise StartupError(
            f"TURBOSERVE_WORKER_TRANSFER_HOST={host}: {error}; give an address of this machine that other"
            " workers reach"
        ) from None
    transport.close()
    return transport


class Links:
    """Event loop only, but for what its own threads do."""

    def __init__(self, bus: Bus, cell: str, me: str, transports: Sequence[Transport]) -> None:
        self._bus, self._cell, self._me = bus, cell, me
        self._pairs = {t.name: Pairs(t, me, _MOST_LINKS) for t in transports}
        self._asking: dict[tuple[str, str], asyncio.Future[None]] = {}
        self._refused: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._openers = ThreadPoolExecutor(2, thread_name_prefix=f"{THREADS}-open")
        self._sender = ThreadPoolExecutor(1, thread_name_prefix=f"{THREADS}-out")
        self._receiver = ThreadPoolExecutor(1, thread_name_prefix=f"{THREADS}-in")

    @property
    def names(self) -> list[str]:
        """Of the transports offered, best first."""
        return best_first(self._pairs)

    def choose(self, peer: str, theirs: Sequence[str]) -> str:
        """Of those that haven't turned out to be impossible between the two. Raises `LinkRefused`."""
        return choose_transport(self.names, theirs, [name for who, name in self._refused if who == peer])

    async def open_best(self, peer: str, theirs: Sequence[str], wait_s: float, *, anew: bool = False) -> str:
        """By the best transport that both offer and that can be opened; which, is the answer. A later one has
        what time the former ones left. Raises as `open` does by the last of them.
        """
        until, lost = time.monotonic() + wait_s, list[str]()
        while True:
            name = self.choose(peer, [each for each in theirs if each not in lost])
            others = [each for each in theirs if each in self._pairs and each not in (name, *lost)]
            left_s = until - time.monotonic()
            try:
                await self.open(peer, name, left_s / 2 if others else left_s, anew=anew)
                return name
            except (LinkLost, LinkRefused) as error:
                if isinstance(error, LinkRefused):
                    self._note_refused(peer, name)
                if not others:
                    raise
                logger.warning("no link to %s by %s: %s; another is tried", peer, name, error)
                lost.append(name)

    def _note_refused(self, peer: str, name: str) -> None:
        self._refused[peer, name] = None
        while len(self._refused) > _MOST_REFUSED:
            self._refused.popitem(last=False)

    async def open(self, peer: str, transport: str, wait_s: float, *, anew: bool = False) -> None:
        """Unless there is a link to `peer`, or one is being opened; `anew`: even so, for that has lost its
        end. Raises `LinkLost`, `LinkRefused`, or what the bus raises.
        """
        pairs = self._pairs[transport]
        if not anew and (pairs.has(peer) or pairs.is_opening(peer)):
            return
        asking = self._asking.get((peer, transport))
        if asking is None:
            asking = asyncio.ensure_future(self._ask(pairs, peer, transport, min(wait_s, _OPEN_S)))
            self._asking[peer, transport] = asking
            asking.add_done_callback(lambda done: self._asked(peer, transport, done))
        await asyncio.shield(asking)

    def _asked(self, peer: str, transport: str, done: asyncio.Future[None]) -> None:
        del self._asking[peer, transport]
        _ = done.cancelled() or done.exception()  # who asked may be gone

    async def _ask(self, pairs: Pairs, peer: str, transport: str, wait_s: float) -> None:
        until = time.monotonic() + wait_s
        invitation = pairs.invite() if rank_of(self._me, peer) == 0 else b""
        asked = OpenLink(self._me, transport, invitation, time.time() + wait_s)
        answer = await self._bus.request(OPEN_LINK.at(cell=self._cell, worker=peer), asked, wait_s)
        opening = self._openers.submit(pairs.open, peer, invitation or answer.invitation, until)
        await asyncio.wrap_future(opening)

    def answer(self, asked: OpenLink) -> LinkOpening:
        """The other side of `open`: the link is made while the answer is on its way. Raises `Refused`."""
        pairs = self._pairs.get(asked.transport)
        if pairs is None:
            raise Refused("no_transport", f"this worker offers {self.names}, not {asked.transport!r}")
        left_s = min(asked.deadline_at - time.time(), _OPEN_S)
        if left_s <= 0:
            raise Refused("too_late", "the request's deadline has passed")
        try:
            invitation = pairs.invite() if rank_of(self._me, asked.peer) == 0 else b""
        except LinkRefused as error:
            raise Refused("bad_invitation", str(error)) from None
        until = time.monotonic() + left_s
        opening = self._openers.submit(pairs.open, asked.peer, invitation or asked.invitation, until)
        opening.add_done_callback(lambda done: _log_failure(asked.peer, done))
        return LinkOpening(invitation)

    def send(self, peer: str, transport: str, transfer: Transfer) -> asyncio.Future[None]:
        """Ends with `LinkLost` or `LinkRefused` if it fails."""
        return asyncio.wrap_future(self._sender.submit(_send, self._pairs[transport], peer, transfer))

    def receive(self, peer: str, transport: str, transfer: Transfer) -> asyncio.Future[None]:
        """`transport`: the one that `peer` sends by; "": the best by which there is a link. Raises
        `Refused`.
        """
        names = [transport] if transport in self._pairs else self.names
        pairs = next((p for n in names if (p := self._pairs[n]).expects(peer)), None)
        if pairs is None:
            raise Refused("no_link", f"no link from {peer} is open here", "open one")
        return asyncio.wrap_future(self._receiver.submit(_receive, pairs, peer, transfer))

    def abort(self, peer: str) -> None:
        for pairs in self._pairs.values():
            pairs.abort(peer)

    async def keep_forgetting_lost(self, quiet: Callable[[], Awaitable[None]]) -> None:
        """Until it is cancelled, before `close`. Who takes an ended worker's GPU needs all its memory. To let
        go of tens of gigabytes may stop this worker's own GPU meanwhile: `quiet` waits for a moment for that.
        """
        while True:
            await asyncio.sleep(_LOST_EVERY_S)
            if any(pairs.has_lost() for pairs in self._pairs.values()):
                await quiet()
                await self.forget_lost()

    async def forget_lost(self) -> None:
        started = time.perf_counter()
        for pairs in self._pairs.values():
            await asyncio.wrap_future(self._openers.submit(pairs.forget_lost))
        logger.info("links to workers that are gone were closed in %.3f s", time.perf_counter() - started)

    def close(self) -> None:
        for pairs in self._pairs.values():
            pairs.close()
        for threads in (self._openers, self._sender, self._receiver):
            threads.shutdown(wait=False, cancel_futures=True)


def _send(pairs: Pairs, peer: str, transfer: Transfer) -> None:
    with pairs.use(peer, transfer.until) as link:
        transfer.fence()
        link.send(transfer.buffers, transfer.tag, transfer.until)


def _receive(pairs: Pairs, peer: str, transfer: Transfer) -> None:
    with pairs.use(peer, transfer.until) as link:
        transfer.fence()
        link.receive(transfer.buffers, transfer.tag, transfer.until)


def _log_failure(peer: str, opening: Future[None]) -> None:
    if not opening.cancelled() and (error := opening.exception()) is not None:
        logger.warning("no link with %s: %s", peer, error)
