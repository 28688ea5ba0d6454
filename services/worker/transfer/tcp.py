"""Links over plain TCP: for machines without GPUs, and for GPUs that NCCL doesn't join."""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
from collections.abc import Sequence

import msgspec

from services.worker.transfer.greeting import TOKEN_BYTES, accept, join
from services.worker.transfer.link import TAG_BYTES, Buffer, LinkLost, LinkRefused, rank_of
from services.worker.transfer.memory import HostViews, check_buffers
from services.worker.transfer.sockets import is_whole, lost_if_it_fails, receive_all, send_all

_HEADER = struct.Struct(f"!{TAG_BYTES}sQ")
_RECEIPT = b"\x06"
_MAX_INVITATIONS = 8


class _Invitation(msgspec.Struct, frozen=True):
    host: str
    port: int
    token: bytes


class TcpTransport:
    """`host`: the address under which other workers reach this one."""

    name = "tcp"
    opens_alone = False

    def __init__(self, host: str) -> None:
        self._host = host
        self._listeners: dict[bytes, socket.socket] = {}

    def invite(self) -> bytes:
        while len(self._listeners) >= _MAX_INVITATIONS:
            self._listeners.pop(next(iter(self._listeners))).close()
        listener = socket.create_server((self._host, 0), family=_family_of(self._host), backlog=4)
        listener.setblocking(False)
        invitation = _Invitation(self._host, listener.getsockname()[1], secrets.token_bytes(TOKEN_BYTES))
        self._listeners[invitation.token] = listener
        return msgspec.msgpack.encode(invitation)

    def open(self, invitation: bytes, me: str, peer: str, deadline_at: float) -> TcpLink:
        try:
            invited = msgspec.msgpack.decode(invitation, type=_Invitation)
        except msgspec.DecodeError as e:
            raise LinkRefused(f"the invitation to a link with {peer} is not one for TCP: {e}") from e
        if rank_of(me, peer) == 1:
            address = (invited.host, invited.port)
            return TcpLink(join(_family_of(invited.host), address, invited.token, deadline_at))
        listener = self._listeners.pop(invited.token, None)
        if listener is None:
            raise LinkRefused(f"the invitation to a link with {peer} was not made here, or was used before")
        with listener:
            return TcpLink(accept(listener, invited.token, deadline_at))

    def close(self) -> None:
        while self._listeners:
            self._listeners.popitem()[1].close()


class TcpLink:
    """See `Link`."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._views = HostViews()

    def send(self, buffers: Sequence[Buffer], tag: bytes, deadline_at: float) -> None:
        check_buffers(buffers)
        with lost_if_it_fails(self.abort):
            send_all(self._socket, memoryview(_header(buffers, tag)), deadline_at)
            for buffer in buffers:
                for view in self._views.to_send(buffer):
                    send_all(self._socket, view, deadline_at)
            receipt = receive_all(self._socket, memoryview(bytearray(1)), deadline_at)
            if receipt != _RECEIPT:
                raise LinkLost("the peer did not expect this transfer")

    def receive(self, buffers: Sequence[Buffer], tag: bytes, deadline_at: float) -> None:
        check_buffers(buffers)
        expected = _header(buffers, tag)
        with lost_if_it_fails(self.abort):
            header = receive_all(self._socket, memoryview(bytearray(_HEADER.size)), deadline_at)
            if header != expected:
                raise LinkLost(f"the peer sent another transfer: {_difference(bytes(header), expected)}")
            for buffer in buffers:
                for view in self._views.to_fill(buffer):
                    receive_all(self._socket, view, deadline_at)
            send_all(self._socket, memoryview(_RECEIPT), deadline_at)

    def healthy(self) -> bool:
        """Bytes that wait are no bad sign: the peer's next transfer may begin before this side is done with
        the last one.
        """
        return is_whole(self._socket)

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.abort()
        self._socket.close()


def _header(buffers: Sequence[Buffer], tag: bytes) -> bytes:
    return _HEADER.pack(tag, sum(map(len, buffers)))


def _difference(said: bytes, expected: bytes) -> str:
    (said_tag, said_bytes), (tag, count) = _HEADER.unpack(said), _HEADER.unpack(expected)
    if said_tag != tag:
        return "its tag is not the expected one"
    return f"{said_bytes} bytes instead of {count}"


def _family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
