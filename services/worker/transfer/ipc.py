"""Links between two GPUs of one host: the target maps the source's memory and copies from it itself.

The copy engines do that, so that steps of sessions don't slow it down and aren't slowed down (NCCL's kernels
compete with theirs for multiprocessors). Only who lends what, and that it has arrived, is said over a socket.

The receiver copies, because nobody but its owner may write to a slot: when `receive` is over, so are its
copies, and the slot may be given away, whatever became of the peer. A copy that is still under way when the
*sender* has given up may read what belongs to another session by then. Nobody sees that: the receipt can't be
sent, because a sender shuts its socket down before it lets go, and on a Unix socket the other end knows it at
once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import struct
import time
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from services.worker.transfer.greeting import TOKEN_BYTES, accept, join
from services.worker.transfer.lending import Lending, Mapped, Place
from services.worker.transfer.link import Buffer, LinkLate, LinkLost, LinkRefused, rank_of
from services.worker.transfer.memory import check_buffers
from services.worker.transfer.sockets import is_whole, lost_if_it_fails, receive_all, send_all

logger = logging.getLogger(__name__)

_RECEIPT = b"\x06"
_LENGTH = struct.Struct("!I")
_CREDENTIALS = struct.Struct("=iII")  # process, user, group
_MOST_SAID_BYTES = 4 << 20
_MAX_INVITATIONS = 8
_MOST_MAPPED = 16
_POLL_S, _POLL_SOON_S, _SOON_S = 0.0005, 0.00002, 0.005  # soon: what takes no longer is a move's pause
_DRAIN_S = 20.0

T = TypeVar("T")


class _Invitation(msgspec.Struct, frozen=True):
    """`on`: the name of the transport that made it, which says on which host."""

    on: str
    address: bytes
    token: bytes


class _Lent(msgspec.Struct, frozen=True):
    """What is to be fetched. `handles`: of the allocations that the places lie in."""

    tag: bytes
    handles: dict[int, bytes]
    places: list[Place]


class _Tried(msgspec.Struct, frozen=True):
    """`why` "": the peer's memory can be read."""

    why: str


class IpcTransport:
    """`lending`: of the worker's GPU. `host`: as `on_this_host` says, a part of the name: so only workers of
    one host have this transport in common.
    """

    opens_alone = False

    def __init__(self, lending: Lending, host: str) -> None:
        self._lending = lending
        self._listeners: dict[bytes, socket.socket] = {}
        self.name = f"ipc-{host}"

    def invite(self) -> bytes:
        while len(self._listeners) >= _MAX_INVITATIONS:
            self._listeners.pop(next(iter(self._listeners))).close()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(
            b"\0turboserve-" + secrets.token_hex(16).encode()
        )  # no file: it is gone with the process
        listener.listen(4)
        listener.setblocking(False)
        invitation = _Invitation(self.name, listener.getsockname(), secrets.token_bytes(TOKEN_BYTES))
        self._listeners[invitation.token] = listener
        return msgspec.msgpack.encode(invitation)

    def open(self, invitation: bytes, me: str, peer: str, deadline_at: float) -> IpcLink:
        try:
            invited = msgspec.msgpack.decode(invitation, type=_Invitation)
        except msgspec.DecodeError as e:
            raise LinkRefused(f"the invitation to a link with {peer} is not one for CUDA IPC: {e}") from e
        if invited.on != self.name:
            raise LinkRefused(f"{peer} is on another host: its GPU's memory can't be mapped here")
        link = IpcLink(self._connect(invited, me, peer, deadline_at), self._lending)
        try:
            link.try_out(deadline_at)
        except BaseException:
            link.close()
            raise
        return link

    def _connect(self, invited: _Invitation, me: str, peer: str, deadline_at: float) -> socket.socket:
        if rank_of(me, peer) == 1:
            return _of_this_user(join(socket.AF_UNIX, invited.address, invited.token, deadline_at))
        listener = self._listeners.pop(invited.token, None)
        if listener is None:
            raise LinkRefused(f"the invitation to a link with {peer} was not made here, or was used before")
        with listener:
            return _of_this_user(accept(listener, invited.token, deadline_at))

    def close(self) -> None:
        while self._listeners:
            self._listeners.popitem()[1].close()


