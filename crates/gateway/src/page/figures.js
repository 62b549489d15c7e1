// What the page measures: ticks and changes per second, and the time from a tick to the screen.

/** Milliseconds since 1970 with the microseconds that Date.parse drops. */
function serverTime(text) {
  const fraction = /\.(\d+)/.exec(text);
  const whole = Date.parse(fraction ? text.replace(fraction[0], "") : text);
  return whole + (fraction ? Number(`0.${fraction[1]}`) * 1000 : 0);
}

/** Wall clock in fractions of a millisecond. The fine clock stands still while a machine sleeps, so the coarse one leads. */
const clock = {
  origin: performance.timeOrigin,
  now() { return this.origin + performance.now(); },
  correct() {
    const drift = Date.now() - this.now();
    if (Math.abs(drift) > 3) this.origin += drift;
  },
};

const SECONDS = 60;

const meter = {
  unseen: [],       // server times of ticks that are not drawn yet
  latencies: [],    // [when, ms] of the last ten seconds, tick to screen
  received: [],     // the same, tick to the arrival of its commit
  seconds: [],      // closed buckets {ticks, changes, latency}
  open: null,
  reset() { this.unseen = []; this.latencies = []; this.received = []; this.seconds = []; this.open = { ticks: 0, changes: 0, latencies: [] }; },
  count(changes) { this.open.ticks++; this.open.changes += changes; },
  seen() {
    const wall = clock.now();
    const now = performance.now();
    for (const time of this.unseen) {
      const ms = wall - time;
      this.latencies.push([now, ms]);
      this.open.latencies.push(ms);
    }
    this.unseen = [];
  },
  second() {
    const { ticks, changes, latencies } = this.open;
    this.seconds.push({ ticks, changes, latency: quantile(latencies, 0.5) });
    if (this.seconds.length > SECONDS) this.seconds.shift();
    this.open = { ticks: 0, changes: 0, latencies: [] };
    const from = performance.now() - 10000;
    this.latencies = this.latencies.filter(([when]) => when >= from);
    this.received = this.received.filter(([when]) => when >= from);
  },
};
meter.reset();

function quantile(values, q) {
  if (!values.length) return null;
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))];
}

function milliseconds(ms) {
  const size = Math.abs(ms);
  if (size >= 10000) return `${figure(Math.round(ms / 1000))} s`;
  return size >= 100 ? `${figure(Math.round(ms))} ms` : `${ms.toFixed(1)} ms`;
}

function drawFigures() {
  meter.second();
  clock.correct();
  const last = meter.seconds.slice(-3);
  const rate = (name) => last.reduce((sum, second) => sum + second[name], 0) / last.length;
  const shown = (n) => figure(n >= 10 ? Math.round(n) : Math.round(n * 10) / 10);
  ui.ticks.textContent = shown(rate("ticks"));
  ui.changes.textContent = shown(rate("changes"));
  const recent = meter.latencies.map(([, ms]) => ms);
  const p50 = quantile(recent, 0.5), p99 = quantile(recent, 0.99);
  ui.latency.replaceChildren();
  if (p50 === null) ui.latency.textContent = "–";
  else {
    ui.latency.append(milliseconds(p50), element("small", " p50"), element("span", milliseconds(p99), { className: "second" }), element("small", " p99"));
  }
  const arrived = quantile(meter.received.map(([, ms]) => ms), 0.5);
  const hint = arrived === null ? "" : `received ${milliseconds(arrived)} after the tick (p50), drawn with the next frame`;
  if (ui.hint.textContent !== hint) ui.hint.textContent = hint;
  // A tick cannot be seen before it is made: a negative figure means that the clocks differ.
  ui.clock.textContent = p50 !== null && p50 < 0 ? "the clocks differ" : "needs same clock";
  plot(ui.plotTicks, meter.seconds.map((second) => second.ticks));
  plot(ui.plotChanges, meter.seconds.map((second) => second.changes));
  plot(ui.plotLatency, meter.seconds.map((second) => second.latency));
}

/** A sparkline of the last minute, the newest at the right; a null is a gap. */
function plot(canvas, values) {
  const ratio = devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width) return;
  if (canvas.width !== Math.round(width * ratio)) { canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio); }
  const draw = canvas.getContext("2d");
  draw.setTransform(ratio, 0, 0, ratio, 0, 0);
  draw.clearRect(0, 0, width, height);
  const style = getComputedStyle(document.documentElement);
  const accent = style.getPropertyValue("--accent").trim();
  draw.strokeStyle = style.getPropertyValue("--line").trim();
  draw.beginPath(); draw.moveTo(0, height - 0.5); draw.lineTo(width, height - 0.5); draw.stroke();
  const top = Math.max(...values.map((value) => value || 0)) || 1;
  const x = (i) => width - 2 - (values.length - 1 - i) * ((width - 4) / (SECONDS - 1));
  const y = (value) => height - 1.5 - Math.max(0, value / top) * (height - 4);
  draw.lineWidth = 1.5;
  draw.lineJoin = "round";
  let run = [];
  const flush = () => {
    if (!run.length) return;
    draw.beginPath();
    run.forEach(([px, py], i) => (i ? draw.lineTo(px, py) : draw.moveTo(px, py)));
    draw.strokeStyle = accent;
    draw.stroke();
    draw.lineTo(run[run.length - 1][0], height - 1);
    draw.lineTo(run[0][0], height - 1);
    draw.globalAlpha = 0.14;
    draw.fillStyle = accent;
    draw.fill();
    draw.globalAlpha = 1;
    run = [];
  };
  values.forEach((value, i) => (value === null ? flush() : run.push([x(i), y(value)])));
  flush();
}
