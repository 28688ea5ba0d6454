"""A node's workers as real processes: small programs in their place."""

import asyncio
import sys
from pathlib import Path

from services.node.settings import NodeSettings
from services.node.workers import Workers
from shared.contracts.fleet import WorkerExited

DEADLINE_S = 30.0
# Writes its command line into a file named after its id.
HELLO = "import pathlib, sys; pathlib.Path(sys.argv[1], sys.argv[3]).write_text(' '.join(sys.argv[2:])); "


def workers_of(code: str, folder: Path, ends: list[WorkerExited], **settings: object) -> Workers:
    chosen = NodeSettings(**{"workers": 2, **settings})  # type: ignore[arg-type]
    program = [sys.executable, "-c", code, str(folder)]
    return Workers(chosen, "node-1", ends.append, program)


async def test_each_gets_a_device_of_its_own_and_a_port(tmp_path: Path) -> None:
    workers = workers_of(HELLO, tmp_path, [], metrics_port=9090)
    await workers.start()
    async with asyncio.timeout(DEADLINE_S):
        await workers.ended()
    said = [(tmp_path / f"node-1-{index}").read_text() for index in range(2)]
    for index, words in enumerate(said):
        assert f"--worker-id node-1-{index} --node node-1 --device cuda:{index} " in words
        assert f"--metrics-port {9091 + index} " in words
    assert workers.exit_code == 0


async def test_one_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    ends: list[WorkerExited] = []
    code = HELLO + "import time; 'node-1-0' in sys.argv and sys.exit(3); time.sleep(60)"
    workers = workers_of(code, tmp_path, ends, device="cpu")
    await workers.start()
    async with asyncio.timeout(DEADLINE_S):
        while not ends:
            await asyncio.sleep(0.01)
    assert workers.living == ["node-1-1"]
    workers.terminate(workers.living)
    async with asyncio.timeout(DEADLINE_S):
        await workers.ended()
    assert [(end.worker, end.exit_code) for end in ends] == [("node-1-0", 3), ("node-1-1", 0)], "as told"
    assert f"--incarnation {ends[0].incarnation} " in (tmp_path / "node-1-0").read_text()
    assert workers.exit_code == 3
