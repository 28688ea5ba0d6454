from services.placement.choose import Room, assign, choose, room_of
from shared.contracts.fleet import CopyReport
from tests.unit.placement.examples import make_copy, make_report, make_row


def room(worker: str, active: int = 0, capacity: int = 4, model: str = "sprites") -> Room:
    return Room(worker, "i-1", model, ("full", "low"), capacity, active)


def test_the_least_loaded_worker_by_share_then_by_name() -> None:
    rooms = [room("w-3", 1, 2), room("w-2", 1, 4), room("w-1", 2, 8)]
    assert choose(make_row(), rooms, {}) == rooms[2]
    assert choose(make_row(), rooms[:2], {}) == rooms[1]


def test_a_full_worker_or_one_of_another_model_or_rung_is_no_room() -> None:
    row = make_row(rung="low")
    assert choose(row, [room("w-1", 4, 4), room("w-2", 0, 0), room("w-3", model="other")], {}) is None
    assert choose(make_row(rung="huge"), [room("w-1")], {}) is None
    assert choose(row, [], {}) is None


def test_the_worker_with_the_copy_is_preferred_unless_the_copy_is_of_no_use() -> None:
    rooms = [room("w-1", 3), room("w-2", 0)]
    assert choose(make_row(), rooms, {"w-1": make_copy(state="paused")}) == rooms[0]
    assert choose(make_row(), [room("w-1", 0), room("w-2", 3)], {"w-1": make_copy(state="failed")}) == room(
        "w-2", 3
    )
    assert choose(make_row(), rooms[:1], {"w-1": make_copy(state="failed")}) == rooms[0]


def test_a_report_gives_room_only_while_it_is_ready() -> None:
    assert room_of(make_report(capacity=4, slots=3), 1).capacity == 3
    assert not room_of(make_report(capacity=4), 4).free
    assert not room_of(make_report(state="draining"), 0).free
    assert not room_of(make_report(state="starting"), 0).free


def test_the_oldest_session_first_and_none_twice_in_one_place() -> None:
    rows = [make_row(id=f"s-{n}", created_at=float(n)) for n in (3, 1, 2, 4)]
    other = make_row(id="s-0", created_at=0.0, model="unserved")
    placed = assign([*rows, other], [room("w-1", 3), room("w-2", 2)], _nowhere)
    assert [(row.id, found.worker) for row, found in placed] == [
        ("s-1", "w-2"),
        ("s-2", "w-1"),
        ("s-3", "w-2"),
    ]


def _nowhere(_: str) -> dict[str, CopyReport]:
    return {}
