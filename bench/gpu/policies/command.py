"""The command line: a prediction alone, or a system that is started, measured, foretold and played on."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

import httpx
import msgspec
import torch

from bench.gpu.machine import machine
from bench.gpu.policies.phases import Phase, Prediction, Terms, phase, predict, write
from bench.gpu.policies.run import Run
from bench.gpu.policies.system import System
from bench.gpu.policies.trace import NoTrace
from bench.gpu.system.services import NotStarted
from bench.gpu.system.worker_settings import setting, worker_settings
from bench.live.calibrate import Calibration
from turboserve.errors import TurboserveError

_MARGIN_S = 15.0
"""What a phase takes beside its trace, and the end of everything."""
_MEASURE_S = 18.0


def main(given: list[str] | None = None) -> None:
    asked = _arguments(given)
    if asked.predict is not None:
        try:
            write(_predicted(asked), asked.out / "prediction.json")
        except (OSError, msgspec.DecodeError, NoTrace) as error:
            sys.exit(f"--predict {asked.predict}: {error}")
        return
    sys.exit(asyncio.run(_play(asked)))


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu.policies", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("bench-gpu"), help="folder for policies.md, policies.json and logs")
    add("--phases", type=phase, nargs="*", default=[phase(name) for name in _PHASES], help=_PHASES_HELP)
    add("--model", default="wan2.1-t2v-1.3b", help="tiny, sprites, clocked, or a preset")
    add("--weights", default="random:0", help="weights_path of a preset; of clocked a calibration")
    add("--geometry", default="", help="of a preset: WIDTHxHEIGHT, WIDTHxHEIGHTxLATENTFRAMES or small")
    add("--workers", type=int, default=torch.cuda.device_count() or 2, help="at most; a GPU each")
    add(
        "--worker",
        type=setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the workers",
    )
    add("--capacity", type=int, default=0, help="active sessions a worker; 0: what it says itself")
    add("--duration", type=float, default=150.0, help="seconds of the trace")
    add("--seed", type=int, default=1, help="of the trace")
    add("--settings", type=json.loads, default={}, help='of the scaled policy, as JSON like {"z": 2}')
    add("--minutes", type=float, default=9.3, help="for everything: a phase that wouldn't fit is left out")
    add("--start-limit", type=float, default=120.0, help="seconds until the workers of a phase are ready")
    add(
        "--predicted",
        type=_prediction,
        metavar="FILE",
        help="made before, to stand beside what is played",
    )
    add(
        "--predict", type=Path, metavar="CALIBRATION", help="no run: write OUT/prediction.json from that file"
    )
    return parser.parse_args(given)


_PHASES = ("turboserve", "fixed-rr", "ll-resume", "turboserve:same-fleet")
_PHASES_HELP = "in this order; POLICY:same-fleet: with all workers all the time"


def _predicted(asked: argparse.Namespace) -> Prediction:
    calibration = msgspec.json.decode(asked.predict.read_bytes(), type=Calibration)
    profile = calibration.profile
    capacity = asked.capacity or profile.gpus[0].capacity(profile.target_s)
    return predict(_terms(asked, capacity), calibration, asked.phases)


def _terms(asked: argparse.Namespace, capacity: int) -> Terms:
    return Terms(asked.workers, capacity, asked.seed, asked.duration, asked.settings)


async def _play(asked: argparse.Namespace) -> int:
    asked.out.mkdir(parents=True, exist_ok=True)
    devices = [f"cuda:{n}" if torch.cuda.is_available() else "cpu" for n in range(asked.workers)]
    system = System(asked.out, devices, asked.model, worker_settings(asked, asked.capacity), asked.settings)
    run = Run(system, asked.out, _words(devices), asked.predicted, time.monotonic() + 60 * asked.minutes)
    try:
        with tempfile.TemporaryDirectory() as data:
            try:
                bus = await system.start(Path(data))
                await _phases(run, asked)
                await bus.close()
            finally:
                print("stopped:", system.stop(), flush=True)
    except (NotStarted, TimeoutError, NoTrace, httpx.HTTPError) as error:
        print(f"failed: {error or 'not ready in time'}\n{system.last_words()}", file=sys.stderr)
        return 1
    return int(len(run.played) < len(asked.phases))


async def _phases(run: Run, asked: argparse.Namespace) -> None:
    first: Phase = asked.phases[0] if asked.phases else phase("turboserve")
    await run.prepare(first, asked.start_limit)
    terms = _terms(asked, run.capacity)
    run.begin(terms)
    for number, one in enumerate(asked.phases):
        if run.left_s() < asked.duration + _MARGIN_S:
            run.note(f"{one.name} was not played: {run.left_s():.0f} s were left.")
            continue
        try:
            if number:
                await run.prepare(one, min(asked.start_limit, run.left_s() - asked.duration))
            await run.play(one)
        except (NotStarted, TimeoutError, TurboserveError, httpx.HTTPError) as error:
            run.note(f"{one.name} failed: {error or 'its workers were not ready in time'}")
    if run.left_s() > _MEASURE_S:
        try:
            await run.measure(terms, asked.phases)
        except TurboserveError as error:
            run.note(f"Nothing could be measured: {error}")


def _prediction(path: str) -> Prediction:
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=Prediction)
    except (OSError, msgspec.DecodeError) as error:
        raise argparse.ArgumentTypeError(f"{path} is no prediction: {error}") from None


def _words(devices: list[str]) -> list[str]:
    about = ", ".join(f"{name} {value}" for name, value in machine(torch.device(devices[0])).items())
    return [f"`python -m bench.gpu.policies {' '.join(sys.argv[1:])}`. Machine: {about}. Random weights."]
