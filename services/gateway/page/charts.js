// Two small charts, drawn by hand. Colours come from the style sheet, so that both themes work.

const BAR_PX = 7;
const SPAN_S = 60;
const LABEL_PX = 36;
const FOOT_PX = 3;

function prepared(canvas) {
  const scale = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = `11px ${getComputedStyle(canvas).fontFamily}`;
  const styles = getComputedStyle(document.documentElement);
  const colour = (name) => styles.getPropertyValue(`--${name}`).trim();
  return { context, width, height, colour };
}

const STEPS_S = [0.25, 0.5, 1, 2, 4, 8, 15, 30, 60];
const topFor = (most_s) => STEPS_S.find((step) => step >= most_s) ?? Math.ceil(most_s / 60) * 60;

function axis({ context, width, height, colour }, top_s) {
  const y = (value_s) => height - FOOT_PX - (value_s / top_s) * (height - FOOT_PX - 8);
  context.strokeStyle = colour("edge");
  context.fillStyle = colour("quiet");
  context.textAlign = "right";
  context.textBaseline = "middle";
  context.lineWidth = 1;
  for (const value_s of [0, top_s / 2, top_s]) {
    const at = Math.round(y(value_s)) - 0.5;
    context.beginPath();
    context.moveTo(LABEL_PX, at);
    context.lineTo(width, at);
    context.stroke();
    if (value_s > 0) context.fillText(`${value_s} s`, LABEL_PX - 5, Math.max(at, 6));
  }
  return y;
}

/** One bar per chunk: {latency_s, made_s, chunk_s, changed}; the dashed line is the chunk's own length. */
export function drawLatency(canvas, chunks) {
  const plot = prepared(canvas);
  const { context, width, colour } = plot;
  const bars = chunks.slice(-Math.floor((width - LABEL_PX) / BAR_PX));
  const chunk_s = bars.at(-1)?.chunk_s ?? 1;
  const y = axis(plot, topFor(Math.max(chunk_s, ...bars.map((bar) => Math.max(bar.latency_s, bar.made_s)))));
  const floor = y(0);
  bars.forEach((bar, i) => {
    const x = width - (bars.length - i) * BAR_PX;
    const rect = (value_s, fill) => {
      context.fillStyle = colour(fill);
      context.fillRect(x, Math.min(y(value_s), floor - 1), BAR_PX - 2, Math.max(floor - y(value_s), 1));
    };
    rect(Math.max(bar.latency_s, bar.made_s), bar.latency_s > bar.chunk_s ? "late" : "waited");
    rect(bar.made_s, "made");
    if (bar.changed) mark(plot, x - 1.5);
  });
  dashed(plot, y(chunk_s));
  canvas.setAttribute("aria-label", latencyWords(bars, chunk_s));
}

function mark({ context, height, colour }, x) {
  context.fillStyle = colour("quiet");
  context.fillRect(x, 0, 1, height - FOOT_PX);
}

function dashed({ context, width, colour }, y) {
  context.strokeStyle = colour("quiet");
  context.setLineDash([4, 4]);
  context.beginPath();
  context.moveTo(LABEL_PX, y);
  context.lineTo(width, y);
  context.stroke();
  context.setLineDash([]);
}

function latencyWords(bars, chunk_s) {
  if (bars.length === 0) return "Chunk latency: no chunks yet";
  const sorted = bars.map((bar) => bar.latency_s).sort((a, b) => a - b);
  const median_s = sorted[Math.floor(sorted.length / 2)];
  return `Chunk latency of the last ${bars.length} chunks: median ${median_s.toFixed(2)} s, longest ${sorted.at(-1).toFixed(2)} s; real time is ${chunk_s.toFixed(2)} s`;
}

/** `samples`: {at_s, buffered_s, stalled}, oldest first. */
export function drawBuffer(canvas, samples, now_s) {
  const plot = prepared(canvas);
  const { context, width, colour } = plot;
  const recent = samples.filter((sample) => now_s - sample.at_s <= SPAN_S);
  const y = axis(plot, topFor(Math.max(4, ...recent.map((sample) => sample.buffered_s))));
  const x = (at_s) => width - ((now_s - at_s) / SPAN_S) * (width - LABEL_PX);
  if (recent.length > 0) area(plot, recent.map((sample) => [x(sample.at_s), y(sample.buffered_s)]), y(0));
  context.fillStyle = colour("bad");
  for (const sample of recent) if (sample.stalled) context.fillRect(x(sample.at_s) - 1, y(0) - 10, 2, 10);
  const last = recent.at(-1);
  canvas.setAttribute("aria-label", last ? `Play-ahead buffer: ${last.buffered_s.toFixed(1)} s now` : "Play-ahead buffer: nothing yet");
}

function area({ context, colour }, points, floor) {
  context.beginPath();
  context.moveTo(points[0][0], floor);
  for (const [px, py] of points) context.lineTo(px, py);
  context.lineTo(points.at(-1)[0], floor);
  context.globalAlpha = 0.25;
  context.fillStyle = colour("made");
  context.fill();
  context.globalAlpha = 1;
  context.beginPath();
  for (const [px, py] of points) context.lineTo(px, py);
  context.strokeStyle = colour("made");
  context.lineWidth = 1.5;
  context.stroke();
}
