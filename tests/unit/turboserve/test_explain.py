"""Decisions in words, and taken again. What is recorded here was really decided."""

from datetime import UTC, datetime

import msgspec
import pytest
from rich.console import Console

from services.autoscaler.policies import registry as fleet_registry
from services.autoscaler.policies import view as fleet
from services.placement.policies import registry as placement_registry
from services.placement.policies import view as placement
from shared.decision_log import Decided as Given
from shared.decision_log import make_record, unpack
from turboserve import explained
from turboserve.decide_again import decide_again, differences, read
from turboserve.errors import TurboserveError
from turboserve.messages import DecisionInfo, DecisionRecord

LATENCY_S = (0.0, 0.2, 0.4, 0.6)
WORKERS = tuple(placement.Worker(f"w-{n}", "gpu", "ready", 2, 3, LATENCY_S) for n in (1, 2))
SESSIONS = (
    *(placement.Session(f"s-{n}", True, 1.0, worker="w-1") for n in (1, 2)),
    *(placement.Session(f"s-{n}", True, 5.0) for n in (3, 4, 5, 6)),
)
SEEN = placement.View(9.0, WORKERS, SESSIONS, freed_per_s=0.25)
FLEET = fleet.View(
    now_s=50.0,
    workers=(fleet.Worker("w-1", "gpu", "ready", 10.0), fleet.Worker("w-2", "gpu", "draining", 45.0)),
    loads=(2, 0),
    kinds=(fleet.Kind("gpu", 2, LATENCY_S, boot_s=30.0),),
    active=6,
    queued=4,
    idle=1,
    counts=fleet.Counts(arrived=7, arrived_active=7),
    rho_max=1.0,
    minimum=1,
    maximum=8,
)


def recorded(
    service: str, name: str, reason: str = "a test", **changes: msgspec.Struct | None
) -> DecisionRecord:
    """What the client gets of a decision that is taken now. `changes`: of its parts."""
    if service == "placement":
        policy = placement_registry.named(name, {"longest_wait_s": 6.0})
        parts = {"view": SEEN, "memory": placement.Memory(), "policy": policy}
        parts["decision"] = policy.decide(SEEN, placement.Memory())
    else:
        scaler = fleet_registry.named(name, {})
        parts = {"view": FLEET, "memory": None, "policy": scaler, "decision": scaler.decide(FLEET, None)}
    record = make_record(
        Given(f"{service[0]}-1", 5.0, name, reason, ["s-3"], ["w-2"], **(parts | changes)),  # type: ignore[arg-type]
        service,
        f"{service}-1",
    )
    about = DecisionInfo(
        record.id, service, record.instance, datetime.fromtimestamp(5.0, UTC), name, reason, ["s-3"], ["w-2"]
    )
    raws = (record.policy, record.view, record.memory, record.decision)
    return DecisionRecord(about, *(msgspec.Raw(unpack(raw)) for raw in raws))


def words(record: DecisionRecord) -> str:
    console = Console(width=200, force_terminal=False)
    with console.capture() as captured:
        explained.show(record.about, read(record), console)
    return captured.get()


@pytest.mark.parametrize("service", ["placement", "autoscaler"])
@pytest.mark.parametrize("name", sorted(placement_registry.POLICIES))
def test_every_policy_decides_again_what_it_decided(service: str, name: str) -> None:
    decided = read(recorded(service, name))
    assert differences(decided.decision, decide_again(decided)) == []


@pytest.mark.parametrize("name", sorted(fleet_registry.POLICIES))
def test_what_a_fleet_s_policy_remembers_is_recorded_too(name: str) -> None:
    policy, memory = fleet_registry.named(name, {}), None
    for second in range(4):
        view = msgspec.structs.replace(FLEET, now_s=50.0 + second, queued=second)
        decision = policy.decide(view, memory)
        decided = read(recorded("autoscaler", name, view=view, memory=memory, decision=decision))
        assert decided.memory == memory
        assert differences(decided.decision, decide_again(decided)) == []
        memory = decision.memory


