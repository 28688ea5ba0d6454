"""The page's pure modules, in the browser that runs them, against PyAV."""

import base64
import io
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from playwright.async_api import Browser, Page, Route

PAGE = Path(__file__).parents[2] / "services" / "gateway" / "page"
ORIGIN = "http://localhost:9"
FPS, WIDTH, HEIGHT = 10, 150, 90


async def _serve(route: Route) -> None:
    name = route.request.url.removeprefix(f"{ORIGIN}/page/")
    if name == "":
        await route.fulfill(body="<!doctype html><title>modules</title>", content_type="text/html")
    else:
        await route.fulfill(path=PAGE / name, content_type="text/javascript")


@pytest.fixture(scope="module")
async def modules(browser: Browser) -> AsyncIterator[Page]:
    """A page that can import the modules, without the page's own start."""
    page = await browser.new_page()
    await page.route(f"{ORIGIN}/**", _serve)
    await page.goto(f"{ORIGIN}/page/")
    yield page
    await page.close()


def _chunk(frames: int, **options: str) -> bytes:
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.time_base = Fraction(1, FPS)
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency"} | options
    pictures = (np.full((HEIGHT, WIDTH, 3), 20 * i, np.uint8) for i in range(frames))
    packets = [p for i in pictures for p in encoder.encode(av.VideoFrame.from_ndarray(i, "rgb24"))]
    return b"".join(bytes(p) for p in [*packets, *encoder.encode(None)])


MUX = """async (chunks) => {
  const { accessUnits, parameterSets, parseSps } = await import("/page/annexb.js");
  const { TIMESCALE, concat, initSegment, mediaSegment } = await import("/page/mp4.js");
  const parts = [];
  let startTicks = 2 ** 33;
  let description = null;
  for (const [i, chunk] of chunks.entries()) {
    const units = accessUnits(Uint8Array.from(atob(chunk), (c) => c.charCodeAt(0)));
    const { sps, pps } = parameterSets(units);
    description ??= parseSps(sps);
    if (i === 0) parts.push(initSegment({ sps, pps, ...description }));
    parts.push(mediaSegment({ sequence: i + 1, startTicks, frameTicks: TIMESCALE / 10, units }));
    startTicks += (units.length * TIMESCALE) / 10;
  }
  return { ...description, mp4: btoa(Array.from(concat(...parts), (b) => String.fromCharCode(b)).join("")) };
}"""


@pytest.mark.parametrize(
    ("options", "codec"),
    [
        ({"profile": "baseline"}, "avc1.42c0"),
        ({"profile": "high", "x264-params": "slices=4:8x8dct=1:cabac=1"}, "avc1.6400"),
    ],
)
async def test_chunks_become_an_mp4_that_others_read(modules: Page, options, codec: str) -> None:
    chunks = [_chunk(9, **options), _chunk(12, **options)]
    made = await modules.evaluate(MUX, [base64.b64encode(chunk).decode() for chunk in chunks])
    assert (made["width"], made["height"]) == (WIDTH, HEIGHT)
    assert made["codec"].startswith(codec)

    with av.open(io.BytesIO(base64.b64decode(made["mp4"])), "r") as container:
        pictures = list(container.decode(video=0))
    assert [(p.width, p.height) for p in pictures] == [(WIDTH, HEIGHT)] * 21
    start_s = 2**33 / 90000
    assert [p.time - start_s for p in pictures] == pytest.approx([i / FPS for i in range(21)], abs=1e-4)
    assert [p.key_frame for p in pictures] == [i in (0, 9) for i in range(21)]
    brightness = [float(p.to_ndarray(format="gray").mean()) for p in pictures]
    assert np.abs(np.diff(brightness[:9]) - 20).max() < 4
    assert brightness[9] < 10


@pytest.mark.parametrize("broken", [b"", b"\x00\x00\x01", b"no start code at all", b"\x00\x00\x00\x01\x67"])
async def test_what_is_no_picture_gives_none(modules: Page, broken: bytes) -> None:
    count = """async (chunk) => {
      const { accessUnits } = await import("/page/annexb.js");
      return accessUnits(Uint8Array.from(chunk)).length;
    }"""
    assert await modules.evaluate(count, list(broken)) == 0


