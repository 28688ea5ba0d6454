"""What is simulated: how quick workers of a kind are, and what everything around a chunk takes.

Part of the yardstick: docs/decisions/0030-yardstick.md.
"""

from __future__ import annotations

import msgspec

from services.worker.curve import HEADROOM, Curve, Pace, round_s


class Gpu(msgspec.Struct, frozen=True):
    """`batch_s`: (sessions, seconds) of one chunk of each, made together. `slots`: states that fit.
    `most_active` None: what keeps the latency target is its capacity; else at most so many. `told_later`:
    what one that boots beside busy ones measures and says of itself, though it is as quick (sizes that
    `batch_s` hasn't count nothing); empty: `batch_s`.
    """

    kind: str
    batch_s: tuple[tuple[int, float], ...]
    slots: int
    price_per_s: float = 1.0
    most_active: int | None = None
    told_later: tuple[tuple[int, float], ...] = ()

    def curve(self) -> Curve:
        """A chunk counts as one step here."""
        return Curve(self.kind, self.batch_s)

    def latency_s(self) -> tuple[float, ...]:
        """ℓ(n) for n from 0 to the slots."""
        pace = Pace(self.curve(), 1, 0.0, 0.0)
        return tuple(round_s(pace, sessions) for sessions in range(self.slots + 1))

    def capacity(self, target_s: float) -> int:
        """K: as a live worker reckons it, with its headroom; at least one."""
        most = 0
        for sessions, latency_s in enumerate(self.latency_s()):
            if latency_s > HEADROOM * target_s:
                break
            most = sessions
        return max(1, most if self.most_active is None else min(most, self.most_active))


class Profile(msgspec.Struct, frozen=True):
    """`chunk_s`: how long a chunk plays. `target_s`: latency target where none is given. `deliver_s`: from
    the device's last step to the viewer. `start_s`: before a new session's first chunk. `resume_s`: before
    the first one after a pause, on the worker that has the state; `resume_elsewhere_s`: on another.
    `move_s`: a moved session's pause. Where workers share processors, `beside_boot` says how many times as
    long chunks take while one boots, `beside_busy` while another makes chunks, and for each further one as
    much more. `spread`: what chunks took against what all this says, as quantiles from the least share of it
    to the greatest; empty: nothing else. `first_chunk_s`: how long a session's first chunk plays, None: as
    long as all.
    """

    name: str
    gpus: tuple[Gpu, ...]
    chunk_s: float
    target_s: float
    deliver_s: float
    start_s: float
    resume_s: float
    resume_elsewhere_s: float
    move_s: float
    measured: str
    beside_boot: float = 1.0
    beside_busy: float = 1.0
    spread: tuple[float, ...] = ()
    first_chunk_s: float | None = None


def _paper_batch_s(sessions: int) -> float:
    """Its demo's simulator at full resolution: 180·max(0.5, √(frames/64)) + 55·(n − 1) + 18·(n/K)², 64
    frames.
    """
    return (180.0 + 55.0 * (sessions - 1) + 18.0 * (sessions / 4.0) ** 2) / 1000.0


def _h100(name: str, batch_s: tuple[tuple[int, float], ...], rung: str) -> Profile:
    return Profile(
        name=name,
        gpus=(Gpu("h100", batch_s, slots=16),),
        chunk_s=0.75,
        target_s=0.75,
        deliver_s=0.003,
        start_s=0.0,
        resume_s=0.073,
        resume_elsewhere_s=0.130,
        move_s=0.003,
        measured=f"H100s, 22 Nov 2026, 1.3B with random weights, {rung}: chunks of one and of two sessions "
        "decoded and encoded; a move's pause p50 (p95 8 ms); a first chunk took no longer than a usual one, "
        "its text's encoding left out; resume_elsewhere_s from before states were handed over on resume",
    )


PROFILES = {
    profile.name: profile
    for profile in (
        _h100("h100-1.3b", ((1, 0.286), (2, 0.577)), "exact rung"),
        _h100("h100-1.3b-fast", ((1, 0.168), (2, 0.332)), "fast rung"),
        Profile(
            name="sprites-cpu",
            gpus=(Gpu("cpu", ((1, 0.238),), slots=8),),
            chunk_s=1.5,
            target_s=1.5,
            deliver_s=0.012,
            start_s=0.100,
            resume_s=0.010,
            resume_elsewhere_s=0.020,
            move_s=0.020,
            measured="docs/performance.md: three forwards of 51 ms and 85 ms of decoding, quiet machine",
        ),
        Profile(
            name="paper",
            gpus=(Gpu("b300", tuple((n, _paper_batch_s(n)) for n in range(1, 5)), slots=8),),
            chunk_s=4.0,
            target_s=0.41,
            deliver_s=0.0,
            start_s=0.0,
            resume_s=0.060,
            resume_elsewhere_s=0.060,
            move_s=0.027,
            measured="the latency model of TurboServe's demo; target such that K = 4",
        ),
    )
}
