// One session being watched: its stream, its player and the credit between them. What the page shows is read from here.

import { Pacing } from "./pacing.js";
import { Stream } from "./stream.js";
import { UNDECODABLE, NO_PLAYER } from "./words.js";

const TICK_MS = 100;
const KEPT_CHUNKS = 600;

export class Watch {
  session = null; // the newest word on it: status, phase, …
  chunks = []; // {header, received_s, latency_s, shown}, the last KEPT_CHUNKS
  shown = null; // header of the chunk on screen
  nextIndex = null;
  stalls = 0;
  firstPicture_s = null;
  held = false; // this viewer pressed pause
  ended = null;
  #player;
  #stream;
  #pacing = null;
  #lost = -1; // the last chunk that couldn't be played: done with as well
  #on;
  #startedAt_ms;
  #timer;

  /** `makePlayer(on)` gives the player; `on` has: changed(), problem(words | null), refused(words), notice(words) */
  constructor({ id, from, makePlayer, startedAt_ms, on }) {
    this.id = id;
    this.#on = on;
    this.#startedAt_ms = startedAt_ms;
    this.#player = makePlayer({
      shown: (header) => this.#shown(header),
      stalled: () => this.#stalled(),
      failed: (fatal, index) => this.#failed(fatal, index),
    });
    this.#stream = new Stream(id, from, this.#streamEvents());
    this.#timer = setInterval(() => this.#giveCredit(), TICK_MS);
  }

  get buffered_s() {
    return this.#player.buffered_s;
  }

  get framesDrawn() {
    return this.#player.framesDrawn;
  }

  get playerKind() {
    return this.#player.kind;
  }

  get granted() {
    return this.#pacing?.granted ?? null;
  }

  hold() {
    this.held = true;
    this.#player.pause();
    this.#on.changed();
  }

  release() {
    this.held = false;
    this.#player.play();
    this.#on.changed();
  }

  close() {
    clearInterval(this.#timer);
    this.#stream.close();
    this.#player.close();
  }

  #streamEvents() {
    return {
      session: (message) => this.#welcomed(message),
      chunk: (header, bytes) => this.#received(header, bytes),
      state: (message) => this.#became(message),
      cut: (message) => this.#cut(message),
      end: (message) => {
        this.ended = message;
        this.#became(message);
      },
      connected: () => this.#on.problem(null),
      lost: (words) => this.#on.problem(words),
      refused: (words) => this.#on.refused(words),
    };
  }

  #welcomed(message) {
    const now_s = performance.now() / 1000;
    if (this.#pacing) this.#pacing.connected(message.from, now_s);
    else this.#pacing = new Pacing(message.from, now_s);
    if (this.nextIndex !== null && message.from > this.nextIndex) this.#skipped(this.nextIndex, message.from);
    this.nextIndex = message.from;
    this.#became(message.session);
  }

  #became(news) {
    const before = this.session?.status;
    this.session = { ...this.session, ...news };
    const { status } = this.session;
    if (status === "active" && before !== "active") this.#pacing?.resumed(performance.now() / 1000);
    // Someone else resumed what this viewer had paused.
    if (this.held && before === "paused" && status !== "paused") this.release();
    this.#on.changed();
  }

  #received(header, bytes) {
    const now_s = performance.now() / 1000;
    this.nextIndex = header.index + 1;
    const latency_s = this.#pacing.received(header.index, header.frames / header.fps, made_s(header), now_s);
    this.chunks.push({ header, latency_s, shown: false });
    if (this.chunks.length > KEPT_CHUNKS) this.chunks.shift();
    this.#player.push(header, bytes);
    this.#on.changed();
  }

  #shown(header) {
    this.firstPicture_s ??= (performance.now() - this.#startedAt_ms) / 1000;
    this.shown = header;
    for (const chunk of this.chunks) if (chunk.header.index === header.index) chunk.shown = true;
    this.#giveCredit();
    this.#on.changed();
  }

  #stalled() {
    if (this.session?.status !== "active" || this.ended) return;
    this.stalls += 1;
    this.#pacing?.stalled();
    this.#on.changed();
  }

  #failed(fatal, index) {
    this.#lost = Math.max(this.#lost, index);
    if (!fatal) return this.#on.notice(UNDECODABLE);
    this.#stream.close();
    this.#on.refused(NO_PLAYER);
  }

  #cut({ from, to }) {
    this.#pacing.cut(to, performance.now() / 1000);
    this.#skipped(from, to);
    this.nextIndex = to;
  }

  #skipped(from, to) {
    const which = to - from === 1 ? `Chunk ${from} was` : `Chunks ${from} to ${to - 1} were`;
    this.#on.notice({ message: `${which} dropped before this page took them.`, hint: "Playback goes on with the newest." });
  }

  #giveCredit() {
    if (!this.#pacing || this.held || this.ended) return;
    const shown = Math.max(this.shown?.index ?? -1, this.#lost);
    const position = { shown, buffered_s: this.buffered_s, now_s: performance.now() / 1000 };
    const through = this.#pacing.next(position);
    if (through !== null) this.#stream.grant(through);
  }
}

/** Seconds the worker spent on a chunk. */
export function made_s({ timings = {} }) {
  return (timings.forward_s ?? 0) + (timings.decode_s ?? 0) + (timings.encode_s ?? 0);
}

/** The prompt that a message's inputs carry, "" if none. */
export function promptOf({ inputs = [], prompt = "" }) {
  return inputs.findLast?.((input) => input.kind === "prompt")?.text ?? prompt;
}
