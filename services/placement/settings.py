"""What placement can be told."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from services.placement.hand_over import MOVE_S
from shared.ids import check_name
from shared.settings import PositiveSeconds, ServiceSettings


class PlacementSettings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`database_url`: SQLite or Postgres, sqlite+aiosqlite:///file or
    postgresql+asyncpg://user:password@host:port/database. `database_wait_s`: how long to try to reach the
    database at start before giving up. `worker_silent_s`: a worker not heard from for so long is dead.
    `unwatched_pause_s`: a session nobody watches is paused after this. `unwatched_close_s`: a session nobody
    watches is closed after this. `command_timeout_s`: how long a worker may take to answer.
    `ended_log_linger_s`: how long an ended session's chunks are kept. `lease_ttl_s`: how soon another
    placement takes over from one that died. `default_model`: for sessions that name none. `models`: may be
    asked for before any worker serves them, separated by commas. `max_sessions`: of one tenant at once, ended
    ones not counted. `max_prompt_chars`: bound for every model; a model may allow less.
    """

    database_url: str = "sqlite+aiosqlite:///turboserve.sqlite"
    database_wait_s: PositiveSeconds = 30.0
    worker_silent_s: PositiveSeconds = 5.0
    unwatched_pause_s: PositiveSeconds = 30.0
    unwatched_close_s: PositiveSeconds = 600.0
    command_timeout_s: PositiveSeconds = 2.0
    move_s: PositiveSeconds = MOVE_S
    ended_log_linger_s: PositiveSeconds = 60.0
    lease_ttl_s: Annotated[float, Meta(ge=1, le=60)] = 4.0
    default_model: str = "sprites"
    models: str = "sprites"
    max_sessions: Annotated[int, Meta(ge=1, le=100_000)] = 2_000
    max_prompt_chars: Annotated[int, Meta(ge=1, le=100_000)] = 2_000

    def __post_init__(self) -> None:
        for model in self.model_names:
            check_name("model", model.replace(".", "-"))

    @property
    def model_names(self) -> frozenset[str]:
        return frozenset(name.strip() for name in self.models.split(",")) | {self.default_model}
