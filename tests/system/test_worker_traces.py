"""What a worker tells a trace collector."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.fixtures.nats_server import NatsServer
from tests.fixtures.process import Program
from tests.fixtures.waiting import until
from tests.fixtures.worker_wire import WORKER_COMMAND, Wire, new_own, worker_environment

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Receives OTLP over HTTP, as any collector would."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans.extend(scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, daemon=True)
    thread.start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
    thread.join(5)


@pytest.fixture
def worker(nats_server: NatsServer, collector: Collector, tmp_path: Path) -> Iterator[Program]:
    env = worker_environment(nats_server.url, "w-traced") | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    program = Program(WORKER_COMMAND, tmp_path / "worker.log", env=env)
    program.start(lambda: True)
    yield program
    program.kill()


async def test_first_chunk_belongs_to_the_sessions_trace_and_every_chunk_links_to_it(
    nats_server: NatsServer, worker: Program, collector: Collector
) -> None:
    async with Wire(nats_server.url) as wire:
        await wire.until_state("w-traced")
        own = new_own(traceparent=f"00-{TRACE}-{PARENT}-01")
        await wire.own("w-traced", own)
        await wire.until_chunk(own.session, 1)
        chunks = await wire.chunks(own.session)
        await until(lambda: len(collector.named("worker.chunk")) == 2, "the spans of both chunks")
    assert worker.stop() == 0

    [first] = collector.named("worker.first_chunk")
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, PARENT)
    assert chunks[0].traceparent == f"00-{TRACE}-{first.span_id.hex()}-01"
    roots = collector.named("worker.chunk")
    assert len(roots) == 2
    assert {span.trace_id.hex() for span in roots} == {roots[0].trace_id.hex(), chunks[1].traceparent[3:35]}
    for span in [*roots, *collector.named("worker.batch")]:
        assert not span.parent_span_id
        assert [link.trace_id.hex() for link in span.links] == [TRACE]
