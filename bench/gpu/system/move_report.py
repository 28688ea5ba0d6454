"""What moves of sessions took, as placement, the workers and the viewers saw it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.gpu.report import quantile
from bench.gpu.system.crowd import Half, Move
from bench.gpu.system.run import Run, medians, spread, stage_spreads, tell_phases, whole_s, words

_CARRIED = ("propose", "reserve", "order", "carry")
"""Of a move's phases: those until the target may go on."""
_AHEAD = "source copy"


def tell_half(run: Run, name: str, half: Half) -> None:
    ratios = [each.ratio for each in half.watched if each.played_s]
    figures: dict[str, Any] = {
        "chunks": half.chunks,
        "late": half.late,
        "stalled_s": sum(each.stalled_s for each in half.watched),
        "took_s": half.took_s,
        "ratio_each": ratios,
        "stages": stage_spreads(seen.stages for each in half.watched for seen in each.chunks_seen),
        "chunk_latency": spread([s for each in half.watched for s in each.chunk_latencies_s]),
        "restored_to_pixel": spread([s for each in half.watched for s in each.restored_to_pixel_s]),
        "prompt_to_pixel": spread([s for each in half.watched for s in each.prompt_to_pixel_s]),
    }
    worst = min(ratios, default=0.0)
    run.report.row(
        f"{name}: chunks; late; stalled; worst continuous play",
        f"{half.chunks} in {half.took_s:.0f} s; {half.late}; {figures['stalled_s']:.2f} s; {worst:.4f}",
        name,
        figures,
    )
    run.report.row(f"{name}: chunk latency", words(figures["chunk_latency"]))
    run.report.row(f"{name}: stages, medians in ms", medians(figures["stages"]))
    gaps = [problem for each in half.watched for problem in each.problems]
    run.report.row(
        f"{name}: gaps, repeats, cuts, errors seen by viewers", str(len(gaps)), f"{name} gaps", gaps
    )
    for problem in (*gaps, *half.failed):
        run.problem(f"{name}: {problem}")


def tell_moves(run: Run, half: Half) -> None:
    report = run.report
    done = [each for each in half.moves if each.moved.outcome == "moved"]
    outcomes = Counter(each.moved.outcome for each in half.moves)
    told = ", ".join(f"{outcome} {n}" for outcome, n in outcomes.items())
    report.row("moves by outcome; not begun", f"{told}; {len(half.failed)}", "moves", outcomes)
    if not done:
        return
    sizes = [each.moved.sent_bytes for each in done]
    report.row("bytes sent, median", f"{sorted(sizes)[len(sizes) // 2]:,}", "sent_bytes", sizes)
    rates = [rate for each in done if (rate := _bytes_per_s(each)) is not None]
    if rates:
        told = f"p50 {quantile(rates, 0.5) / 1e9:.0f}, p5 {quantile(rates, 0.05) / 1e9:.0f}"
        report.row("pre-copy's rate, GB/s", told, "bytes_per_s", rates)
    pauses = spread([each.moved.pause_s for each in done])
    report.row("pause: frozen to the target able to go on", words(pauses), "pause", pauses)
    going = spread([whole_s([p for p in each.moved.phases if p.name in _CARRIED]) for each in done])
    report.row("decision to the target going on", words(going), "going", going)
    whole = spread([whole_s(each.moved.phases) for each in done])
    report.row("decision to its proof, as placement tells it", words(whole), "whole", whole)
    calls = spread([each.call_s for each in done])
    report.row("the operator's whole HTTP call", words(calls), "call", calls)
    _tell_times(run, done)
    tell_phases(run, "move", [each.moved.phases for each in done])


def _bytes_per_s(move: Move) -> float | None:
    """Of all bytes, by the time that the source's copies ahead took. None: not told."""
    copy_s = sum(phase.duration_s for phase in move.moved.phases if phase.name == _AHEAD)
    return move.moved.sent_bytes / copy_s if copy_s else None


def _tell_times(run: Run, done: Sequence[Move]) -> None:
    """By the workers' own words. Between a session's arrival and its step there lie steps of another one that
    is needed sooner, or that was at one.
    """
    told = [(each, run.fleet.moves.of(each.viewer.session, each.asked_at)) for each in done]
    seen = [(each, times) for each, times in told if times is not None]
    mid = [(each, times) for each, times in seen if times.mid_chunk]
    run.report.row("moves of which all was heard; in mid-chunk", f"{len(seen)} of {len(done)}; {len(mid)}")
    spans: dict[str, list[float]] = {
        "the operator's call to reserved": [t.reserved_at - m.asked_at for m, t in seen],
        "  to the first bytes": [t.copying_at - t.reserved_at for _, t in seen],
        "  to frozen": [t.frozen_at - t.copying_at for _, t in seen],
        "  to the target able to go on (the pause)": [t.arrived_at - t.frozen_at for _, t in seen],
        "the operator's call to the target able to go on": [t.arrived_at - m.asked_at for m, t in seen],
        "in mid-chunk: able to go on to its step told the device": [
            t.stepped_at - t.arrived_at for _, t in mid
        ],
        "in mid-chunk: frozen to that step": [t.stepped_at - t.frozen_at for _, t in mid],
        "in mid-chunk: the operator's call to that step": [t.stepped_at - m.asked_at for m, t in mid],
    }
    for name, seconds in spans.items():
        figure = spread(seconds)
        run.report.row(name, words(figure), name.strip(), figure)
    stations = "reserved, copying, frozen, arrived, stepped"
    each = [[round(1000 * (at - move.asked_at), 1) for at in times[:5]] for move, times in mid]
    run.report.figures[f"in mid-chunk: each, ms from the call to {stations}"] = each
