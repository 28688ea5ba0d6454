"""What one check of a model found."""

from __future__ import annotations

from dataclasses import dataclass

BIT_EQUAL = "bit-equal"


@dataclass(frozen=True)
class Result:
    """`measured` and `tolerance` are words for a table: what was seen, and what would have been right."""

    name: str
    passed: bool
    measured: str
    tolerance: str = ""


def equal(name: str, differing: int, of: int, what: str = "values") -> Result:
    """A claim of bit-equality, of which `differing` of `of` values speak otherwise."""
    seen = f"{of:,} {what} compared" if differing == 0 else f"{differing:,} of {of:,} {what} differ"
    return Result(name, differing == 0 and of > 0, seen, BIT_EQUAL)


def differs(name: str, differing: int) -> Result:
    return Result(name, differing > 0, f"{differing:,} values differ", "any difference")
