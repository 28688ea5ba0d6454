// Plays chunks in a video element by Media Source Extensions, where WebCodecs is missing (as over http from another host).

import { accessUnits, parameterSets, parseSps } from "./annexb.js";
import { TIMESCALE, concat, initSegment, mediaSegment } from "./mp4.js";

const TICK_MS = 50;
const KEPT_BEHIND_S = 20;
const STALLED_AFTER_MS = 250;
const MOST_FAILURES = 3;
const Source = globalThis.ManagedMediaSource ?? globalThis.MediaSource;

/** `on` has: shown(header) at a chunk's first picture, stalled(), failed(fatal, index) for a chunk that can't be played. */
export class VideoPlayer {
  kind = "mse";
  #video;
  #on;
  #source = new Source();
  #url;
  #buffer = null;
  #pending = []; // {header, units}, not yet appended
  #timeline = []; // {header, start_s}, appended
  #end_ticks = 0;
  #sequence = 0;
  #sps = "";
  #shown = -1;
  #paused = false;
  #moved = { at_s: 0, at_ms: 0 };
  #stalled = true;
  #failures = 0;
  #timer;

  constructor(video, on) {
    this.#video = video;
    this.#on = on;
    this.#url = URL.createObjectURL(this.#source);
    video.disableRemotePlayback = true;
    video.src = this.#url;
    this.#source.addEventListener("sourceopen", () => this.#append(), { once: true });
    video.addEventListener("error", this.#broken);
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  static async available() {
    return Source?.isTypeSupported('video/mp4; codecs="avc1.42c00b"') === true;
  }

  get framesDrawn() {
    return this.#video.getVideoPlaybackQuality().totalVideoFrames;
  }

  /** Play time of what came and is not on screen yet. */
  get buffered_s() {
    const pending_s = this.#pending.reduce((sum, { header, units }) => sum + units.length / header.fps, 0);
    return Math.max(0, this.#end_ticks / TIMESCALE - this.#video.currentTime) + pending_s;
  }

  push(header, bytes) {
    const units = accessUnits(bytes);
    this.#failures = units.length === 0 ? this.#failures + 1 : 0;
    if (units.length === 0) return this.#on.failed(this.#failures >= MOST_FAILURES, header.index);
    this.#pending.push({ header, units });
    this.#append();
  }

  pause() {
    this.#paused = true;
    this.#video.pause();
  }

  play() {
    this.#paused = false;
    this.#stalled = true;
    this.#start();
  }

  close() {
    clearInterval(this.#timer);
    this.#video.removeEventListener("error", this.#broken);
    this.#video.removeAttribute("src");
    this.#video.load();
    URL.revokeObjectURL(this.#url);
    this.#pending = [];
  }

  #broken = () => this.#on.failed(true, this.#shown);

  // The browser refuses to play without a gesture at times; the next click on "play" is one.
  #start() {
    if (!this.#paused) this.#video.play().catch(() => {});
  }

  #append() {
    if (this.#source.readyState !== "open" || this.#buffer?.updating || this.#pending.length === 0) return;
    const { header, units } = this.#pending.shift();
    const frameTicks = Math.round(TIMESCALE / header.fps);
    try {
      const init = this.#initIfNew(units);
      const segment = mediaSegment({ sequence: ++this.#sequence, startTicks: this.#end_ticks, frameTicks, units });
      this.#timeline.push({ header, start_s: this.#end_ticks / TIMESCALE });
      this.#end_ticks += frameTicks * units.length;
      this.#buffer.appendBuffer(concat(init, segment));
    } catch {
      this.#on.failed(true, header.index);
    }
  }

  #initIfNew(units) {
    const { sps, pps } = parameterSets(units);
    const identity = `${sps}/${pps}`;
    if (identity === this.#sps) return new Uint8Array(0);
    this.#sps = identity;
    const { width, height, codec } = parseSps(sps);
    if (!this.#buffer) this.#addBuffer(codec);
    return initSegment({ sps, pps, width, height });
  }

  #addBuffer(codec) {
    this.#buffer = this.#source.addSourceBuffer(`video/mp4; codecs="${codec}"`);
    this.#buffer.addEventListener("updateend", () => {
      this.#start();
      this.#append();
    });
  }

  #tick() {
    const at_s = this.#video.currentTime;
    for (const { header, start_s } of this.#timeline) {
      if (start_s > at_s || header.index <= this.#shown || this.framesDrawn === 0) continue;
      this.#shown = header.index;
      this.#on.shown(header);
    }
    this.#watchProgress(at_s, performance.now());
    this.#forget(at_s);
  }

  #watchProgress(at_s, now_ms) {
    if (at_s !== this.#moved.at_s) {
      this.#moved = { at_s, at_ms: now_ms };
      this.#stalled = false;
    } else if (!this.#stalled && !this.#paused && now_ms - this.#moved.at_ms > STALLED_AFTER_MS) {
      this.#stalled = true;
      this.#on.stalled();
    }
  }

  #forget(at_s) {
    const old_s = at_s - KEPT_BEHIND_S;
    if (!this.#buffer || this.#buffer.updating || this.#timeline.length < 2 || this.#timeline[1].start_s > old_s) return;
    this.#timeline = this.#timeline.filter((entry, i, all) => (all[i + 1]?.start_s ?? Infinity) > old_s);
    this.#buffer.remove(0, this.#timeline[0].start_s);
  }
}
