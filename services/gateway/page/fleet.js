// The fleet and the running sessions, asked for every few seconds while the page is visible.

import * as api from "./api.js";
import { attribute, byId, element, text } from "./dom.js";
import { FleetPanel } from "./fleet_panel.js";

const EVERY_MS = 2000;
const PLAN_AGAIN_MS = 15000; // where no autoscaler runs
const LIVE = { queued: "Queued", active: "Live", paused: "Paused" };

export class Fleet {
  #choose;
  #current = null;
  #timer = 0;
  #drawn = "";
  #panel = new FleetPanel();
  #noPlanUntil_ms = 0;

  /** `choose(id)`: someone picked a session. */
  constructor(choose) {
    this.#choose = choose;
    document.addEventListener("visibilitychange", () => this.refresh());
    this.refresh();
  }

  /** The session that this page watches, or null. */
  current(id) {
    this.#current = id;
    this.refresh();
  }

  async refresh() {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    const asked = [api.readiness(), api.list(), api.workers(), this.#plan()];
    const [readiness, page, workers, plan] = (await Promise.allSettled(asked)).map(({ value }) => value ?? null);
    this.#line(readiness);
    const sessions = page?.sessions.filter(({ status }) => status in LIVE);
    if (sessions) this.#list(sessions);
    if (sessions && workers) this.#panel.show(workers.workers, plan, sessions, this.#current);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.refresh(), EVERY_MS);
  }

  /** Null: no autoscaler speaks, which is asked again after a while. */
  async #plan() {
    if (performance.now() < this.#noPlanUntil_ms) return null;
    try {
      return await api.plan();
    } catch {
      this.#noPlanUntil_ms = performance.now() + PLAN_AGAIN_MS;
      return null;
    }
  }

  #line(answer) {
    const { state, words } = fleetWords(answer);
    byId("fleet").dataset.state = state;
    text(byId("fleet-words"), words);
  }

  #list(sessions) {
    const key = JSON.stringify([this.#current, sessions.map(({ id, status, prompt, next_chunk }) => [id, status, prompt, next_chunk])]);
    if (key === this.#drawn) return;
    this.#drawn = key;
    const focused = document.activeElement?.dataset?.session;
    text(byId("sessions-count"), sessions.length > 0 ? `(${sessions.length})` : "");
    byId("sessions-none").hidden = sessions.length > 0;
    byId("sessions").replaceChildren(...sessions.map((session) => this.#row(session)));
    if (focused) document.querySelector(`[data-session="${CSS.escape(focused)}"]`)?.focus();
  }

  #row({ id, status, prompt, next_chunk }) {
    const button = element(
      "button",
      { type: "button", "data-session": id },
      element("span", { class: "said-by" }, prompt || "(no prompt)"),
      element("small", {}, `${next_chunk} ${next_chunk === 1 ? "chunk" : "chunks"} · ${id.slice(-5)}`),
      element("span", { class: "pill", "data-status": status }, LIVE[status]),
    );
    button.addEventListener("click", () => this.#choose(id));
    const row = element("li", {}, button);
    attribute(row, "aria-current", id === this.#current ? "true" : null);
    return row;
  }
}

/** `answer` null: none came. */
export function fleetWords(answer) {
  if (!answer) return { state: "away", words: "Server not reachable" };
  const { ready, reasons = [], workers = 0, active = 0, queued = 0, capacity = 0 } = answer;
  if (!ready) return { state: "busy", words: reasons.length ? `Not ready: ${reasons.join(", ")}` : "Not ready yet" };
  const parts = [`${workers} ${workers === 1 ? "worker" : "workers"}`, `${active} of ${capacity} streams`];
  if (queued > 0) parts.push(`${queued} waiting`);
  return { state: queued > 0 ? "busy" : "ready", words: parts.join(" · ") };
}
