// The lists below the plots: tenants, tables, and what has been counted since the gateway's start.

/** More rows than this nobody reads; what is left out is said. */
const MOST_ROWS = 100;
/** From so many on, tenants can be searched. */
const WORTH_A_SEARCH = 12;
/** Rates of a list are those of some seconds together, so that their order holds still. */
const CALM_SAMPLES = 5;

const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);
const unknown = (write) => (value) => (value === null || value === undefined ? "–" : write(value));

/** A table of the page whose rows are kept from one answer to the next, and that is sorted by one of its columns. */
class List {
  /** `columns`: [{title, value(row), write(value), number, wide, line(row)}]; the first is the row's name. */
  constructor(table, columns, sort = 0) {
    this.columns = columns;
    this.body = table.tBodies[0];
    this.rows = new Map();  // name → <tr>
    this.sort = sort;
    this.down = sort > 0;
    this.heads = columns.map((column, i) => this.head(column, i));
    const line = element("tr");
    line.append(...this.heads);
    table.tHead.replaceChildren(line);
    this.showSort();
  }

  head(column, i) {
    const cell = element("th", null, { scope: "col", className: classes(column) });
    if (column.line) { cell.textContent = column.title; return cell; }
    const button = element("button", column.title, { type: "button" });
    button.addEventListener("click", () => {
      this.down = this.sort === i ? !this.down : i > 0;
      this.sort = i;
      this.showSort();
      if (this.shown) this.draw(this.shown);
    });
    cell.append(button);
    return cell;
  }

