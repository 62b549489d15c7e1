// The page that shows one registered table at a time.

const query = new URLSearchParams(location.search);
const HELLO = { token: query.get("token"), tenant: query.get("tenant") || query.get("domain") };
/** A table that the page does not show but reads: rows (title, address) become links in its head. */
const LINKS = "demo.links";

const net = {
  cursor: null,
  copy: null,         // the subscription on show
  links: null,        // the copy of LINKS, where the visitor may read it
  shapes: new Map(),  // shape → copy
  tables: [],
  role: "",
  serial: 0,
  timer: 0,           // the next look for tables, while there are none
  resuming: null,     // {since}: between a reconnection and its first commit
};

const connection = new Connection({
  hello() {
    const hello = { type: "hello", client: { id: "page", name: "whagons_rte page" } };
    if (HELLO.token) hello.token = HELLO.token;
    if (HELLO.tenant) hello.tenant = HELLO.tenant;
    net.shapes.clear();
    net.links = null;
    net.resuming = null;
    if (net.copy && net.copy.ready && net.cursor) {
      hello.cursor = net.cursor;
      hello.subscriptions = [{ id: net.copy.id, table: net.copy.table }];
      net.resuming = { since: performance.now() };
    } else {
      net.copy = null;
      net.cursor = null;
    }
    return hello;
  },
  message: receive,
  state,
  refused(why) {
    if (ui.trouble.hidden) trouble({ code: "", message: why });
    drawToggle();
  },
});

/** The copy that a message with an id is about, if it is one of ours. */
function named(id) {
  return [net.copy, net.links].find((copy) => copy && copy.id === id) || null;
}

function receive(message) {
  const copy = message.id === undefined ? null : named(message.id);
  switch (message.type) {
    case "welcome": welcome(message); break;
    case "subscribed":
      if (!copy) break;
      copy.subscribed(message);
      net.shapes.set(message.shape, copy);
      if (copy !== net.copy) break;
      if (net.resuming && !message.resumed) { net.resuming = null; said("Read anew: the cursor was too old"); }
      untrouble();
      ui.layout = ui.layout && !copy.layoutChanged;
      redraw();
      break;
    case "snapshot":
      if (copy) { copy.snapshot(message); redraw(); }
      break;
    case "changes": {
      const changed = net.shapes.get(message.shape);
      if (changed) changed.pending.push(message.changes);
      break;
    }
    case "commit": committed(message); break;
    case "resync":
      if (!copy) break;
      forgetShapes(copy);
      copy.resync();
      if (copy === net.copy) said(`Reads the table anew: ${String(message.reason).replaceAll("_", " ")}`);
      break;
    case "error": failed(message); break;
  }
}

/** Frames of shapes that are not known are dropped. */
function forgetShapes(copy) {
  for (const [shape, of] of net.shapes) if (of === copy) net.shapes.delete(shape);
}

function welcome(message) {
  net.role = message.role;
  const tables = message.tables || [];
  net.tables = tables.filter((table) => table.name !== LINKS);
  ui.server.textContent = [message.server, message.tenant && `tenant ${message.tenant}`, `as ${message.role}`].filter(Boolean).join(" · ");
  connection.welcomed();
  if (!net.resuming) untrouble();
  if (tables.length > net.tables.length) {
    net.links = new Copy("links", LINKS);
    connection.send({ type: "subscribe", id: net.links.id, table: LINKS });
  } else drawLinks([]);
  drawTables();
  if (net.copy) return; // resumed by hello
  choose();
}

/** Subscribes to the table that the address names, or to the first one. */
function choose() {
  const wanted = decodeURIComponent(location.hash.slice(1));
  const table = net.tables.find((known) => known.name === wanted) || net.tables[0];
  clearTimeout(net.timer);
  if (!table) {
    // Somebody is probably about to run the SQL that is shown: look again from time to time.
    if (connection.wanted) net.timer = setTimeout(() => { connection.close("Looking for tables"); connection.open(); }, 5000);
    return;
  }
  if (net.copy && net.copy.table === table.name) return;
  if (net.copy) {
    connection.send({ type: "unsubscribe", id: net.copy.id });
    forgetShapes(net.copy);
  }
  net.copy = new Copy(`t${++net.serial}`, table.name);
  net.resuming = null;
  if (wanted !== table.name) history.replaceState(null, "", `#${encodeURIComponent(table.name)}`);
  connection.send({ type: "subscribe", id: net.copy.id, table: table.name });
  untrouble();
  meter.reset();
  said("");
  ui.layout = false;
  ui.orderChosen = null;
  ui.scroll.scrollTop = 0;
  drawTables();
  redraw();
}

function committed(message) {
  net.cursor = message.cursor;
  const copy = net.copy;
  const now = performance.now();
  if (net.links && (net.links.commit(now) || net.links.replaced)) {
    net.links.replaced = false;
    drawLinks(net.links.byKey().map((row) => net.links.columns.map((column, i) => [column.name, row.values[i]])).map(Object.fromEntries));
  }
  if (!copy) return;
  const count = copy.commit(now);
  if (net.resuming) {
    const resumed = net.resuming;
    net.resuming = null;
    const took = `${Math.max(1, Math.round(now - resumed.since))} ms`;
    said(count ? `Caught up with ${figure(count)} ${count === 1 ? "change" : "changes"} in ${took}` : `Back in ${took}, nothing was missed`);
    meter.count(count);
  } else if (count) {
    meter.count(count);
    // Several ticks may share an animation frame; the oldest and the newest wait bound what the visitor saw.
    const time = serverTime(message.time);
    meter.received.push([now, clock.now() - time]);
    if (!document.hidden) meter.unseen.push(time);
  }
  redraw();
}

function failed(message) {
  if (message.code === "INVALID_CURSOR") { // the server's history is another one: begin anew
    net.cursor = null;
    net.copy = null;
    connection.close("Begins anew");
    connection.open();
    return;
  }
  if (message.id && net.copy && message.id !== net.copy.id) return;
  trouble(message);
}

// What the visitor does.

ui.toggle.addEventListener("click", () => {
  connection.wanted = !connection.wanted;
  drawToggle();
  if (connection.wanted) { untrouble(); connection.hurry(); }
  else { clearTimeout(net.timer); connection.close("Disconnected by you"); }
});
ui.order.addEventListener("change", (event) => {
  ui.orderChosen = event.target.value;
  setOrder(ui.orderChosen);
  ui.scroll.scrollTop = 0;
  redraw();
});
ui.scroll.addEventListener("scroll", redraw, { passive: true });
addEventListener("resize", redraw);
addEventListener("hashchange", () => { if (net.tables.length) choose(); });
document.addEventListener("visibilitychange", () => {
  meter.unseen = []; // a hidden page draws nothing, so it has no time to screen
  redraw();
});
// Long values are cut in the table; the whole of one is its title, made only when it is pointed at.
ui.body.addEventListener("pointerover", (event) => {
  const cell = event.target.closest("td");
  if (cell && "shown" in cell) cell.title = cell.scrollWidth > cell.clientWidth ? String(cell.firstChild.nodeValue) : "";
});
setInterval(() => { drawFigures(); redraw(); }, 1000);
addEventListener("online", () => { connection.hurry(); });

connection.open();
