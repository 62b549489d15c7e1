// The screen: draws what is in view, once per frame.

const ui = {
  server: byId("server"), links: byId("links"), state: byId("state"), toggle: byId("toggle"), trouble: byId("trouble"), none: byId("none"),
  rows: byId("rows"), rowsNote: byId("rows-note"), ticks: byId("ticks"), changes: byId("changes"), latency: byId("latency"),
  clock: byId("clock"), cursor: byId("cursor"), caught: byId("caught"), bar: byId("bar"),
  plotTicks: byId("plot-ticks"), plotChanges: byId("plot-changes"), plotLatency: byId("plot-latency"),
  tables: byId("tables"), order: byId("order"), progress: byId("progress").firstElementChild, main: document.querySelector("main"),
  scroll: byId("scroll"), table: byId("table"), caption: byId("caption"), range: byId("range"), hint: byId("hint"), empty: byId("empty"),
  columns: document.querySelector("colgroup"), head: document.querySelector("thead"), body: document.querySelector("tbody"),
  lines: [],          // pool of <tr> for the rows in view
  layout: false,      // whether the columns on the page are those of the copy
  orderShown: "key", orderChosen: null, queued: false,
};
const ROW = 30;
const MOST = 400000;  // rows that can be scrolled to; browsers limit the height of a page

function state(kind, text) {
  ui.state.dataset.state = kind;
  if (ui.state.textContent !== text) ui.state.textContent = text;
}

function drawToggle() { ui.toggle.textContent = connection.wanted ? "Disconnect" : "Reconnect"; }

/** Links of rows {title, address}: to this origin only, whoever wrote them. */
function drawLinks(rows) {
  ui.links.replaceChildren(...rows.flatMap(({ title, address }) => {
    const target = URL.canParse(address, location.origin) ? new URL(address, location.origin) : null;
    return target && target.origin === location.origin ? [element("a", title, { href: target.href })] : [];
  }));
}

function said(text) { ui.caught.textContent = text || "\u00a0"; }

function trouble(message) {
  const [title, more, sql] = PLAIN[message.code] || ["The server answered with an error"];
  ui.trouble.replaceChildren(element("h2", title));
  const words = element("p", `${message.message}${message.code ? ` (${message.code})` : ""}`);
  ui.trouble.append(words);
  if (message.hint) ui.trouble.append(element("p", `Hint: ${message.hint}`));
  if (more) ui.trouble.append(element("p", more));
  if (sql) ui.trouble.append(element("pre", sql));
  ui.trouble.hidden = false;
}

function untrouble() { ui.trouble.hidden = true; }

function drawTables() {
  ui.none.hidden = net.tables.length > 0;
  ui.bar.hidden = net.tables.length === 0;
  if (!net.tables.length) {
    ui.none.replaceChildren(
      element("h2", "No table is registered yet"),
      element("p", `Register one that has a primary key, and let the role that this page connects as read it. The page looks again every few seconds.`),
      element("pre", `SELECT rte.register_table('public.my_table');\nGRANT SELECT ON public.my_table TO ${net.role || "web_anon"};`));
  }
  const short = net.tables.every((table) => table.name.startsWith("public."));
  ui.tables.replaceChildren(...net.tables.map((table) => {
    const link = element("a", short ? table.name.slice(7) : table.name, { href: `#${encodeURIComponent(table.name)}` });
    if (net.copy && net.copy.table === table.name) link.setAttribute("aria-current", "true");
    return link;
  }));
}

function redraw() {
  if (ui.queued) return;
  ui.queued = true;
  requestAnimationFrame(() => { ui.queued = false; draw(); });
}