class IpcLink:
    """See `Link`. Buffers are on the GPU, and nothing on it has still to write them: transfers wait for no
    stream of the sessions'.
    """

    def __init__(self, connection: socket.socket, lending: Lending) -> None:
        self._socket = connection
        self._lending = lending
        self._lane = lending.lane()
        self._mapped: dict[int, Mapped] = {}
        self._aborted = False

    def try_out(self, deadline_at: float) -> None:
        """Fetch what the peer shows for that, and hear what it fetched. Raises `LinkRefused` on both sides if
        it isn't that on either.
        """
        with lost_if_it_fails(self.abort):
            proof = self._lending.proof
            self._say(self._lent([proof], self._lending.read(proof)), deadline_at)
            shown, why = self._hear(_Lent, deadline_at), ""
            try:
                if (fetched := self._fetched_proof(shown, deadline_at)) != shown.tag:
                    why = f"other bytes were read from the peer's GPU than it showed: {fetched[:8].hex()}"
            except (LinkRefused, LinkLost) as error:
                why = str(error)
            self._say(_Tried(why), deadline_at)
            theirs = self._hear(_Tried, deadline_at).why
        if why or theirs:
            raise LinkRefused(f"GPU memory can't be read across these two processes: {why or theirs}")

    def _fetched_proof(self, shown: _Lent, deadline_at: float) -> bytes:
        into = self._lending.blank(len(shown.tag))
        try:
            self._fetch([into], shown, deadline_at)
        finally:
            self._unmap()
        return self._lending.read(into)

    def send(self, buffers: Sequence[Buffer], tag: bytes, deadline_at: float) -> None:
        check_buffers(buffers)
        lent = self._lent(buffers, tag)
        with lost_if_it_fails(self.abort):
            self._say(lent, deadline_at)
            receipt = receive_all(self._socket, memoryview(bytearray(1)), deadline_at)
            if receipt != _RECEIPT:
                raise LinkLost("the peer did not expect this transfer")

    def receive(self, buffers: Sequence[Buffer], tag: bytes, deadline_at: float) -> None:
        check_buffers(buffers)
        self._lending.places(buffers)
        with lost_if_it_fails(self.abort):
            lent = self._hear(_Lent, deadline_at)
            if (difference := _difference(lent, buffers, tag)) is not None:
                raise LinkLost(f"the peer sent another transfer: {difference}")
            self._fetch(buffers, lent, deadline_at)
            # Fails if the sender has let go meanwhile: then other bytes may have been copied.
            send_all(self._socket, memoryview(_RECEIPT), deadline_at)

    def healthy(self) -> bool:
        return not self._aborted and is_whole(self._socket)

    def abort(self) -> None:
        self._aborted = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.abort()
        self._socket.close()
        self._unmap()

    # What is said.

    def _lent(self, buffers: Sequence[Buffer], tag: bytes) -> _Lent:
        places = self._lending.places(buffers)
        handles = {number: self._lending.handle(number) for number in {each.allocation for each in places}}
        return _Lent(tag, handles, places)

    def _say(self, said: msgspec.Struct, deadline_at: float) -> None:
        body = msgspec.msgpack.encode(said)
        send_all(self._socket, memoryview(_LENGTH.pack(len(body)) + body), deadline_at)

    def _hear(self, kind: type[T], deadline_at: float) -> T:
        length = receive_all(self._socket, memoryview(bytearray(_LENGTH.size)), deadline_at)
        (count,) = _LENGTH.unpack(length)
        if count > _MOST_SAID_BYTES:
            raise LinkLost(f"the peer would say {count} bytes, which can't be right")
        try:
            said = receive_all(self._socket, memoryview(bytearray(count)), deadline_at)
            return msgspec.msgpack.decode(said, type=kind)
        except msgspec.DecodeError as error:
            raise LinkLost(f"the peer says what can't be read: {error}") from error

    # What is copied.

    def _fetch(self, buffers: Sequence[Buffer], lent: _Lent, deadline_at: float) -> None:
        """When this returns or raises, nothing writes to `buffers` any more."""
        self._map(lent.handles)
        sources = [self._source(place) for place in lent.places]
        try:
            self._lane.copy(buffers, sources)
            self._wait(deadline_at)
        except BaseException:
            self._drain()
            raise

    def _source(self, place: Place) -> int:
        mapped = self._mapped.get(place.allocation)
        if mapped is None or not 0 <= place.offset <= place.offset + place.length <= mapped.size_bytes:
            raise LinkLost(f"the peer lends what it doesn't have: {place} of {mapped}")
        return mapped.address + place.offset

    def _map(self, handles: dict[int, bytes]) -> None:
        """Each allocation once: which of them a session lies in seldom changes."""
        new = set(handles) - set(self._mapped)
        if len(self._mapped) + len(new) > _MOST_MAPPED:
            self._unmap()
            new = set(handles)
        try:
            for number in new:
                self._mapped[number] = self._lending.map(handles[number])
        except LinkRefused as error:
            raise LinkLost(str(error)) from error

    def _unmap(self) -> None:
        while self._mapped:
            self._lending.unmap(self._mapped.popitem()[1])

    def _wait(self, deadline_at: float) -> None:
        soon = time.monotonic() + _SOON_S
        while not self._lane.idle():
            if self._aborted:
                raise LinkLost("the link was aborted")
            if (now := time.monotonic()) >= deadline_at:
                self.abort()  # the sender needn't wait until what is under way is over
                raise LinkLate("the deadline passed while the GPU copied")
            time.sleep(_POLL_SOON_S if now < soon else _POLL_S)

    def _drain(self) -> None:
        """Gigabytes at most, so tens of milliseconds. A GPU that takes longer is broken."""
        end = time.monotonic() + _DRAIN_S
        with contextlib.suppress(LinkLost):
            while not self._lane.idle():
                if time.monotonic() >= end:
                    logger.error("the GPU has hung in a copy of a peer's memory for %.0f s", _DRAIN_S)
                    self._mapped.clear()  # not to be unmapped under it
                    return
                time.sleep(_POLL_S)


def _of_this_user(connection: socket.socket) -> socket.socket:
    """The other end, before it hears what memory can be mapped by: a name in no folder is open to everybody.
    Raises `LinkRefused`.
    """
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    if user != os.geteuid():
        connection.close()
        raise LinkRefused(f"the other end of the link is a process of user {user}, not {os.geteuid()}")
    return connection


def _difference(lent: _Lent, buffers: Sequence[Buffer], tag: bytes) -> str | None:
    if lent.tag != tag:
        return "its tag is not the expected one"
    sizes, expected = [place.length for place in lent.places], [len(buffer) for buffer in buffers]
    if sum(sizes) != sum(expected):
        return f"{sum(sizes)} bytes instead of {sum(expected)}"
    return None if sizes == expected else "its bytes are cut into other pieces"
