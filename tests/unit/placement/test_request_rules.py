from typing import Any

import pytest

from services.placement.request_rules import MAX_SEED, check_list, check_open, check_steer
from shared.contracts.session import Input, ListSessions, OpenSession
from tests.unit.placement.examples import MODEL

PROMPT = [Input("prompt", "a red ball")]
MODELS = {"sprites": MODEL, "promised": None}


def code_of(model: str = "sprites", **fields: Any) -> str:
    refusal = check_open(OpenSession(**({"inputs": PROMPT} | fields)), model, MODELS, 500)
    return refusal.code if refusal else ""


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"seed": 0, "max_chunks": 1, "rung": "low", "idempotency_key": "k-1 é"},
        {"seed": MAX_SEED, "priority": -10},
        {"inputs": [Input("prompt", "x" * 200)]},
        {"inputs": [Input("prompt", "x" * 500)], "model": "promised"},
    ],
)
def test_a_sane_opening(fields: dict[str, Any]) -> None:
    assert code_of(**fields) == ""


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("prompt_empty", {"inputs": []}),
        ("prompt_empty", {"inputs": [Input("prompt", " \n\t")]}),
        ("prompt_too_long", {"inputs": [Input("prompt", "x" * 201)]}),
        ("prompt_too_long", {"inputs": [Input("prompt", "x" * 501)], "model": "promised"}),
        ("invalid_field", {"inputs": [Input("keys", "W"), *PROMPT]}),
        ("invalid_field", {"inputs": [*PROMPT, *PROMPT]}),
        ("invalid_field", {"seed": -1}),
        ("invalid_field", {"priority": 11}),
        ("invalid_field", {"priority": -11}),
        ("invalid_field", {"seed": MAX_SEED + 1}),
        ("invalid_field", {"max_chunks": 0}),
        ("invalid_field", {"max_chunks": 2**31}),
        ("invalid_field", {"idempotency_key": "k" * 201}),
        ("invalid_field", {"idempotency_key": "k\0"}),
        ("unknown_model", {"model": "wan"}),
        ("unknown_rung", {"rung": "huge"}),
        ("unknown_rung", {"rung": "low", "model": "promised"}),
    ],
)
def test_an_opening_that_is_not(code: str, fields: dict[str, Any]) -> None:
    assert code_of(**fields) == code


def test_refusals_say_what_would_be_right() -> None:
    refusal = check_open(OpenSession(PROMPT), "wan", MODELS, 500)
    assert refusal is not None
    assert "'wan'" in refusal.message
    assert refusal.hint == "known models: promised, sprites"
    refusal = check_open(OpenSession(PROMPT, rung="huge"), "sprites", MODELS, 500)
    assert refusal is not None
    assert "full, low" in refusal.hint


@pytest.mark.parametrize(
    ("code", "inputs"),
    [
        ("", PROMPT),
        ("prompt_empty", []),
        ("prompt_empty", [Input("prompt", "")]),
        ("prompt_too_long", [Input("prompt", "x" * 201)]),
        ("invalid_field", [Input("camera", "left")]),
    ],
)
def test_steering(code: str, inputs: list[Input]) -> None:
    refusal = check_steer(inputs, MODEL, 500)
    assert (refusal.code if refusal else "") == code


@pytest.mark.parametrize(
    ("asked", "sane"),
    [
        (ListSessions(), True),
        (ListSessions(limit=200), True),
        (ListSessions(limit=0), False),
        (ListSessions(limit=201), False),
        (ListSessions(cursor="x" * 201), False),
    ],
)
def test_asking_for_a_page(asked: ListSessions, sane: bool) -> None:
    assert (check_list(asked) is None) == sane
