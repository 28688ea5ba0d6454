// Draws what a `Watch` knows into the page. Reads only; what buttons do is in main.js.

import { drawBuffer, drawLatency } from "./charts.js";
import { attribute, byId, element, text } from "./dom.js";
import { made_s, promptOf } from "./watch.js";
import { ending, turn } from "./words.js";

const HUES = 6;
const STRIP_CELLS = 32;
const STRIP_AHEAD = 3;
const STORY_ROWS = 6;
const ARRIVED_SHOWN_MS = 6000;
const SAMPLES_KEPT = 400;
const WELCOME = ["Type a prompt, watch it come alive", "The video is made while you look at it. Change the prompt at any time."];
const STATUS_WORDS = { queued: "Queued", active: "Live", paused: "Paused", closed: "Ended", failed: "Failed" };

const hueOf = (version) => version % HUES;
const seconds = (value_s, digits = 1) => [`${value_s.toFixed(digits)} `, element("small", {}, "s")];

export class View {
  #samples = [];
  #stallsSeen = 0;
  #drawnChunks = "";
  #arrivedAt_ms = null;

  /** Forget the session before. */
  reset() {
    this.#samples = [];
    this.#stallsSeen = 0;
    this.#drawnChunks = "";
    this.#arrivedAt_ms = null;
    this.problem(null);
    byId("stage").dataset.state = "empty";
  }

  /** A line over the picture while something is wrong; null takes it away. */
  problem(words) {
    byId("problem").hidden = words === null;
    if (words) text(byId("problem-words"), `${words.message} ${words.hint}`);
  }

  /** `watch` null: no session. `pending`: {prompt, from, version} of a change on its way. `refused`: words, when it is over. */
  show(watch, { opening, pending, refused }) {
    this.#veil(watch, { opening, refused });
    this.#now(watch, pending);
    this.#buttons(watch, { opening, refused });
    this.#figures(watch);
    this.#strip(watch);
    this.#story(watch, pending);
  }

  #veil(watch, doing) {
    const [title, hint] = this.#veilWords(watch, doing) ?? [];
    const veil = byId("veil");
    attribute(veil, "data-shown", title ? "" : null);
    attribute(veil, "data-over", watch?.shown ? "" : null);
    if (title) {
      text(byId("veil-title"), title);
      text(byId("veil-hint"), hint ?? "");
    }
    if (watch?.shown) byId("stage").dataset.state = "playing";
  }

  #veilWords(watch, { opening, refused }) {
    if (refused) return [refused.message, refused.hint];
    if (opening) return ["Starting …"];
    if (!watch) return WELCOME;
    const { status, reason, phase } = watch.session ?? {};
    if (watch.ended && watch.buffered_s < 0.05) return ["This session has ended", `${ending(status, reason)} Type a prompt to start a new one.`];
    if (watch.held || (status === "paused" && watch.buffered_s < 0.05)) return pausedWords(phase);
    if (status === "queued" && watch.buffered_s < 0.05) return queuedWords(watch.session);
    if (watch.shown) return null;
    return firstWords(phase);
  }

  #now(watch, pending) {
    const status = watch?.session?.status ?? "none";
    const known = watch?.held && status === "active" ? "paused" : status;
    const away = !byId("problem").hidden;
    byId("status").dataset.status = away ? "queued" : known;
    text(byId("status"), away ? "Reconnecting" : (STATUS_WORDS[known] ?? "Ready"));
    const prompt = watch?.shown ? promptOf(watch.shown) : "";
    text(byId("now-prompt"), prompt);
    const label = watch?.shown ? `Live video: ${prompt}` : "Nothing is playing";
    for (const screen of ["canvas", "video"]) attribute(byId(screen), "aria-label", label);
    text(document.querySelector("title"), prompt ? `${prompt} · turboserve` : "turboserve");
    this.#detail(watch, pending);
  }

  #detail(watch, pending) {
    const arrived = pending && watch?.shown && watch.shown.inputs_version >= pending.version;
    if (arrived) this.#arrivedAt_ms ??= performance.now();
    else this.#arrivedAt_ms = null;
    const over = !pending || (arrived && performance.now() - this.#arrivedAt_ms > ARRIVED_SHOWN_MS);
    byId("detail").dataset.kind = over ? "plain" : "coming";
    text(byId("detail"), over ? plainDetail(watch) : comingDetail(pending, arrived));
  }

  #buttons(watch, { opening, refused }) {
    const live = watch !== null && !watch.ended && !refused;
    text(byId("submit"), live ? "Change" : "Start");
    text(byId("prompt-label"), live ? "Change what you see" : "What do you want to see?");
    byId("submit").disabled = opening;
    byId("pause").hidden = byId("close").hidden = !live;
    byId("new").hidden = watch === null && !refused;
    byId("seed-field").hidden = live;
    text(byId("pause"), watch?.held || watch?.session?.status === "paused" ? "Resume" : "Pause");
  }

  #figures(watch) {
    byId("first").replaceChildren(...(watch?.firstPicture_s ? seconds(watch.firstPicture_s, 2) : ["–"]));
    byId("ahead").replaceChildren(...(watch?.shown ? seconds(watch.buffered_s) : ["–"]));
    text(byId("chunk"), watch?.shown ? String(watch.shown.index) : "–");
    text(byId("stalls"), watch?.shown ? String(watch.stalls) : "–");
  }

  #strip(watch) {
    const newest = watch?.shown?.index ?? -1;
    byId("strip").hidden = !watch?.shown;
    const first = Math.max(0, newest - STRIP_CELLS + STRIP_AHEAD + 1);
    const known = new Map((watch?.chunks ?? []).slice(-2 * STRIP_CELLS).map(({ header }) => [header.index, header]));
    const strip = byId("strip");
    while (strip.children.length < STRIP_CELLS) strip.append(element("li"));
    [...strip.children].forEach((cell, i) => {
      const header = known.get(first + i);
      const part = !header ? null : header.index < newest ? "past" : header.index === newest ? "now" : "ahead";
      attribute(cell, "data-part", part);
      attribute(cell, "data-hue", header ? hueOf(header.inputs_version) : null);
      attribute(cell, "title", header ? `Chunk ${header.index}: ${promptOf(header)}` : null);
    });
  }

  #story(watch, pending) {
    const told = changesIn(watch?.chunks ?? []);
    const current = watch?.shown?.inputs_version;
    if (pending && !told.some((change) => change.version >= pending.version)) told.push({ ...pending, coming: true });
    const key = JSON.stringify([told, current, watch?.session?.served_rung]);
    if (key === this.#drawnChunks) return;
    this.#drawnChunks = key;
    byId("story-card").hidden = told.length === 0;
    byId("story").replaceChildren(...told.slice(-STORY_ROWS).reverse().map((change) => storyRow(change, current)));
    text(byId("about"), watch?.shown ? aboutWords(watch) : "");
  }

  /** A few times a second. */
  charts(watch) {
    const now_s = performance.now() / 1000;
    if (watch?.shown) {
      this.#samples.push({ at_s: now_s, buffered_s: watch.buffered_s, stalled: watch.stalls > this.#stallsSeen });
      this.#samples = this.#samples.slice(-SAMPLES_KEPT);
      this.#stallsSeen = watch.stalls;
    }
    drawBuffer(byId("buffer"), this.#samples, now_s);
    drawLatency(byId("latency"), (watch?.chunks ?? []).slice(-80).map(bar));
  }
}

