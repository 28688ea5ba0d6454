"""The state of a session that leaves: what was read of it last, and how it goes to the target."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from services.worker.copies import Copy
from services.worker.mover.port import Account
from services.worker.mover.readings import Held, Reading, versions
from services.worker.mover.shipping import Shipping
from services.worker.moving.patience import REST, PartVersion
from services.worker.transfer.manifest import Span, merge
from shared.contracts.moves import HandOver


class Parcel(NamedTuple):
    """What one stage sends, as it was read when that was decided."""

    stage: int
    spans: list[Span]
    read: Held | Reading

    @property
    def sent_bytes(self) -> int:
        return sum(end - start for start, end in self.spans)


@dataclass(slots=True)
class Cargo:
    """`account`: of the move, told what was sent. `offered`: the target's transports."""

    account: Account
    copy: Copy
    offered: Sequence[str]
    held: Held
    newest: Held | Reading = field(init=False)
    _shipping: Shipping = field(init=False)

    def __post_init__(self) -> None:
        self.newest = self.held
        self._shipping = Shipping(self.account.port, self.account.move, self.offered, self.held.memory)

    @property
    def transport(self) -> str:
        """The one in use, once there is a link."""
        return self._shipping.transport

    @property
    def versions(self) -> dict[str, PartVersion]:
        return versions(self.newest.parts)

    @property
    def free_at(self) -> float:
        """When the target's device can go on with the session, as it last said, monotonic."""
        return self._shipping.free_at

    async def link(self, wait_s: float) -> None:
        """Raises one of `FAILURES`."""
        await self._shipping.link(wait_s)

    def pack(self, stage: int, names: tuple[str, ...]) -> Parcel:
        """Those parts, as they are by the newest reading."""
        spans = merge(span for name in names for span in self.newest.parts[name].spans)
        return Parcel(stage, spans, self.newest)

    async def send(self, parcel: Parcel, until: float | None) -> None:
        """`until`: monotonic; None: at once or not at all. Raises one of `FAILURES`."""
        began_at = time.monotonic()
        await self._ship(parcel, until or began_at)
        self.account.sent_bytes += parcel.sent_bytes
        now, target = time.monotonic(), self.account.move.target
        self.account.port.rates.note(target, self.transport, parcel.sent_bytes, now - began_at, now)

    async def _ship(self, parcel: Parcel, until: float) -> None:
        stage, spans, read = parcel
        if stage == REST:
            assert isinstance(read, Reading)
            await self._shipping.send_rest(spans, until, read.fence, self._hand_over(read))
        else:
            await self._shipping.send_ahead(stage, spans, until, read.fence)

    def _hand_over(self, reading: Reading) -> HandOver:
        """Commands that came before the freeze are in it; later ones wait."""
        copy = self.copy
        return HandOver(
            reading.next_chunk,
            copy.own,
            copy.inputs_from,
            reading.shown,
            reading.counters,
            copy.granted_through,
            reading.next_chunk - copy.next_append,
            reading.under_way,
            list(reading.void),
        )
