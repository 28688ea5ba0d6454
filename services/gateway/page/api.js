// HTTP calls to the gateway. Each has a deadline; a failure is a `Problem` in words.

import { fromAnswer, fromFailure } from "./words.js";

const DEADLINE_MS = 15000;

export class Problem extends Error {
  /** `status` 0: no answer came. */
  constructor({ message, hint, code = "" }, status = 0) {
    super(message);
    this.hint = hint;
    this.code = code;
    this.status = status;
  }
}

export const address = (path) => new URL(path, document.baseURI);
const session = (id, verb = "") => `v1/sessions/${encodeURIComponent(id)}${verb}`;

async function call(method, path, { body, headers = {}, deadline_ms = DEADLINE_MS } = {}) {
  const request = { method, headers: { Accept: "application/json", ...headers }, signal: AbortSignal.timeout(deadline_ms) };
  if (body !== undefined) {
    request.headers["Content-Type"] = "application/json";
    request.body = JSON.stringify(body);
  }
  const [answer, content] = await answered(path, request);
  if (!answer.ok) throw new Problem(fromAnswer(answer.status, content), answer.status);
  return content;
}

async function answered(path, request) {
  try {
    const answer = await fetch(address(path), request);
    const raw = await answer.text();
    return [answer, parsed(raw)];
  } catch (failure) {
    throw new Problem(fromFailure(failure));
  }
}

function parsed(raw) {
  try {
    return JSON.parse(raw);
  } catch {
    return null;
  }
}

/** Repeated once if no answer came: the key makes sure that there is one session all the same. */
export async function open(prompt, seed) {
  const request = { body: seed === null ? { prompt } : { prompt, seed }, headers: { "Idempotency-Key": newKey() } };
  try {
    return await call("POST", "v1/sessions", request);
  } catch (problem) {
    if (problem.status !== 0) throw problem;
    return call("POST", "v1/sessions", request);
  }
}

// crypto.randomUUID is missing where the page is served to another host over plain http.
const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

export const list = () => call("GET", "v1/sessions?live=true&limit=40", { deadline_ms: 5000 });
export const workers = () => call("GET", "v1/workers", { deadline_ms: 5000 });
export const plan = () => call("GET", "v1/fleet", { deadline_ms: 5000 });
export const get = (id) => call("GET", session(id), { deadline_ms: 5000 });
export const steer = (id, prompt) => call("POST", session(id, "/prompt"), { body: { prompt } });
export const pause = (id) => call("POST", session(id, "/pause"));
export const resume = (id) => call("POST", session(id, "/resume"));
export const close = (id) => call("DELETE", session(id));

/** `{ready, ...}` as the gateway says; not being ready is an answer, not a problem. */
export async function readiness() {
  const [answer, content] = await answered("readyz", { signal: AbortSignal.timeout(5000) });
  return { ready: answer.ok, ...content };
}
