"""What operators may set."""

import pytest

from services.autoscaler.controls import MOST_WORKERS, Controls, changed, restored
from shared.contracts.fleet import SetFleet

BEFORE = Controls(1, 4)


def test_what_is_not_given_stays() -> None:
    assert changed(BEFORE, SetFleet(spare=1)) == Controls(1, 4, 1)
    assert changed(changed(BEFORE, SetFleet(frozen=True)), SetFleet(maximum=6)) == Controls(1, 6, frozen=True)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (SetFleet(minimum=5), "the minimum, 5, would be more than the maximum, 4"),
        (SetFleet(minimum=9, maximum=8), "more than the maximum, 8"),
        (SetFleet(minimum=-1), "minimum is -1: it must be from 0 to 1024"),
        (SetFleet(maximum=MOST_WORKERS + 1), "maximum is 1025"),
        (SetFleet(spare=-3), "spare is -3"),
    ],
)
def test_what_cannot_be_is_refused_in_words(asked: SetFleet, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        changed(BEFORE, asked)


def test_both_bounds_may_be_changed_at_once() -> None:
    assert changed(BEFORE, SetFleet(minimum=5, maximum=8)) == Controls(5, 8)


def test_what_was_set_holds_over_the_settings_and_the_maximum_over_the_minimum() -> None:
    assert restored(Controls(1, 2), SetFleet(minimum=3, dry_run=True)) == Controls(2, 2, dry_run=True)
    assert restored(BEFORE, SetFleet()) == BEFORE
