"""Why a worker does not carry out an `Own`. Placement knows the codes by name."""

from __future__ import annotations

from services.worker.copies import SUPERSEDED, Copy
from services.worker.models.protocol import ModelSpec
from shared.bus import Refused
from shared.contracts.fleet import Own
from shared.ids import InvalidName, check_name, check_session_id


def refuse_unfit(own: Own, spec: ModelSpec, now: float) -> None:
    """Raises `Refused` for what no worker of this model could do, whatever it holds. `now`: wall clock."""
    try:
        check_session_id(own.session)
        check_name("tenant", own.tenant)
    except InvalidName as error:
        raise Refused("bad_name", str(error)) from None
    if now > own.deadline_at:
        raise Refused("too_late", "the command's deadline has passed", "repeat it with a new one")
    if own.model != spec.name:
        raise Refused("wrong_model", f"this worker serves {spec.name!r}, not {own.model!r}")
    rungs = [rung.name for rung in spec.rungs]
    if own.rung and own.rung not in rungs:
        raise Refused("unknown_rung", f"{own.model} has no rung {own.rung!r}", f"it has {', '.join(rungs)}")


def refuse_unusable(copy: Copy, own: Own) -> None:
    """Raises `Refused` if the copy can't become what `own` says. Asked after every wait."""
    if copy.gone:
        raise Refused("dropped", f"{own.session} was dropped meanwhile")
    if (own.epoch, own.revision) < (copy.own.epoch, copy.own.revision):
        raise Refused("stale", f"this worker knows revision {copy.own.revision} of {own.session}")
    if copy.ended == SUPERSEDED:
        raise Refused("superseded", f"the chunk log shows another owner of {own.session}")
    if copy.ended:
        raise Refused("failed", f"{own.session} failed here: {copy.error}", "raise the epoch to begin anew")
