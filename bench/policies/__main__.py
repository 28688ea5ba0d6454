"""`python -m bench.policies --out docs/results`: runs what isn't in the folder's runs.jsonl yet unless
--anew, then writes the tables and plots.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec
from rich.progress import track

from bench.policies import report
from bench.policies.cases import SEEDS, SHAPES, Case, Run, cases, options
from bench.sim.simulate import simulate
from bench.traces.events import Event
from bench.traces.generate import generate

Job = tuple[str, int, Case]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    parser.add_argument("--shapes", nargs="*", default=SHAPES, choices=SHAPES)
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--anew", action="store_true", help="forget earlier runs")
    parser.add_argument("--as-is", action="store_true", help="tell what is in runs.jsonl, run nothing")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "runs.jsonl"
    if given.anew:
        kept.unlink(missing_ok=True)
    jobs = [(s, n, c) for n in given.seeds for c in cases() for s in given.shapes]
    runs = _kept(kept, jobs) if given.as_is else _runs(kept, jobs, given.jobs)
    report.write(runs, given.out, missing=len(jobs) - len(runs))


def _runs(kept: Path, jobs: list[Job], processes: int) -> list[Run]:
    """Those of an interrupted run needn't be made again."""
    done = {_key(run.shape, run.seed, run.case): run for run in _read(kept)}
    missing = [job for job in jobs if _key(*job) not in done]
    with ProcessPoolExecutor(processes) as pool, kept.open("ab") as out:
        for run in track(pool.map(_run, missing), "simulating", total=len(missing)):
            out.write(msgspec.json.encode(run) + b"\n")
            out.flush()
            done[_key(run.shape, run.seed, run.case)] = run
    return [done[_key(*job)] for job in jobs]


def _kept(kept: Path, jobs: list[Job]) -> list[Run]:
    done = {_key(run.shape, run.seed, run.case): run for run in _read(kept)}
    return [done[key] for key in (_key(*job) for job in jobs) if key in done]


def _read(kept: Path) -> Iterator[Run]:
    if kept.exists():
        yield from (msgspec.json.decode(line, type=Run) for line in kept.read_bytes().splitlines())


def _key(shape: str, seed: int, case: Case) -> bytes:
    return msgspec.json.encode((shape, seed, case))


@functools.lru_cache(2)
def _trace(shape: str, seed: int) -> list[Event]:
    return generate(shape, seed)


def _run(job: Job) -> Run:
    shape, seed, case = job
    events = _trace(shape, seed)
    return Run(shape, seed, case, simulate(events, options(case, events)))


if __name__ == "__main__":
    main()
