"""What placement can be told."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from services.placement.hand_over import MOVE_S
from services.placement.policies.registry import POLICIES, named
from services.placement.policies.view import Policy
from shared.ids import check_name
from shared.policy_choice import PolicyName, read_settings
from shared.settings import PositiveSeconds, ServiceSettings


class PlacementSettings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`database_url`: SQLite or Postgres, sqlite+aiosqlite:///file or
    postgresql+asyncpg://user:password@host:port/database. `database_wait_s`: how long to try to reach the
    database at start before giving up. `worker_silent_s`: a worker not heard from for so long is dead.
    `unwatched_pause_s`: a session nobody watches is paused after this. `unwatched_close_s`: a session nobody
    watches is closed after this. `command_timeout_s`: how long a worker may take to answer. `resume_s`: how
    long a session that is resumed on another worker may wait for its state, its turn behind other moves
    included; then it is placed without. `ended_log_linger_s`: how long an ended session's chunks are kept.
    `lease_ttl_s`: how soon another placement takes over from one that died. `default_model`: for sessions
    that name none. `models`: may be asked for before any worker serves them, separated by commas.
    `max_sessions`: of one tenant at once, ended ones not counted. `max_prompt_chars`: bound for every model;
    a model may allow less. `policy`: which rules place and move sessions; the autoscaler has one of the same
    name. `policy_settings`: of that policy, as JSON like {"patience_s": 3}, beside those that are settings
    here. `floor_rung`: the lowest rung a session may be stepped down to while demand is high, "": none is.
    `longest_wait_s`: a new session whose turn would come later is refused (not given: it may wait for ever).
    """

    database_url: str = "sqlite+aiosqlite:///turboserve.sqlite"
    database_wait_s: PositiveSeconds = 30.0
    worker_silent_s: PositiveSeconds = 5.0
    unwatched_pause_s: PositiveSeconds = 30.0
    unwatched_close_s: PositiveSeconds = 600.0
    command_timeout_s: PositiveSeconds = 2.0
    move_s: PositiveSeconds = MOVE_S
    resume_s: PositiveSeconds = 1.5
    ended_log_linger_s: PositiveSeconds = 60.0
    lease_ttl_s: Annotated[float, Meta(ge=1, le=60)] = 4.0
    default_model: str = "sprites"
    models: str = "sprites"
    max_sessions: Annotated[int, Meta(ge=1, le=100_000)] = 2_000
    policy: PolicyName = "turboserve"
    policy_settings: str = ""
    floor_rung: str = ""
    longest_wait_s: PositiveSeconds | None = None
    max_prompt_chars: Annotated[int, Meta(ge=1, le=100_000)] = 2_000

    def __post_init__(self) -> None:
        for model in self.model_names:
            check_name("model", model.replace(".", "-"))
        self.make_policy()

    def make_policy(self) -> Policy:
        """Raises ValueError: `policy_settings` are not of this policy."""
        given = read_settings(self.policy_settings, POLICIES[self.policy].__struct_fields__)
        try:
            return named(self.policy, {"longest_wait_s": self.longest_wait_s} | given)
        except msgspec.ValidationError as error:
            raise ValueError(f"policy {self.policy!r}: {error}") from None

    @property
    def model_names(self) -> frozenset[str]:
        return frozenset(name.strip() for name in self.models.split(",")) | {self.default_model}
