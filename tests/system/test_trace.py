"""One trace follows a session's opening through all services to its first chunk; later chunks link to it."""

from collections.abc import Iterator

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from tests.fixtures.gateway import GatewayProgram
from tests.fixtures.otlp import Received, TraceReceiver
from tests.fixtures.system import System
from turboserve import Client

CHUNKS = 4
# What must be in the trace of an opening, by service.
STEPS = {
    ("turboserve-gateway", "POST /v1/sessions"),
    ("turboserve-gateway", "ts.{cell}.session.{tenant}.open"),
    ("turboserve-placement", "ts.{cell}.session.{tenant}.open"),
    ("turboserve-placement", "ts.{cell}.worker.{worker}.own"),
    ("turboserve-worker", "ts.{cell}.worker.{worker}.own"),
    ("turboserve-autoscaler", "autoscaler.observe"),
    ("turboserve-worker", "worker.first_chunk"),
    ("turboserve-gateway", "gateway.deliver_first_chunk"),
}

tracer = TracerProvider().get_tracer("the client")


@pytest.fixture(scope="module")
def exporting(trace_receiver: TraceReceiver) -> Iterator[pytest.MonkeyPatch]:
    """Programs made while this holds export their spans."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", trace_receiver.endpoint)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield patch


@pytest.fixture(scope="module")
def traced_system(
    exporting: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """Its gateway goes on with the traces of its callers."""
    exporting.setenv("TURBOSERVE_GATEWAY_TRUST_TRACE_CONTEXT", "true")
    system = System(tmp_path_factory.mktemp("traced"))
    exporting.delenv("TURBOSERVE_GATEWAY_TRUST_TRACE_CONTEXT")
    system.start()
    yield system
    system.program.stop(deadline_s=30.0)


@pytest.fixture
def strict_gateway(traced_system: System) -> Iterator[GatewayProgram]:
    """One that trusts nobody's trace, on the same bus."""
    gateway = traced_system.another_gateway()
    gateway.start()
    yield gateway
    gateway.program.stop()


async def watch(url: str) -> tuple[str, str, str]:
    """Open a session in a span and watch it: the session, the span's trace id, its span id."""
    async with Client(url, trace=True) as client:
        with tracer.start_as_current_span("client.open") as span:
            session = await client.open("a red ball", max_chunks=CHUNKS)
        assert [chunk.index async for chunk in session] == list(range(CHUNKS))
    context = span.get_span_context()
    return session.id, trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)


def steps(spans: list[Received], trace_id: str) -> set[tuple[str, str]]:
    return {(span.service, span.name) for span in spans if span.trace_id == trace_id}


async def test_one_trace_joins_the_client_and_all_four_services(
    traced_system: System, trace_receiver: TraceReceiver
) -> None:
    _, trace_id, client_span = await watch(traced_system.url)
    spans = await trace_receiver.until(lambda came: steps(came, trace_id) >= STEPS)
    mine = [span for span in spans if span.trace_id == trace_id]
    known = {span.span_id for span in mine} | {client_span}
    assert [span for span in mine if span.parent_id not in known] == []


async def test_later_chunks_are_roots_linked_to_the_session(
    traced_system: System, trace_receiver: TraceReceiver
) -> None:
    session, trace_id, _ = await watch(traced_system.url)

    def linked(came: list[Received], name: str) -> list[Received]:
        return [span for span in came if span.name == name and trace_id in span.links]

    spans = await trace_receiver.until(
        lambda came: (
            len(linked(came, "worker.chunk")) == CHUNKS
            and len(linked(came, "gateway.deliver_chunk")) == CHUNKS - 1
            and bool(linked(came, "worker.batch"))
        )
    )
    chunks = linked(spans, "worker.chunk") + linked(spans, "gateway.deliver_chunk")
    assert {span.parent_id for span in chunks} == {""}
    assert len({span.trace_id for span in chunks}) == len(chunks)
    assert trace_id not in {span.trace_id for span in chunks}
    assert {session} <= {value for span in chunks for value in span.attributes.values()}


async def test_a_trace_from_outside_is_not_trusted_unless_configured(
    strict_gateway: GatewayProgram, trace_receiver: TraceReceiver
) -> None:
    session, outside, _ = await watch(strict_gateway.url)

    def first_chunk(came: list[Received]) -> list[Received]:
        named = [span for span in came if span.name == "gateway.deliver_first_chunk"]
        return [span for span in named if session in span.attributes.values()]

    delivered = first_chunk(await trace_receiver.until(lambda came: bool(first_chunk(came))))
    own = delivered[0].trace_id
    spans = await trace_receiver.until(lambda came: steps(came, own) >= STEPS)
    assert steps(spans, outside) == set()
    assert {span.name for span in spans if span.trace_id == own and not span.parent_id} == {
        "POST /v1/sessions"
    }


async def test_health_checks_are_fine_while_tracing(traced_system: System) -> None:
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{traced_system.url}/readyz")).status_code == 200
