from services.placement.room import room_of
from tests.unit.placement.examples import make_report


def test_a_report_gives_room_only_while_it_is_ready() -> None:
    assert room_of(make_report(capacity=4, slots=3), 1).capacity == 3
    assert not room_of(make_report(capacity=4), 4).free
    assert not room_of(make_report(state="draining"), 0).free
    assert not room_of(make_report(state="starting"), 0).free