function draw() {
  const copy = net.copy;
  // Its place changes with each commit; what it says of this connection does not.
  const cursor = (net.cursor || "–").split(".")[0];
  ui.cursor.textContent = cursor.length > 20 ? `${cursor.slice(0, 8)}…${cursor.slice(-8)}` : cursor;
  ui.cursor.title = net.cursor || "";
  const known = copy !== null && copy.columns.length > 0;
  ui.main.hidden = ui.order.hidden = !known;
  drawProgress(copy);
  if (!known) return;
  if (copy.replaced) { // what waited behind a whole table tells nothing about a tick
    copy.replaced = false;
    ui.layout = false;
    meter.unseen = [];
  }
  if (!ui.layout && (copy.ready || copy.stage)) layOut(copy);
  if (!copy.ready) meter.unseen = [];
  const rows = pickRows(copy);
  drawRows(copy, rows);
  // The pixels are on their way once this frame ends; a task after it is the nearest moment that a page can see.
  if (meter.unseen.length) { const channel = draw.after ||= afterFrame(); channel(); }
}

/** A callback soon after the frame is produced: a message is delivered behind the frame's own work. */
function afterFrame() {
  const channel = new MessageChannel();
  channel.port1.onmessage = () => meter.seen();
  return () => channel.port2.postMessage(0);
}

function drawProgress(copy) {
  if (!copy) {
    ui.rows.textContent = "–";
    ui.rowsNote.textContent = "\u00a0";
    return;
  }
  const loading = copy.stage !== null;
  ui.rows.textContent = copy.ready || loading ? figure(loading && !copy.ready ? copy.stage.length : copy.rows.size) : "–";
  const of = copy.expected ? `, about ${figure(Math.max(copy.expected, copy.stage ? copy.stage.length : 0))}` : "";
  ui.rowsNote.textContent = loading ? (copy.ready ? "reading anew" : `reading${of}`) : copy.ready ? copy.table : "\u00a0";
  const share = loading ? Math.min(1, copy.stage.length / Math.max(copy.expected, copy.stage.length * 1.2, 1)) : 0;
  ui.progress.style.width = `${share * 100}%`;
}

/** Columns: names, types, and widths from what the first rows hold. */
function layOut(copy) {
  const sample = copy.ready ? copy.byKey().slice(0, 100).map((row) => row.values) : copy.stage.slice(0, 100);
  const widths = copy.columns.map((column, i) => {
    const isKey = copy.keyIndex.includes(i);
    let width = column.name.length + column.type.length + (isKey ? 6 : 2);
    for (const values of sample) width = Math.max(width, text(values[i]).trimEnd().length);
    return Math.min(width + 4, 48);
  });
  const total = widths.reduce((sum, width) => sum + width, 0);
  ui.columns.replaceChildren(...widths.map((width) => {
    const column = element("col");
    column.style.width = `${Math.round(width * CHARACTER)}px`;
    return column;
  }), element("col")); // takes the room that is left, so that few columns stay close together
  ui.table.style.minWidth = `${Math.round(total * CHARACTER)}px`;
  const line = element("tr");
  copy.columns.forEach((column, i) => {
    const cell = element("th", column.name, { scope: "col", className: NUMERIC.has(column.type) ? "number" : "" });
    cell.append(element("span", column.type, { className: "type" }));
    if (copy.keyIndex.includes(i)) cell.append(element("span", "key", { className: "keymark" }));
    line.append(cell);
  });
  line.append(element("td", null, { className: "rest" }));
  ui.head.replaceChildren(line);
  ui.caption.textContent = `Live rows of ${copy.table}`;
  ui.lines = [];
  ui.above = spacer(copy);
  ui.below = spacer(copy);
  ui.body.replaceChildren(ui.above, ui.below);
  ui.layout = true;
  // In a large table the first rows by key seldom change, so there the changes themselves are worth more.
  if (copy.ready || copy.expected) {
    setOrder(ui.orderChosen || ((copy.ready ? copy.rows.size : copy.expected) > 1000 ? "last" : "key"));
    if (!copy.ready) ui.layout = false; // widths again from the real rows
  }
}

function spacer(copy) {
  const line = element("tr", null, { className: "space" });
  line.setAttribute("aria-hidden", "true");
  line.append(element("td", null, { colSpan: copy.columns.length + 1 }));
  return line;
}

function setOrder(order) {
  ui.orderShown = order;
  ui.order.querySelector(`[value=${order}]`).checked = true;
}

