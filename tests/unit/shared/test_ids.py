"""Names are safe as subject tokens, and ids lead to their cell."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import ids

names = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True)


@given(names)
def test_a_session_id_leads_to_its_cell(cell: str) -> None:
    session = ids.new_session_id(cell)
    assert ids.check_session_id(session) == session
    assert ids.cell_of(session) == cell


def test_new_ids_differ() -> None:
    assert len({ids.new_session_id("main") for _ in range(1000)}) == 1000
    assert ids.new_instance_id("worker") != ids.new_instance_id("worker")
    assert ids.check_name("worker", ids.new_instance_id("worker"))


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_a_checked_name_is_one_subject_token(text: str) -> None:
    try:
        name = ids.check_name("tenant", text)
    except ids.InvalidName:
        return
    assert name == text
    assert 1 <= len(name) <= 40
    assert not set(name) & set(".*> \t\n_")


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a b", "*", ">", "a_b", "é", "a\n", "x" * 41])
def test_a_bad_name_is_named(name: str) -> None:
    with pytest.raises(ids.InvalidName, match="tenant"):
        ids.check_name("tenant", name)


@pytest.mark.parametrize(
    "session",
    [
        "",
        "main",
        "main_",
        "main_short",
        "main_0123456789abcdefghjl",
        "_0123456789abcdefghjk",
        "a.b_" + "0" * 20,
    ],
)
def test_a_bad_session_id_is_refused(session: str) -> None:
    with pytest.raises(ids.InvalidName):
        ids.check_session_id(session)


def test_a_decision_s_id_tells_who_took_it() -> None:
    for service in ("placement", "autoscaler"):
        assert ids.decider_of(ids.new_decision_id(service)) == service
    for wrong in ("", "p", "x-1", "p-*", "p-" + "1" * 60, "p-A"):
        with pytest.raises(ids.InvalidName):
            ids.decider_of(wrong)
