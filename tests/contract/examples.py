"""One instance of every message, each field unlike its default: the golden bytes are made of these."""

import msgspec

from shared.contracts import events, fleet, session, stream, text

SESSION = "main_0123456789abcdefghjk"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

PROMPT = session.Input("prompt", "a red circle orbits over stripes")
VIEW = session.SessionView(
    id=SESSION,
    tenant="default",
    cell="main",
    status="active",
    phase="generating",
    model="shapes-1",
    seed=7,
    inputs=[PROMPT],
    created_at=1_790_000_000.25,
    updated_at=1_790_000_001.5,
    revision=5,
    epoch=2,
    inputs_version=3,
    next_chunk=41,
    worker="worker-1",
    rung="full",
    reason="steered",
    max_chunks=500,
    warnings=["unknown word: zorp"],
    position=2,
)
COPY = fleet.CopyReport(SESSION, "default", 2, 5, "failed", 41, 39, "out of memory")
MODEL = fleet.ModelReport(
    name="shapes-1",
    width=160,
    height=96,
    fps=12.0,
    chunk_frames=12,
    first_chunk_frames=9,
    max_prompt_chars=400,
    rungs=["full"],
    weights_digest="sha256:5f70bf18",
    state_bytes=4_194_304,
)
DEVICE = fleet.DeviceReport("cpu0", "cpu", 16_000_000_000, 2_000_000_000, 0.5, 35.5, 61.0)

MESSAGES: tuple[msgspec.Struct, ...] = (
    session.OpenSession([PROMPT], "shapes-1", 7, 500, "full", "order-17"),
    VIEW,
    session.SteerSession(SESSION, [PROMPT]),
    session.Steered(42, 3, ["unknown word: zorp"]),
    session.PauseSession(SESSION),
    session.ResumeSession(SESSION),
    session.CloseSession(SESSION),
    session.GetSession(SESSION),
    session.ListSessions(20, "1790000000.25", True),
    session.SessionPage([VIEW], "1790000000.25"),
    session.Refusal("unknown_session", "there is no such session", "open one"),
    stream.Chunk(
        session=SESSION,
        index=41,
        epoch=2,
        worker="worker-1",
        frames=12,
        fps=12.0,
        width=160,
        height=96,
        codec="avc1.42c00b",
        media=b"\x00\x00\x00\x01\x67\x42\xc0\x0b",
        inputs_version=3,
        inputs=[PROMPT],
        rung="full",
        timings=stream.ChunkTimings(0.125, 0.25, 0.0625, 0.03125, 1_790_000_002.75),
        media_endpoint="https://worker-1.example/media",
        traceparent=TRACEPARENT,
    ),
    stream.ChunkReady(41, 1234, 2),
    stream.SessionChanged(VIEW),
    stream.ViewerReport("gateway-1", 3, 40),
    fleet.Own(
        session=SESSION,
        tenant="default",
        epoch=2,
        revision=5,
        model="shapes-1",
        seed=7,
        inputs=[PROMPT],
        inputs_version=3,
        deadline_at=1_790_000_010.0,
        rung="full",
        start_chunk=41,
        granted_through=40,
        paused=True,
        max_chunks=500,
        traceparent=TRACEPARENT,
    ),
    fleet.Owned(41, 42),
    fleet.Drop(SESSION, 2),
    fleet.Dropped(True),
    fleet.Drain(1_790_000_100.0),
    fleet.Draining(1),
    fleet.LoadReport(
        worker="worker-1",
        incarnation="worker-1-0a1b2c3d",
        sequence=99,
        state="ready",
        model=MODEL,
        capacity=3,
        slots=8,
        copies=[COPY],
        curve=[fleet.LatencyPoint(2, 0.75, "full")],
        device=DEVICE,
        sent_at=1_790_000_003.0,
        started_at=1_789_999_000.0,
        media_endpoint="https://worker-1.example/media",
    ),
    fleet.CheckPrompt("a zorp circle"),
    fleet.PromptChecked(["unknown word: zorp"]),
    text.EncodeText("a red circle", 1_790_000_002.0),
    text.TextEncoded(2, 3, "bfloat16", bytes(range(12)), "sha256:5f70bf18", cut=True),
    fleet.WorkerExited("worker-1", -9),
    fleet.FleetLoad(
        placement="placement-1",
        active=2,
        queued=1,
        paused=1,
        capacity=3,
        workers=[fleet.WorkerLoad("worker-1", "ready", 3, 2, 3, "shapes-1", DEVICE)],
        models=[MODEL],
        sent_at=1_790_000_003.5,
    ),
    fleet.DrainWorker("worker-1", True),
    fleet.WorkerDrained(
        "worker-1", [SESSION], ["main_1"], ["main_2"], 1, [fleet.PhaseTime("moving", 0.0625)]
    ),
    fleet.FleetPlan(
        autoscaler="autoscaler-1",
        desired=2,
        minimum=1,
        maximum=4,
        reason="1 session waits",
        workers=[fleet.FleetWorker("worker-1", "running", 1, "pid 4711")],
        sent_at=1_790_000_004.0,
    ),
    fleet.ServiceStatus(
        "gateway", "gateway-1", "ready", "http://127.0.0.1:8080", fleet.Vitals(14, 21, 30, 80_000_000)
    ),
)

EVENT = events.CloudEvent(
    id="01JQ2N7R4Y7M",
    source="turboserve/main/placement",
    type=events.TYPE_PREFIX + "steered",
    subject=SESSION,
    time="2026-11-22T05:19:20.250Z",
    data=events.SessionEventData(VIEW, "queued"),
    traceparent=TRACEPARENT,
)
