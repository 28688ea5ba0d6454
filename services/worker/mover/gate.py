"""May a move begin here? Every `refuse_…` raises `Refused`, in words."""

from __future__ import annotations

import time

import msgspec

from services.worker import carry
from services.worker.carry import Way
from services.worker.copies import Copy
from services.worker.mover.port import Port
from services.worker.refusals import refuse_unfit
from services.worker.transfer.link import LinkRefused
from services.worker.transfer.manifest import ManifestRefused, check_compatible
from shared.bus import Refused
from shared.contracts.moves import Move, MoveOut, Reserve


def refuse_late(deadline_at: float) -> None:
    if time.time() > deadline_at:
        raise Refused("too_late", "the request's deadline has passed", "repeat it with a new one")


def refuse_unfit_state(port: Port, asked: Reserve) -> None:
    """What no free slot would help."""
    move, desk = asked.move, port.holdings.desk
    if (move.session, move.target) != (asked.own.session, desk.worker):
        raise Refused("bad_move", f"{move.move_id} is not a move of {asked.own.session} to {desk.worker}")
    own = msgspec.structs.replace(asked.own, deadline_at=asked.deadline_at)
    refuse_unfit(own, desk.spec, time.time())
    try:
        check_compatible(asked.compatibility, port.compatibility)
    except ManifestRefused as error:
        raise Refused("incompatible", str(error), "choose another worker") from None


def refuse_held(port: Port, move: Move, dropped_through: int) -> None:
    """`dropped_through`: the newest epoch of the session that this worker was told to drop."""
    if move.target_epoch <= dropped_through:
        raise Refused("stale", f"this worker was told to drop epoch {move.target_epoch} of {move.session}")
    held = port.holdings.desk.roster.get(move.session)
    if held is not None and not held.ended:
        raise Refused("busy", f"this worker still holds a copy of {move.session}", "have it dropped")


def leaving_copy(port: Port, move: Move) -> Copy:
    """Raises `Refused` if there is none that may leave."""
    copy = port.holdings.desk.roster.get(move.session)
    if copy is None or copy.arriving or copy.gone:
        raise Refused("no_copy", f"this worker holds no copy of {move.session}")
    unsure = bool(copy.move_id) and not copy.committed
    if copy.own.epoch != move.epoch or copy.ended or unsure:
        state = copy.ended or (f"unproven since {copy.move_id}" if copy.move_id else "there")
        raise Refused("stale", f"the copy of {move.session} has epoch {copy.own.epoch} and is {state}")
    return copy


def chosen_transport(port: Port, order: MoveOut) -> str:
    """Raises `Refused`: they have none in common."""
    try:
        return port.links.choose(order.move.target, order.transports)
    except LinkRefused as error:
        raise Refused("no_transport", str(error)) from None


def refuse_slow(port: Port, order: MoveOut, transport: str) -> None:
    """Where rebuilding it from its latents is quicker than to send the state."""
    rate = port.rates.bytes_per_s(order.move.target, transport, time.monotonic())
    picture = port.picture.paused() if order.waited_for else port.picture
    ahead_s = 0.0 if order.waited_for else picture.chunk_s
    if carry.way(picture, rate, ahead_s, port.patience_s) is Way.REBUILD:
        pause_s = carry.sending_pause_s(picture, rate)
        raise Refused(
            "better_rebuilt",
            f"to send {picture.state_bytes:,} bytes of state over {transport} at {rate / 1e9:.2f} GB/s would"
            f" stop it for {pause_s:.1f} s",
            "have it rebuilt from its latents",
        )
