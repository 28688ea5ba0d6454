"""Every part in order of importance, each in a process of its own with a limit; a failure ends nothing.

    python -m bench.gpu.all --minutes 8 --out DIR

Where nothing can be installed, unpacked wheels on PYTHONPATH will do: msgspec always; av for encoding. torch,
Triton, numpy, psutil and pytest are expected. `system` and `move` are not among them.

Writes DIR/PART.json, DIR/PART.log and DIR/summary.txt as it goes, so that a run cut off leaves what it had.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

PARTS = (
    ("test", 150),
    ("forward", 150),
    ("fp8", 150),
    ("chunk", 90),
    ("small", 90),
    ("streams", 180),
    ("suspend", 90),
    ("start", 150),
    ("cycles", 190),
    ("coalescing", 90),
)
"""And the most seconds each may take."""
_TESTS = ("-m", "pytest", "-q", "-c", "tests/gpu/pytest.ini", "tests/gpu")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.all", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="no part begins or goes on after so long")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--only", nargs="*", choices=[name for name, _ in PARTS], help="these parts, in this order"
    )
    parser.add_argument("--tiny", action="store_true", help="a rehearsal")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    limits, end = dict(PARTS), time.monotonic() + 60 * asked.minutes
    with (asked.out / "summary.txt").open("a") as summary:
        for part in asked.only or limits:
            left = end - time.monotonic()
            said = (
                _run(part, asked.out, min(limits[part], left), tiny=asked.tiny)
                if left > 10
                else "no time left"
            )
            print(f"{part}: {said}", flush=True)
            print(f"{part}: {said}", file=summary, flush=True)


def _run(part: str, out: Path, limit_s: float, *, tiny: bool) -> str:
    bench = ("-m", "bench.gpu", part, "--out", str(out), *(["--tiny"] if tiny else []))
    command = [sys.executable, *(_TESTS if part == "test" else bench)]
    started = time.monotonic()
    with (out / f"{part}.log").open("w") as log:
        try:
            # A session of its own: what a part has started ends with it.
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=_environment()
            )
            code = process.wait(limit_s)
            ended = "done" if code == 0 else f"failed ({code})"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait(10)
            ended = "stopped at its limit"
    return f"{ended} after {time.monotonic() - started:.0f} s"


def _environment() -> dict[str, str]:
    paths = [str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


if __name__ == "__main__":
    main()
