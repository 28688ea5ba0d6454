"""`turboserve trace` and `turboserve simulate` as a user types them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from turboserve.cli import main

KEYS = [
    *(
        "chunk_latency_ms",
        "worst_latency_ms",
        "ttfc_ms",
        "continuous_play_ratio",
        "gpu_seconds",
        "node_seconds",
    ),
    *("moves", "suspends", "scale_events", "queued_s", "refused", "beyond_capacity", "decision_ms", "bound"),
]


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "bursts.jsonl"
    made = CliRunner().invoke(main, ["trace", "make", "--duration-s", "60", "-o", str(path)])
    assert made.exit_code == 0, made.output
    return path


def test_simulate_prints_one_object(trace: Path) -> None:
    ran = CliRunner().invoke(
        main, ["simulate", "--trace", str(trace), "--policy", "paper", "--set", "rho=0.8", "--json"]
    )
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert set(KEYS) <= set(told)
    assert set(told["chunk_latency_ms"]) == {"mean", "p50", "p95", "p99", "max"}
    assert set(told["worst_latency_ms"]) == {"mean", "p99", "max"}
    assert set(told["bound"]) == {"gpu_seconds", "worst_latency_ms", "worst_latency_keeping_ms"}


def test_simulate_is_readable_without_json(trace: Path) -> None:
    ran = CliRunner().invoke(main, ["simulate", "--trace", str(trace), "--boot-s", "0"])
    assert ran.exit_code == 0, ran.output
    assert "gpu_seconds" in ran.stdout


def test_check_says_what_a_trace_asks_for(trace: Path) -> None:
    ran = CliRunner().invoke(main, ["trace", "check", str(trace), "--json"])
    assert json.loads(ran.stdout)["sessions"] == json.loads(ran.stdout)["events"]["arrive"] > 50


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--min-gpus", "3", "--max-gpus", "2"], "at least 3 GPUs and at most 2"),
        (["--latency-target-ms", "100"], "below what one session alone takes"),
        (["--policy", "best"], "there is no policy best"),
        (["--set", "z"], "write NAME=VALUE"),
    ],
)
def test_contradictions_are_told_in_words(trace: Path, more: list[str], why: str) -> None:
    ran = CliRunner().invoke(main, ["simulate", "--trace", str(trace), *more])
    assert ran.exit_code == 1
    assert why in ran.output
    assert "Traceback" not in ran.output


@pytest.mark.parametrize("option", ["--boot-s", "--latency-target-ms", "--boot-fail-ratio"])
def test_numbers_are_finite(trace: Path, option: str) -> None:
    ran = CliRunner().invoke(main, ["simulate", "--trace", str(trace), option, "nan"])
    assert (ran.exit_code, "nan is no finite number" in ran.output) == (2, True)


def test_a_wrong_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "t").write_text('{"time_s": 1, "session": "a", "event": "idle"}\n')
    ran = CliRunner().invoke(main, ["simulate", "--trace", str(tmp_path / "t")])
    assert ran.exit_code == 1
    assert "line 1: session a has not arrived" in ran.output
