"""Simulator against live system on a small trace: `python -m bench.live --out docs/results`.

First a system is started to measure a worker's pace and boot; the prediction that follows from them is
written to OUT/live-prediction.json (and committed, with --commit); then the trace is played on a system of
its own, and OUT/live.md says both. Every chunk is kept in OUT/live-chunks.jsonl. Takes three minutes, and six
for each run; nothing else should run on the machine.
Exits with 1 if a judged figure is further off than 15 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.live.calibrate import Calibration, calibrate
from bench.live.house import House, Shown
from bench.live.prediction import Prediction, digest, opened_when_wanted, predict, read, write
from bench.live.replay import Asked, replay
from bench.live.report import WITHIN, off, page
from bench.live.system import up
from bench.traces import files
from bench.traces.events import Event
from turboserve.progress import progress


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--policy", default="turboserve")
    parser.add_argument("--trace", type=Path, default=files.TWO_WORKERS)
    parser.add_argument("--capacity", type=int, default=3, help="active sessions a worker; 0: what it says")
    parser.add_argument("--max-workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=1, help="live runs; the middle one is judged")
    parser.add_argument("--commit", action="store_true", help="commit the prediction before the live runs")
    parser.add_argument("--predicted", action="store_true", help="compare with the prediction that is there")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    path = args.out / "live-prediction.json"
    events = opened_when_wanted(files.read(args.trace))
    os.environ["TURBOSERVE_WORKER_CAPACITY"] = str(args.capacity)
    args.out.mkdir(parents=True, exist_ok=True)
    prediction = read(path) if args.predicted else _predict(args, events, path)
    if prediction.trace != digest(events):
        sys.exit(f"{path} is of another trace: leave --predicted out, and it is made anew")
    loads, runs, chunks = list[float](), list[dict[str, Any]](), list[Shown]()
    for number in range(args.runs):
        loads.append(os.getloadavg()[0])
        run, shown = _play(prediction, events, f"live run {number + 1} of {args.runs}")
        runs.append(run)
        chunks += shown
    (args.out / "live-chunks.jsonl").write_text("".join(map(_line, chunks)))
    (args.out / "live.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))
    (args.out / "live.md").write_text(page(prediction, runs, loads, args.trace.name, _command()))
    far = off(prediction, runs)
    print(json.dumps({name: round(share, 3) for name, share in far.items()}))
    return int(any(abs(share) > WITHIN for share in far.values()))


def _predict(args: argparse.Namespace, events: list[Event], path: Path) -> Prediction:
    print("measuring a worker's pace and boot: two minutes", file=sys.stderr)
    with up(args.policy, 1, 2) as system:
        calibration: Calibration = asyncio.run(calibrate(system.url, system.boot_s))
    prediction = predict(events, calibration, args.policy, args.max_workers)
    write(prediction, path)
    if args.commit:
        for command in (["add", "--"], ["commit", "-q", "-m", "Prediction of the live run", "--"]):
            subprocess.run(["git", *command, str(path)], check=True)
    return prediction


def _play(said: Prediction, events: list[Event], what: str) -> tuple[dict[str, Any], list[Shown]]:
    """What the replay prints, and every chunk of it."""
    house = House(lambda: 0.0)
    with up(said.policy, 1, said.max_workers) as system, progress(what, lines=True) as tell:

        def look(share: float, seen: House) -> None:
            nonlocal house
            house = seen
            if tell is not None:
                tell(share, f"{house.meter.active} active")

        return asyncio.run(replay(events, Asked(system.url), look)), house.shown


def _line(chunk: Shown) -> str:
    times = {"due_s": round(chunk.due_s, 3), "at_s": round(chunk.at_s, 3)}
    return json.dumps(chunk._asdict() | times) + "\n"


def _command() -> str:
    return " ".join(["python -m bench.live", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
