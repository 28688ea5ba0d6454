"""How long the two sides of a move wait, and what they count in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

MAX_ROUNDS = 4
REST = 0  # the stage after the freeze; pre-copies are stages 1 and up


@dataclass(frozen=True, slots=True)
class Patience:
    """`copy_s`: all pre-copies, until the freeze. `frozen_s`: from the freeze to the target's first chunk in
    the log. `reserved_s`: from the reservation until the state is complete, so at least `copy_s + frozen_s`.
    `proving_s`: from then to the first chunk, or to placement's word. `rest_bytes`: that much is sent in the
    pause rather than in another round.
    """

    copy_s: float = 5.0
    frozen_s: float = 1.0
    reserved_s: float = 7.0
    proving_s: float = 1.0
    rest_bytes: int = 0


class PartVersion(NamedTuple):
    """`version` changes whenever the part's bytes do."""

    version: int
    bytes: int


Parts = Mapping[str, PartVersion]
