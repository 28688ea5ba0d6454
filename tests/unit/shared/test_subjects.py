"""Subjects: every family fills, matches and parses back, and nothing but its own tokens gets in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts import subjects
from shared.ids import InvalidName

SESSION = "main_0123456789abcdefghjk"
names = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True)


@given(st.sampled_from(subjects.ALL), st.data())
def test_what_is_filled_in_is_parsed_back(family: subjects.Subject, data: st.DataObject) -> None:
    tokens = {name: SESSION if name == "session" else data.draw(names, name) for name in family.tokens}
    address = family.at(**tokens)
    assert family.parse(address.subject) == tokens
    assert family.pattern(**tokens) == address.subject
    assert _matches(family.pattern(), address.subject)
    assert address.struct is family.struct
    assert address.template == family.template


def test_no_two_families_share_a_subject() -> None:
    examples = [family.at(**{name: _example(name) for name in family.tokens}) for family in subjects.ALL]
    for address in examples:
        matching = [family.template for family in subjects.ALL if _matches(family.pattern(), address.subject)]
        assert matching == [address.template]


def test_every_subject_names_its_product_and_cell_first() -> None:
    assert all(family.template.startswith("ts.{cell}.") for family in subjects.ALL)


def test_a_request_knows_its_reply() -> None:
    address = subjects.OPEN.at(cell="main", tenant="default")
    assert address.reply is subjects.OPEN.reply


def test_a_pattern_leaves_open_what_is_not_given() -> None:
    assert subjects.VIEWERS.pattern(cell="main") == "ts.main.viewers.*.*"


def test_a_model_name_with_dots_stays_one_token() -> None:
    address = subjects.CHECK_PROMPT.at(cell="main", model="wan2.1-14b")
    assert address.subject == "ts.main.model.wan2-1-14b.check-prompt"


@pytest.mark.parametrize("tenant", ["", "*", ">", "a.b", "a b", "A", "a\r\nPUB x"])
def test_a_bad_token_is_refused(tenant: str) -> None:
    for fill in (subjects.OPEN.at, subjects.OPEN.pattern):
        with pytest.raises(InvalidName, match="tenant"):
            fill(cell="main", tenant=tenant)


def test_missing_and_unknown_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="takes"):
        subjects.OPEN.at(cell="main")
    with pytest.raises(ValueError, match="takes"):
        subjects.OPEN.at(cell="main", tenant="default", worker="worker-1")
    with pytest.raises(ValueError, match="takes"):
        subjects.OPEN.pattern(cel="main")


@pytest.mark.parametrize(
    "subject",
    [
        "ts.main.session.default",
        "ts.main.session.default.close",
        "ts.main.session.A_B.open",
        "a.b.c.d.e.f",
        "",
    ],
)
def test_a_foreign_subject_is_not_parsed(subject: str) -> None:
    with pytest.raises(InvalidName):
        subjects.OPEN.parse(subject)


def _example(token: str) -> str:
    return SESSION if token == "session" else f"some-{token}"


def _matches(pattern: str, subject: str) -> bool:
    parts, values = pattern.split("."), subject.split(".")
    return len(parts) == len(values) and all(p in ("*", v) for p, v in zip(parts, values, strict=True))
