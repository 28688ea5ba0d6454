"""Public traces as sessions, on small examples of their published columns."""

import json
from pathlib import Path

import pytest

from bench.traces import adapters
from bench.traces.events import Event, TraceError, checked

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""


def test_an_azure_request_is_a_session_that_departs_when_done(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(AZURE)
    events = adapters.azure(tmp_path / "a.csv", s_per_token=0.1)
    assert events == [
        *(Event(0.0, "r1", "arrive", active=True), Event(4.315, "r2", "arrive", active=True)),
        *(Event(4.4, "r1", "depart"), Event(15.215, "r2", "depart")),
    ]


def test_mooncake_requests_that_share_their_blocks_are_one_session(tmp_path: Path) -> None:
    lines = [
        {"timestamp": 0, "input_length": 900, "output_length": 100, "hash_ids": [0, 1]},
        {"timestamp": 3000, "input_length": 900, "output_length": 20, "hash_ids": [0, 7]},
        {"timestamp": 60000, "input_length": 1500, "output_length": 100, "hash_ids": [0, 1, 2]},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    events = adapters.mooncake(tmp_path / "m.jsonl", s_per_token=0.05)
    assert list(checked(events)) == [
        *(Event(0.0, "c1", "arrive", active=True), Event(3.0, "c2", "arrive", active=True)),
        *(Event(4.0, "c2", "depart"), Event(5.0, "c1", "idle"), Event(60.0, "c1", "active")),
        Event(65.0, "c1", "depart"),
    ]


def test_a_line_that_is_none_of_theirs_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(AZURE + "yesterday,1,2\n")
    with pytest.raises(TraceError, match="line 4"):
        adapters.azure(tmp_path / "a.csv")
    (tmp_path / "m.jsonl").write_text('{"timestamp": 1}\n')
    with pytest.raises(TraceError, match="line 1"):
        adapters.mooncake(tmp_path / "m.jsonl")
