"""What operators may set while the fleet runs, and what can't be."""

from __future__ import annotations

import msgspec

from shared.contracts.fleet import SetFleet

MOST_WORKERS = 1024


class Controls(msgspec.Struct, frozen=True):
    """`minimum`, `maximum`: of workers that the autoscaler starts. `spare`: ready ones to keep beside those
    needed. `frozen`: the size stays as it is. `dry_run`: nothing is done, only said.
    """

    minimum: int
    maximum: int
    spare: int = 0
    frozen: bool = False
    dry_run: bool = False


def changed(before: Controls, asked: SetFleet) -> Controls:
    """`before` with what was asked for. Raises ValueError, in words, for what can't be."""
    given = {name: value for name, value in msgspec.structs.asdict(asked).items() if value is not None}
    for name in ("minimum", "maximum", "spare"):
        if not 0 <= given.get(name, 0) <= MOST_WORKERS:
            raise ValueError(f"{name} is {given[name]}: it must be from 0 to {MOST_WORKERS}")
    after = msgspec.structs.replace(before, **given)
    if after.minimum > after.maximum:
        raise ValueError(
            f"the minimum, {after.minimum}, would be more than the maximum, {after.maximum}: "
            "raise the one or lower the other"
        )
    return after


def said(controls: Controls) -> str:
    """For the log."""
    words = f"at least {controls.minimum}, at most {controls.maximum} workers, {controls.spare} to spare"
    return words + ", frozen" * controls.frozen + ", dry run" * controls.dry_run


def restored(settings: Controls, kept: SetFleet) -> Controls:
    """What operators had set, over the process's settings; where these have since become contradictory, the
    maximum holds.
    """
    given = {name: value for name, value in msgspec.structs.asdict(kept).items() if value is not None}
    both = msgspec.structs.replace(settings, **given)
    return msgspec.structs.replace(both, minimum=min(both.minimum, both.maximum))
