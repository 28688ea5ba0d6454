"""Until when a new prompt may still show in the chunk under way, by beginning that again.

What is thrown away is device time, so it is done only where nobody's viewer has to wait for it: by the same
order (earliest deadline first) in which chunks are stepped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from services.worker.curve import Curve

NEVER = float("-inf")
APPEND_S = 0.04
"""From encoded to the log and its viewers: some 15 ms, and some to spare."""
_PROMPT_STEPS = 4
"""What a new prompt's first forward takes, in others, before one was seen."""


class Work(NamedTuple):
    """A copy's chunk under way, or one that may begin: when it is needed, and the device's seconds left for
    it. `again_s`: what it would take from its beginning; None: it can't be begun again.
    """

    needed_at: float
    key: int
    left_s: float
    again_s: float | None = None


def latest(works: Iterable[Work], step_s: float, after_s: float) -> dict[int, float]:
    """By key: the last moment for a new prompt to come so that its chunk, begun again, and all that are
    needed later are there in time. `step_s`: before that begins, as of a step begun just before, which is
    thrown away too. `after_s`: from a chunk's last step to its being in the log.
    """
    queue = sorted(works)
    busy_s = list(accumulate((work.left_s for work in queue), initial=0.0))
    until: dict[int, float] = {}
    later = float("inf")
    for work, before_s, through_s in reversed(list(zip(queue, busy_s, busy_s[1:], strict=False))):
        if work.again_s is not None:
            own = work.needed_at - before_s - work.again_s
            others = later + work.left_s - work.again_s
            until[work.key] = min(own, others) - step_s - after_s
        later = min(later, work.needed_at - through_s)
    return until


@dataclass(slots=True)
class Costs:
    """What chunks take here. `curves`: by rung, measured at start; the rest is learnt as chunks are made, and
    what took long is forgotten slowly. `steps`: by rung, before a chunk's pictures, without what a new prompt
    takes. `after_s`: from the beginning of a chunk's decode to its media.
    """

    curves: Mapping[str, Curve]
    steps: Mapping[str, int]
    after_s: float = 0.0
    _prompt_s: dict[str, float] = field(default_factory=dict)
    _rebuild_s: float = 0.0

    def step_s(self, rung: str) -> float:
        return 1 / self.curves[rung].rate(1)

    def chunk_s(self, rung: str) -> float:
        """The device's, of a chunk, until its pictures are final."""
        return self.steps[rung] * self.step_s(rung)

    def again_s(self, rung: str) -> float:
        """The same with a new prompt."""
        return self.prompt_s(rung) + self.chunk_s(rung)

    def prompt_s(self, rung: str) -> float:
        """The device's, for a new prompt, before the first step."""
        return self._prompt_s.get(rung, _PROMPT_STEPS * self.step_s(rung))

    def learn_prompt(self, rung: str, seconds: float) -> None:
        """A chunk's first step, alone and with a new prompt, took so long."""
        self._prompt_s[rung] = _slowly(self.prompt_s(rung), seconds)

    def rebuild_s(self, rung: str) -> float:
        """The device's, for a state made of its latents."""
        return self._rebuild_s or 2 * self.prompt_s(rung)

    def learn_rebuild(self, seconds: float) -> None:
        self._rebuild_s = _slowly(self._rebuild_s, seconds)

    def learn_after(self, seconds: float) -> None:
        self.after_s = _slowly(self.after_s, seconds)


def _slowly(before: float, now: float) -> float:
    return max(now, 0.9 * before + 0.1 * now)