# Plays chunks of one second, each made so long after its credit; says how far ahead the server was.
SIMULATE = """async ({ latencies_s }) => {
  const { Pacing, WINDOW } = await import("/page/pacing.js");
  const STEP_S = 0.05;
  const pacing = new Pacing(0, 0);
  let [made, begunAt_s, shown, left_s, stalls, wasPlaying] = [0, 0, -1, 0, 0, false];
  const ahead = [];
  for (let now_s = 0; made < latencies_s.length; now_s += STEP_S) {
    if (made > pacing.granted + WINDOW) begunAt_s = now_s;
    else if (now_s - begunAt_s >= latencies_s[made]) {
      pacing.received(made, 1, latencies_s[made], now_s);
      made += 1;
      begunAt_s = now_s;
    }
    const total_s = left_s + (made - 1 - shown);
    if (total_s > STEP_S / 2) {
      left_s -= STEP_S;
      if (left_s < -STEP_S / 2) {
        shown += 1;
        left_s += 1;
      }
      wasPlaying = true;
    } else if (wasPlaying) {
      wasPlaying = false;
      stalls += 1;
      pacing.stalled();
    }
    pacing.next({ shown, buffered_s: Math.max(0, left_s + (made - 1 - shown)), now_s });
    if (shown >= 0) ahead.push(pacing.granted + WINDOW - shown);
  }
  return { stalls, ahead: ahead.slice(ahead.length / 2), granted: pacing.granted, shown };
}"""


async def test_a_quick_server_is_kept_close_and_a_slow_one_further_ahead(modules: Page) -> None:
    quick = await modules.evaluate(SIMULATE, {"latencies_s": [0.2] * 40})
    slow = await modules.evaluate(SIMULATE, {"latencies_s": [0.9] * 40})
    assert quick["stalls"] == 0
    assert slow["stalls"] <= 1
    assert max(quick["ahead"]) == 1
    assert max(slow["ahead"]) == 2


async def test_credit_never_runs_past_the_screen(modules: Page) -> None:
    hopeless = await modules.evaluate(SIMULATE, {"latencies_s": [0.5, 3.0] * 10})
    assert hopeless["stalls"] > 0
    assert max(hopeless["ahead"]) == 2
    assert hopeless["granted"] <= hopeless["shown"]


async def test_waiting_to_reconnect_grows_to_a_bound(modules: Page) -> None:
    waits = await modules.evaluate(
        """async () => {
          const { wait_ms } = await import("/page/stream.js");
          return Array.from({ length: 40 }, (_, i) => [wait_ms(i, 0), wait_ms(i, 0.999)]);
        }"""
    )
    assert all(100 <= low <= high <= 5000 for low, high in waits)
    assert waits[0][1] < waits[-1][0]


# Plays a server to a `Stream`: what it is told in each connection, and what it says of that.
CONNECTIONS = """async (connections) => {
  const { Stream } = await import("/page/stream.js");
  const said = [];
  const note = (name) => (of) => said.push([name, of?.message ?? of?.index ?? null]);
  const names = ["session", "chunk", "state", "cut", "end", "connected", "lost", "refused"];
  const ended = new Promise((resolve) => {
    globalThis.WebSocket = class {
      static OPEN = 1;
      constructor(url) {
        said.push(["asked", url.searchParams.get("from")]);
        const messages = connections.shift();
        if (!messages) return resolve();
        queueMicrotask(() => {
          for (const message of messages) this.onmessage({ data: JSON.stringify(message) });
          this.onclose?.({ code: 1013 });
        });
      }
      close() {}
    };
  });
  const stream = new Stream("main_0", 3, Object.fromEntries(names.map((name) => [name, note(name)])));
  await ended;
  stream.close();
  return said;
}"""