  showSort() {
    this.heads.forEach((cell, i) => {
      if (i === this.sort) cell.setAttribute("aria-sort", this.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
  }

  draw(rows) {
    this.shown = rows;
    const { value } = this.columns[this.sort];
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      const difference = typeof x === "string" ? x.localeCompare(y) : (x ?? -1) - (y ?? -1);
      return (this.down ? -difference : difference) || a.name.localeCompare(b.name);
    };
    const lines = [...rows].sort(order).slice(0, MOST_ROWS).map((row) => this.line(row));
    lines.forEach((line, i) => { if (this.body.children[i] !== line) this.body.insertBefore(line, this.body.children[i] || null); });
    while (this.body.children.length > lines.length) this.body.lastElementChild.remove();
    for (const [name, line] of this.rows) if (!line.isConnected) this.rows.delete(name);
  }

  line(row) {
    let line = this.rows.get(row.name);
    if (!line) {
      this.rows.set(row.name, (line = element("tr")));
      this.columns.forEach((column, i) => {
        const cell = element(i ? "td" : "th", null, { className: classes(column) });
        if (!i) cell.scope = "row";
        if (column.line) {
          const canvas = element("canvas");
          canvas.setAttribute("aria-hidden", "true");
          cell.append(canvas);
        }
        line.append(cell);
      });
    }
    this.columns.forEach((column, i) => {
      const cell = line.children[i];
      if (column.line) {
        const canvas = cell.firstChild;
        requestAnimationFrame(() => { sparkline(canvas, column.line(row), SPARK, palette().accent); });
        return;
      }
      const value = column.value(row);
      const text = column.write ? column.write(value) : value;
      if (cell.shown !== text) { cell.textContent = cell.shown = text; if (!i && row.note) cell.append(element("small", row.note)); }
      cell.classList.toggle("quiet", i > 0 && !value);
    });
    return line;
  }
}

function classes({ number, wide, spark }) { return [number && "number", wide && "wide", spark && "spark"].filter(Boolean).join(" "); }

const tenants = new List(byId("tenants"), [
  { title: "Tenant", value: (row) => row.label },
  { title: "Clients", value: (row) => row.connections, write: unknown(whole), number: true },
  { title: "Subscriptions", value: (row) => row.subscriptions, write: unknown(whole), number: true, wide: true },
  { title: "Lag p99", value: (row) => row.lag, write: unknown(milliseconds), number: true, wide: true },
  { title: "Deliveries/s", value: (row) => row.rate, write: unknown(perSecond), number: true },
  { title: "Last minute", line: (row) => row.recent, number: true, spark: true },
]);
const tables = new List(byId("tables"), [
  { title: "Table", value: (row) => row.label },
  { title: "Watched by", value: (row) => row.watchers, write: unknown(whole), number: true },
  { title: "Deliveries/s", value: (row) => row.rate, write: unknown(perSecond), number: true },
  { title: "Last minute", line: (row) => row.recent, number: true, spark: true },
]);

/** What is worth a line, and (true) what is worth a thought when it has grown while the page was open. */
const COUNTS = [
  ["connections_total", "Connections opened"],
  ["deliveries_total", "Deliveries"],
  ["snapshot_rows_total", "Rows of first copies"],
  ["jobs_waiting", "Waiting for a query worker"],
  ["queue_high_water_bytes", "Largest queue of a client", bytes],
  ["slow_consumers_total", "Closed for being slow", whole, true],
  ["rate_limited_total", "Turned away: too often", whole, true],
  ["refused_total", "Turned away: full", whole, true],
  ["failed_tokens_total", "Wrong tokens", whole, true],
];

function drawLists(past, stats) {
  drawTenants(past, stats.tenants);
  drawTables(past, stats.tables, stats.tenants);
  byId("since").textContent = timeOfDay(Date.now() - stats.uptime_seconds * 1000) + (stats.uptime_seconds > 86400 ? `, ${duration(stats.uptime_seconds)} ago` : "");
  const before = past.samples[0].stats;
  byId("counts").replaceChildren(...COUNTS.filter(([name]) => stats[name] !== undefined).map(([name, title, write = whole, guard]) => {
    const line = element("div", null, { className: guard && stats[name] > (before[name] ?? stats[name]) ? "raised" : "" });
    line.append(element("dt", title), element("dd", write(stats[name])));
    return line;
  }));
}

const sought = byId("search").querySelector("input");
sought.addEventListener("input", () => { if (past.last) drawLists(past, past.last.stats); });

function drawTenants(past, all) {
  byId("tenants-panel").hidden = !all;
  if (!all) return;
  byId("search").hidden = all.length < WORTH_A_SEARCH;
  const part = sought.value.trim().toLowerCase();
  const found = part ? all.filter((one) => labelOf(one).toLowerCase().includes(part)) : all;
  tenants.draw(found.map((one) => {
    const recent = past.recent("tenants", nameOf(one));
    return { name: nameOf(one), label: labelOf(one), connections: one.connections, subscriptions: one.subscriptions,
      lag: one.lag_ms?.p99, recent, rate: mean(recent.slice(-CALM_SAMPLES)) };
  }));
  say("tenants", found, part ? "No tenant of that name." : "No tenant’s database is attached.", all.length);
}

function drawTables(past, all, allTenants) {
  byId("tables-panel").hidden = !all;
  if (!all) return;
  const several = (allTenants || []).length > 1;
  tables.draw(all.map((one) => {
    const recent = past.recent("tables", nameOf(one));
    return { name: nameOf(one), label: one.table.replace(/^public\./, ""), note: several ? labelOf(one) : "", watchers: one.watchers,
      recent, rate: mean(recent.slice(-CALM_SAMPLES)) };
  }));
  say("tables", all, "Nobody watches a table just now.", all.length);
}

/** The landlord database is the tenant without a name. */
function labelOf(one) { return one.tenant || "landlord"; }

function say(list, found, empty, all) {
  byId(`${list}-count`).textContent = found.length > MOST_ROWS ? `${MOST_ROWS} of ${figure(found.length)}` : found.length < all ? `${figure(found.length)} of ${figure(all)}` : figure(all);
  byId(`${list}-empty`).hidden = found.length > 0;
  byId(`${list}-empty`).textContent = empty;
  byId(list).hidden = found.length === 0;
}
