// Time series on a canvas: one plot, redrawn as a whole about once a second.
//
// A plot is told the samples and the stretch of time to show. What the values are called, and what is said of them in words,
// is its card's business. A sample without a value is a gap, and so is a long silence between two.

const GAP_MS = 3500;      // samples further apart than this are not joined by a line
const HEADROOM = 1.06;    // so that a level line does not hide behind the topmost one
const AXIS_FONT = "11px system-ui, sans-serif";
const AXIS_ROOM = 16;     // below the plot, for the times

/** The smallest number that reads well, and whose half does, and that is not below `value`. */
function roundTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((top) => top >= value / power - 1e-9) * power;
}

/** Distance of the times that are written below the plot, ms. */
function timeStep(span) {
  return span <= 90e3 ? 15e3 : span <= 400e3 ? 60e3 : span <= 1200e3 ? 180e3 : 600e3;
}

/** Colours as the page's style has them now; they differ by light and dark. */
function palette() {
  const style = getComputedStyle(document.documentElement);
  return new Proxy({}, { get: (_, name) => style.getPropertyValue(`--${name}`).trim() });
}

class Plot {
  /**
   * `series`: [{colour, value(sample) → number or null, area, dash}], drawn in this order; `colour` names a custom property.
   * `write(value)` is a value of the axis as text. `least` is the smallest top of the axis, in the values' unit.
   */
  constructor(canvas, { series, write, least = 1 }) {
    this.canvas = canvas;
    this.series = series;
    this.write = write;
    this.least = least;
  }

  /** Draws the samples (ascending by `at`, ms) of the `span` that ends at `end`; `mark` is a sample to point at, or null. */
  draw(samples, end, span, mark, colours) {
    const width = this.canvas.clientWidth, height = this.canvas.clientHeight;
    if (!width || !height) return;
    const context = this.prepare(width, height);
    const shown = samples.filter((sample) => sample.at >= end - span - GAP_MS);
    const most = Math.max(0, ...shown.flatMap((sample) => this.series.map((one) => one.value(sample) ?? 0)));
    const top = roundTop(Math.max(this.least, most * HEADROOM));
    const floor = height - AXIS_ROOM;
    const x = (at) => width * (1 - (end - at) / span);
    const y = (value) => floor - (Math.max(0, value) / top) * (floor - 8);
    this.x = x;
    this.drawAxes(context, { width, floor, end, span, top, x, y, colours });
    context.save();
    context.beginPath();
    context.rect(0, 0, width, floor + 1);
    context.clip();
    for (const one of this.series) for (const run of runs(shown, one)) drawRun(context, run, one, { x, y, floor, colours });
    context.restore();
    this.drawLabels(context, { floor, top, y, colours });
    if (mark) this.drawMark(context, mark, { x, y, floor, colours });
  }

