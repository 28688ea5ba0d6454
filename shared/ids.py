"""Identifiers, and what a name may look like on the wire.

Every name below becomes one token of a NATS subject, a column value and a part of log lines, so the alphabet
is the narrowest of the three: lower-case letters, digits and inner hyphens.
"""

from __future__ import annotations

import re
import secrets

DEFAULT_CELL = "main"
DEFAULT_TENANT = "default"

NAME_PATTERN = r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?"
_NAME = re.compile(NAME_PATTERN)
_RANDOM_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32: no i, l, o, u
_RANDOM_CHARS = 20  # 100 bits


class InvalidName(ValueError):
    """A name that can't be a subject token."""


def check_name(kind: str, name: str) -> str:
    """Return `name` unchanged, or raise `InvalidName` saying what `kind` of name was wrong."""
    if not _NAME.fullmatch(name):
        raise InvalidName(
            f"{kind} {name[:60]!r} is not a valid name: "
            "use 1 to 40 lower-case letters, digits and inner hyphens"
        )
    return name


def _random() -> str:
    return "".join(secrets.choice(_RANDOM_ALPHABET) for _ in range(_RANDOM_CHARS))


def new_session_id(cell: str) -> str:
    """`<cell>_<random>`: any gateway can route a session to its cell by its id alone."""
    return f"{cell}_{_random()}"


def check_session_id(session: str) -> str:
    """Return `session` unchanged if it has the shape of an id, or raise `InvalidName`."""
    cell, _, tail = session.partition("_")
    if not _NAME.fullmatch(cell) or not re.fullmatch(f"[{_RANDOM_ALPHABET}]{{{_RANDOM_CHARS}}}", tail):
        raise InvalidName(
            f"{session[:60]!r} is not a session id: expected '<cell>_<{_RANDOM_CHARS} characters>'"
        )
    return session


def cell_of(session: str) -> str:
    """The cell a (checked) session id belongs to."""
    return session.partition("_")[0]


def new_instance_id(service: str) -> str:
    """Id of one running process of a service: unique over restarts, short enough to read in a log."""
    return f"{service}-{_random()[:8]}"


_DECIDERS = {"p-": "placement", "a-": "autoscaler"}


def new_decision_id(service: str) -> str:
    """Of placement or the autoscaler, which its first letter tells."""
    return f"{service[0]}-{_random()[:12]}"


def decider_of(decision: str) -> str:
    """The service that took a decision. Raises `InvalidName`: no decision has this id."""
    if decision[:2] not in _DECIDERS:
        raise InvalidName(f"{decision[:60]!r} is not a decision's id: expected 'p-…' or 'a-…'")
    return _DECIDERS[check_name("decision", decision)[:2]]
