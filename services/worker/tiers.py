"""Places on the device, and what leaves them for host memory and comes back. No policy: who leaves, and when,
is decided in `states`. Device thread only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from services.worker.models.protocol import Counters, State
from services.worker.offload import Copying, HostPool, Mirror
from services.worker.runner import Runner, Step

DEVICE, HOST, NONE = "device", "host", "none"


@dataclass(eq=False, slots=True)
class Kept:
    """What is here of a copy, for its `generation`. `shown`: the prompt that it stands for.

    `state`: on the device; None: suspended. `mirror`: in host memory; of a suspended one all of it, with its
    `counters`. `coming`: the copy from there into `state`, which can't be used before; `brought`: the same,
    also once it is used. `ahead`: parts that the mirror was told beside the step that wrote them. `written`:
    over once the device has done all that concerns the state, so that it can leave; None: that, and all else
    it was told. `reserved`: the state is a blank for one that comes by a move.
    """

    generation: int
    shown: str = ""
    state: State | None = None
    mirror: Mirror | None = None
    counters: Counters | None = None
    coming: Copying | None = None
    brought: Copying | None = None
    ahead: frozenset[str] = frozenset()
    written: Step | None = None
    reserved: bool = False

    @property
    def hot(self) -> bool:
        return self.state is not None


@dataclass(slots=True)
class Tiers:
    """At most `slots` states on the device, those included whose last copy is still being read there."""

    runner: Runner
    pool: HostPool
    slots: int
    _taken: int = 0
    _leaving: list[tuple[State, Copying]] = field(default_factory=list)

    @property
    def free(self) -> int:
        return self.slots - self._taken

    @property
    def leaving(self) -> bool:
        """Whether a place will be free without anybody else leaving."""
        return bool(self._leaving)

    def settle(self) -> None:
        """Free the places whose copies are over."""
        still = [(state, copying) for state, copying in self._leaving if not copying.over]
        self._taken -= len(self._leaving) - len(still)
        self._leaving = still

    def hurry(self) -> None:
        """Free a place whose copy isn't over: what the device is told from now on comes after that."""
        state, copying = self._leaving.pop(0)
        self._taken -= 1
        self.pool.join(copying)
        del state  # its place is wiped now, behind that

    def take(self, make: Callable[[], State]) -> State:
        """The caller has made room."""
        state = make()
        self._taken += 1
        return state

    def claim(self) -> None:
        """A place for a state that isn't there yet, and will be kept. The caller has made room."""
        self._taken += 1

    def unclaim(self) -> None:
        self._taken -= 1

    def save(self, kept: Kept, *, leaving: bool = False) -> Copying:
        """What the mirror lacks. The device goes on beside it. `leaving`: it is at rest and waited for."""
        assert kept.mirror is not None
        memory, parts = self.runner.memory(kept.state), self.runner.parts(kept.state)
        return self.pool.save(kept.mirror, memory, parts, kept.written if leaving else None, urgent=leaving)

    def save_ahead(self, kept: Kept) -> None:
        """A step of it was just told the device: what is final with that leaves beside it."""
        if kept.mirror is None or not kept.hot or not (final := self.runner.final(kept.state)):
            return
        memory, parts = self.runner.memory(kept.state), self.runner.parts(kept.state)
        kept.ahead = self.pool.save_ahead(kept.mirror, memory, parts, final)

    def distrust(self, kept: Kept) -> None:
        """That step failed: whatever its mirror has of it isn't the state's."""
        if kept.mirror is not None:
            versions = kept.mirror.versions.items()
            kept.mirror.versions = {name: number for name, number in versions if name not in kept.ahead}
        kept.ahead = frozenset()

    def suspend(self, kept: Kept) -> Copying:
        """Between two chunks; it has a mirror. Its place is free once the copy is over."""
        if kept.coming is not None:
            copying, kept.coming = kept.coming, None
        else:
            kept.counters = self.runner.counters(kept.state)
            copying = self.save(kept, leaving=True)
        self._leave(kept, copying)
        return copying

    def fetch(self, kept: Kept) -> Copying:
        """A suspended one's way back begins; the caller has made room."""
        assert kept.mirror is not None
        state = self.runner.reserve()
        kept.coming = self.pool.load(kept.mirror, self.runner.memory(state), self.runner.blank(state))
        kept.state, kept.brought, kept.written = self.take(lambda: state), kept.coming, None
        return kept.coming

    def usable(self, kept: Kept) -> State:
        """Its state, from here on as the model goes on with it. Nobody waits."""
        if kept.coming is not None:
            assert kept.counters is not None
            assert kept.mirror is not None
            self.pool.join(kept.coming)
            kept.coming = None
            self.runner.take_over(kept.state, kept.counters)
            kept.mirror.versions = {n: part.version for n, part in self.runner.parts(kept.state).items()}
        return kept.state

    def drop(self, kept: Kept) -> None:
        """All of it. A copy into the place comes to its end first; one out of it nobody wants any more."""
        if kept.hot:
            self._leave(kept, kept.coming)
        self.drop_mirror(kept)

    def drop_mirror(self, kept: Kept) -> None:
        if kept.mirror is not None:
            self.pool.free(kept.mirror)
            kept.mirror = None

    def _leave(self, kept: Kept, copying: Copying | None) -> None:
        state, kept.state, kept.coming, kept.brought = kept.state, None, None, None
        if copying is None or copying.over:
            self._taken -= 1
        else:
            self._leaving.append((state, copying))
