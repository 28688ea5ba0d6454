"""What other threads want done on the device thread, between two steps of the engine."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar, overload

MOST_WAITING = 64
_ASK_AGAIN_S = 0.001

T = TypeVar("T")


class Later(ABC, Generic[T]):
    """An errand's result that isn't there yet: asked for again between steps."""

    @abstractmethod
    def poll(self) -> T | None:
        """None: not yet. Never waits."""


class Errands:
    """`wake` is notified when there is one; whoever waits on it may ask `due`."""

    def __init__(self, wake: threading.Condition) -> None:
        self._wake = wake
        self._new: deque[tuple[Future[Any], Callable[[], Any], bool]] = deque()
        self._later: list[tuple[Future[Any], Later[Any], bool]] = []
        self._ended = False

    @overload
    def put(self, work: Callable[[], Later[T]], *, soon: bool = False) -> Future[T]: ...
    @overload
    def put(self, work: Callable[[], T], *, soon: bool = False) -> Future[T]: ...
    def put(self, work: Callable[[], Any], *, soon: bool = False) -> Future[Any]:
        """From any thread: `work` on the device thread between two steps, in order. `soon`: also while the
        device is at one, which `work` must leave alone, as long as nobody who came before minds. Cancelled if
        the engine has ended. Raises `RuntimeError` if too many wait.
        """
        future: Future[Any] = Future()
        with self._wake:
            if self._ended:
                future.cancel()
                return future
            if len(self._new) + len(self._later) >= MOST_WAITING:
                raise RuntimeError(f"{MOST_WAITING} errands wait for the device thread; it may hang")
            self._new.append((future, work, soon))
            self._wake.notify_all()
        return future

    @property
    def due(self) -> bool:
        return bool(self._new)

    @property
    def pending(self) -> bool:
        """Some result isn't there yet, so look again soon."""
        return bool(self._later)

    def run(self) -> None:
        """Device thread: all that are there, in order."""
        while self._new:
            self._settle(*self._new.popleft())
        waiting, self._later = self._later, []
        for future, later, soon in waiting:
            self._settle(future, later.poll, soon, later)

    @property
    def due_soon(self) -> bool:
        return bool(self._new) and self._new[0][2]

    def await_soon(self, limit_s: float) -> None:
        """Device thread: until there may be one that `run_soon` runs, or whoever else is to be woken is."""
        with self._wake:
            if not self.due_soon:
                asked = any(soon for _, _, soon in self._later)
                self._wake.wait(min(limit_s, _ASK_AGAIN_S) if asked else limit_s)

    def run_soon(self) -> None:
        """Device thread: while the device is at a step. What was put to be done soon is asked for again."""
        while self.due_soon:
            self._settle(*self._new.popleft())
        asked = [waiting for waiting in self._later if waiting[2]]
        if asked:
            self._later = [waiting for waiting in self._later if not waiting[2]]
        for future, later, soon in asked:
            self._settle(future, later.poll, soon, later)

    def end(self) -> None:
        """Device thread: no more. What still waits is cancelled."""
        with self._wake:
            self._ended = True
            left = [waiting[0] for waiting in (*self._new, *self._later)]
            self._new.clear()
            self._later.clear()
        for future in left:
            future.cancel()

    def _settle(
        self, future: Future[Any], ask: Callable[[], Any], soon: bool, later: Later[Any] | None = None
    ) -> None:
        if future.cancelled():
            return
        try:
            result = ask()
            if isinstance(result, Later):
                result, later = result.poll(), result
        except Exception as error:  # noqa: BLE001 it is the asker's
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
            return
        if later is not None and result is None:
            self._later.append((future, later, soon))
        elif future.set_running_or_notify_cancel():
            future.set_result(result)
