// Wires the page: what the buttons do, which session is watched, what is read by tests.

import * as api from "./api.js";
import { CanvasPlayer } from "./canvas_player.js";
import { byId, element } from "./dom.js";
import { Fleet } from "./fleet.js";
import { View } from "./view.js";
import { Watch } from "./watch.js";
import { BAD_SEED, EMPTY_PROMPT, NO_PLAYER } from "./words.js";

const FIRST_EXAMPLES = [
  "a yellow star orbits at night",
  "a red ball bouncing over a meadow",
  "a pink heart rising from the sea",
  "a blue diamond, fast, in the desert",
];
const NEXT_EXAMPLES = ["turn it blue", "a big green heart", "over the sea", "orbiting fast", "stand still at night"];
const CHARTS_EVERY_MS = 250;
const GLOW_EVERY = 2;

const view = new View();
const fleet = new Fleet((id) => choose(id));
let watch = null;
let pending = null;
let refused = null;
let opening = false;

const PLAYERS = {
  webcodecs: async () => CanvasPlayer,
  mse: async () => (await import("./video_player.js")).VideoPlayer,
};

/** The first that this browser can use; `?player=` in the address allows only one. Null: none. */
async function playerClass() {
  const wanted = new URLSearchParams(location.search).get("player");
  for (const load of PLAYERS[wanted] ? [PLAYERS[wanted]] : Object.values(PLAYERS)) {
    const candidate = await load();
    if (await candidate.available()) return candidate;
  }
  return null;
}
const player = playerClass();

let offered = null;

function show() {
  examples(isLive() ? NEXT_EXAMPLES : FIRST_EXAMPLES);
  view.show(watch, { opening, pending, refused });
}

function say(kind, { message, hint = "" } = { message: "" }) {
  byId("prompt").setAttribute("aria-invalid", String(kind === "error"));
  const line = element("p", { "data-kind": kind }, message, " ", element("span", {}, hint));
  byId("said").replaceChildren(...(message ? [line] : []));
}

function sayWarnings(warnings = []) {
  const sentences = warnings.map((warning) => `${warning.charAt(0).toUpperCase()}${warning.slice(1)}.`);
  say(warnings.length ? "warning" : "none", { message: sentences.join(" ") });
}

function leave() {
  watch?.close();
  watch = pending = refused = null;
  view.reset();
}

/** Watch session `id` from chunk `from`, null for the live edge. */
async function follow(id, from, startedAt_ms) {
  const Player = await player;
  leave();
  if (!Player) return refuse(NO_PLAYER);
  const screen = Player === CanvasPlayer ? byId("canvas") : byId("video");
  byId("canvas").hidden = screen !== byId("canvas");
  byId("video").hidden = screen !== byId("video");
  const makePlayer = (on) => new Player(screen, on);
  watch = new Watch({ id, from, makePlayer, startedAt_ms, on: { changed: show, problem: (words) => view.problem(words), refused: refuse, notice } });
  fleet.current(id);
  show();
}

const isLive = () => watch !== null && !watch.ended && !refused;
const notice = (words) => say("warning", words);

function refuse(words) {
  refused = words;
  view.problem(null);
  show();
}

async function start(prompt, seed) {
  const startedAt_ms = performance.now();
  leave();
  opening = true;
  show();
  try {
    const session = await api.open(prompt, seed);
    history.pushState(null, "", `#${session.id}`);
    await follow(session.id, 0, startedAt_ms);
    sayWarnings(session.warnings);
  } finally {
    opening = false;
    show();
  }
}

async function steer(prompt) {
  const of = watch;
  const { from_chunk, inputs_version, warnings } = await api.steer(of.id, prompt);
  if (of !== watch) return;
  pending = { prompt, from: from_chunk, version: inputs_version };
  if (document.activeElement === byId("prompt")) byId("prompt").select();
  sayWarnings(warnings);
  show();
}

