"""Which of the autoscaler's decisions are kept in the log of decisions."""

from __future__ import annotations

import logging
import time
from typing import cast

import msgspec

from services.autoscaler.plan import Decided, Plan
from services.autoscaler.policies.view import Change, Policy
from shared import decision_log
from shared.decision_log import Recorder
from shared.ids import new_decision_id

logger = logging.getLogger(__name__)


class Recording:
    """Those that change something, or that want another size than the one before; not their repetitions.
    `decision`: the id of the newest; "": there was none.
    """

    def __init__(self, recorder: Recorder, policy_name: str, policy: Policy) -> None:
        self.decision = ""
        self._recorder = recorder
        self._policy_name = policy_name
        self._policy = policy
        self._last: tuple[int, Change] = (-1, Change())

    def take(self, plan: Plan) -> None:
        if plan.decided is None:
            return
        before, self._last = self._last, (plan.desired, plan.decided.change)
        if self._last == before or not (plan.decided.change or plan.desired != before[0]):
            return
        logger.info("workers wanted: %d (%s)", plan.desired, plan.reason)
        self.decision = new_decision_id("autoscaler")
        self._recorder.record(self._as_record(plan.reason, plan.decided))

    def _as_record(self, reason: str, decided: Decided) -> decision_log.Decided:
        change = decided.change
        return decision_log.Decided(
            id=self.decision,
            at=time.time(),
            policy_name=self._policy_name,
            reason=reason,
            sessions=[],
            workers=sorted({*change.undrain, *change.drain, *change.release}),
            policy=cast(msgspec.Struct, self._policy),
            view=decided.view,
            memory=decided.memory,
            decision=decided.decision,
        )
