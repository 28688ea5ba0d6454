"""What a gateway can be told."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from shared.ids import DEFAULT_TENANT, check_name
from shared.settings import Name, Port, PositiveSeconds, ServiceSettings

Count = Annotated[int, Meta(ge=1)]


class GatewaySettings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`host`: address to listen on, 0.0.0.0 for every one of this machine. `port`: of the page and the API.
    `tenant`: whose sessions are served here. `request_timeout_s`: how long placement may take to answer.
    `max_prompt_chars`: holds until a worker has said what its model takes. `max_viewers`: WebSockets at a
    time. `allowed_origins`: origins of foreign pages that may call this gateway, separated by commas; its own
    page always may. `trust_trace_context`: join traces begun by callers, only where all of them are trusted.
    `viewer_silent_s`: how long a viewer may take not a byte, or answer no ping. `away_limit_s`: viewers
    are sent away when NATS stays away for longer. `linger_s`: how long an ended session waits for a
    viewer's next grant. `poll_s`: how often the log of a watched session is looked at although nothing was
    heard. `refresh_s`: how often its row is read again. `cells`: those whose sessions are served here,
    separated by commas; "": `cell` alone. The first is for requests that name none.
    """

    host: str = "127.0.0.1"
    port: Port = 8080
    tenant: Name = DEFAULT_TENANT
    request_timeout_s: PositiveSeconds = 5.0
    max_prompt_chars: Count = 500
    max_viewers: Count = 5_000
    allowed_origins: str = ""
    trust_trace_context: bool = False
    viewer_silent_s: PositiveSeconds = 60.0
    away_limit_s: PositiveSeconds = 60.0
    linger_s: PositiveSeconds = 10.0
    poll_s: PositiveSeconds = 1.0
    refresh_s: PositiveSeconds = 5.0
    cells: str = ""

    def __post_init__(self) -> None:
        for cell in self.cell_names:
            check_name("cell", cell)

    @property
    def cell_names(self) -> list[str]:
        named = [cell.strip() for cell in self.cells.split(",") if cell.strip()]
        return list(dict.fromkeys(named or [self.cell]))

    @property
    def origins(self) -> list[str]:
        return [origin.strip() for origin in self.allowed_origins.split(",") if origin.strip()]
