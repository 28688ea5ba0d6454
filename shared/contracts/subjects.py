"""Every subject of the system, with the struct it carries. The only place with a subject string.

The first token names the product, the second the cell; the third groups by who may publish, so that a
broker's permissions can be least: `session.*` by gateways and outside platforms, `worker.*` by placement,
`report.*` by workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import msgspec

from shared.contracts import decisions, fleet, moves, session, stream, text
from shared.ids import InvalidName, check_name, check_session_id

T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)


def _token(name: str, value: str) -> str:
    if name == "session":
        return check_session_id(value)
    # Model names carry dots (wan2.1-…), which would split the token.
    return check_name(name, value.replace(".", "-") if name == "model" else value)


class Address(Generic[T]):
    """A subject with all its tokens filled in. `template` is its family, for metrics and span names."""

    __slots__ = ("struct", "subject", "template")

    def __init__(self, subject: str, template: str, struct: type[T]) -> None:
        self.subject = subject
        self.template = template
        self.struct = struct


class RequestAddress(Address[T], Generic[T, R]):
    """An address whose receiver answers with `reply`, or with a `Refusal` under the error header."""

    __slots__ = ("reply",)

    def __init__(self, subject: str, template: str, struct: type[T], reply: type[R]) -> None:
        super().__init__(subject, template, struct)
        self.reply = reply


class Subject(Generic[T]):
    """A family of subjects: `{token}`s in `template` are filled by `at` and may be left open by `pattern`."""

    def __init__(self, template: str, struct: type[T]) -> None:
        self.template = template
        self.struct = struct
        self.tokens = tuple(part[1:-1] for part in template.split(".") if part.startswith("{"))

    def at(self, **tokens: str) -> Address[T]:
        return Address(self._fill(tokens), self.template, self.struct)

    def pattern(self, **tokens: str) -> str:
        """NATS pattern with `*` for every token not given."""
        if not set(tokens) <= set(self.tokens):
            raise ValueError(f"{self.template} takes {self.tokens}, not {tuple(tokens)}")
        return self.template.format_map(dict.fromkeys(self.tokens, "*") | self._checked(tokens))

    def parse(self, subject: str) -> dict[str, str]:
        """The tokens of a subject of this family. Raises `InvalidName` if it is none."""
        parts, values = self.template.split("."), subject.split(".")
        pairs = list(zip(parts, values, strict=False))
        fixed = all(part == value for part, value in pairs if not part.startswith("{"))
        if len(parts) != len(values) or not fixed:
            raise InvalidName(f"{subject[:120]!r} is not one of {self.template}")
        return self._checked({part[1:-1]: value for part, value in pairs if part.startswith("{")})

    def _fill(self, tokens: Mapping[str, str]) -> str:
        if set(tokens) != set(self.tokens):
            raise ValueError(f"{self.template} takes {self.tokens}, not {tuple(tokens)}")
        return self.template.format_map(self._checked(tokens))

    @staticmethod
    def _checked(tokens: Mapping[str, str]) -> dict[str, str]:
        return {name: _token(name, value) for name, value in tokens.items()}


class Request(Subject[T], Generic[T, R]):
    """A family of subjects that are answered."""

    def __init__(self, template: str, struct: type[T], reply: type[R]) -> None:
        super().__init__(template, struct)
        self.reply = reply

    def at(self, **tokens: str) -> RequestAddress[T, R]:
        return RequestAddress(self._fill(tokens), self.template, self.struct, self.reply)


# Commands to placement, from gateways and from platforms that drive sessions without HTTP.
OPEN = Request("ts.{cell}.session.{tenant}.open", session.OpenSession, session.SessionView)
STEER = Request("ts.{cell}.session.{tenant}.steer", session.SteerSession, session.Steered)
PAUSE = Request("ts.{cell}.session.{tenant}.pause", session.PauseSession, session.SessionView)
RESUME = Request("ts.{cell}.session.{tenant}.resume", session.ResumeSession, session.SessionView)
SET_RUNG = Request("ts.{cell}.session.{tenant}.rung", session.SetRung, session.SessionView)
CLOSE = Request("ts.{cell}.session.{tenant}.close", session.CloseSession, session.SessionView)
GET = Request("ts.{cell}.session.{tenant}.get", session.GetSession, session.SessionView)
LIST = Request("ts.{cell}.session.{tenant}.list", session.ListSessions, session.SessionPage)

# While a session plays.
CHUNKS = Subject("ts.{cell}.chunks.{tenant}.{session}", stream.Chunk)
LATENTS = Subject("ts.{cell}.latents.{tenant}.{session}.{place}", stream.Latents)
CHUNK_READY = Subject("ts.{cell}.live.{tenant}.{session}", stream.ChunkReady)
SESSION_CHANGED = Subject("ts.{cell}.changed.{tenant}.{session}", stream.SessionChanged)
VIEWERS = Subject("ts.{cell}.viewers.{tenant}.{session}", stream.ViewerReport)

# Placement to workers.
OWN = Request("ts.{cell}.worker.{worker}.own", fleet.Own, fleet.Owned)
DROP = Request("ts.{cell}.worker.{worker}.drop", fleet.Drop, fleet.Dropped)
DRAIN = Request("ts.{cell}.worker.{worker}.drain", fleet.Drain, fleet.Draining)
RESERVE = Request("ts.{cell}.worker.{worker}.reserve", moves.Reserve, moves.Reserved)
MOVE_OUT = Request("ts.{cell}.worker.{worker}.move-out", moves.MoveOut, moves.MovingOut)
STOW = Request("ts.{cell}.worker.{worker}.stow", moves.Stow, moves.Stowed)

# Workers to each other, in a move (a call-off also comes from placement).
CALL_OFF = Subject("ts.{cell}.worker.{worker}.call-off", moves.CallOff)
OPEN_LINK = Request("ts.{cell}.worker.{worker}.open-link", moves.OpenLink, moves.LinkOpening)
STAGE = Request("ts.{cell}.worker.{worker}.stage", moves.Stage, moves.Staged)

# Operators, through gateways, to placement.
DRAIN_WORKER = Request("ts.{cell}.fleet.drain", fleet.DrainWorker, fleet.WorkerDrained)
MOVE_SESSION = Request("ts.{cell}.fleet.move", moves.MoveSession, moves.SessionMoved)
SUSPEND_SESSION = Request("ts.{cell}.fleet.suspend", moves.StowSession, moves.SessionStowed)
RESUME_SESSION = Request("ts.{cell}.fleet.resume", moves.StowSession, moves.SessionStowed)
# The autoscaler answers this one.
SET_FLEET = Request("ts.{cell}.fleet.set", fleet.SetFleet, fleet.FleetPlan)

# Workers to everybody; answered by any worker of the model.
LOAD_REPORT = Subject("ts.{cell}.report.{worker}", fleet.LoadReport)
MOVE_NEWS = Subject("ts.{cell}.moves.{worker}", moves.MoveNews)
CHECK_PROMPT = Request("ts.{cell}.model.{model}.check-prompt", fleet.CheckPrompt, fleet.PromptChecked)

# Workers to any text encoder of the name.
ENCODE_TEXT = Request("ts.{cell}.text.{encoder}", text.EncodeText, text.TextEncoded)

# Between placement, autoscaler and whoever watches them.
WORKER_EXITED = Subject("ts.{cell}.exited.{worker}", fleet.WorkerExited)
FLEET_LOAD = Subject("ts.{cell}.fleet.load", fleet.FleetLoad)
FLEET_PLAN = Subject("ts.{cell}.fleet.plan", fleet.FleetPlan)
DECISION = Subject("ts.{cell}.decision.{service}.{id}", decisions.DecisionRecord)
SERVICE_STATUS = Subject("ts.{cell}.status.{service}.{instance}", fleet.ServiceStatus)

ALL: tuple[Subject[msgspec.Struct], ...] = tuple(
    v for v in list(globals().values()) if isinstance(v, Subject)
)