/** Watch a session that exists: from its newest chunk, so that there is a picture at once. */
async function join(id) {
  const startedAt_ms = performance.now();
  const session = await api.get(id).catch((problem) => problem);
  if (idInAddress() !== id) return;
  if (session.status === 404 || session.status === 400) {
    leave();
    return refuse(session);
  }
  const from = session.next_chunk === undefined ? null : Math.max(0, session.next_chunk - 1);
  await follow(id, from, startedAt_ms);
}

function choose(id) {
  history.pushState(null, "", id ? `#${id}` : location.pathname + location.search);
  arrive();
}

const idInAddress = () => location.hash.slice(1);

function arrive() {
  const id = idInAddress();
  if (id === (watch?.id ?? "")) return;
  say("none");
  if (id) return join(id);
  leave();
  fleet.current(null);
  show();
}

async function pauseOrResume() {
  const of = watch;
  const paused = of.held || of.session?.status === "paused";
  if (!paused) of.hold();
  try {
    await (paused ? api.resume(of.id) : api.pause(of.id));
    if (paused) of.release();
  } catch (problem) {
    if (!paused) of.release();
    throw problem;
  }
}

/** Runs `action` with its button locked; a problem becomes words. */
async function doing(button, action) {
  if (button.disabled) return;
  button.disabled = true;
  try {
    await action();
    fleet.refresh();
  } catch (problem) {
    if (!(problem instanceof api.Problem)) throw problem;
    say("error", problem);
  } finally {
    button.disabled = false;
  }
}

function submit() {
  const prompt = byId("prompt").value.trim();
  if (!prompt) {
    byId("prompt").focus();
    return say("error", EMPTY_PROMPT);
  }
  const live = isLive();
  const seed = byId("seed").value.trim();
  if (!live && !/^\d{0,15}$/.test(seed)) return say("error", BAD_SEED);
  return doing(byId("submit"), () => (live ? steer(prompt) : start(prompt, seed === "" ? null : Number(seed))));
}

function examples(prompts) {
  if (prompts === offered) return;
  offered = prompts;
  const chips = prompts.map((prompt) => {
    const chip = element("button", { type: "button" }, prompt);
    chip.addEventListener("click", () => {
      byId("prompt").value = prompt;
      submit();
    });
    return element("li", {}, chip);
  });
  byId("examples").replaceChildren(...chips);
}

function glow() {
  const screen = byId("canvas").hidden ? byId("video") : byId("canvas");
  if (watch?.shown && !document.hidden) byId("glow").getContext("2d").drawImage(screen, 0, 0, 16, 10);
}

let ticks = 0;
function tick() {
  if (document.hidden) return;
  show();
  view.charts(watch);
  if (ticks++ % GLOW_EVERY === 0) glow();
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
byId("pause").addEventListener("click", () => doing(byId("pause"), pauseOrResume));
byId("close").addEventListener("click", () => doing(byId("close"), () => api.close(watch.id)));
byId("new").addEventListener("click", () => {
  choose("");
  byId("prompt").value = "";
  byId("prompt").focus();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names the session
  byId("prompt").focus();
});
addEventListener("keydown", (event) => {
  const elsewhere = !(event.target === document.body || event.target === byId("stage"));
  if (event.key !== " " || elsewhere || byId("pause").hidden) return;
  event.preventDefault();
  byId("pause").click();
});
addEventListener("popstate", arrive);

// Read by tests and by the curious; changes nothing.
const readings = {
  framesDrawn: () => watch?.framesDrawn ?? 0,
  nextIndex: () => watch?.nextIndex ?? null,
  shownIndex: () => watch?.shown?.index ?? null,
  bufferedSeconds: () => watch?.buffered_s ?? 0,
  granted: () => watch?.granted ?? null,
  stalls: () => watch?.stalls ?? 0,
  player: () => watch?.playerKind ?? null,
  session: () => watch?.id ?? null,
  status: () => watch?.session?.status ?? null,
};
const getters = Object.entries(readings).map(([name, get]) => [name, { get, enumerable: true }]);
Object.defineProperty(window, "turboserve", { value: Object.freeze(Object.defineProperties({}, Object.fromEntries(getters))) });

show();
arrive();
setInterval(tick, CHARTS_EVERY_MS);
