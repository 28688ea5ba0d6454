import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.residency import (
    Admission,
    Resident,
    Room,
    admit,
    first_to_leave,
    host_slots,
    hot_slots,
)

ACTIVE = Resident(1, ended=False, paused=False, used_at=1.0)
PAUSED = Resident(2, ended=False, paused=True, used_at=2.0)
OLDER = Resident(3, ended=False, paused=True, used_at=1.5)
ENDED = Resident(4, ended=True, paused=False, used_at=9.0)


@pytest.mark.parametrize(
    ("residents", "newcomer_paused", "expected"),
    [
        ([], False, Admission(True)),
        ([ACTIVE], False, Admission(True)),
        ([ACTIVE, ACTIVE], False, Admission(False)),
        ([ACTIVE, PAUSED], False, Admission(True, 2)),
        ([PAUSED, OLDER], False, Admission(True, 3)),
        ([PAUSED, ENDED], False, Admission(True, 4)),
        ([ACTIVE, PAUSED], True, Admission(False)),
        ([ACTIVE, ENDED], True, Admission(True, 4)),
    ],
)
def test_who_makes_room_in_two_slots(
    residents: list[Resident], newcomer_paused: bool, expected: Admission
) -> None:
    assert admit(residents, Room(hot=2), newcomer_paused) == expected


def test_host_memory_keeps_paused_copies_but_takes_no_active_one() -> None:
    assert admit([ACTIVE, PAUSED], Room(hot=2, host=1), False) == Admission(True)
    assert admit([ACTIVE, ACTIVE], Room(hot=2, host=1), False) == Admission(False)
    assert admit([ACTIVE, ACTIVE], Room(hot=2, host=1), True) == Admission(True)
    assert admit([ACTIVE, PAUSED, OLDER], Room(hot=2, host=1), False) == Admission(True, 3)


def test_paused_copies_leave_first_then_the_longest_unused() -> None:
    assert first_to_leave([ACTIVE, PAUSED, OLDER], paused_only=False) == OLDER.key
    assert first_to_leave([ACTIVE, ACTIVE._replace(key=9, used_at=0.5)], paused_only=False) == 9
    assert first_to_leave([ACTIVE], paused_only=True) is None
    assert first_to_leave([], paused_only=False) is None


residents = st.builds(Resident, st.integers(), st.booleans(), st.booleans(), st.floats(0, 100))


@given(st.lists(residents, max_size=12), st.integers(1, 6), st.integers(0, 6), st.booleans())
def test_admission_never_makes_more_copies_or_active_ones_than_there_is_room_for(
    some: list[Resident], hot: int, host: int, newcomer_paused: bool
) -> None:
    room = Room(hot, host)
    some = [r._replace(key=key) for key, r in enumerate(some[: room.copies])]
    admission = admit(some, room, newcomer_paused)
    left = [r for r in some if r.key != admission.evict]
    active = sum(not r.ended and not r.paused for r in some)
    if admission.admitted:
        assert len(left) < room.copies
        assert newcomer_paused or active < room.hot
        assert sum(not r.ended and not r.paused for r in left) == active


@pytest.mark.parametrize(
    ("wanted", "capacity", "model_slots", "fitting", "expected"),
    [(0, 3, None, 100, 5), (0, 3, None, 4, 4), (0, 3, 4, 0, 4), (7, 3, None, 9, 7), (7, 3, None, 2, 2)],
)
def test_hot_slots_are_what_keeps_up_and_two_to_spare_if_they_fit(
    wanted: int, capacity: int, model_slots: int | None, fitting: int, expected: int
) -> None:
    assert hot_slots(wanted, capacity, model_slots, fitting) == expected


def test_one_host_slot_stays_free_for_exchanging() -> None:
    assert [host_slots(allocated) for allocated in (0, 1, 2, 9)] == [0, 0, 1, 8]
