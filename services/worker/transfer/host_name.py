"""What only processes have in common that can map each other's memory: the host, and its namespaces."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACES = ("net", "ipc", "pid")


def on_this_host() -> str:
    """Eight letters. Containers that share neither network nor processes differ. Raises `OSError` elsewhere
    than on Linux.
    """
    parts = [_BOOT_ID.read_text().strip(), str(os.getuid())]
    parts += [str(Path(f"/proc/self/ns/{name}").readlink()) for name in _NAMESPACES]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:8]
