"""What a worker on a GPU needs first of all, and what takes seconds to read on a machine where nothing has
run: begun with the process, beside joining its cell. What fails here fails again, and is told, where it is
needed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

_GPUS = Path("/dev/nvidiactl")
_COMPILER_DEADLINE_S = 20.0
SWITCH_S = 0.0005
"""Between threads, also while the worker serves: the event loop is not to wait 5 ms for the device thread.
Whoever reads, hashes or compiles lets go of the interpreter's lock a thousand times, and gets it back after
so long from whoever makes the model.
"""
_begun = threading.Event()


def begin(device: str) -> None:
    """Once; on threads that end with the process. `device`: as settings name it. Nothing, without a GPU."""
    wanted = device.startswith("cuda") or (device == "auto" and _GPUS.exists())
    if not wanted or _begun.is_set():
        return
    _begun.set()
    sys.setswitchinterval(SWITCH_S)
    for what, work in (("torch", _torch), ("Triton's key", _key), ("a C compiler", _c_compiler)):
        threading.Thread(target=_tried, args=(what, work), name="early", daemon=True).start()


def _tried(what: str, work: Callable[[], None]) -> None:
    started = time.perf_counter()
    try:
        work()
    except Exception as error:  # noqa: BLE001 as this file says
        logger.debug("not begun early: %s: %s", what, error)
        return
    logger.info("loaded: %s in %.2f s, ahead of the model", what, time.perf_counter() - started)


def _torch() -> None:
    importlib.import_module("torch").cuda.init()


def _key() -> None:
    """Triton hashes all of itself, hundreds of megabytes, before it compiles or looks anything up."""
    if (spec := importlib.util.find_spec("triton")) is None or spec.origin is None:
        return
    home = Path(spec.origin).parent
    for path in (home / "_C" / "libtriton.so", home / "backends" / "nvidia" / "bin" / "ptxas"):
        _read_ahead(path)
    importlib.import_module("triton.runtime.cache").triton_key()


def _read_ahead(path: Path) -> None:
    """The system fetches the file while others go on."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _c_compiler() -> None:
    """Triton has launchers made by one. It too is read from a file, as are Python's headers."""
    if (compiler := os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")) is None:
        return
    headers = sysconfig.get_paths()["include"]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "empty.c"
        source.write_text("#include <Python.h>\n")
        command = [
            compiler,
            str(source),
            "-O3",
            "-shared",
            "-fPIC",
            f"-I{headers}",
            "-o",
            f"{folder}/empty.so",
        ]
        quiet = subprocess.DEVNULL
        subprocess.run(command, check=False, timeout=_COMPILER_DEADLINE_S, stdout=quiet, stderr=quiet)
