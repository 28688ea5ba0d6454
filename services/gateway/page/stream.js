// One viewer's WebSocket: chunks in order, reconnecting where it was.

import * as api from "./api.js";
import { AWAY, GAVE_UP, LOST, UNKNOWN_SESSION } from "./words.js";

const CONNECT_DEADLINE_MS = 8000;
const SILENCE_MS = 12000;
const FIRST_WAIT_MS = 300;
const LONGEST_WAIT_MS = 4000;
const GIVE_UP_MS = 30 * 60 * 1000;

const CLOSE = { AWAY: 1013, BAD: 4400, UNKNOWN: 4404, EVICTED: 4410 };

/** Back-off before attempt `attempt` (from 0), spread by `chance` in [0, 1). */
export function wait_ms(attempt, chance) {
  return Math.min(FIRST_WAIT_MS * 2 ** attempt, LONGEST_WAIT_MS) * (0.75 + chance / 2);
}

/**
 * `on` has: session(message), chunk(header, bytes), state(message), cut(message), end(message), connected(),
 * lost(words) while it tries again, refused(words) when it gave up.
 */
export class Stream {
  #id;
  #on;
  #socket = null;
  #header = null;
  #timer = 0;
  #watchdog = 0;
  #attempt = 0;
  #lostAt_ms = null;
  #done = false;
  #opened = false;
  #troubled = null;

  /** `from` null: the live edge. */
  constructor(id, from, on) {
    this.#id = id;
    this.next = from;
    this.#on = on;
    this.#connect();
  }

  grant(through) {
    if (this.#socket?.readyState === WebSocket.OPEN) {
      this.#socket.send(JSON.stringify({ type: "grant", granted_through: through }));
    }
  }

  close() {
    this.#done = true;
    this.#drop();
  }

  #connect() {
    this.#drop();
    const url = api.address(`v1/sessions/${encodeURIComponent(this.#id)}/stream`);
    url.protocol = url.protocol.replace("http", "ws");
    if (this.next !== null) url.searchParams.set("from", this.next);
    const socket = (this.#socket = new WebSocket(url));
    socket.binaryType = "arraybuffer";
    this.#opened = false;
    socket.onmessage = ({ data }) => this.#heard(data);
    socket.onclose = ({ code }) => this.#closed(code);
    this.#timer = setTimeout(() => this.#closed(0), CONNECT_DEADLINE_MS);
  }

  #drop() {
    clearTimeout(this.#timer);
    clearTimeout(this.#watchdog);
    const socket = this.#socket;
    this.#socket = this.#header = null;
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #heard(data) {
    this.#watch();
    if (data instanceof ArrayBuffer) return this.#media(new Uint8Array(data));
    const message = JSON.parse(data);
    if (message.type === "session") this.#welcomed(message);
    else if (message.type === "chunk") this.#header = message;
    else if (message.type === "state") this.#state(message);
    else if (message.type === "cut") this.#cut(message);
    else if (message.type === "error" && message.code === "service_away") this.#trouble(AWAY);
    else if (message.type === "end") this.#end(message);
  }

  #welcomed(message) {
    clearTimeout(this.#timer);
    this.#opened = true;
    this.#attempt = 0;
    this.#lostAt_ms = null;
    this.#troubled = null;
    this.next = message.from;
    this.#on.connected();
    this.#on.session(message);
  }

  #media(bytes) {
    const header = this.#header;
    this.#header = null;
    if (!header || header.index < this.next) return;
    this.next = header.index + 1;
    this.#trouble(null);
    this.#on.chunk(header, bytes);
  }

  #state(message) {
    this.#trouble(null);
    this.#on.state(message);
  }

  // The connection stands, but what is behind the gateway is away; the next news says that it is back.
  #trouble(words) {
    if (words === this.#troubled) return;
    this.#troubled = words;
    if (words) this.#on.lost(words);
    else this.#on.connected();
  }

  #cut(message) {
    this.next = message.to;
    this.#on.cut(message);
  }

  #end(message) {
    this.#done = true;
    this.#drop();
    this.#on.connected();
    this.#on.end(message);
  }

  // A dead network closes no socket: after a silence, ask whether the server is there at all.
  #watch() {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(async () => {
      const socket = this.#socket;
      const alive = await api.get(this.#id).then(() => true, (problem) => problem.status !== 0);
      if (socket !== this.#socket || this.#done) return;
      if (alive) this.#watch();
      else this.#closed(0);
    }, SILENCE_MS);
  }

  async #closed(code) {
    const wasOpen = this.#opened;
    this.#drop();
    if (code === CLOSE.UNKNOWN) return this.#refuse(UNKNOWN_SESSION);
    if ((code === CLOSE.EVICTED || code === CLOSE.BAD) && this.next !== null) {
      this.next = null;
      return this.#connect();
    }
    if (code === CLOSE.BAD) return this.#refuse({ message: "The server refused this stream.", hint: "Reload the page." });
    this.#lostAt_ms ??= Date.now();
    if (Date.now() - this.#lostAt_ms > GIVE_UP_MS) return this.#refuse(GAVE_UP);
    this.#on.lost(code === CLOSE.AWAY ? AWAY : LOST);
    // Browsers hide why a connection was refused before it opened, so ask.
    if (!wasOpen && (await this.#isUnknown())) return this.#refuse(UNKNOWN_SESSION);
    if (!this.#done) this.#timer = setTimeout(() => this.#connect(), wait_ms(this.#attempt++, Math.random()));
  }

  #isUnknown() {
    return api.get(this.#id).then(() => false, (problem) => problem.status === 404);
  }

  #refuse(words) {
    if (this.#done) return;
    this.#done = true;
    this.#on.connected();
    this.#on.refused(words);
  }
}
