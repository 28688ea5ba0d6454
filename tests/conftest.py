"""What every test gets: one thread per process, a printed seed, asyncio, real servers, and limits on time."""

import gc
import os
import random
from pathlib import Path

# What all of the tests import stays to the end: the collector needn't look at it, neither now nor later.
gc.disable()

# Before torch or numpy can be imported, here or in a process that a test starts: two threads beside
# other work are slower than one. The seed too is inherited, so that parallel test processes agree on it:
# always the same examples, so that a failure is the newest change's, but in a hunt (tests/hunt.py).
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
SEED = os.environ.setdefault("TURBOSERVE_TEST_SEED", "0")

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase

pytest_plugins = [
    "tests.fixtures.chromium",
    "tests.fixtures.nats_server",
    "tests.fixtures.postgres",
    "tests.fixtures.gateway",
    "tests.fixtures.placement_wire",
    "tests.fixtures.otlp",
    "tests.fixtures.system",
]

ROOT = Path(__file__).parent.parent

settings.register_profile(
    "turboserve",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # tells of the machine's load, not of the test
    print_blob=True,
    derandomize=SEED == "0",
    database=None if SEED == "0" else DirectoryBasedExampleDatabase(ROOT / ".cache" / "hypothesis"),
)
settings.load_profile("turboserve")


def pytest_report_header() -> str:
    return f"seed: TURBOSERVE_TEST_SEED={SEED}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if Path("/dev/nvidiactl").exists():
        return
    for item in items:
        if item.path.is_relative_to(ROOT / "tests" / "gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Chance for one test, the same again with the seed that the run's header shows."""
    return random.Random(f"{SEED} {request.node.nodeid}")
