// What the page says when something is wrong: always what happened and what to do.

const NETWORK = { message: "Can't reach the server.", hint: "Check that turboserve is running, then try again." };
const TIMEOUT = { message: "The server took too long to answer.", hint: "It may be busy. Try again in a moment." };
export const EMPTY_PROMPT = { message: "The prompt is empty.", hint: "Describe what you want to see, or pick an example." };
export const LOST = { message: "Lost the connection to the server. Trying again …", hint: "The video goes on by itself once it is back." };
export const GAVE_UP = { message: "The server has been away for a long time.", hint: "Start it again, then reload this page." };
export const AWAY = { message: "The service is not ready yet. Trying again …", hint: "This page goes on by itself once it is." };
export const UNKNOWN_SESSION = { message: "This session doesn't exist, or is long gone.", hint: "Start a new one, or pick a running one." };
export const NO_PLAYER = {
  message: "This browser can't play the video.",
  hint: "Use a current Chrome, Edge, Safari or Firefox with H.264; from another machine, open the page over https.",
};
export const UNDECODABLE = { message: "Part of the video could not be decoded.", hint: "Playback goes on with the next chunk." };

export const BAD_SEED = { message: "The seed must be a whole number, 0 or more.", hint: "Leave it empty for a random one." };

const BY_CODE = { session_not_found: UNKNOWN_SESSION, prompt_empty: EMPTY_PROMPT };

/** For an answer that is no success; `body` is what came as JSON, null if none did. */
export function fromAnswer(status, body) {
  const { code = "", message = "", hint = "" } = body?.error ?? {};
  if (BY_CODE[code]) return { code, ...BY_CODE[code] };
  if (message) return { code, message: sentence(message.replace(/^(prompt|seed): /, "")), hint: hint && sentence(hint) };
  if (status === 503) return { code, ...AWAY, message: "The service is not ready yet." };
  return { code, message: `The server answered with an error (${status}).`, hint: "Try again; its log says more." };
}

export const fromFailure = (failure) => (failure?.name === "TimeoutError" ? TIMEOUT : NETWORK);

/** Why a session ended, in one sentence. */
export function ending(status, reason) {
  if (reason === "finished") return "It reached its last chunk.";
  if (reason) return sentence(reason);
  return status === "failed" ? "Something went wrong while making it." : "It was closed.";
}

/** How long one who waits will, as far as that is known. */
export function turn({ position, expected_wait_s }) {
  const place = Number.isInteger(position) ? `Place ${position + 1} in the queue` : "It starts by itself";
  return Number.isFinite(expected_wait_s) ? `${place}, ${waiting(expected_wait_s)} to go.` : `${place}.`;
}

function waiting(seconds) {
  const whole = Math.max(1, Math.ceil(seconds));
  return whole < 90 ? `about ${whole} s` : `about ${Math.round(whole / 60)} min`;
}

function sentence(words) {
  const trimmed = words.trim();
  const first = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?…]$/.test(first) ? first : `${first}.`;
}
