// The gateway's figures: asked for each second, and what two answers in a row say about the time between them.

const POLL_MS = 1000;
const ANSWER_LIMIT_MS = 4000;
const KEPT_MS = 15.2 * 60e3;  // samples that the longest plot wants
/** Figures that only grow, and are shown per second. */
const COUNTERS = ["deliveries_total", "changes_total", "ticks_total", "sent_bytes_total", "snapshot_rows_total", "received_total"];
/** Parts of the answer that are lists, with counters of their own. */
const LISTS = ["tenants", "tables"];
const SPARK = 60;             // samples of a line in a list

/**
 * Asks again and again. `on.answer(stats)` gets each answer, `on.refused(status, wrong)` is told that a token is needed (`wrong`: the
 * one that was shown is not accepted), `on.silent(since, why)` that there is no answer.
 */
class Poll {
  constructor(on) {
    this.on = on;
    this.token = null;  // of the page's memory only
    this.heard = 0;     // when the last answer came
    this.timer = 0;
    this.asking = null;
  }

  /** Asks now, and from then on by the clock. */
  async ask() {
    clearTimeout(this.timer);
    this.asking?.abort();
    const turn = (this.asking = new AbortController());
    const late = setTimeout(() => turn.abort(), ANSWER_LIMIT_MS);
    const begun = performance.now();
    let again = true;
    try {
      const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
      const response = await fetch("/stats", { headers, cache: "no-store", signal: turn.signal });
      if (response.status === 401 || response.status === 403) {
        again = false;
        const wrong = this.token !== null;
        this.token = null;
        this.on.refused(await response.json().catch(() => ({})), wrong);
      } else if (!response.ok) {
        this.on.silent(this.heard, response.status === 429 ? "It answers that it is asked too often." : `It answers with status ${response.status}.`);
      } else {
        const stats = await response.json();
        this.heard = Date.now();
        this.on.answer(stats);
      }
    } catch {
      if (this.asking !== turn) return;
      this.on.silent(this.heard, "");
    } finally {
      clearTimeout(late);
    }
    if (again && this.asking === turn) this.timer = setTimeout(() => this.ask(), Math.max(50, POLL_MS - (performance.now() - begun)));
  }
}

/** What was sampled, the oldest first. Tenants and tables, which may be many, are kept as long as their lines reach. */
class History {
  constructor() {
    this.samples = [];
    this.last = null;   // {fine, stats}
  }

  /** Adds an answer; says whether the gateway is another than before. */
  add(stats, at = Date.now(), fine = performance.now()) {
    const before = this.last;
    const restarted = before !== null && (stats.uptime_seconds < before.stats.uptime_seconds
      || COUNTERS.some((name) => stats[name] < before.stats[name]));
    const seconds = before && !restarted ? (fine - before.fine) / 1000 : 0;
    const rate = (now, then) => (seconds > 0.05 && now !== undefined && then !== undefined ? Math.max(0, now - then) / seconds : null);
    const sample = { at, stats: {}, rates: {}, lists: {} };
    flatten(stats, "", sample.stats);
    for (const name of COUNTERS) sample.rates[name] = rate(stats[name], before?.stats[name]);
    for (const kind of LISTS) {
      const then = new Map((before?.stats[kind] || []).map((one) => [nameOf(one), one]));
      sample.lists[kind] = new Map((stats[kind] || []).map((one) => {
        const old = then.get(nameOf(one));
        return [nameOf(one), rate(one.deliveries_total, old?.deliveries_total)];
      }));
    }
    this.last = { fine, stats };
    this.samples.push(sample);
    if (this.samples.length > SPARK) this.samples[this.samples.length - 1 - SPARK].lists = {};
    while (this.samples[0].at < at - KEPT_MS) this.samples.shift();
    return restarted;
  }

  /** The recent deliveries per second of one of a list, the oldest first, as far back as they are kept. */
  recent(kind, name) {
    const values = [];
    for (const sample of this.samples.slice(-SPARK)) {
      const value = sample.lists[kind]?.get(name);
      if (typeof value === "number") values.push(value);
    }
    return values;
  }
}

/** What tells one of a list from the others. */
function nameOf(one) { return one.table === undefined ? one.tenant : `${one.tenant}\n${one.table}`; }

/** The numbers of an object and of those in it, by their path (`lag_ms.p99`). */
function flatten(object, before, into) {
  for (const [name, value] of Object.entries(object)) {
    if (typeof value === "number") into[before + name] = value;
    else if (value && typeof value === "object" && !Array.isArray(value)) flatten(value, `${before}${name}.`, into);
  }
}
