// The dashboard: plots of the gateway's figures, and what they say of tenants and tables.

const stat = (name) => (sample) => sample.stats[name] ?? null;
const rate = (name) => (sample) => sample.rates[name] ?? null;

/** The plots. A series that is `plain` is told and not drawn: it is of another order than the one beside it. */
const CARDS = [
  { title: "Deliveries per second", large: true, axis: compact, least: 5, series: [
    { name: "deliveries", colour: "accent", value: rate("deliveries_total"), write: perSecond, area: true }] },
  { title: "Lag, from the tick to the socket", large: true, axis: milliseconds, least: 1, series: [
    { name: "p50", colour: "accent", value: stat("lag_ms.p50"), write: milliseconds, area: true },
    { name: "p99", colour: "second", value: stat("lag_ms.p99"), write: milliseconds }] },
  { title: "Ticks and changes per second", axis: compact, least: 5, series: [
    { name: "ticks", colour: "accent", value: rate("ticks_total"), write: perSecond, area: true },
    { name: "changes", colour: "second", value: rate("changes_total"), write: perSecond }] },
  { title: "Connections", axis: compact, least: 4, series: [
    { name: "open", colour: "accent", value: stat("connections"), write: whole, area: true },
    { name: "subscriptions", colour: "third", value: stat("subscriptions"), write: whole }] },
  { title: "Sent per second", axis: bytes, least: 1000, series: [
    { name: "to clients", colour: "accent", value: rate("sent_bytes_total"), write: bytes, area: true }] },
  { title: "Memory", axis: bytes, least: 1e6, series: [
    { name: "memory", colour: "accent", value: stat("memory_bytes"), write: bytes, area: true },
    { name: "waiting for clients", value: stat("queue_bytes"), write: bytes, plain: true }] },
];

/** One plot with its title and its figures. */
class Card {
  constructor({ title, large, axis, least, series }) {
    this.title = title;
    this.series = series;
    this.root = element("section", null, { className: large ? "card large" : "card" });
    this.when = element("span", "", { className: "when" });
    const head = element("h3", title);
    head.append(this.when);
    this.values = element("div", null, { className: "values" });
    this.canvas = element("canvas", null, { tabIndex: 0 });
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", title);
    this.root.append(head, this.values, this.canvas);
    this.plot = new Plot(this.canvas, { series: series.filter(({ plain }) => !plain), write: axis, least });
  }

  draw(samples, end, span, mark, colours) {
    const sample = mark || samples[samples.length - 1];
    this.when.textContent = mark ? timeOfDay(mark.at, true) : "";
    const several = this.series.length > 1;
    this.values.replaceChildren(...this.series.map((one, i) => {
      const value = sample ? one.value(sample) : null;
      const shown = element("span", null, { className: "now" });
      if (several && !one.plain) {
        const sign = element("span", null, { className: "mark" });
        sign.style.color = `var(--${one.colour})`;
        shown.append(sign);
      }
      shown.append(value === null ? "–" : one.write(value));
      if (several && (i > 0 || !this.series[1].plain)) shown.append(element("small", one.name));
      return shown;
    }));
    this.plot.draw(samples, end, span, mark, colours);
  }

  /** What the plot shows, in words. */
  summary(samples, end, span) {
    const shown = samples.filter(({ at }) => at >= end - span);
    const parts = this.series.map((one) => {
      const values = shown.map(one.value).filter((value) => value !== null);
      if (!values.length) return `${one.name}: no figures`;
      return `${one.name}: now ${one.write(values[values.length - 1])}, between ${one.write(Math.min(...values))} and ${one.write(Math.max(...values))}`;
    });
    return `${this.title}, last ${duration(Math.round(span / 1000))}. ${parts.join("; ")}.`;
  }

  /** A sample in words. */
  say(sample) {
    const parts = this.series.map((one) => `${one.name} ${one.value(sample) === null ? "unknown" : one.write(one.value(sample))}`);
    return `${timeOfDay(sample.at, true)}: ${parts.join(", ")}`;
  }
}

const board = {
  main: byId("figures"), state: byId("state"), server: byId("server"), trouble: byId("trouble"), ask: byId("ask"), token: byId("token"),
  wrong: byId("wrong"), spoken: byId("spoken"), cards: CARDS.map((card) => new Card(card)), chosen: 300e3, span: 60e3, mark: null, queued: false,
  end: Date.now(),
};
byId("plots").append(...board.cards.map(({ root }) => root));

const past = new History();
const poll = new Poll({ answer, refused, silent });

