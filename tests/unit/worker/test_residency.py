import pytest

from services.worker.residency import Admission, Resident, admit

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
    assert admit(residents, 2, newcomer_paused) == expected