  prepare(width, height) {
    const ratio = devicePixelRatio || 1;
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== w || this.canvas.height !== h) { this.canvas.width = w; this.canvas.height = h; }
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    return context;
  }

  drawAxes(context, { width, floor, end, span, top, x, y, colours }) {
    context.font = AXIS_FONT;
    context.lineWidth = 1;
    context.strokeStyle = colours["line-soft"];
    for (const share of floor > 90 ? [0.5, 1] : [1]) {
      const at = Math.round(y(top * share)) + 0.5;
      context.beginPath(); context.moveTo(0, at); context.lineTo(width, at); context.stroke();
    }
    const step = timeStep(span);
    context.fillStyle = colours["ink-3"];
    context.textAlign = "center";
    context.textBaseline = "alphabetic";
    const every = Math.max(1, Math.ceil(56 / (width * step / span)));
    for (let at = Math.floor(end / step) * step; at > end - span; at -= step * every) {
      const text = timeOfDay(at, step < 60e3);
      const half = context.measureText(text).width / 2;
      if (x(at) - half < 0 || x(at) + half > width) continue;
      context.fillText(text, x(at), floor + 13);
    }
    context.strokeStyle = colours.line;
    context.beginPath(); context.moveTo(0, floor + 0.5); context.lineTo(width, floor + 0.5); context.stroke();
  }

  /** The values of the lines across, above what is drawn so that they can be read. */
  drawLabels(context, { floor, top, y, colours }) {
    context.textAlign = "left";
    context.lineWidth = 3;
    context.lineJoin = "round";
    context.strokeStyle = colours.panel;
    context.fillStyle = colours["ink-3"];
    for (const share of floor > 90 ? [0.5, 1] : [1]) {
      const text = this.write(top * share);
      context.strokeText(text, 0, y(top * share) + 12);
      context.fillText(text, 0, y(top * share) + 12);
    }
  }

  drawMark(context, mark, { x, y, floor, colours }) {
    const at = Math.round(x(mark.at)) + 0.5;
    context.strokeStyle = colours["ink-3"];
    context.lineWidth = 1;
    context.beginPath(); context.moveTo(at, 4); context.lineTo(at, floor); context.stroke();
    for (const one of this.series) {
      const value = one.value(mark);
      if (value === null) continue;
      context.beginPath();
      context.arc(at, y(value), 3.5, 0, 2 * Math.PI);
      context.fillStyle = colours[one.colour];
      context.fill();
      context.lineWidth = 2;
      context.strokeStyle = colours.panel;
      context.stroke();
    }
  }

  /** The sample that is drawn nearest to this place of the window. */
  nearest(samples, clientX) {
    if (!this.x || !samples.length) return null;
    const place = clientX - this.canvas.getBoundingClientRect().left;
    return samples.reduce((best, sample) => (Math.abs(this.x(sample.at) - place) < Math.abs(this.x(best.at) - place) ? sample : best));
  }
}

/** The stretches of a series without a gap, as [at, value]. */
function runs(samples, series) {
  const found = [];
  let run = null, before = 0;
  for (const sample of samples) {
    const value = series.value(sample);
    if (value === null || (run && sample.at - before > GAP_MS)) run = null;
    before = sample.at;
    if (value === null) continue;
    if (!run) found.push((run = []));
    run.push([sample.at, value]);
  }
  return found;
}

function drawRun(context, run, series, { x, y, floor, colours }) {
  const colour = colours[series.colour];
  context.beginPath();
  run.forEach(([at, value], i) => (i ? context.lineTo(x(at), y(value)) : context.moveTo(x(at), y(value))));
  // A value that stands alone would be a line without length.
  if (run.length === 1) context.lineTo(x(run[0][0]) + 1.5, y(run[0][1]));
  context.lineWidth = series.area ? 1.75 : 1.5;
  context.lineJoin = "round";
  context.lineCap = "round";
  context.strokeStyle = colour;
  context.setLineDash(series.dash || []);
  context.stroke();
  context.setLineDash([]);
  if (!series.area) return;
  context.lineTo(x(run[run.length - 1][0]), floor);
  context.lineTo(x(run[0][0]), floor);
  context.closePath();
  context.globalAlpha = 0.12;
  context.fillStyle = colour;
  context.fill();
  context.globalAlpha = 1;
}

/** A line without axes, for a cell of a table: the newest at the right. */
function sparkline(canvas, values, most, colour) {
  const width = canvas.clientWidth, height = canvas.clientHeight, ratio = devicePixelRatio || 1;
  if (!width) return;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const top = Math.max(1, ...values);
  context.beginPath();
  values.forEach((value, i) => {
    const x = width - 1 - (values.length - 1 - i) * ((width - 2) / (most - 1));
    const y = height - 1.5 - (Math.max(0, value) / top) * (height - 3);
    i ? context.lineTo(x, y) : context.moveTo(x, y);
  });
  context.strokeStyle = colour;
  context.lineWidth = 1.25;
  context.lineJoin = "round";
  context.stroke();
}