function answer(stats) {
  past.add(stats);
  board.main.dataset.state = "live";
  board.main.hidden = false;
  board.server.textContent = [stats.server, `up ${duration(stats.uptime_seconds)}`].filter(Boolean).join(" · ");
  if (stats.feeders === 0) {
    state("wait", "No feeder yet");
    tell("No database is attached yet", "The gateway runs and waits for the feeder of the landlord database. While Postgres starts this takes a moment; if it lasts, the server's log says why.");
  } else {
    state("live", "Live");
    board.trouble.hidden = true;
  }
  redraw();
  drawLists(past, stats);
}

/** Without a token that counts there are no figures, and none is asked for again until there is another. */
function refused({ error = "the token is not accepted", hint }, wrong) {
  board.main.hidden = true;
  state("refused", "The figures are not shown to you");
  tell("The figures want a token", "From another host they are shown to who has a token whose role is a member of pg_monitor. "
    + "It stays in this page's memory, and is forgotten when you close it.", true);
  board.wrong.textContent = wrong ? `${error[0].toUpperCase()}${error.slice(1)}.${hint ? ` Hint: ${hint}.` : ""}` : "";
  if (wrong) board.token.focus();
}

function silent(since, why) {
  if (board.main.hidden && since) board.main.hidden = false;
  state("wait", "No answer");
  if (!since) {
    tell("The gateway does not answer", `${why} This page goes on asking.`.trim(), false, true);
    return;
  }
  board.main.dataset.state = "gone";
  tell("The gateway does not answer", `What is shown is of ${timeOfDay(since, true)}. ${why} This page goes on asking, and the clients come back by themselves.`, false, true);
  redraw();
}

function state(kind, text) {
  board.state.dataset.state = kind;
  if (board.state.textContent !== text) board.state.textContent = text;
}

function tell(title, words, asks = false, bad = false) {
  const [head, paragraph] = board.trouble.children;
  if (head.textContent !== title) head.textContent = title;
  if (paragraph.textContent !== words) paragraph.textContent = words;
  board.ask.hidden = !asks;
  board.trouble.classList.toggle("bad", bad);
  board.trouble.hidden = false;
}

function redraw() {
  if (board.queued) return;
  board.queued = true;
  requestAnimationFrame(() => {
    board.queued = false;
    const colours = palette();
    // Who walks through the past must not be carried away by the present; a gateway that is gone leaves the plots where they were.
    if (!board.mark && past.samples.length) board.end = past.samples[past.samples.length - 1].at;
    board.span = reach();
    for (const card of board.cards) card.draw(past.samples, board.end, board.span, board.mark, colours);
  });
}

/** The time that plots show, ms: what was chosen, but not much more than there is. */
function reach() {
  const first = past.samples[0]?.at ?? board.end;
  return Math.min(board.chosen, Math.max(60e3, board.end - first));
}

function mark(sample) {
  if (board.mark === sample) return;
  board.mark = sample;
  redraw();
}

/** The sample that is `steps` away from the marked one, within what is shown. */
function beside(steps) {
  const shown = past.samples.filter(({ at }) => at >= board.end - board.span && at <= board.end);
  const from = board.mark ? shown.indexOf(board.mark) : shown.length;
  return shown[Math.max(0, Math.min(shown.length - 1, from + steps))] || null;
}

const STEPS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };

for (const card of board.cards) {
  const visible = () => past.samples.filter(({ at }) => at >= board.end - board.span && at <= board.end);
  card.canvas.addEventListener("pointermove", (event) => { mark(card.plot.nearest(visible(), event.clientX)); });
  card.canvas.addEventListener("pointerleave", () => { mark(null); });
  card.canvas.addEventListener("focus", () => { card.canvas.setAttribute("aria-label", card.summary(past.samples, board.end, board.span)); });
  card.canvas.addEventListener("blur", () => { mark(null); board.spoken.textContent = ""; });
  card.canvas.addEventListener("keydown", (event) => {
    if (event.key === "Escape") mark(null);
    else if (event.key in STEPS) {
      event.preventDefault();
      const sample = beside(STEPS[event.key]);
      if (!sample) return;
      mark(sample);
      board.spoken.textContent = card.say(sample);
    }
  });
}

byId("span").addEventListener("change", (event) => { board.chosen = event.target.value * 1000; redraw(); });
board.ask.addEventListener("submit", (event) => {
  event.preventDefault();
  poll.token = board.token.value.trim();
  board.token.value = "";
  board.wrong.textContent = "";
  state("wait", "Asking for the figures");
  poll.ask();
});
addEventListener("resize", redraw);
addEventListener("online", () => { if (!board.main.hidden) poll.ask(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden && poll.heard) poll.ask(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
poll.ask();
redraw();
