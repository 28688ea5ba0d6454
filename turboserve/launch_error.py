"""Why `turboserve up` can't go on."""

from __future__ import annotations


class LaunchError(Exception):
    """`message`: one sentence on what is wrong. `hint`: what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
