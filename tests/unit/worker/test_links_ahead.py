"""To whom a worker links itself before any session moves."""

import itertools

import msgspec
import pytest

from services.worker.mover.ahead import Wanted, neighbours
from shared.contracts.fleet import LoadReport
from shared.contracts.moves import compatibility_of
from tests.contract.examples import MESSAGES

REPORT = next(message for message in MESSAGES if isinstance(message, LoadReport))
READY = msgspec.structs.replace(REPORT, state="ready", transports=["tcp"])
MINE = compatibility_of(READY.model)
NAMES = [f"w-{number}" for number in range(9)]


def chosen(me: str, names: list[str], limit: int = 4, **changes: object) -> list[str]:
    reports = {name: msgspec.structs.replace(READY, worker=name, **changes) for name in names}
    return [wanted.peer for wanted in neighbours(me, MINE, ["nccl", "tcp"], reports, limit)]


def test_all_that_sessions_could_move_to_and_nobody_else() -> None:
    reports = {
        "w-0": READY,
        "w-1": READY,
        "w-2": msgspec.structs.replace(READY, state="draining"),
        "w-3": msgspec.structs.replace(READY, transports=["other"]),
        "w-4": msgspec.structs.replace(READY, transports=["nccl", "tcp"]),
        "w-5": msgspec.structs.replace(READY, model=msgspec.structs.replace(READY.model, dtype="other")),
    }
    wanted = neighbours("w-0", MINE, ["nccl", "tcp"], reports, 8)
    assert wanted == [Wanted("w-1", ("tcp",)), Wanted("w-4", ("nccl", "tcp"))]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 8])
def test_of_many_those_that_choose_this_one_too(limit: int) -> None:
    pairs = {me: chosen(me, NAMES, limit) for me in NAMES}
    assert all(len(peers) == limit and me not in peers for me, peers in pairs.items())
    if limit % 2 == 0:
        assert all((a in pairs[b]) == (b in pairs[a]) for a, b in itertools.combinations(NAMES, 2))


def test_where_there_is_room_for_all_of_them() -> None:
    assert sorted(chosen("w-3", NAMES, 8)) == [name for name in NAMES if name != "w-3"]
    assert chosen("w-0", ["w-0"]) == []
