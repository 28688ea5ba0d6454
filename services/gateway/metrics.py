"""What the gateway counts. No label names a session, a viewer or a path nobody declared."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

requests = Counter("turboserve_gateway_requests", "HTTP requests answered", ["route", "method", "status"])
viewers = Gauge("turboserve_gateway_viewers", "Open WebSockets")
tasks = Gauge("turboserve_gateway_tasks", "Running asyncio tasks")
feeds = Gauge("turboserve_gateway_feeds", "Sessions watched through this gateway")
chunks = Counter("turboserve_gateway_chunks", "Chunks handed to viewers")
chunk_bytes = Counter("turboserve_gateway_chunk_bytes", "Bytes of chunks handed to viewers")
cuts = Counter("turboserve_gateway_cuts", "Times a viewer was cut to the live edge")
delivery = Histogram(
    "turboserve_gateway_delivery_seconds",
    "From frames encoded to handed to the socket, of chunks a viewer was waiting for",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
