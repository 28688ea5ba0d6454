// What the fleet's panel shows, reckoned from what the gateway tells: workers, the autoscaler's plan, sessions.

const HUES = 6;
const MOST_SEATS = 12;
const PLANNED = { starting: "booting", stopping: "leaving" };

/**
 * One row for each worker, by name: {id, name, suffix, state, active, capacity, words, dots, empty, more}.
 * `dots`: {id, status, hue, title} of its sessions, active ones first; an id of "" is one that the list of sessions left out.
 * `plan` null: no autoscaler speaks.
 */
export function fleetRows(workers, plan, sessions) {
  const known = new Map(workers.map((worker) => [worker.id, worker]));
  const planned = (plan?.workers ?? []).filter(({ worker, state }) => state in PLANNED && !known.has(worker));
  const drains = new Set(plan?.draining ?? []);
  const rows = workers.map((worker) => row(worker, drains, sessions));
  const coming = planned.map(({ worker, state }) => ({ ...row({ id: worker, state: PLANNED[state] }, drains, []) }));
  return [...rows, ...coming].sort((a, b) => a.id.localeCompare(b.id, "en", { numeric: true }));
}

function row({ id, state, active = 0, capacity = 0 }, drains, sessions) {
  const own = sessions.filter((session) => session.worker === id);
  const playing = own.filter(({ status }) => status === "active").map(dot);
  const paused = own.filter(({ status }) => status === "paused").map(dot);
  const others = Math.max(0, active - playing.length);
  const unseen = Array.from({ length: others }, () => ({ id: "", status: "active", hue: null, title: "" }));
  const seated = [...playing, ...unseen].slice(0, MOST_SEATS);
  const shown = stateOf(state, drains.has(id));
  const ready = shown === "ready";
  return {
    ...named(id),
    state: shown,
    active,
    capacity,
    words: ready ? `${active} of ${capacity}` : shown,
    dots: [...seated, ...paused.slice(0, MOST_SEATS)],
    empty: ready ? Math.max(0, Math.min(capacity, MOST_SEATS) - seated.length) : 0,
    more: Math.max(0, playing.length + others - seated.length),
  };
}

function stateOf(state, drains) {
  if (state === "starting") return "booting";
  return drains && state === "ready" ? "draining" : state;
}

/** "worker-1-5f73" is worker-1, the one that came as 5f73. */
function named(id) {
  const [, name, suffix] = /^(.+?)-([0-9a-f]{4})$/.exec(id) ?? [null, id, ""];
  return { id, name, suffix };
}

const dot = ({ id, status, prompt }) => ({ id, status, hue: hueOf(id), title: `${prompt || "(no prompt)"} · ${id.slice(-5)}` });

export const waiting = (sessions) => sessions.filter(({ status }) => status === "queued").map(dot);

function hueOf(id) {
  let sum = 0;
  for (const letter of id) sum = (sum * 31 + letter.codePointAt(0)) % 9973;
  return sum % HUES;
}

/** What is new since `before` (null: all is), in words: who came and went, which active session goes on elsewhere. */
export function news(before, after) {
  if (before === null) return [];
  const old = new Map(before.map((one) => [one.id, one]));
  const now = new Map(after.map((one) => [one.id, one]));
  const lines = [];
  for (const { id, name, state } of after) {
    const was = old.get(id)?.state;
    if (was !== state) lines.push(`${name} ${{ booting: "is booting", ready: "is ready", draining: "is being emptied", leaving: "leaves" }[state] ?? state}`);
  }
  for (const { id, name } of before) if (!now.has(id)) lines.push(`${name} is gone`);
  return [...moves(before, after), ...lines];
}

function moves(before, after) {
  const was = new Map(before.flatMap(({ name, id, dots }) => dots.map((one) => [one.id, { name, id, status: one.status }])));
  const moved = after.flatMap(({ name, id, dots }) =>
    dots
      .filter((one) => one.id && one.status === "active" && was.get(one.id)?.status === "active" && was.get(one.id).id !== id)
      .map((one) => `${one.id.slice(-5)} moved from ${was.get(one.id).name} to ${name}`),
  );
  return moved;
}

/** The autoscaler's newest reason, with what holds it back. */
export function whyWords(plan) {
  if (!plan) return "";
  const held = plan.frozen ? "Frozen. " : plan.dry_run ? "Dry run. " : "";
  const would = plan.would ? ` Would: ${plan.would}.` : "";
  const reason = plan.reason ? `${plan.reason.charAt(0).toUpperCase()}${plan.reason.slice(1)}.` : "";
  return `${held}${reason}${would}`;
}

export function countWords(rows, plan) {
  const count = `${rows.length} ${rows.length === 1 ? "worker" : "workers"}`;
  return plan ? `${count}, at most ${plan.maximum}` : count;
}
