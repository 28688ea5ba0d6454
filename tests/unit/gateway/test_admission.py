from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.admission import (
    MAX_CHUNKS,
    MAX_SEED,
    Denied,
    Model,
    Rules,
    check_idempotency_key,
    check_opening,
    check_prompt,
)

UNKNOWN = Rules([], 500)
RULES = Rules([Model("tiny", 20, ["standard", "fast"]), Model("large", 40, ["fine"])], 500)


def opening(rules: Rules = RULES, **fields: Any) -> str:
    given = {"prompt": "a cat", "model": "", "rung": "", "seed": None, "max_chunks": None} | fields
    return check_opening(rules, **given)


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        ({"prompt": ""}, "prompt_empty", "prompt"),
        ({"prompt": " \n\t "}, "prompt_empty", "prompt"),
        ({"prompt": "x" * 41}, "prompt_too_long", "40"),
        ({"prompt": "x" * 21, "model": "tiny"}, "prompt_too_long", "20"),
        ({"prompt": "a\x00b"}, "invalid_field", "prompt"),
        ({"model": "huge"}, "unknown_model", "huge"),
        ({"rung": "best"}, "unknown_rung", "best"),
        ({"rung": "fine", "model": "tiny"}, "unknown_rung", "fine"),
        ({"seed": -1}, "invalid_field", "seed"),
        ({"priority": -11}, "invalid_field", "priority"),
        ({"priority": 11}, "invalid_field", "priority"),
        ({"seed": MAX_SEED + 1}, "invalid_field", "seed"),
        ({"max_chunks": 0}, "invalid_field", "max_chunks"),
        ({"max_chunks": MAX_CHUNKS + 1}, "invalid_field", "max_chunks"),
    ],
)
def test_a_bad_field_is_named_with_a_hint(fields: dict[str, Any], code: str, named: str) -> None:
    with pytest.raises(Denied) as denied:
        opening(**fields)
    assert denied.value.code == code
    assert named in str(denied.value)
    assert denied.value.hint


def test_good_openings_pass_trimmed() -> None:
    assert opening(prompt="  a cat\nand a dög ") == "a cat\nand a dög"
    assert opening(model="large", rung="fine", seed=MAX_SEED, max_chunks=1, prompt="x" * 40) == "x" * 40


def test_while_no_model_is_known_only_the_setting_binds() -> None:
    assert opening(UNKNOWN, model="any", rung="any", prompt="x" * 500)
    with pytest.raises(Denied, match="500"):
        opening(UNKNOWN, prompt="x" * 501)


@given(st.text(max_size=60))
def test_a_prompt_passes_exactly_if_it_says_something_short_and_plain(prompt: str) -> None:
    try:
        sent = check_prompt(RULES, prompt)
    except Denied:
        controls = {chr(code) for code in (*range(32), *range(127, 160))} - set("\t\n\r")
        plain = not controls & set(prompt)
        assert not (plain and 0 < len(prompt.strip()) <= 40)
    else:
        assert sent == prompt.strip()
        assert 0 < len(sent) <= 40


def test_no_control_character_reaches_a_terminal() -> None:
    for escape in ("\x1b[2J", "\x9b2J", "\x7f", "\x00"):
        with pytest.raises(Denied, match="control"):
            check_prompt(RULES, f"a {escape} cat")
    assert check_prompt(RULES, "a 👩\u200d🚀")


@pytest.mark.parametrize("key", ["", "x" * 129, "tab\t", "dö", "line\n"])
def test_idempotency_keys_are_short_printable_ascii(key: str) -> None:
    with pytest.raises(Denied, match="Idempotency-Key"):
        check_idempotency_key(key)


def test_a_good_idempotency_key_passes() -> None:
    assert check_idempotency_key("a" * 128) == "a" * 128