function plainDetail(watch) {
  if (!watch?.shown) return watch ? "" : "Pick an example, or write your own.";
  return `Chunk ${watch.shown.index} on screen, ${watch.nextIndex} made`;
}

function comingDetail({ prompt, from }, arrived) {
  return arrived ? `There it is: your change, from chunk ${from} on` : `Coming with chunk ${from}: “${prompt}”`;
}

function firstWords(phase) {
  if (phase === "encoding") return ["Making the first picture …", "Its worker reads the prompt."];
  if (phase === "rebuilding") return ["Recovering …", "Its worker rebuilds what was there before."];
  return ["Making the first picture …"];
}

function queuedWords(session) {
  if (session.phase === "recovering") return ["Recovering …", "The worker stopped; the next free one goes on from here."];
  if (session.phase === "resuming") return ["Resuming …", "Its picture is brought to a worker with room."];
  return ["Waiting for a free worker …", turn(session)];
}

function pausedWords(phase) {
  if (phase === "unwatched") return ["Waking up …", "It was paused while nobody watched."];
  return ["Paused", "Resume to go on where it stopped."];
}

function storyRow({ version, prompt, from, coming }, current) {
  return element(
    "li",
    { "data-hue": coming ? null : hueOf(version), "aria-current": version === current ? "true" : null },
    element("i", { "aria-hidden": "true" }),
    element("b", {}, prompt),
    element("span", {}, `${coming ? "soon, " : ""}from chunk ${from}`),
  );
}

function aboutWords({ shown, session }) {
  const { width, height, fps, worker } = shown;
  const parts = [`seed ${session.seed}`, session.model, `${width} × ${height} at ${fps} frames/s`, `by ${worker}`];
  if (session.served_rung) parts.push(`at quality “${session.served_rung}” while demand is high`);
  return parts.filter((part) => !part.includes("undefined")).join(" · ");
}

const bar = ({ header, latency_s }, i, all) => ({
  latency_s,
  made_s: made_s(header),
  chunk_s: header.frames / header.fps,
  changed: i > 0 && all[i - 1].header.inputs_version !== header.inputs_version,
});

/** [{version, prompt, from}]: where the inputs that chunks show change. */
function changesIn(chunks) {
  const changes = [];
  for (const { header } of chunks) {
    if (changes.at(-1)?.version !== header.inputs_version) {
      changes.push({ version: header.inputs_version, prompt: promptOf(header), from: header.index });
    }
  }
  return changes;
}
