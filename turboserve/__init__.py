"""turboserve: a prompt in, live video out. What a user touches: the command, this client library, the local
launcher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from turboserve.client import Client as Client
    from turboserve.errors import TurboserveError as TurboserveError
    from turboserve.messages import Chunk as Chunk
    from turboserve.session import Session as Session

__all__ = ["Chunk", "Client", "Session", "TurboserveError"]

_HOMES = {
    "Client": "turboserve.client",
    "Chunk": "turboserve.messages",
    "Session": "turboserve.session",
    "TurboserveError": "turboserve.errors",
}


def __getattr__(name: str) -> Any:
    """Loads the client only when it is used, so that `turboserve --help` answers at once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'turboserve' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
