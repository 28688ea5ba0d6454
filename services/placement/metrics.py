"""What Prometheus sees of placement. No label has a value per session."""

from prometheus_client import Counter, Gauge, Histogram

sessions = Gauge("turboserve_placement_sessions", "Sessions that have not ended", ["status"])
decisions = Histogram(
    "turboserve_placement_decision_seconds",
    "From an event to its saved row",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
decision_ms = Histogram(
    "turboserve_placement_decision_milliseconds",
    "One run of the policy",
    ["policy"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 50, 100, 250),
)
commands = Counter("turboserve_placement_commands", "Commands sent to workers", ["command", "outcome"])
repeats = Counter(
    "turboserve_placement_commands_repeated", "Commands whose effect no report showed in time", ["command"]
)
moves = Counter("turboserve_placement_moves", "Moves by what came of them", ["outcome"])
move_pause_s = Histogram(
    "turboserve_placement_move_pause_seconds",
    "From the source's freeze until the target could go on",
    buckets=(0.002, 0.005, 0.01, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1),
)
move_carry_s = Histogram(
    "turboserve_placement_move_carry_seconds",
    "From the order to the source until the state was at the target and the row said so",
    buckets=(0.01, 0.03, 0.06, 0.125, 0.25, 0.5, 1, 2, 4, 8),
)
move_bytes = Counter("turboserve_placement_move_bytes", "State carried by moves")
resumes = Counter(
    "turboserve_placement_resumes",
    "Sessions that go on where their state was (home), where it came to (handed_over), or without (rebuilt)",
    ["how"],
)
resume_hand_over_s = Histogram(
    "turboserve_placement_resume_hand_over_seconds",
    "From the decision until a resumed session's state was where it goes on and the row said so",
    buckets=(0.01, 0.03, 0.06, 0.125, 0.25, 0.5, 1, 2),
)
outbox_waiting = Gauge("turboserve_placement_outbox_waiting", "Public events not published yet")
outbox_lag_s = Gauge(
    "turboserve_placement_outbox_lag_seconds", "Age of the oldest public event not published yet"
)
