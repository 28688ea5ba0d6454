from __future__ import annotations

import pytest

from services.worker.again import Work
from services.worker.expecting import NEVER, Spell, can_wait, wait_s, while_it_comes

STEP_S = 0.06


@pytest.mark.parametrize(("takes_s", "begins_at"), [(0.0, 10.0), (0.05, 10.0), (0.2, 10.14)])
def test_the_device_is_kept_free_from_a_step_before_the_freeze(takes_s: float, begins_at: float) -> None:
    spell = while_it_comes(10.0, takes_s, STEP_S)
    assert spell == pytest.approx((begins_at, 10.0 + takes_s + 1.5 * STEP_S))


def test_nobody_waits_before_a_spell_or_after_it() -> None:
    spells = [NEVER, Spell(10.0, 10.1), Spell(20.0, 30.0)]
    assert [wait_s(spells, now) > 0 for now in (9.9, 10.0, 10.2)] == [False, True, False]
    assert wait_s([], 10.0) == 0.0


def test_others_wait_only_as_long_as_all_are_in_time() -> None:
    """The one that is needed first goes first, and delays the other."""
    works = [Work(10.9, 1, 0.3), Work(10.5, 2, 0.3)]
    assert can_wait(works, 0.1, 10.0, 0.1)
    assert not can_wait(works, 0.11, 10.0, 0.1)
    assert not can_wait([Work(10.69, 1, 0.3), works[1]], 0.0, 10.0, 0.1)
    assert can_wait([], 5.0, 10.0, 0.1)
