"""How many sessions will be active a while from now: each session a two-state process whose rates are
learned.

An active session pauses or departs, an idle one comes back or departs, new ones arrive, all at rates
counted over the recent past (older events count less). Where little has been seen a prior holds.
"""

from __future__ import annotations

import math

import msgspec

from services.autoscaler.policies.view import Counts

_SPELL_MEMORY_S = 600.0
"""How users behave changes slowly; how many arrive doesn't."""
_PRIOR_S = 120.0
_STEP_S = 1.0


class Rate(msgspec.Struct, frozen=True):
    """Events per second of exposure, both discounted with age."""

    events: float
    exposure_s: float

    def seen(self, events: float, exposure_s: float, kept: float) -> Rate:
        return Rate(self.events * kept + events, self.exposure_s * kept + exposure_s)

    @property
    def per_s(self) -> float:
        return self.events / self.exposure_s if self.exposure_s > 0.0 else 0.0


class Learned(msgspec.Struct, frozen=True):
    """`arrive`: new sessions; `begin`: how many of those arrive active; `pause`, `leave`: of an active
    session; `resume`, `quit`: of an idle one.
    """

    at_s: float
    counts: Counts
    active: int
    idle: int
    arrive: Rate
    begin: Rate
    pause: Rate
    leave: Rate
    resume: Rate
    quit: Rate

    @property
    def spell_s(self) -> float:
        ends = self.pause.per_s + self.leave.per_s
        return 1.0 / ends if ends > 0.0 else math.inf


def first(at_s: float, counts: Counts, active: int, idle: int) -> Learned:
    """Before anything is known: spells and gaps of half a minute, arrivals unheard of."""
    return Learned(
        at_s,
        counts,
        active,
        idle,
        arrive=Rate(0.0, 10.0),
        begin=Rate(2.0, 4.0),
        pause=Rate(_PRIOR_S / 20.0, _PRIOR_S),
        leave=Rate(0.1, _PRIOR_S),
        resume=Rate(_PRIOR_S / 30.0, _PRIOR_S),
        quit=Rate(_PRIOR_S / 60.0, _PRIOR_S),
    )


def learn(before: Learned, at_s: float, counts: Counts, active: int, idle: int, memory_s: float) -> Learned:
    """`memory_s`: how long an arrival counts. The numbers of sessions held since the call before."""
    past_s = max(0.0, at_s - before.at_s)
    old = before.counts
    slow, quick = math.exp(-past_s / _SPELL_MEMORY_S), math.exp(-past_s / memory_s)
    arrived = counts.arrived - old.arrived
    departed_active = counts.departed_active - old.departed_active
    departed_idle = counts.departed - old.departed - departed_active
    active_s, idle_s = before.active * past_s, before.idle * past_s
    return Learned(
        at_s,
        counts,
        active,
        idle,
        arrive=before.arrive.seen(arrived, past_s, quick),
        begin=before.begin.seen(counts.arrived_active - old.arrived_active, arrived, slow),
        pause=before.pause.seen(counts.idled - old.idled, active_s, slow),
        leave=before.leave.seen(departed_active, active_s, slow),
        resume=before.resume.seen(counts.activated - old.activated, idle_s, slow),
        quit=before.quit.seen(departed_idle, idle_s, slow),
    )


class Forecast(msgspec.Struct, frozen=True):
    mean: float
    deviation: float

    def at_most(self, z: float) -> float:
        return self.mean + z * self.deviation


def active_in(learned: Learned, ahead_s: float) -> Forecast:
    """Active sessions `ahead_s` from now, with what chance and the arrival rate's uncertainty add.

    Follows the chance of being active of one that is active now, one that is idle, and one that arrives in
    between; every session is independent of the others, arrivals are Poisson.
    """
    steps = max(1, math.ceil(ahead_s / _STEP_S))
    step_s = ahead_s / steps
    stay, resume, idle, pause = _step(learned, step_s)
    begins = min(1.0, learned.begin.per_s)
    # The chance to be active, and to be idle: of one active now, of one idle now, of one that arrives.
    p, p_idle, q, q_idle, r, r_idle = 1.0, 0.0, 0.0, 1.0, begins, 1.0 - begins
    new = 0.0
    for _ in range(steps):
        new += r * step_s
        p, p_idle = p * stay + p_idle * resume, p_idle * idle + p * pause
        q, q_idle = q * stay + q_idle * resume, q_idle * idle + q * pause
        r, r_idle = r * stay + r_idle * resume, r_idle * idle + r * pause
    arrivals = learned.arrive.per_s
    mean = learned.active * p + learned.idle * q + arrivals * new
    chance = learned.active * p * (1 - p) + learned.idle * q * (1 - q) + arrivals * new
    unsure = new * new * arrivals / max(learned.arrive.exposure_s, 1.0)
    return Forecast(mean, math.sqrt(max(0.0, chance + unsure)))


def _step(learned: Learned, step_s: float) -> tuple[float, float, float, float]:
    """Chances within a step: active stays so, idle resumes, idle stays so, active pauses."""
    pause, leave = learned.pause.per_s * step_s, learned.leave.per_s * step_s
    resume, left = learned.resume.per_s * step_s, learned.quit.per_s * step_s
    both = 1.0 + pause + resume
    pause, resume = pause / both, resume / both
    return max(0.0, 1.0 - pause - leave), resume, max(0.0, 1.0 - resume - left), pause
