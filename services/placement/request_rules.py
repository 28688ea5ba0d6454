"""Is a request sane? Placement checks for itself: those who drive sessions over NATS pass no gateway."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from shared.contracts.fleet import ModelReport
from shared.contracts.session import MAX_PRIORITY, Input, ListSessions, OpenSession, Refusal

MAX_SEED = 2**63 - 1
MAX_CHUNKS = 2**31 - 1
MAX_PAGE = 200
MAX_KEY_CHARS = 200
MAX_CURSOR_CHARS = 200
KINDS = ("prompt",)

Models = Mapping[str, ModelReport | None]
"""Models one may ask for, by name; None while no worker has told more about it."""


def check_open(request: OpenSession, model: str, models: Models, max_prompt_chars: int) -> Refusal | None:
    """`model`: the one asked for, or the default. None: it may be opened."""
    if model not in models:
        return Refusal(
            "unknown_model", f"there is no model {model[:60]!r}", f"known models: {', '.join(sorted(models))}"
        )
    told = models[model]
    return (
        check_inputs(request.inputs, _prompt_bound(told, max_prompt_chars), need_prompt=True)
        or check_rung(request.rung, told)
        or _check_numbers(request)
        or _check_key(request.idempotency_key)
    )


def check_steer(inputs: Sequence[Input], told: ModelReport | None, max_prompt_chars: int) -> Refusal | None:
    """`told`: the session's model as its workers describe it, None if none does now."""
    return check_inputs(inputs, _prompt_bound(told, max_prompt_chars), need_prompt=False)


def check_inputs(inputs: Sequence[Input], max_chars: int, *, need_prompt: bool) -> Refusal | None:
    kinds = Counter(given.kind for given in inputs)
    if unknown := sorted(set(kinds) - set(KINDS)):
        return _invalid(f"inputs: unknown kind {unknown[0][:60]!r}", f"known kinds: {', '.join(KINDS)}")
    if not inputs or (need_prompt and "prompt" not in kinds):
        return Refusal(
            "prompt_empty", "there is no prompt among the inputs", "say what the video should show"
        )
    if twice := [kind for kind, count in kinds.items() if count > 1]:
        return _invalid(f"inputs: {twice[0]!r} is given twice", "send each kind once")
    return next(filter(None, (_check_prompt(given.text, max_chars) for given in inputs)), None)


def _check_prompt(text: str, max_chars: int) -> Refusal | None:
    if not text.strip():
        return Refusal("prompt_empty", "the prompt is empty", "say what the video should show")
    if len(text) > max_chars:
        return Refusal(
            "prompt_too_long",
            f"the prompt has {len(text)} characters, {max_chars} are allowed",
            "shorten the prompt",
        )
    return None


def _prompt_bound(told: ModelReport | None, max_prompt_chars: int) -> int:
    return max_prompt_chars if told is None else min(told.max_prompt_chars, max_prompt_chars)


def check_rung(rung: str, told: ModelReport | None) -> Refusal | None:
    if not rung or (told is not None and rung in told.rungs):
        return None
    known = ", ".join(told.rungs) if told else "none while no worker serves the model"
    hint = f"known rungs: {known}; omit it for the default"
    return Refusal("unknown_rung", f"there is no rung {rung[:60]!r}", hint)


def _check_numbers(request: OpenSession) -> Refusal | None:
    seed, max_chunks = request.seed, request.max_chunks
    if seed is not None and not 0 <= seed <= MAX_SEED:
        return _invalid(f"seed {seed} is out of range", f"use 0 to {MAX_SEED}")
    if max_chunks is not None and not 1 <= max_chunks <= MAX_CHUNKS:
        return _invalid(f"max_chunks {max_chunks} is out of range", f"use 1 to {MAX_CHUNKS}, or omit it")
    if abs(request.priority) > MAX_PRIORITY:
        return _invalid(
            f"priority {request.priority} is out of range", f"use {-MAX_PRIORITY} to {MAX_PRIORITY}"
        )
    return None


def _check_key(key: str) -> Refusal | None:
    if len(key) <= MAX_KEY_CHARS and (not key or key.isprintable()):
        return None
    return _invalid("the idempotency key is not usable", f"use up to {MAX_KEY_CHARS} printable characters")


def check_list(request: ListSessions) -> Refusal | None:
    if not 1 <= request.limit <= MAX_PAGE:
        return _invalid(f"limit {request.limit} is out of range", f"use 1 to {MAX_PAGE}")
    if len(request.cursor) > MAX_CURSOR_CHARS:
        return _invalid("the cursor is not one that a page gave", "omit it for the first page")
    return None


def _invalid(message: str, hint: str) -> Refusal:
    return Refusal("invalid_field", message, hint)
