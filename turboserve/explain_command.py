"""`turboserve explain`: what placement and the autoscaler decided, why, and whether they would again.

Each returns the command's exit code: 1 if a decision is not taken again as it was.
"""

from __future__ import annotations

from typing import Any

import msgspec
from rich.console import Console

from turboserve.client import Client
from turboserve.decide_again import Decided, decide_again, differences, read
from turboserve.explained import print_whole, show, table
from turboserve.messages import DecisionInfo, DecisionRecord
from turboserve.phases import print_json, print_told

_MAX_LINES = 20


class Again(msgspec.Struct, frozen=True):
    """A decision taken again. `differences`: lines, none if it is the same."""

    decision: msgspec.Raw
    differences: list[str]


class Explained(msgspec.Struct, frozen=True, omit_defaults=True):
    """What --json prints. `again` None: it was not asked for."""

    record: DecisionRecord
    again: Again | None = None


async def explain(url: str | None, decision: str, *, again: bool, as_json: bool, console: Console) -> int:
    """One decision. Raises TurboserveError."""
    async with Client(url) as client:
        record = await client.decision(decision)
    decided = None if as_json and not again else read(record)
    verdict = _again(decided) if again and decided else None
    if as_json:
        print_json(Explained(record, verdict), console)
    elif decided is not None:
        show(record.about, decided, console)
        if verdict is not None:
            print_told(["", *_words(verdict)], [], console)
    return int(verdict is not None and bool(verdict.differences))


async def recent(
    url: str | None, last: int, session: str, *, again: bool, as_json: bool, console: Console
) -> int:
    """The last ones, of `session` if it isn't "". Raises TurboserveError."""
    async with Client(url) as client:
        found = await client.decisions(limit=last, session=session)
        records = [await client.decision(about.id) for about in found] if again else []
    verdicts = [_again(read(record)) for record in records]
    if as_json:
        print_json([_with(about, verdicts, n) for n, about in enumerate(found)], console)
    elif not found:
        of = f" about {session}" if session else ""
        print_told([f"no decision{of} is kept: those that change nothing aren't"], [], console)
    else:
        _list(found, verdicts, console)
    return int(any(verdict.differences for verdict in verdicts))


def _again(decided: Decided) -> Again:
    now = decide_again(decided)
    return Again(msgspec.Raw(msgspec.json.encode(now)), differences(decided.decision, now))


def _words(verdict: Again) -> list[str]:
    if not verdict.differences:
        return ["decided again: the same answer"]
    more = len(verdict.differences) - _MAX_LINES
    lines = [f"  {line}" for line in verdict.differences[:_MAX_LINES]]
    return ["decided again: another answer", *lines, *([f"  and {more} more"] if more > 0 else [])]


def _with(about: DecisionInfo, verdicts: list[Again], number: int) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(about)
    return told | ({"same": not verdicts[number].differences} if verdicts else {})


def _list(found: list[DecisionInfo], verdicts: list[Again], console: Console) -> None:
    titles = ["when", "decision", "policy", *(["again"] if verdicts else []), "why"]
    rows = table(*titles)
    for number, about in enumerate(found):
        same = ["another" if verdicts[number].differences else "the same"] if verdicts else []
        when = about.at.astimezone().strftime("%H:%M:%S.%f")[:-3]
        rows.add_row(when, about.id, about.policy, *same, about.reason)
    print_whole(rows, console)