def test_another_answer_is_told_by_where_it_differs() -> None:
    wrong = placement.Decision((), (), 0.5, placement.Memory(turn=3))
    decided = read(recorded("placement", "turboserve", decision=wrong))
    told = differences(decided.decision, decide_again(decided))
    assert any(line.startswith("acts: was [], is now [{") for line in told)
    assert "memory.turn: was 3, is now 0" in told


def test_placement_is_explained_by_what_it_saw_and_why() -> None:
    acts = (
        placement.Place("s-3", "w-2", "the quickest"),
        placement.Move("s-1", "w-1", "w-2", "w-1 drains"),
        placement.Suspend("s-9", "w-1", "room"),
        placement.Refuse("s-6", 8.0, "no room in time"),
        placement.StepDown("s-2", "others wait"),
        placement.StepUp("s-1", "nobody waits"),
    )
    waiting = (placement.Waiting("s-5", 0, 4.0), placement.Waiting("s-4", 1))
    decision = placement.Decision(acts, waiting, 1.0, placement.Memory())
    told = words(recorded("placement", "turboserve", "a lot", decision=decision))
    assert "p-1: a lot" in told
    assert "by placement-1, policy turboserve" in told
    assert "longest_wait_s 6.0" in told
    assert "seen: 2 active, 4 queued, 0 idle sessions" in told
    assert ["w-2", "ready", "0/2", "–", "200.0", "ms", "1"] in [line.split() for line in told.splitlines()]
    lines = [line.strip() for line in told.splitlines()]
    assert lines[lines.index("decided") + 1 :][:6] == [
        "place s-3 on w-2: the quickest",
        "move s-1 from w-1 to w-2: w-1 drains",
        "suspend s-9 on w-1: room",
        "refuse s-6, to come back in 8.00 s: no room in time",
        "step s-2 down: others wait",
        "step s-1 up again: nobody waits",
    ]
    assert "waiting: 2\n  1. s-5, for about 4.00 s more\n  2. s-4\n" in told
    assert "highest load of a worker afterwards: 100% of its capacity" in told


def test_the_fleet_s_size_is_explained_by_what_was_seen_and_why() -> None:
    change = fleet.Change({"gpu": 2}, ("w-2",), ("w-3",), ("w-4", "w-5"))
    told = words(
        recorded("autoscaler", "turboserve", decision=fleet.Decision(5, change, "six wait", memory=None))
    )
    assert "seen: 6 active (4 of them queued), 1 idle sessions" in told
    rows = [line.split() for line in told.splitlines()]
    assert ["w-2", "draining", "5.00", "s", "0", "gpu"] in rows
    assert ["gpu", "2", "200.0", "ms", "30.00", "s", "1"] in rows
    lines = [line.strip() for line in told.splitlines()]
    assert lines[lines.index("decided: 5 workers wanted, of 1 to 8: six wait") + 1 :] == [
        "start 2 of gpu",
        "take back w-2",
        "drain w-3",
        "release w-4, w-5",
    ]


def test_large_views_are_cut_but_not_whom_it_concerns() -> None:
    many = tuple(placement.Worker(f"w-{n:03}", "gpu", "ready", 2, 3, LATENCY_S) for n in range(100, 300))
    view = msgspec.structs.replace(SEEN, workers=(*many, *WORKERS))
    told = words(recorded("placement", "turboserve", view=view))
    assert f"and {202 - explained.MAX_ROWS} more" in told
    assert "w-2 " in told


def test_what_another_version_decided_is_not_guessed_at() -> None:
    record = recorded("placement", "turboserve")
    stranger = msgspec.structs.replace(record, about=msgspec.structs.replace(record.about, policy="oracle"))
    with pytest.raises(TurboserveError, match="knows no policy 'oracle'"):
        read(stranger)
    with pytest.raises(TurboserveError, match="not taken by this version"):
        read(msgspec.structs.replace(record, view=msgspec.Raw(b'{"now_s": "noon"}')))
