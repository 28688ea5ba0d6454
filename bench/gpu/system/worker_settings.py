"""What workers are told, from a benchmark's command line."""

from __future__ import annotations

import argparse

_LOADERS = {"tiny": "tests.fixtures.tiny_model", "clocked": "bench.live.clocked"}
_SHIPPED = {"sprites"}
_HOST_POOL_GIB = "24"  # six states of 3.6 GB


def setting(text: str) -> tuple[str, str]:
    """An argument's type."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, like host_pool_gib=4")
    return name, value


def worker_settings(asked: argparse.Namespace, capacity: int) -> dict[str, str]:
    """`asked`: `model`, `weights`, `geometry` and `worker` (by `setting`). `capacity` 0: what it says."""
    settings = {"capacity": str(capacity)} if capacity else {}
    if loader := _LOADERS.get(asked.model):
        settings |= {"model_loader": loader, "weights_path": asked.weights}
    elif asked.model not in _SHIPPED:
        settings |= {"weights_path": asked.weights, "host_pool_gib": _HOST_POOL_GIB}
    if asked.geometry:
        settings["geometry"] = asked.geometry
    return settings | dict(asked.worker)
