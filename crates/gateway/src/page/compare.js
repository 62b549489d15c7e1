// The page that shows one table as several visitors see it. Who they are stands in the address behind the #, which a
// browser neither sends nor logs: tokens are secrets.

const MOST_PANES = 12;
const HUES = [174, 262, 32, 210, 330, 96];

/** The address's pairs, in order: what follows a token belongs to its pane, what comes before the first to all. */
function readAddress() {
  const page = { title: "", note: "", panes: [] };
  const common = {};
  let spec = common;
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    if (name === "title" || name === "note") page[name] = value;
    else if (name === "token") page.panes.push((spec = { ...common, token: value }));
    else if (name === "tenant" || name === "table" || name === "where") spec[name] = value;
  }
  page.panes = page.panes.filter((pane) => pane.table).slice(0, MOST_PANES);
  return page;
}

function show() {
  const { title, note, panes: specs } = readAddress();
  byId("none").hidden = specs.length > 0;
  byId("legend").hidden = !specs.length;
  byId("title").textContent = title || "Side by side";
  byId("note").textContent = note;
  const panes = specs.map((spec) => new Pane(spec, () => align(panes, spec.table)));
  // Panes of a tenant share a colour.
  const tenants = [];
  for (const pane of panes) {
    const tenant = pane.spec.tenant || String((pane.claims && pane.claims.tenant) || "");
    if (!tenants.includes(tenant)) tenants.push(tenant);
    pane.root.style.setProperty("--hue", HUES[tenants.indexOf(tenant) % HUES.length]);
  }
  const columns = Math.ceil(Math.sqrt(panes.length));
  byId("panes").style.setProperty("--columns", columns || 1);
  byId("panes").replaceChildren(...panes.map((pane) => pane.root));
  for (const pane of panes) pane.connection.open();
  addEventListener("online", () => panes.forEach((pane) => pane.connection.hurry()));
}

/** Gives all panes of a table the same columns, in the order of the one that sees most. */
function align(panes, table) {
  const known = panes.filter((pane) => pane.spec.table === table && pane.copy && pane.copy.place);
  const union = [];
  for (const pane of [...known].sort((a, b) => b.copy.columns.length - a.copy.columns.length)) {
    for (const column of pane.copy.columns) if (!union.some(({ name }) => name === column.name)) union.push(column);
  }
  for (const pane of known) {
    const before = JSON.stringify(pane.columns.map(({ name, type, at }) => [name, type, at]));
    const after = JSON.stringify(union.map(({ name, type }) => [name, type, pane.copy.place.get(name) ?? null]));
    if (before !== after) pane.layOut(union);
  }
}

addEventListener("hashchange", () => location.reload());
show();
