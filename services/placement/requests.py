"""The requests that drive sessions, from gateways and from platforms that speak NATS themselves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec
from nats.aio.subscription import Subscription

from services.placement import request_rules as rules
from services.placement.facts import ClosedByUser, Event, PausedByUser, ResumedByUser, RungSet
from services.placement.facts import Steered as SteeredEvent
from services.placement.outlook import rung_weight
from services.placement.sessions import Changed
from services.placement.ticks import ANSWER_WITHIN_S
from shared import telemetry
from shared.bus import Meta, Refused
from shared.contracts import session as wire
from shared.contracts import subjects
from shared.contracts.fleet import LoadReport
from shared.contracts.session import Refusal, SessionView
from shared.ids import InvalidName, cell_of, check_name, check_session_id, new_session_id
from shared.store.rows import SessionRow
from shared.store.sessions import Conflict

if TYPE_CHECKING:
    from services.placement.service import Placement

QUEUE = "placement"
_STOP_WAIT_S = 3.0

T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)


class Requests:
    """One handler a subject, for every tenant."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._subscriptions: list[Subscription] = []
        self._busy = 0

    async def listen(self) -> None:
        await self._serve(subjects.OPEN, self.open)
        await self._serve(subjects.STEER, self.steer)
        await self._serve(subjects.PAUSE, self.pause)
        await self._serve(subjects.RESUME, self.resume)
        await self._serve(subjects.SET_RUNG, self.set_rung)
        await self._serve(subjects.CLOSE, self.close_session)
        await self._serve(subjects.GET, self.get)
        await self._serve(subjects.LIST, self.page)

    async def _serve(
        self, subject: subjects.Request[T, R], handler: Callable[[T, str], Awaitable[R]]
    ) -> None:
        async def handle(message: T, meta: Meta) -> R:
            tenant = _checked_tenant(meta)
            self._busy += 1
            try:
                return await handler(message, tenant)
            finally:
                self._busy -= 1

        cell = self._placement.settings.cell
        self._subscriptions.append(await self._placement.bus.serve(subject, handle, queue=QUEUE, cell=cell))

    async def close(self) -> None:
        """Take no further request, and finish those under way."""
        for subscription in self._subscriptions:
            with contextlib.suppress(Exception):
                await subscription.unsubscribe()
        deadline = time.monotonic() + _STOP_WAIT_S
        while self._busy and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    async def open(self, request: wire.OpenSession, tenant: str) -> SessionView:
        placement, settings = self._placement, self._placement.settings
        model = request.model or settings.default_model
        _refuse(rules.check_open(request, model, placement.models(), settings.max_prompt_chars))
        if request.idempotency_key and (known := await self._opened_before(request, tenant)):
            return known
        if placement.sessions.of_tenant(tenant) >= settings.max_sessions:
            raise Refused(
                "too_many_sessions",
                f"{settings.max_sessions} sessions are open already",
                "close one, or try later",
            )
        warnings = await placement.voice.warnings(model, request.inputs[-1].text)
        row = self._make_row(request, tenant, model, warnings)
        try:
            changed = await placement.sessions.add(row, [])
        except Conflict:
            if known := await self._opened_before(request, tenant):
                return known
            raise
        await placement.announce(changed)
        return await self._placed(changed)

    async def _placed(self, opened: Changed) -> SessionView:
        """As the first decision leaves it. Raises `Refused`: it is not taken."""
        live, placement = opened.live, self._placement
        assert live is not None
        await placement.ticks.decided(ANSWER_WITHIN_S)
        if live.row.phase == "refused":
            hint = "it is not known when there will be room" if live.retry_after_s is None else ""
            raise Refused("no_capacity", live.row.reason, hint, live.retry_after_s)
        return placement.view(live.known)

    def _make_row(
        self, request: wire.OpenSession, tenant: str, model: str, warnings: list[str]
    ) -> SessionRow:
        now = time.time()
        cell = self._placement.settings.cell
        return SessionRow(
            id=new_session_id(cell),
            tenant=tenant,
            cell=cell,
            status="queued",
            phase="waiting",
            model=model,
            seed=secrets.randbelow(2**31) if request.seed is None else request.seed,
            inputs=request.inputs,
            created_at=now,
            updated_at=now,
            rung=request.rung,
            max_chunks=request.max_chunks,
            priority=request.priority,
            warnings=warnings,
            unwatched_since=now,
            idempotency_key=request.idempotency_key or None,
            request_digest=_digest(request),
            traceparent=telemetry.traceparent(),
        )

    async def _opened_before(self, request: wire.OpenSession, tenant: str) -> SessionView | None:
        """The session that this idempotency key opened. Raises `Refused` if it came with another request."""
        row = await self._placement.sessions.records.find_by_key(tenant, request.idempotency_key)
        if row is None:
            return None
        if row.request_digest != _digest(request):
            raise Refused(
                "idempotency_conflict",
                f"this idempotency key opened session {row.id} with another request",
                "use a new key for a new request",
            )
        live = self._placement.sessions.live.get(row.id)
        return self._placement.view(live.known if live else row)

    async def steer(self, request: wire.SteerSession, tenant: str) -> wire.Steered:
        placement = self._placement
        row = await self._find(request.session, tenant)
        told = placement.models().get(row.model)
        if not row.ended:
            _refuse(rules.check_steer(request.inputs, told, placement.settings.max_prompt_chars))
        warnings = [] if row.ended else await placement.voice.warnings(row.model, request.inputs[-1].text)
        changed = await self._change(row, lambda _: [SteeredEvent(request.inputs, warnings)])
        await placement.announce(changed)
        owned = await placement.voice.insist(changed.live) if changed.live else None
        from_chunk = owned.from_chunk if owned else changed.row.next_chunk
        return wire.Steered(from_chunk, changed.row.inputs_version, warnings)

    async def pause(self, request: wire.PauseSession, tenant: str) -> SessionView:
        if live := self._placement.sessions.live.get(request.session):
            live.resuming = None  # what was asked before and not done yet
        return await self._command(request.session, tenant, lambda _: [PausedByUser()])

    async def resume(self, request: wire.ResumeSession, tenant: str) -> SessionView:
        row, sessions = await self._find(request.session, tenant), self._placement.sessions
        live = sessions.live.get(row.id)
        if live is None and row.ended:
            return self._placement.view(sessions.change_ended(row, lambda _: [ResumedByUser(False)]).row)
        return self._placement.view(
            await self._placement.ticks.resume(live or sessions.adopt(row), ResumedByUser)
        )

    async def set_rung(self, request: wire.SetRung, tenant: str) -> SessionView:
        row = await self._find(request.session, tenant)
        if not row.ended:
            _refuse(rules.check_rung(request.rung, self._placement.models().get(row.model)))
        told = next((one for one in self._placement.reports() if _serves(one, row.model)), None)

        def decide(row: SessionRow) -> list[Event]:
            lower = rung_weight(told, request.rung) <= rung_weight(told, row.served_rung)
            return [RungSet(request.rung, cheaper=lower)]

        return await self._command(request.session, tenant, decide)

    async def close_session(self, request: wire.CloseSession, tenant: str) -> SessionView:
        return await self._command(request.session, tenant, lambda _: [ClosedByUser()])

    async def get(self, request: wire.GetSession, tenant: str) -> SessionView:
        return self._placement.view(await self._find(request.session, tenant))

    async def page(self, request: wire.ListSessions, tenant: str) -> wire.SessionPage:
        _refuse(rules.check_list(request))
        sessions = self._placement.sessions
        try:
            page = await sessions.records.page(tenant, request.limit, request.cursor, request.live_only)
        except ValueError as error:
            raise Refused("invalid_field", f"cursor: {error}", "omit it for the first page") from None
        rows = [live.known if (live := sessions.live.get(row.id)) else row for row in page.rows]
        return wire.SessionPage([self._placement.view(row) for row in rows], page.cursor)

    async def _command(
        self, session: str, tenant: str, decide: Callable[[SessionRow], list[Event]]
    ) -> SessionView:
        changed = await self._change(await self._find(session, tenant), decide)
        await self._placement.announce(changed)
        self._placement.voice.command(changed)
        return self._placement.view(changed.row)

    async def _change(self, row: SessionRow, decide: Callable[[SessionRow], list[Event]]) -> Changed:
        sessions = self._placement.sessions
        live = sessions.live.get(row.id)
        if live is None and row.ended:
            return sessions.change_ended(row, decide)
        return await sessions.change(live or sessions.adopt(row), decide)

    async def _find(self, session: str, tenant: str) -> SessionRow:
        """Raises `Refused`: there is none of this tenant."""
        with contextlib.suppress(InvalidName):
            if cell_of(check_session_id(session)) == self._placement.settings.cell:
                row = await self._placement.sessions.read(session)
                if row is not None and row.tenant == tenant:
                    return row
        raise Refused(
            "session_not_found", f"there is no session {session[:60]!r}", "list the sessions there are"
        )


def _serves(report: LoadReport, model: str) -> bool:
    """And knows what its rungs take."""
    return report.model.name == model and report.state != "starting"


def _digest(request: wire.OpenSession) -> str:
    plain = msgspec.structs.replace(request, idempotency_key="")
    return hashlib.sha256(msgspec.json.encode(plain)).hexdigest()


def _refuse(refusal: Refusal | None) -> None:
    if refusal is not None:
        raise Refused(refusal.code, refusal.message, refusal.hint, refusal.retry_after_s)


def _checked_tenant(meta: Meta) -> str:
    try:
        return check_name("tenant", meta.tokens["tenant"])
    except InvalidName as error:
        raise Refused("invalid_field", str(error), "publish to a subject with a valid tenant") from None
