"""A chunk is begun again only where everybody's pictures still come in time."""

from hypothesis import given
from hypothesis import strategies as st

from services.worker.again import NEVER, Costs, Work, latest
from services.worker.copies import Copy
from services.worker.curve import Curve
from services.worker.orders import again, begin
from tests.fixtures.worker_wire import new_own, steered

STEP_S, AFTER_S = 0.05, 0.1
seconds = st.integers(0, 60).map(lambda n: n / 20)
works = st.lists(st.tuples(seconds, seconds, seconds), min_size=1, max_size=6).map(
    lambda all_: [Work(needed, key, left, left + more) for key, (needed, left, more) in enumerate(all_)]
)


def served(works: list[Work], since: float) -> dict[int, float]:
    """When each one's pictures are in the log, if the device does nothing else, most urgent first."""
    there, now = {}, since
    for work in sorted(works):
        now += work.left_s
        there[work.key] = now + AFTER_S
    return there


@given(works)
def test_nobody_who_is_needed_no_sooner_is_late_for_a_chunk_begun_again_in_time(works: list[Work]) -> None:
    """And a moment later somebody would be."""
    until = latest(works, STEP_S, AFTER_S)
    for chosen in works:
        assert chosen.again_s is not None
        anew = [work._replace(left_s=chosen.again_s) if work is chosen else work for work in works]
        affected = [work for work in anew if work[:2] >= chosen[:2]]
        for later_s, all_in_time in ((-1e-6, True), (1e-3, False)):
            there = served(anew, until[chosen.key] + STEP_S + later_s)
            assert all(there[work.key] <= work.needed_at for work in affected) == all_in_time


@given(works, seconds)
def test_more_to_do_never_leaves_more_time(works: list[Work], more_s: float) -> None:
    before, key = latest(works, STEP_S, AFTER_S), len(works)
    for needed_at in (0.0, 1.5, 3.0):
        after = latest([*works, Work(needed_at, key, more_s)], STEP_S, AFTER_S)
        assert all(after[work.key] <= before[work.key] + 1e-9 for work in works)
        assert key not in after, "it can't be begun again"


def test_what_takes_long_is_forgotten_slowly() -> None:
    costs = Costs({"full": Curve("all", ((1, 0.05), (2, 0.08)))}, {"full": 4})
    assert abs(costs.again_s("full") - 0.4) < 1e-9
    for seconds in (0.3, 0.1, 0.1):
        costs.learn_prompt("full", seconds)
        costs.learn_after(seconds)
    assert 0.1 < costs.after_s < 0.3
    assert 0.3 < costs.again_s("full") < 0.5


def test_a_prompt_in_time_is_for_the_chunk_under_way_and_a_later_one_for_the_next() -> None:
    copy = Copy(1, new_own("a red ball"), 0.0, located=True)
    copy.show(copy.own, now=1.0)
    order = begin(copy, 1.0, now=1.0)
    copy.again_until = 2.0
    copy.show(first := steered(copy.own, "a blue ball"), now=2.0)
    assert (copy.again, copy.inputs_from) == (True, order.index)
    copy.again_until = NEVER
    copy.show(second := steered(first, "a green ball"), now=2.1)
    assert (copy.again, copy.inputs_from) == (True, order.index), "it is to be begun again anyway"
    assert (again(order).inputs_version, again(order).index) == (second.inputs_version, order.index)
    copy.again = False
    copy.show(steered(second, "a white ball"), now=2.2)
    assert (copy.again, copy.inputs_from) == (False, order.index + 1)
