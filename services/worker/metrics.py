"""What Prometheus learns of a worker. No label names a session."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_STAGE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)

stage_seconds = Histogram(
    "turboserve_worker_stage_seconds",
    "Seconds a chunk spent in a stage: wait (due but not begun), forward (before its pictures), decode,"
    " encode, append, settle (forwards after its pictures)",
    ["stage"],
    buckets=_STAGE_BUCKETS_S,
)
batch_rows = Histogram(
    "turboserve_worker_batch_rows", "Rows stepped together", buckets=(1, 2, 4, 8, 16, 32, 64)
)
chunk_restarts = Counter(
    "turboserve_worker_chunk_restarts", "Chunks begun again under way, to show a prompt that came meanwhile"
)
chunks_made = Counter("turboserve_worker_chunks", "Chunks in the log")
late_appends = Counter(
    "turboserve_worker_late_appends",
    "Chunks in the log only after the furthest viewer had played what was before",
)
copies_held = Gauge("turboserve_worker_copies", "Copies held, by state", ["state"])
states_held = Gauge("turboserve_worker_states", "States held, hot (on the device) or suspended", ["tier"])
copies_waiting_bytes = Gauge(
    "turboserve_worker_copies_waiting_bytes", "Bytes of states that wait to be copied to host memory"
)
tier_seconds = Histogram(
    "turboserve_worker_tier_seconds",
    "Seconds the device thread spent on a state's suspend, resume or rebuild",
    ["move"],
    buckets=_STAGE_BUCKETS_S,
)
moves = Counter(
    "turboserve_worker_moves",
    "Moves of sessions, by how they ended here: gone or stayed (leaving), owner or freed (arriving)",
    ["outcome"],
)
move_seconds = Histogram(
    "turboserve_worker_move_seconds",
    "Seconds of a move's phase: hold, link, copy, close, rest (leaving); link, receive, adopt (arriving)",
    ["side", "phase"],
    buckets=_STAGE_BUCKETS_S,
)
cold_puts = Counter(
    "turboserve_worker_cold_puts",
    "Chunks whose latents were to be kept: stored, failed (and tried again a few times) or dropped",
    ["outcome"],
)
append_retries = Counter("turboserve_worker_append_retries", "Appends tried again because the log was away")
