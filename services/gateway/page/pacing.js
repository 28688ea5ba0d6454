// When to hand out credit. Pure: the time is an argument, in seconds.
//
// The server makes chunk n while n ≤ granted + WINDOW. Every chunk it is ahead of the screen delays a prompt change by
// that chunk's length, so the next one is asked for as late as it will still arrive in time: when the play time ahead
// falls to what a chunk lately took, with a reserve that grows after a stall.

export const WINDOW = 2;
const REMEMBERED = 8;
const LEAST_LEAD_CHUNKS = 0.75;
const LATENCY_FACTOR = 1.3;
const LATENCY_MARGIN_S = 0.15;
const RESERVE_STEP_CHUNKS = 0.5;
const RESERVE_MOST_CHUNKS = 1.5;
const RESERVE_KEPT = 0.97;

export class Pacing {
  #allowedAt_s = new Map();
  #latencies_s = [];
  #newest;
  #reserve_chunks = 0;
  #chunk_s = 1;

  /** `from`: the first index that will come; credit up to the one before it is given by connecting. */
  constructor(from, now_s) {
    this.granted = from - 1;
    this.#newest = from - 1;
    this.connected(from, now_s);
  }

  /** After a new connection, which grants all before `from` by itself. */
  connected(from, now_s) {
    this.granted = Math.max(this.granted, from - 1);
    for (let index = from; index <= this.granted + WINDOW; index++) this.#allowedAt_s.set(index, now_s);
  }

  /** The session plays again: what it was paused for is no latency. */
  resumed(now_s) {
    for (const index of this.#allowedAt_s.keys()) this.#allowedAt_s.set(index, now_s);
  }

  /** A chunk came. Returns its latency: from the credit for it to now. */
  received(index, chunk_s, made_s, now_s) {
    const latency_s = now_s - (this.#allowedAt_s.get(index) ?? now_s);
    for (const old of this.#allowedAt_s.keys()) if (old <= index) this.#allowedAt_s.delete(old);
    this.#newest = Math.max(this.#newest, index);
    this.#chunk_s = chunk_s;
    this.#reserve_chunks *= RESERVE_KEPT;
    this.#latencies_s = [...this.#latencies_s, Math.max(latency_s, made_s)].slice(-REMEMBERED);
    return latency_s;
  }

  stalled() {
    this.#reserve_chunks = Math.min(this.#reserve_chunks + RESERVE_STEP_CHUNKS, RESERVE_MOST_CHUNKS);
  }

  /** Chunks `from` to `to` − 1 were evicted and will not come. */
  cut(to, now_s) {
    this.#newest = Math.max(this.#newest, to - 1);
    this.connected(to, now_s);
  }

  /** The new `granted_through`, or null for no change. `shown`: the chunk on screen; `buffered_s`: play time after now. */
  next({ shown, buffered_s, now_s }) {
    const before = this.granted;
    while (this.granted < shown && this.#ahead_s(buffered_s) <= this.lead_s) {
      this.granted += 1;
      this.#allowedAt_s.set(this.granted + WINDOW, now_s);
    }
    return this.granted === before ? null : this.granted;
  }

  /** How much play time should be there, or be on its way. */
  get lead_s() {
    const latency_s = this.#latencies_s.length ? Math.max(...this.#latencies_s) : this.#chunk_s;
    const needed_s = LATENCY_FACTOR * latency_s + LATENCY_MARGIN_S;
    return Math.max(LEAST_LEAD_CHUNKS * this.#chunk_s, needed_s) + this.#reserve_chunks * this.#chunk_s;
  }

  #ahead_s(buffered_s) {
    return buffered_s + Math.max(0, this.granted + WINDOW - this.#newest) * this.#chunk_s;
  }
}
