"""Settings of the autoscaler."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, ValidationError

from services.autoscaler.policies.registry import POLICIES, named
from services.autoscaler.policies.view import Policy
from shared.policy_choice import PolicyName, read_settings
from shared.settings import PositiveSeconds, ServiceSettings

WorkerCount = Annotated[int, Meta(ge=0, le=1024)]


class AutoscalerSettings(ServiceSettings, frozen=True, kw_only=True):
    """`policy`: which rule says how many workers there should be. `policy_settings`: of that policy, as JSON,
    for example {"z": 3} (not given: its own). `minimum`: workers that run even when nobody watches.
    `maximum`: never more than this many (not given: one for every two processors of this machine, at least
    two and the minimum). `spare`: ready workers to keep beside those needed. `boot_s`: how long a worker
    takes to be ready, until it was measured. `database_url`: where it is kept who leads and what operators
    set: the database of placement, sqlite+aiosqlite:///file or
    postgresql+asyncpg://user:password@host:port/database. `database_wait_s`: how long to try to reach the
    database at start before giving up. `lease_ttl_s`: how soon another autoscaler takes over from one that
    died. `model`: model the workers serve (not given: the worker's default). `provider`: where workers run;
    `local` starts them as processes beside the autoscaler, `kubernetes` in pods. `pod_template`: file with
    the pod to start on Kubernetes, one for a node. `namespace`: where its pods are (not given: that of the
    service account). `devices`: of local workers, as torch names them, separated by commas: each worker
    gets the first of those with the fewest workers that stay (not given: each chooses by itself).
    `schedule_deadline_s`: a pod that isn't running by then is given up. `provider_s`: how
    long the provider may take for a call. `log_folder`: each local worker logs into a file of its own there
    (not given: to this process's output). `start_deadline_s`: a worker that isn't ready by then is replaced.
    `silent_s`: a worker whose process runs but who has reported nothing for so long is replaced.
    `restart_limit`: how many unexpected ends per wanted worker within `restart_window_s` are answered by a
    new start. `restart_window_s`: how far back they count. `worker_stop_s`: time a worker gets to end by
    itself before it is killed. `drain_s`: time an empty worker that was told to go gets for that.
    """

    policy: PolicyName = "turboserve"
    policy_settings: str = ""
    minimum: WorkerCount = 1
    maximum: WorkerCount | None = None
    spare: WorkerCount = 0
    boot_s: PositiveSeconds = 15.0
    database_url: str = "sqlite+aiosqlite:///turboserve.sqlite"
    database_wait_s: PositiveSeconds = 30.0
    lease_ttl_s: Annotated[float, Meta(ge=1, le=60)] = 4.0
    model: str = ""
    provider: Literal["local", "kubernetes"] = "local"
    pod_template: str = ""
    namespace: str = ""
    devices: str = ""
    schedule_deadline_s: PositiveSeconds = 600.0
    provider_s: PositiveSeconds = 30.0
    log_folder: str = ""
    start_deadline_s: PositiveSeconds = 180.0
    silent_s: PositiveSeconds = 30.0
    restart_limit: Annotated[int, Meta(ge=0, le=100)] = 5
    restart_window_s: PositiveSeconds = 300.0
    worker_stop_s: PositiveSeconds = 8.0
    drain_s: PositiveSeconds = 600.0

    def __post_init__(self) -> None:
        self.chosen_policy()
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(
                f"maximum={self.maximum} is less than minimum={self.minimum}: "
                "raise the one or lower the other"
            )

    def chosen_policy(self) -> Policy:
        """Raises ValueError: its settings can't be."""
        fields: Any = POLICIES[self.policy]
        given = read_settings(self.policy_settings, fields.__struct_fields__)
        try:
            return named(self.policy, given)
        except ValidationError as error:
            raise ValueError(f"policy {self.policy!r}: {error}") from None
