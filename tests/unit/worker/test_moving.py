from __future__ import annotations

from typing import Any

import pytest

from services.worker.moving.decisions import Forget, Free, Freeze, GoOn, Own, Send, Start
from services.worker.moving.facts import (
    Boundary,
    Complete,
    Dropped,
    Failed,
    FirstAppend,
    Logged,
    Promised,
    Sent,
    Tick,
    Told,
)
from services.worker.moving.patience import MAX_ROUNDS, REST, Parts, PartVersion, Patience
from services.worker.moving.source import Source, begin, source_step
from services.worker.moving.target import Target, reserve, target_step
from shared.contracts.moves import Move

MOVE = Move("m-1", "s-1", "w-1", "w-2", epoch=3, target_epoch=5)
PATIENCE = Patience(copy_s=5, frozen_s=1, reserved_s=7, proving_s=2, rest_bytes=10)


def parts(**versions: int) -> Parts:
    return {name: PartVersion(version, 8) for name, version in versions.items()}


def source_after(*facts: Any) -> tuple[Source, list[Any]]:
    source, decisions = begin(MOVE, parts(a=1, b=1), PATIENCE, 0.0)
    for fact in facts:
        source, decisions = source_step(source, fact, 0.0)
    return source, decisions


def target_after(*facts: Any) -> tuple[Target, list[Any]]:
    target = reserve(MOVE, PATIENCE, 0.0)
    decisions: list[Any] = []
    for fact in facts:
        target, decisions = target_step(target, fact, 0.0)
    return target, decisions


BOTH_CHANGED = Boundary(4, parts(a=2, b=2, c=1))
ONE_CHANGED = Boundary(6, parts(a=1, b=2))


def test_what_changed_is_sent_again_and_the_rest_in_the_pause() -> None:
    assert begin(MOVE, parts(a=1, b=1), PATIENCE, 0.0)[1] == [Send(1, ("a", "b"))]
    assert source_after(Sent(1), ONE_CHANGED)[1] == [Freeze(6), Send(REST, ("b",))]
    assert source_after(Sent(1), BOTH_CHANGED)[1] == [Send(2, ("a", "b", "c"))]


def test_after_some_rounds_it_freezes_however_much_has_changed() -> None:
    facts: list[Any] = [Sent(1)]
    for stage in range(2, MAX_ROUNDS + 1):
        facts += [Boundary(stage, parts(a=stage, b=stage)), Sent(stage)]
    everything = Boundary(9, parts(a=9, b=9, c=9))
    assert source_after(*facts, everything)[1] == [Freeze(9), Send(REST, ("a", "b", "c"))]


@pytest.mark.parametrize(
    "facts", [(BOTH_CHANGED,), (Sent(1), BOTH_CHANGED, Sent(1), ONE_CHANGED), (Sent(REST),)]
)
def test_a_boundary_while_a_round_is_under_way_changes_nothing(facts: tuple[Any, ...]) -> None:
    source, decisions = source_after(*facts)
    assert source.phase == "copying"
    assert decisions == []


BEFORE_THE_FREEZE: list[tuple[Any, ...]] = [(), (Sent(1),), (Sent(1), BOTH_CHANGED)]
FROZEN = (Sent(1), ONE_CHANGED)


@pytest.mark.parametrize("facts", [*BEFORE_THE_FREEZE, FROZEN])
@pytest.mark.parametrize("trouble", [Failed("the link broke"), Told(6)])
def test_at_any_trouble_the_source_goes_on(facts: tuple[Any, ...], trouble: Any) -> None:
    source, (decision,) = source_after(*facts, trouble)
    assert source.over
    assert isinstance(decision, GoOn)


@pytest.mark.parametrize("facts", [*BEFORE_THE_FREEZE, FROZEN])
def test_a_late_move_is_given_up_and_not_before(facts: tuple[Any, ...]) -> None:
    source, _ = source_after(*facts)
    assert source.wake_at == (1 if facts == FROZEN else 5)
    assert source_step(source, Tick(), source.wake_at - 0.01) == (source, [])
    assert source_step(source, Tick(), source.wake_at)[1] == [GoOn("too late")]


@pytest.mark.parametrize("fact", [Logged(5), Dropped(3)])
def test_the_source_forgets_when_the_log_or_placement_says_so(fact: Any) -> None:
    source, decisions = source_after(*FROZEN, fact)
    assert decisions == [Forget()]
    assert source_step(source, Tick(), 100.0) == (source, [])


@pytest.mark.parametrize("fact", [Logged(3), Dropped(2), Told(3), Sent(REST)])
def test_older_epochs_and_sent_bytes_do_not_end_the_sources_wait(fact: Any) -> None:
    source, decisions = source_after(*FROZEN, fact)
    assert (source.phase, decisions) == ("frozen", [])


@pytest.mark.parametrize("facts", [(Complete(), Promised(6)), (Promised(6), Complete())])
def test_the_target_starts_when_it_has_state_and_promise_in_any_order(facts: tuple[Any, ...]) -> None:
    assert target_after(facts[0])[1] == []
    assert target_after(*facts)[1] == [Start(6, 5)]
    assert target_after(*facts, facts[0])[1] == []


STARTED = (Complete(), Promised(6))


def test_the_log_decides_whose_session_it_is() -> None:
    assert target_after(*STARTED, FirstAppend(won=True))[1] == [Own(5)]
    assert target_after(*STARTED, Told(8), FirstAppend(won=True))[1] == [Own(8)]
    assert target_after(*STARTED, FirstAppend(won=False))[1] == [Free("the source went on")]


def test_a_target_that_started_needs_the_source_no_more() -> None:
    target, decisions = target_after(*STARTED, Failed("the link broke"))
    assert (target.phase, decisions) == ("proving", [])


@pytest.mark.parametrize(
    ("facts", "wake_at"), [((), 7), ((Complete(),), 7), ((Promised(6),), 7), (STARTED, 2)]
)
def test_a_watchdog_frees_what_a_target_reserved(facts: tuple[Any, ...], wake_at: float) -> None:
    target, _ = target_after(*facts)
    assert target.wake_at == wake_at
    assert target_step(target, Tick(), wake_at - 0.01) == (target, [])
    assert target_step(target, Tick(), wake_at)[1] == [Free("too late")]


def test_once_placement_has_committed_a_target_may_take_its_time() -> None:
    target, _ = target_after(*STARTED, Told(5))
    assert target.committed
    assert target_step(target, Tick(), 1000.0) == (target, [])


@pytest.mark.parametrize("facts", [(), (Complete(),), STARTED])
def test_a_departure_ends_a_target_and_an_older_drop_does_not(facts: tuple[Any, ...]) -> None:
    assert target_after(*facts, Dropped(4))[1] == []
    assert target_after(*facts, Dropped(5))[1] == [Forget()]


def test_a_reservation_is_freed_when_the_session_is_placed_here_without_its_state() -> None:
    (decision,) = target_after(Promised(6), Told(6))[1]
    assert isinstance(decision, Free)
    assert target_after(Promised(6), Told(3))[1] == []
