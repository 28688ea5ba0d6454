from msgspec.structs import replace

from services.placement import move_rules
from services.placement.room import room_of
from shared.contracts.fleet import LoadReport
from shared.contracts.session import Refusal
from tests.unit.placement.examples import MODEL, make_report, make_row

MOVABLE = replace(MODEL, architecture="dit-1", dtype="float32")
ROW = make_row("active")


def report(worker: str, **changes: object) -> LoadReport:
    return make_report(worker, 1, **({"model": MOVABLE, "transports": ["tcp"]} | changes))


def best(*others: LoadReport, row: object = ROW, active: dict[str, int] | None = None) -> str | Refusal:
    reports = {one.worker: one for one in (report("w-1"), *others)}
    rooms = {name: room_of(one, (active or {}).get(name, 0)) for name, one in reports.items()}
    return move_rules.best_target(row, reports, rooms)  # type: ignore[arg-type]


def test_the_emptiest_that_fits_is_taken() -> None:
    assert best(report("w-2"), report("w-3"), active={"w-2": 1}) == "w-3"
    assert best(report("w-2"), report("w-3", transports=["nccl"])) == "w-2"
    assert best(report("w-2"), row=make_row("paused"), active={"w-2": 2}) == "w-2", "it needs a slot only"


def test_where_none_fits_one_reason_is_told() -> None:
    def code(*others: LoadReport, active: dict[str, int] | None = None) -> tuple[str, str]:
        refusal = best(*others, active=active)
        assert isinstance(refusal, Refusal)
        return refusal.code, refusal.message

    assert code() == ("no_slot", "there is no other worker")
    other = report("w-2", model=replace(MOVABLE, state_bytes=2))
    assert code(other)[0] == "incompatible"
    assert "bytes of state: 1 and 2" in code(other)[1]
    full, message = code(other, report("w-3"), active={"w-3": 2})
    assert (full, "w-3 has no room: 2 of 2" in message) == ("no_slot", True)
    assert code(report("w-2", state="starting"))[0] == "worker_not_ready"


def test_a_session_that_is_nowhere_can_t_be_moved() -> None:
    reports = {"w-1": report("w-1")}
    refused = {
        status: move_rules.refuse_session(make_row(status), reports)
        for status in ("queued", "closed", "active")
    }
    assert [refusal.code if refusal else "" for refusal in refused.values()] == [
        "not_owned",
        "session_ended",
        "",
    ]
    silent = move_rules.refuse_session(ROW, {})
    assert silent is not None
    assert silent.code == "not_owned"
