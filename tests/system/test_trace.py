"""One trace follows a session's opening through all services to its first chunk; later chunks link to it."""

from collections.abc import Iterator
from pathlib import Path

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
def traced_system(
    trace_receiver: TraceReceiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """Its services export their spans, and its gateway goes on with the traces of its callers."""
    trusting = {"gateway": {"trust-trace-context": "true"}}
    system = System(tmp_path_factory.mktemp("traced"), environ=exporting(trace_receiver), settings=trusting)
    system.start()
    yield system
    system.stop()


@pytest.fixture
def strict_gateway(
    traced_system: System, trace_receiver: TraceReceiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[GatewayProgram]:
    """One that trusts nobody's trace, on the same bus."""
    for name, value in exporting(trace_receiver).items():
        monkeypatch.setenv(name, value)
    gateway = GatewayProgram(tmp_path, traced_system.nats_url)
    gateway.start()
    yield gateway
    gateway.program.stop()


def exporting(receiver: TraceReceiver) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}


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


def connected(spans: list[Received], trace_id: str, root: str) -> bool:
    """Whether every span of the trace hangs, at some distance, on `root`."""
    mine = [span for span in spans if span.trace_id == trace_id]
    known = {span.span_id for span in mine} | {root}
    return all(span.parent_id in known for span in mine)


async def test_one_trace_joins_the_client_and_all_four_services(
    traced_system: System, trace_receiver: TraceReceiver
) -> None:
    _, trace_id, client_span = await watch(traced_system.url)
    await trace_receiver.until(
        lambda came: steps(came, trace_id) >= STEPS and connected(came, trace_id, client_span)
    )


async def test_later_chunks_are_roots_linked_to_the_session(
    traced_system: System, trace_receiver: TraceReceiver
) -> None:
    """The worker's span of a chunk links to the session's trace, a delivery of that chunk to the chunk's."""
    session, trace_id, _ = await watch(traced_system.url)

    def made(came: list[Received]) -> list[Received]:
        return [span for span in came if span.name == "worker.chunk" and trace_id in span.links]

    def delivered(came: list[Received]) -> list[Received]:
        of_session = [span for span in came if session in span.attributes.values()]
        return [span for span in of_session if span.name == "gateway.deliver_chunk"]

    spans = await trace_receiver.until(
        lambda came: len(made(came)) == CHUNKS and len(delivered(came)) == CHUNKS - 1
    )
    assert {span.parent_id for span in made(spans) + delivered(spans)} == {""}
    assert len({span.trace_id for span in made(spans)}) == CHUNKS
    assert {link for span in delivered(spans) for link in span.links} < {
        span.trace_id for span in made(spans)
    }
    await trace_receiver.until(
        lambda came: any(span.name == "worker.batch" and trace_id in span.links for span in came)
    )


async def test_a_trace_from_outside_is_not_trusted_unless_configured(
    strict_gateway: GatewayProgram, trace_receiver: TraceReceiver
) -> None:
    session, outside, _ = await watch(strict_gateway.url)

    def first_chunk(came: list[Received]) -> list[Received]:
        named = [span for span in came if span.name == "gateway.deliver_first_chunk"]
        return [span for span in named if session in span.attributes.values()]

    [delivery] = first_chunk(await trace_receiver.until(lambda came: bool(first_chunk(came))))
    own = delivery.trace_id
    spans = await trace_receiver.until(lambda came: steps(came, own) >= STEPS)
    assert steps(spans, outside) == set()
    roots = {span.name for span in spans if span.trace_id == own and not span.parent_id}
    assert roots == {"POST /v1/sessions"}
