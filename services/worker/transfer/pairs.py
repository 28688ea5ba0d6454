"""The open links of one worker: bounded, each used by one transfer at a time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator

from services.worker.transfer.link import Link, LinkLate, LinkLost, LinkRefused, Transport


class PairBusy(LinkRefused):
    """Another move uses the link: try later."""


class Pairs:
    """Links by peer, the longest unused closed first. Thread-safe.

    Links are opened one at a time, and (where the transport asks for it) only while none is in use.
    """

    def __init__(self, transport: Transport, me: str, limit: int) -> None:
        self._transport = transport
        self._me = me
        self._limit = limit
        self._idle: OrderedDict[str, Link] = OrderedDict()
        self._used: dict[str, Link] = {}
        self._lost: list[Link] = []
        self._opening = ""
        self._closed = False
        self._changed = threading.Condition()

    def invite(self) -> bytes:
        return self._transport.invite()

    def has(self, peer: str) -> bool:
        """Whether `use` would find a link to `peer` that seems healthy. In place of a dead one another is
        opened, which closes it: that may take a while, and has no place here.
        """
        with self._changed:
            link = self._idle.get(peer)
            return peer in self._used or (link is not None and link.healthy())

    def is_opening(self, peer: str) -> bool:
        with self._changed:
            return self._opening == peer

    def expects(self, peer: str) -> bool:
        """Whether there is a link to `peer`, or one is being opened."""
        with self._changed:
            return peer in self._idle or peer in self._used or self._opening == peer

    def open(self, peer: str, invitation: bytes, deadline_at: float) -> None:
        """Off the hot path, on both sides. An older link to `peer` is closed. Raises `LinkLost`."""
        self._begin_opening(peer, deadline_at)
        try:
            link = self._transport.open(invitation, self._me, peer, deadline_at)
            with self._changed:
                if self._closed:
                    link.close()
                else:
                    self._idle[peer] = link
        finally:
            with self._changed:
                self._opening = ""
                self._changed.notify_all()

    @contextlib.contextmanager
    def use(self, peer: str, deadline_at: float) -> Iterator[Link]:
        """The open link to `peer`, for this caller alone. A lost one is never used again. Waits for a link
        that is just being opened, never for another user: two workers that waited for each other's link would
        wait for ever.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self._hinders(peer), _left_s(deadline_at)):
                raise LinkLate(f"the link to {self._opening} was not opened in time")
            if peer in self._used:
                raise PairBusy(f"the link to {peer} is in use by another move")
            link = self._idle.pop(peer, None)
            if link is None:
                raise LinkLost(f"no link to {peer} is open")
            self._used[peer] = link
        try:
            yield link
        except BaseException:
            link.abort()
            raise
        finally:
            self._give_back(peer, link)

    def abort(self, peer: str) -> None:
        """Whatever waits on the link to `peer`, or is about to, ends with `LinkLost`."""
        with self._changed:
            link = self._used.get(peer) or self._idle.get(peer)
        if link is not None:
            link.abort()

    def has_lost(self) -> bool:
        """Whether `forget_lost` would close any."""
        with self._changed:
            return bool(self._lost or self._lost_idle())

    def forget_lost(self) -> None:
        """Closes links that are lost: some hold memory of their peer's GPU, which nobody gets until then. Not
        where links open alone: those hold little, and close when they are given back or another is opened.
        """
        with self._changed:
            links, self._lost = self._lost + [self._idle.pop(peer) for peer in self._lost_idle()], []
        for link in links:
            link.close()

    def _lost_idle(self) -> list[str]:
        if self._transport.opens_alone:
            return []
        return [peer for peer, link in self._idle.items() if not link.healthy()]

    def close(self) -> None:
        """Idle links are closed, used ones aborted: their users close them."""
        with self._changed:
            self._closed = True
            for link in self._used.values():
                link.abort()
            while self._idle:
                self._idle.popitem()[1].close()
            while self._lost:
                self._lost.pop().close()

    def _hinders(self, peer: str) -> bool:
        return bool(self._opening) and (self._transport.opens_alone or self._opening == peer)

    def _begin_opening(self, peer: str, deadline_at: float) -> None:
        with self._changed:
            quiet = self._changed.wait_for(
                lambda: not self._opening and not (self._transport.opens_alone and self._used),
                _left_s(deadline_at),
            )
            if not quiet:
                raise LinkLate(f"no moment to open a link to {peer}: other links stayed in use")
            if peer in self._idle:
                self._part_with(self._idle.pop(peer))
            while len(self._idle) >= self._limit:
                self._part_with(self._idle.popitem(last=False)[1])
            self._opening = peer

    def _give_back(self, peer: str, link: Link) -> None:
        with self._changed:
            del self._used[peer]
            if link.healthy() and not self._closed:
                self._idle[peer] = link
            else:
                self._part_with(link)
            self._changed.notify_all()

    def _part_with(self, link: Link) -> None:
        """With the lock held, so what takes long is `forget_lost`'s."""
        if self._closed or self._transport.opens_alone:
            link.close()
        else:
            link.abort()
            self._lost.append(link)


def _left_s(deadline_at: float) -> float:
    return max(0.0, deadline_at - time.monotonic())