async def test_a_service_that_goes_away_again_after_a_reconnection_is_told_again(modules: Page) -> None:
    welcome = {"type": "session", "from": 3}
    away = {"type": "error", "code": "service_away"}
    said = await modules.evaluate(CONNECTIONS, [[welcome, away], [welcome, away]])
    names = [name for name, _ in said]
    once = ["asked", "connected", "session", "lost", "lost"]
    assert names == [*once, *once, "asked"]
    assert [of for name, of in said if name == "asked"] == ["3"] * 3


async def test_errors_become_sentences(modules: Page) -> None:
    words = await modules.evaluate(
        """async () => {
          const { fromAnswer, fromFailure, ending } = await import("/page/words.js");
          const error = { code: "new_code", message: "prompt: 900 are too many", hint: "shorten it" };
          return [
            fromAnswer(422, { error }),
            fromAnswer(502, null),
            fromFailure(new TypeError("fetch failed")),
            ending("failed", ""),
            ending("closed", "nobody watched for too long"),
          ];
        }"""
    )
    known, unknown, network, failed, closed = words
    assert (known["message"], known["hint"]) == ("900 are too many.", "Shorten it.")
    assert "502" in unknown["message"]
    assert network["message"] == "Can't reach the server."
    assert failed
    assert closed == "Nobody watched for too long."


FLEET = """async ([workers, plan, before, after]) => {
  const { fleetRows, news, waiting, whyWords } = await import("/page/fleet_rows.js");
  const [old, now] = [before, after].map((sessions) => fleetRows(workers, plan, sessions));
  const told = { rows: now, news: news(old, now), first: news(null, now) };
  return { ...told, waiting: waiting(after).length, why: whyWords(plan) };
}"""


async def test_the_fleet_is_rows_of_workers_with_their_sessions(modules: Page) -> None:
    def session(number: int, status: str, worker: str) -> dict[str, str]:
        return {"id": f"main_{number:05d}", "status": status, "worker": worker, "prompt": "a ball"}

    workers = [
        {"id": "worker-10-aaaa", "state": "ready", "active": 0, "capacity": 2},
        {"id": "worker-2-bbbb", "state": "ready", "active": 3, "capacity": 4},
    ]
    plan = {
        "workers": [
            {"worker": "worker-2-bbbb", "state": "starting"},
            {"worker": "worker-3-cccc", "state": "starting"},
            {"worker": "worker-4-dddd", "state": "exited"},
        ],
        "draining": ["worker-10-aaaa"],
        "reason": "enough for all",
        "frozen": True,
    }
    before = [session(1, "active", "worker-10-aaaa"), session(2, "active", "worker-2-bbbb")]
    moved, paused = session(1, "active", "worker-2-bbbb"), session(2, "paused", "worker-2-bbbb")
    after = [moved, paused, session(3, "queued", "")]
    told = await modules.evaluate(FLEET, [workers, plan, before, after])
    shown = [(row["name"], row["state"], len(row["dots"]), row["empty"]) for row in told["rows"]]
    assert shown == [
        # One session that is seen, two that only the worker's own count tells of, and a paused one.
        ("worker-2", "ready", 4, 1),
        ("worker-3", "booting", 0, 0),
        ("worker-10", "draining", 0, 0),
    ]
    assert told["news"] == ["00001 moved from worker-10 to worker-2"]
    assert (told["first"], told["waiting"]) == ([], 1)
    assert told["why"] == "Frozen. Enough for all."


async def test_who_waits_is_told_how_long_in_words(modules: Page) -> None:
    turn = """async (waits) => {
      const { turn } = await import("/page/words.js");
      return waits.map(turn);
    }"""
    waits = [(0, 0.2), (2, 41.3), (9, 200.0), (3, None), (None, None)]
    told = await modules.evaluate(turn, [{"position": n, "expected_wait_s": s} for n, s in waits])
    assert told == [
        "Place 1 in the queue, about 1 s to go.",
        "Place 3 in the queue, about 42 s to go.",
        "Place 10 in the queue, about 3 min to go.",
        "Place 4 in the queue.",
        "It starts by itself.",
    ]
