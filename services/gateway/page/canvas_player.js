// Plays chunks on a canvas by WebCodecs. Pictures are decoded just ahead of their time, so only a few are ever held.

import { accessUnits, withStartCodes } from "./annexb.js";

const DECODE_AHEAD = 4;
const MOST_IN_DECODER = 16;
// Later than this and the clock starts anew instead of hurrying after it.
const LATE_MS = 120;
const MOST_FAILURES = 3;

/** `on` has: shown(header) at a chunk's first picture, stalled(), failed(fatal, index) for a chunk that can't be played. */
export class CanvasPlayer {
  kind = "webcodecs";
  framesDrawn = 0;
  #context;
  #on;
  #decoder = null;
  #codec = "";
  #waiting = []; // {header, unit, first, last}, not yet given to the decoder
  #inDecoder = new Map(); // timestamp -> entry
  #pictures = []; // {header, first, frame}, ready to draw
  #timestamp = 0;
  #due_ms = 0;
  #idle = true;
  #paused = false;
  #failures = 0;
  #request = 0;

  constructor(canvas, on) {
    this.#context = canvas.getContext("2d", { alpha: false });
    this.#on = on;
    this.#request = requestAnimationFrame((now) => this.#tick(now));
  }

  static async available() {
    if (!("VideoDecoder" in globalThis)) return false;
    const answer = await VideoDecoder.isConfigSupported({ codec: "avc1.42c00b" }).catch(() => null);
    return answer?.supported === true;
  }

  /** Play time of what came and is not on screen yet. */
  get buffered_s() {
    const queues = [this.#waiting, [...this.#inDecoder.values()], this.#pictures];
    return queues.flat().reduce((sum, entry) => sum + 1 / entry.header.fps, 0);
  }

  push(header, bytes) {
    const units = accessUnits(bytes);
    units.forEach((unit, i) => this.#waiting.push({ header, unit, first: i === 0, last: i === units.length - 1 }));
    if (units.length === 0) this.#lose(header.index);
  }

  pause() {
    this.#paused = true;
  }

  play() {
    this.#paused = false;
    this.#idle = true;
  }

  close() {
    cancelAnimationFrame(this.#request);
    this.#resetDecoder();
    this.#waiting = [];
  }

  #tick(now_ms) {
    this.#request = requestAnimationFrame((next) => this.#tick(next));
    this.#feed();
    if (this.#paused) return;
    const picture = this.#pictures[0];
    if (picture && (this.#idle || now_ms >= this.#due_ms)) this.#draw(picture, now_ms);
    else if (!picture && !this.#idle && now_ms > this.#due_ms + LATE_MS) this.#stall();
  }

  #stall() {
    this.#idle = true;
    this.#on.stalled();
  }

  #draw(picture, now_ms) {
    this.#pictures.shift();
    const { frame, header } = picture;
    const { canvas } = this.#context;
    if (canvas.width !== frame.displayWidth) canvas.width = frame.displayWidth;
    if (canvas.height !== frame.displayHeight) canvas.height = frame.displayHeight;
    this.#context.drawImage(frame, 0, 0);
    frame.close();
    const startAnew = this.#idle || now_ms > this.#due_ms + LATE_MS;
    this.#due_ms = (startAnew ? now_ms : this.#due_ms) + 1000 / header.fps;
    this.#idle = false;
    this.framesDrawn += 1;
    if (picture.first) this.#on.shown(header);
  }

  #feed() {
    while (this.#waiting.length > 0 && this.#wantsMore()) {
      const entry = this.#waiting.shift();
      try {
        this.#decode(entry);
      } catch {
        this.#fail();
      }
    }
  }

  #wantsMore() {
    if (this.#pictures.length + this.#inDecoder.size < DECODE_AHEAD) return true;
    const decoderHoldsBack = this.#pictures.length === 0 && (this.#decoder?.decodeQueueSize ?? 0) === 0;
    return decoderHoldsBack && this.#inDecoder.size < MOST_IN_DECODER;
  }

  #decode(entry) {
    if (entry.first && (!this.#decoder || this.#codec !== entry.header.codec)) this.#configure(entry.header.codec);
    const timestamp = (this.#timestamp += 1);
    this.#inDecoder.set(timestamp, entry);
    const data = withStartCodes(entry.unit.nals);
    this.#decoder.decode(new EncodedVideoChunk({ type: entry.unit.key ? "key" : "delta", timestamp, data }));
    // The next chunk begins with a key frame, so the decoder may give out all it has.
    if (entry.last) this.#decoder.flush().catch(() => {});
  }

  #configure(codec) {
    // A new decoder only after the old one's pictures are out: they come in order.
    this.#decoder ??= new VideoDecoder({ output: (frame) => this.#decoded(frame), error: () => this.#fail() });
    this.#decoder.configure({ codec, optimizeForLatency: true });
    this.#codec = codec;
  }

  #decoded(frame) {
    const entry = this.#inDecoder.get(frame.timestamp);
    if (!entry) return frame.close();
    this.#inDecoder.delete(frame.timestamp);
    this.#pictures.push({ header: entry.header, first: entry.first, frame });
    if (entry.last) this.#failures = 0;
  }

  // The rest of this chunk is lost; the next one begins with a key frame.
  #fail() {
    const broken = [...this.#inDecoder.values()].at(-1)?.header.index ?? -1;
    this.#resetDecoder();
    this.#waiting = this.#waiting.filter((entry) => entry.header.index !== broken);
    this.#lose(broken);
  }

  #lose(index) {
    this.#failures += 1;
    this.#on.failed(this.#failures >= MOST_FAILURES, index);
  }

  #resetDecoder() {
    if (this.#decoder && this.#decoder.state !== "closed") this.#decoder.close();
    this.#decoder = null;
    this.#inDecoder.clear();
    for (const { frame } of this.#pictures) frame.close();
    this.#pictures = [];
  }
}
