"""What is known of one node: its pod, its workers, and what was asked of them. No effects: times are
arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.autoscaler.provider import Exit, Member
from services.autoscaler.providers.kubernetes.sight import Sight

HOPELESS_S = 60.0
"""An image that can't be pulled, a container that can't be made: so long may it take to prove otherwise."""


@dataclass(slots=True)
class Node:
    """`started_at`, `known_since`: on the steady clock, when it was ordered and since when this process knows
    it. `told`: workers that were told to go; `stopped`: those that are to end the hard way; `ended`: those
    whose end was told. `doomed`: its pod is to be deleted; `asked_at`: when that was last asked for.
    """

    name: str
    workers: tuple[str, ...]
    started_at: float
    known_since: float
    sight: Sight = Sight("waiting")  # noqa: RUF009 - frozen
    told: set[str] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    runs_since: float | None = None
    hopeless_since: float | None = None
    doomed: bool = False
    asked_at: float | None = None

    @property
    def living(self) -> list[str]:
        return [worker for worker in self.workers if worker not in self.ended]

    @property
    def kept_by_the_dead(self) -> bool:
        """All that live were told to go, but one that was given up may run on, and the pod with it."""
        return bool(self.ended) and bool(self.living) and set(self.living) <= self.told

    def members(self) -> list[Member]:
        going = self.doomed or self.sight.leaving
        return [
            Member(
                w,
                "stopping" if going or w in self.told else "alive",
                self.started_at,
                self.name,
                self.runs_since,
                self.sight.words,
            )
            for w in self.living
        ]

    def see(self, sight: Sight, now: float) -> list[Exit]:
        """What its pod looks like now. Returns the ends that follow from it."""
        if sight.state == "running" and self.sight.state != "running":
            self.runs_since = now
        self.sight = sight
        if not sight.hopeless:
            self.hopeless_since = None
        elif self.hopeless_since is None:
            self.hopeless_since = now
        if sight.state != "ended":
            return []
        self.doomed = True  # Kubernetes keeps ended pods for people to look at; this one has been looked at
        return self.end(sight.exit_code, sight.words)

    def end(self, exit_code: int | None, why: str) -> list[Exit]:
        """All its workers that have not ended yet. Who takes a pod away from outside has told its workers to
        go.
        """
        exits = [
            Exit(w, exit_code, w in self.told or self.sight.leaving, f"{self.name}: {why}")
            for w in self.living
        ]
        self.ended |= set(self.workers)
        return exits

    def overdue(self, schedule_s: float, now: float) -> str:
        """Why its pod is not worth waiting for any longer, "" if it is."""
        if self.sight.state != "waiting" or self.doomed:
            return ""
        if now - self.started_at > schedule_s:
            return f"not running within {schedule_s:g} s: {self.sight.words or 'nothing is known of why'}"
        if self.hopeless_since is not None and now - self.hopeless_since > HOPELESS_S:
            return f"given up after {HOPELESS_S:g} s of {self.sight.words}"
        return ""
