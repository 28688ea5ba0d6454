"""Looks for tests that fail only now and then: runs them again and again on a machine that is kept busy, each
time with another seed.

`make test-hunt`. Nothing is run again because it failed: each failure is shown, and its logs are kept.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from tests.fixtures.process import Program

BUSY = [sys.executable, "-c", "while True: pass"]
POLL_S = 0.2
STALL_EVERY_S = 5.0
"""On average, from the end of one stall to the start of the next."""
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


class Stalls:
    """Now and then a test run stands still, as on a busy machine: all of it, the test, or all but it."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._next_at = self._plan()

    def _plan(self) -> float:
        return time.monotonic() + random.expovariate(1 / STALL_EVERY_S)

    def stall_when_due(self, root_pid: int) -> None:
        if not self._stall_s or time.monotonic() < self._next_at:
            return
        with suppress(psutil.Error):
            root = psutil.Process(root_pid)
            others = root.children(recursive=True)
            self._stall(random.choice([[root, *others], [root], others]))
        self._next_at = self._plan()

    def _stall(self, processes: Sequence[psutil.Process]) -> None:
        """Those that a test has stopped itself stay stopped."""
        stopped = []
        for process in processes:
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_STOPPED:
                    process.suspend()
                    stopped.append(process)
        time.sleep(self._stall_s)
        for process in stopped:
            with suppress(psutil.Error):
                process.resume()


@contextmanager
def busy_machine(processes: int, folder: Path) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(processes):
            program = Program(BUSY, folder / "busy.log")
            program.start(lambda: True)
            stack.callback(program.kill)
        yield


def files_of(selection: Sequence[str]) -> list[str]:
    """Folders become their test files; single tests stay as they are."""
    found: list[str] = []
    for name in selection:
        path = Path(name)
        found += map(str, sorted(path.rglob("test_*.py"))) if path.is_dir() else [name]
    return found


def run_once(selected: str, folder: Path, stalls: Stalls) -> list[str]:
    """The tests that failed; the folder stays only if there are some."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-o", f"cache_dir={folder / 'cache'}"]
    log = folder / "pytest.log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            [*command, f"--basetemp={folder / 'tmp'}", selected],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"TURBOSERVE_TEST_SEED": str(random.SystemRandom().randrange(1, 2**32))},
        )
        try:
            while running.poll() is None:
                time.sleep(POLL_S)
                stalls.stall_when_due(running.pid)
        except BaseException:
            os.killpg(running.pid, signal.SIGKILL)
            raise
    failed = FAILED.findall(log.read_text(errors="replace"))
    return failed or ([] if running.returncode == 0 else [f"{selected} (exit code {running.returncode})"])


def hunt(options: argparse.Namespace) -> Counter[str]:
    """How often each test failed."""
    out, ends_at = Path(options.out), time.monotonic() + 60 * options.minutes
    failures: Counter[str] = Counter()
    stalls = Stalls(options.stall_s)
    started = time.strftime("%m%d-%H%M%S")
    for turn in range(1, options.runs + 1):
        for selected in files_of(options.selection):
            if time.monotonic() > ends_at:
                print(f"{options.minutes} minutes are over", flush=True)
                return failures
            name = re.sub(r"\W+", "-", selected.removeprefix("tests/"))
            folder, begun = out / f"{started}-{turn}-{name}", time.monotonic()
            failed = run_once(selected, folder, stalls)
            failures.update(failed)
            told = "".join(f"\n    {test}" for test in failed) + f"\n    {folder}" if failed else "ok"
            print(f"run {turn} {selected} {time.monotonic() - begun:.0f} s: {told}", flush=True)
            if not failed:
                subprocess.run(["rm", "-rf", str(folder)], check=True)
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.hunt", description=__doc__)
    parser.add_argument("selection", nargs="*", default=["tests/system"], help="folders, files or tests")
    parser.add_argument("--runs", type=int, default=3, help="of each file")
    parser.add_argument("--stress", type=int, default=2, help="processes that keep the machine busy")
    parser.add_argument(
        "--stall-s", type=float, default=0.0, help="how long everything stands still at times"
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="after these no further run begins")
    parser.add_argument("--out", default=".cache/hunt", help="folder of the failed runs' logs")
    options = parser.parse_args()
    Path(options.out).mkdir(parents=True, exist_ok=True)
    with busy_machine(options.stress, Path(options.out)):
        failures = hunt(options)
    for test, times in failures.most_common():
        print(f"failed {times} times: {test}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
