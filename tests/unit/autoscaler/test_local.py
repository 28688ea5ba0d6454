"""The local provider with real processes: small programs in a worker's place."""

import asyncio
import sys
from pathlib import Path

from services.autoscaler.provider import Exit
from services.autoscaler.providers.local import LocalProvider
from services.autoscaler.settings import AutoscalerSettings
from shared.contracts.fleet import WorkerExited

DEADLINE_S = 30.0
# Says that it runs by making the file named after its own id beside its log.
HELLO = "import pathlib, signal, sys, time; pathlib.Path(sys.argv[1], sys.argv[3]).touch(); "
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + HELLO + "time.sleep(60)"
FAILING = (
    "import json, sys; message = 'no weights for ' + ' '.join(sys.argv[4:]);"
    "print(json.dumps({'level': 'critical', 'message': message}), file=sys.stderr); sys.exit(69)"
)


class Ended:
    """What the provider said of ended workers, to be awaited."""

    def __init__(self) -> None:
        self.exits: asyncio.Queue[Exit] = asyncio.Queue()

    async def next(self) -> Exit:
        return await asyncio.wait_for(self.exits.get(), DEADLINE_S)


def provider_of(code: str, folder: Path, ended: Ended, stop_s: float = 5.0) -> LocalProvider:
    settings = AutoscalerSettings(log_folder=str(folder), worker_stop_s=stop_s)
    return LocalProvider(settings, ended.exits.put_nowait, [sys.executable, "-c", code, str(folder)])


def logs_in(folder: Path) -> list[str]:
    return [log.name for log in folder.glob("*.log")]


async def running(folder: Path, worker: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not (folder / worker).exists():
            await asyncio.sleep(0.01)


async def test_stopping_ends_all_at_once_the_stubborn_ones_the_hard_way(tmp_path: Path) -> None:
    ended = Ended()
    provider = provider_of(STUBBORN, tmp_path, ended, stop_s=0.2)
    workers = [(await provider.start())[0] for _ in range(2)]
    for worker in workers:
        await running(tmp_path, worker)
    assert [m.state for m in provider.members()] == ["alive", "alive"]
    await provider.stop(workers)
    exits = [await ended.next(), await ended.next()]
    assert {e.worker for e in exits} == set(workers)
    assert all(e.expected and e.exit_code == -9 for e in exits)
    assert provider.members() == ()


async def test_an_end_nobody_asked_for_is_told_with_the_workers_last_words(tmp_path: Path) -> None:
    ended = Ended()
    provider = provider_of(FAILING, tmp_path, ended)
    [first] = await provider.start()
    said = await ended.next()
    assert (said.told, said.expected) == (WorkerExited(first, 69, said.incarnation), False)
    assert said.detail.startswith(f"exit code 69: no weights for --incarnation {said.incarnation} ")
    [second] = await provider.start()
    assert second != first, "an id is never used twice"
    assert (await ended.next()).worker == second
    assert logs_in(tmp_path) == ["worker-1.log"]


async def test_a_password_reaches_a_worker_but_no_command_line(tmp_path: Path) -> None:
    """Every user of a machine can read command lines."""
    ended, url = Ended(), "nats://user:secret@127.0.0.1:4222"
    code = "import os, sys; sys.exit(f'{sys.argv} ' + os.environ['TURBOSERVE_NATS_URL'])"
    settings = AutoscalerSettings(log_folder=str(tmp_path), nats_url=url)
    await LocalProvider(settings, ended.exits.put_nowait, [sys.executable, "-c", code]).start()
    detail = (await ended.next()).detail
    assert detail.endswith(f" {url}")
    assert detail.count("secret") == 1


async def test_a_released_worker_may_end_by_itself_and_a_hanging_one_is_killed(tmp_path: Path) -> None:
    ended = Ended()
    provider = provider_of(STUBBORN, tmp_path, ended)
    [released], [hanging] = await provider.start(), await provider.start()
    provider.release(released)
    assert {m.worker: m.state for m in provider.members()} == {released: "stopping", hanging: "alive"}
    await provider.kill(released)
    assert (await ended.next()).expected
    await provider.kill(hanging)
    assert not (await ended.next()).expected


async def test_each_local_worker_gets_a_device_of_its_own(tmp_path: Path) -> None:
    ended = Ended()
    code = (
        "import pathlib, sys, time; named = pathlib.Path(sys.argv[1], sys.argv[3]);"
        "new = named.with_suffix('.new'); new.write_text(sys.argv[-1]); new.rename(named); time.sleep(60)"
    )
    settings = AutoscalerSettings(log_folder=str(tmp_path), devices="cuda:0, cuda:1")
    provider = LocalProvider(settings, ended.exits.put_nowait, [sys.executable, "-c", code, str(tmp_path)])
    workers = [(await provider.start())[0] for _ in range(3)]
    for worker in workers:
        await running(tmp_path, worker)
    for worker in workers[::2]:
        provider.release(worker)
    workers += await provider.start()
    await running(tmp_path, workers[-1])
    await provider.stop(workers)
    told = [(tmp_path / worker).read_text() for worker in workers]
    assert told == ["cuda:0", "cuda:1", "cuda:0", "cuda:0"]
