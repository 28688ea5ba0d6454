// The fleet, drawn: a row for each worker, a dot for each session, which glides when its worker changes.

import { arrange, attribute, byId, element, text } from "./dom.js";
import { countWords, fleetRows, news, waiting, whyWords } from "./fleet_rows.js";

const GLIDE_MS = 700;
const NEWS_KEPT = 3;

export class FleetPanel {
  #rows = new Map(); // a worker's name to its element
  #dots = new Map(); // a session's id to its element
  #shown = null;
  #news = [];

  /** `current`: the session that this page watches, or null. */
  show(workers, plan, sessions, current) {
    const rows = fleetRows(workers, plan, sessions);
    const queue = waiting(sessions);
    byId("fleet-card").hidden = rows.length === 0 && queue.length === 0;
    text(byId("fleet-count"), countWords(rows, plan));
    text(byId("fleet-why"), whyWords(plan));
    attribute(byId("fleet-why"), "title", plan?.decision ? `turboserve explain ${plan.decision}` : null);
    const places = this.#places();
    arrange(byId("workers"), rows.map((row) => this.#row(row, current)));
    byId("waiting").hidden = queue.length === 0;
    byId("waiting-dots").replaceChildren(...queue.map((one) => this.#dot(one, current)));
    this.#forget(rows, queue);
    this.#glide(places);
    this.#tell(news(this.#shown, rows));
    this.#shown = rows;
  }

  #row(row, current) {
    if (!this.#rows.has(row.id)) {
      const name = element("span", { class: "who" }, row.name, " ", element("small", {}, row.suffix));
      this.#rows.set(row.id, element("li", {}, name, element("span", { class: "seats" }), element("span", { class: "state" })));
    }
    const made = this.#rows.get(row.id);
    const [, seats, state] = made.children;
    attribute(made, "data-state", row.state);
    text(state, row.words);
    const empty = Array.from({ length: row.empty }, () => element("i", { class: "seat" }));
    const active = row.dots.filter(({ status }) => status === "active");
    const paused = row.dots.filter(({ status }) => status !== "active");
    const more = row.more > 0 ? [element("small", {}, `+${row.more}`)] : [];
    const drawn = (dots) => dots.map((one) => this.#dot(one, current));
    seats.replaceChildren(...drawn(active), ...more, ...empty, ...drawn(paused));
    return made;
  }

  #dot({ id, status, hue, title }, current) {
    const made = this.#dots.get(id) ?? element("i", { class: "seat" });
    if (id) this.#dots.set(id, made);
    attribute(made, "data-status", status);
    attribute(made, "data-hue", hue);
    attribute(made, "title", title || null);
    attribute(made, "aria-current", id && id === current ? "true" : null);
    return made;
  }

  #forget(rows, queue) {
    const dots = new Set([...rows.flatMap((row) => row.dots), ...queue].map(({ id }) => id));
    for (const id of [...this.#dots.keys()]) if (!dots.has(id)) this.#dots.delete(id);
    const workers = new Set(rows.map(({ id }) => id));
    for (const id of [...this.#rows.keys()]) if (!workers.has(id)) this.#rows.delete(id);
  }

  #places() {
    return new Map([...this.#dots].map(([id, made]) => [id, { row: made.parentElement, rect: made.getBoundingClientRect() }]));
  }

  #glide(places) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    for (const [id, made] of this.#dots) {
      const { row, rect } = places.get(id) ?? {};
      if (!row || row === made.parentElement) continue;
      const now = made.getBoundingClientRect();
      const from = `translate(${rect.left - now.left}px, ${rect.top - now.top}px)`;
      made.animate([{ transform: from }, { transform: "none" }], { duration: GLIDE_MS, easing: "ease-in-out" });
    }
  }

  #tell(lines) {
    if (lines.length === 0) return;
    const at = new Date().toLocaleTimeString([], { hour12: false });
    this.#news = [...lines.map((line) => `${at} ${line}`), ...this.#news].slice(0, NEWS_KEPT);
    byId("fleet-news").replaceChildren(...this.#news.map((line) => element("li", {}, line)));
  }
}
