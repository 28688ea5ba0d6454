"""Is a request sane? Asked before anything is sent to placement, so that nonsense costs nobody else."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from shared.contracts.session import MAX_PRIORITY

MAX_SEED = 2**53 - 1  # the largest integer that every JSON reader keeps exactly
MAX_CHUNKS = 1_000_000
MAX_IDEMPOTENCY_KEY_CHARS = 128
_ALLOWED_CONTROLS = "\t\n\r"


class Model(NamedTuple):
    """What admission must know of a model somebody serves."""

    name: str
    max_prompt_chars: int
    rungs: Sequence[str]


class Denied(Exception):
    """The request can't be right. `code` for programs, the message for people, `hint` what to do."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class Rules(NamedTuple):
    """`models`: those served now. Empty, nobody knows: placement decides, and `max_prompt_chars` holds."""

    models: Sequence[Model]
    max_prompt_chars: int


def check_opening(
    rules: Rules,
    prompt: str,
    model: str,
    rung: str,
    seed: int | None,
    max_chunks: int | None,
    priority: int = 0,
) -> str:
    """The prompt as it is sent on. Raises `Denied`. `model` and `rung` "": the default ones."""
    served = _served(rules, model)
    _check_rung(served, rung)
    _check_range("seed", seed, 0, MAX_SEED)
    _check_range("max_chunks", max_chunks, 1, MAX_CHUNKS)
    _check_range("priority", priority, -MAX_PRIORITY, MAX_PRIORITY)
    return _checked_prompt(prompt, _limit(rules, served))


def check_prompt(rules: Rules, prompt: str, model: str = "") -> str:
    """The new prompt of a running session as it is sent on. `model` "": not known here. Raises `Denied`."""
    return _checked_prompt(prompt, _limit(rules, [m for m in rules.models if not model or m.name == model]))


def check_rung(rules: Rules, rung: str, model: str = "") -> None:
    """Of a running session. `model` "": not known here. Raises `Denied`."""
    _check_rung([m for m in rules.models if not model or m.name == model], rung)


def check_idempotency_key(key: str) -> str:
    """Raises `Denied` unless `key` is printable ASCII of a bounded length."""
    if not (0 < len(key) <= MAX_IDEMPOTENCY_KEY_CHARS and key.isascii() and key.isprintable()):
        raise Denied(
            "invalid_field",
            f"Idempotency-Key must be 1 to {MAX_IDEMPOTENCY_KEY_CHARS} printable ASCII characters",
            "a random UUID does well",
        )
    return key


def _served(rules: Rules, model: str) -> Sequence[Model]:
    """The models a request may mean."""
    if not model or not rules.models:
        return rules.models
    named = [served for served in rules.models if served.name == model]
    if not named:
        names = ", ".join(sorted(served.name for served in rules.models))
        raise Denied("unknown_model", f"model: nobody serves {model[:80]!r}", f"served now: {names}")
    return named


def _check_rung(served: Sequence[Model], rung: str) -> None:
    known = sorted({name for model in served for name in model.rungs})
    if rung and known and rung not in known:
        raise Denied("unknown_rung", f"rung: there is no {rung[:80]!r}", f"there are {', '.join(known)}")


def _check_range(field: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise Denied(
            "invalid_field", f"{field}: {value} is not between {low} and {high}", f"choose another {field}"
        )


def _limit(rules: Rules, served: Sequence[Model]) -> int:
    return max((model.max_prompt_chars for model in served), default=rules.max_prompt_chars)


def _checked_prompt(prompt: str, max_chars: int) -> str:
    text = prompt.strip()
    if not text:
        raise Denied("prompt_empty", "prompt: it is empty", "say what the video should show")
    if len(text) > max_chars:
        raise Denied(
            "prompt_too_long",
            f"prompt: {len(text)} characters are more than the {max_chars} that the model takes",
            "shorten it",
        )
    if any(unicodedata.category(char) == "Cc" and char not in _ALLOWED_CONTROLS for char in text):
        raise Denied("invalid_field", "prompt: it contains control characters", "send plain text")
    return text