function pickRows(copy) {
  const all = copy.byKey(); // also keeps the merge small while the other order is on show
  return ui.orderShown === "key" ? all : copy.byChange();
}

function drawRows(copy, rows) {
  const reach = Math.min(rows.length, MOST);
  const head = ui.head.offsetHeight || ROW;
  const room = ui.scroll.clientHeight - head;
  let first = Math.max(0, Math.floor(ui.scroll.scrollTop / ROW) - 3);
  const count = Math.min(reach, Math.ceil(room / ROW) + 7);
  first = Math.max(0, Math.min(first, reach - count));
  while (ui.lines.length < count) {
    const line = element("tr");
    for (const column of copy.columns) line.append(element("td", null, { className: NUMERIC.has(column.type) ? "number" : "" }));
    line.append(element("td"));
    ui.body.insertBefore(line, ui.below);
    ui.lines.push(line);
  }
  const now = performance.now();
  ui.lines.forEach((line, i) => {
    const row = i < count ? rows[first + i] : null;
    line.hidden = !row;
    if (!row) { line.row = null; return; }
    drawRow(copy, line, row, now);
    const place = String(first + i + 2);
    if (line.place !== place) { line.place = place; line.setAttribute("aria-rowindex", place); }
  });
  setHeight(ui.above, first * ROW);
  setHeight(ui.below, Math.max(0, reach - first - count) * ROW);
  ui.table.setAttribute("aria-rowcount", String(reach + 1));
  drawFoot(copy, rows, room, reach);
}

function setHeight(line, height) {
  if (line.shownHeight === height) return;
  line.shownHeight = height;
  line.hidden = height === 0;
  line.firstChild.style.height = `${height}px`;
}

function drawRow(copy, line, row, now) {
  const other = line.row !== row;
  line.row = row;
  const born = row.born && now - row.born < FLASH_MS ? row.born : 0;
  if (other && line.flash) { line.flash.cancel(); line.flash = null; }
  if (born && (other || line.born !== born)) line.flash = flash(line, "--enter", now - born);
  line.born = born;
  for (let i = 0; i < copy.columns.length; i++) {
    const cell = line.children[i];
    const value = row.values[i];
    if (other || cell.shown !== value) {
      cell.shown = value;
      cell.firstChild ? (cell.firstChild.nodeValue = text(value)) : cell.append(text(value));
      cell.classList.toggle("null", value === null);
    }
    const touched = (row.touched && row.touched[i]) || 0;
    if (other && cell.flash) { cell.flash.cancel(); cell.flash = null; }
    if (touched && now - touched < FLASH_MS && (other || cell.touched !== touched)) {
      if (cell.flash) cell.flash.cancel();
      cell.flash = flash(cell, "--flash", now - touched);
    }
    cell.touched = touched;
  }
}

function drawFoot(copy, rows, room, reach) {
  const total = copy.rows.size;
  const from = Math.min(reach, Math.floor(ui.scroll.scrollTop / ROW) + 1);
  const to = Math.min(reach, Math.ceil((ui.scroll.scrollTop + room) / ROW));
  let range, empty = "";
  if (!copy.ready) range = "Reading the table";
  else if (ui.orderShown === "last") {
    range = `The last ${figure(rows.length)} changed of ${figure(total)} rows`;
    if (!rows.length) { range = `${figure(total)} rows`; empty = "Nothing has changed since this page began to watch. A row appears here as soon as its change commits."; }
  } else {
    const cut = total > MOST ? `, scrolling through the first ${figure(MOST)}` : "";
    range = total ? `Rows ${figure(from)}–${figure(to)} of ${figure(total)}, by ${copy.key.join(", ")}${cut}` : "No rows";
    if (!total) empty = "The table is empty. A row appears here as soon as it is committed.";
  }
  if (ui.range.textContent !== range) ui.range.textContent = range;
  ui.empty.hidden = !empty;
  if (empty && ui.empty.textContent !== empty) ui.empty.textContent = empty;
}
