"""What Prometheus sees of a text encoder."""

from prometheus_client import Counter, Gauge, Histogram

prompts = Counter("turboserve_text_prompts", "Prompts asked for, by how they were answered", ["answer"])
encode_seconds = Histogram(
    "turboserve_text_encode_seconds",
    "One prompt through the encoder",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25),
)
waiting = Gauge("turboserve_text_waiting", "Prompts in line, the one being encoded included")
cache_bytes = Gauge("turboserve_text_cache_bytes", "Embeddings kept for prompts that come again")
