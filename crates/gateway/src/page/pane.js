// A pane: one visitor's connection and what that visitor sees of a table.

const PANE_FLASH_MS = 1800;   // slower than on the other page: here the eye follows a row from pane to pane
const PANE_ROWS = 200;        // rows that a pane draws; it holds and counts all of them
const RETRY_MS = 2000;        // between two tries to subscribe to what was refused
const UNTOLD = new Set(["exp", "iat", "nbf", "jti", "name"]); // claims that say nothing of rights

/** What a JSON Web Token claims, for show only: the server is who checks it. Null for another kind of token. */
function claimsOf(token) {
  try {
    const bytes = Uint8Array.from(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    return claims && typeof claims === "object" ? claims : null;
  } catch { return null; }
}

class Pane {
  /** `spec`: {token, tenant, table, where}; `relaid(pane)` is called when its columns are others. */
  constructor(spec, relaid) {
    this.spec = spec;
    this.relaid = relaid;
    this.claims = spec.token ? claimsOf(spec.token) : null;
    this.serial = 0;
    this.copy = null;
    this.shape = null;
    this.cursor = null;
    this.retry = 0;
    this.columns = [];       // on show: {name, type, at}; `at` is the place in the copy's rows, null: withheld
    this.lines = new Map();  // key text → <tr>
    this.ghosts = new Map(); // the same, of rows that have just left
    this.queued = false;
    this.build();
    this.connection = new Connection({
      hello: () => this.hello(),
      message: (message) => this.receive(message),
      state: (kind, text) => this.state(kind, text),
      refused: (why) => { this.end(); this.trouble(this.wrong || why); this.drawToggle(); },
    });
  }

  get name() {
    const claims = this.claims || {};
    return String(claims.name || claims.sub || (this.spec.token ? "A visitor" : "Without a token"));
  }

  // --- the wire ---

  subscription() {
    const { table, where } = this.spec;
    return where ? { id: this.copy.id, table, where } : { id: this.copy.id, table };
  }

  hello() {
    const { token, tenant } = this.spec;
    const hello = { type: "hello", client: { id: "compare", name: `whagons_rte page: ${this.name}` } };
    if (token) hello.token = token;
    if (tenant) hello.tenant = tenant;
    clearTimeout(this.retry);
    this.shape = null;
    this.wrong = "";
    if (this.copy && this.copy.ready && this.cursor) {
      this.copy.resync(); // unless it goes on, a snapshot replaces it
      hello.cursor = this.cursor;
      this.since = { at: performance.now(), ...this.copy.tally };
    } else this.begin();
    hello.subscriptions = [this.subscription()];
    return hello;
  }

  begin() {
    const tally = this.copy ? this.copy.tally : null;
    this.copy = new Copy(`rows${++this.serial}`, this.spec.table);
    if (tally) this.copy.tally = tally;
    this.cursor = null;
    this.since = null;
  }

  /** There is nothing to see any more. */
  end() {
    this.begin();
    this.shape = null;
    this.redraw();
  }

  receive(message) {
    const ours = this.copy && message.id === this.copy.id;
    switch (message.type) {
      case "welcome":
        this.connection.welcomed();
        this.drawWho(message);
        break;
      case "subscribed":
        if (!ours) break;
        this.copy.subscribed(message);
        this.shape = message.shape;
        if (!message.resumed) this.since = null;
        this.trouble("");
        this.relaid(this);
        break;
      case "snapshot": if (ours) this.copy.snapshot(message); break;
      case "changes": if (message.shape === this.shape) this.copy.pending.push(message.changes); break;
      case "commit": this.committed(message); break;
      case "resync":
        if (!ours) break;
        this.shape = null;
        this.copy.resync();
        this.tell(`Read anew: ${String(message.reason).replaceAll("_", " ")}`);
        break;
      case "error": this.failed(message, ours); break;
      case "unsubscribed": if (ours) this.again(); break;
    }
  }

  committed(message) {
    const copy = this.copy;
    if (!copy) return;
    const now = performance.now();
    copy.commit(now);
    this.cursor = message.cursor;
    if (this.since) {
      const { at, entered, left, changed } = this.since;
      const missed = copy.tally.entered - entered + copy.tally.left - left + copy.tally.changed - changed;
      this.since = null;
      this.tell(`Back in ${Math.max(1, Math.round(now - at))} ms, ${missed ? `caught up with ${figure(missed)} ${missed === 1 ? "change" : "changes"}` : "nothing was missed"}`);
    }
    this.redraw();
  }

  failed(message, ours) {
    if (message.code === "INVALID_CURSOR") return; // a snapshot follows
    this.wrong = [message.message, message.hint].filter(Boolean).map(sentence).join(" ");
    this.trouble(this.wrong);
    if (ours) this.again();
  }

  /** The subscription has ended. What is not granted now may be granted soon. */
  again() {
    this.end();
    clearTimeout(this.retry);
    this.retry = setTimeout(() => this.connection.send({ type: "subscribe", ...this.subscription() }), RETRY_MS);
  }

  // --- the screen ---

  build() {
    const root = (this.root = byId("pane").content.firstElementChild.cloneNode(true));
    const part = (selector) => root.querySelector(selector);
    this.ui = {
      chips: part(".chips"), count: part(".count b"), rows: part(".count span"), state: part(".state"), trouble: part(".trouble"),
      scroll: part(".scroll"), table: part("table"), columns: part("colgroup"), head: part("thead"), body: part("tbody"),
      empty: part(".empty"), tally: part(".tally"), said: part(".said"), toggle: part("button"),
    };
    part("h2").textContent = this.name;
    root.setAttribute("aria-label", this.name);
    this.ui.scroll.setAttribute("aria-label", `What ${this.name} sees of ${this.spec.table}`);
    const told = this.claims && Object.fromEntries(Object.entries(this.claims).filter(([claim]) => !UNTOLD.has(claim)));
    part(".claims").textContent = told ? JSON.stringify(told) : this.spec.token ? "a token of another kind" : "no token";
    part(".claims").title = "The token's claims, which policies read as current_setting('request.jwt.claims')";
    this.ui.toggle.addEventListener("click", () => {
      this.connection.wanted = !this.connection.wanted;
      if (this.connection.wanted) this.connection.hurry();
      else this.connection.close("Disconnected by you");
      this.drawToggle();
    });
  }

  drawToggle() { this.ui.toggle.textContent = this.connection.wanted ? "Disconnect" : "Reconnect"; }

  /** Who the server says it is. */
  drawWho({ tenant, role }) {
    const claimed = this.claims && typeof this.claims.tenant === "string" ? this.claims.tenant : "";
    const of = this.spec.tenant ? tenant : claimed;
    this.ui.chips.replaceChildren(
      ...(of ? [element("span", of, { className: "tenant", title: "Tenant" })] : []),
      element("span", role, { className: "role", title: "Role in the database" }));
  }

  state(kind, text) {
    this.ui.state.dataset.state = kind;
    if (this.ui.state.textContent !== text) this.ui.state.textContent = text;
  }

  trouble(text) {
    this.ui.trouble.textContent = text;
    this.ui.trouble.hidden = !text;
  }

  tell(text) { this.ui.said.textContent = text; }

  redraw() {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame(() => { this.queued = false; this.draw(); });
  }

  /** Takes the columns to show: those that somebody on the page sees, so that the panes can be compared. */
  layOut(columns) {
    const copy = this.copy;
    this.columns = columns.map(({ name, type }) => ({ name, type, at: copy.place.get(name) ?? null, width: name.length + 2 }));
    const line = element("tr");
    for (const column of this.columns) {
      const cell = element("th", column.name, { scope: "col", className: classOf(column) });
      cell.title = column.at === null ? "This visitor may not see the column" : column.type;
      line.append(cell);
    }
    this.ui.head.replaceChildren(line);
    this.ui.columns.replaceChildren(...this.columns.map(() => element("col")));
    this.ui.body.replaceChildren();
    this.lines.clear();
    this.ghosts.clear();
    this.redraw();
  }

  draw() {
    const copy = this.copy;
    const rows = copy.ready ? copy.byKey().slice(0, PANE_ROWS) : [];
    this.ui.count.textContent = copy.ready ? figure(copy.rows.size) : "–";
    this.ui.rows.textContent = copy.rows.size === 1 ? "row" : "rows";
    const { entered, left, changed } = copy.tally;
    this.ui.tally.textContent = `${figure(entered)} came · ${figure(changed)} changed · ${figure(left)} left`;
    this.ui.empty.hidden = !copy.ready || rows.length > 0;
    const now = performance.now();
    const seen = new Set(rows.map((row) => row.id));
    for (const [id, line] of this.lines) if (!seen.has(id)) this.leave(id, line);
    for (const row of rows) if (this.ghosts.has(row.id)) this.forget(row.id);
    let place = this.ui.body.firstChild;
    for (const row of rows) {
      while (place && place.leaving) place = place.nextSibling;
      let line = this.lines.get(row.id);
      if (!line) this.lines.set(row.id, (line = this.makeLine()));
      if (line === place) place = place.nextSibling;
      else this.ui.body.insertBefore(line, place);
      this.drawRow(line, row, now);
    }
    this.setWidths();
  }

  makeLine() {
    const line = element("tr");
    line.append(...this.columns.map((column) => element("td", "", { className: classOf(column) })));
    return line;
  }

  drawRow(line, row, now) {
    if (row.born && row.born !== line.born && now - row.born < PANE_FLASH_MS) flash(line, "--enter", now - row.born, PANE_FLASH_MS);
    line.born = row.born;
    this.columns.forEach((column, i) => {
      if (column.at === null) return;
      const cell = line.children[i];
      const value = row.values[column.at];
      if (cell.shown !== value) {
        cell.shown = value;
        cell.textContent = text(value);
        cell.classList.toggle("null", value === null);
        column.width = Math.max(column.width, Math.min(cell.textContent.length, 40));
      }
      const touched = (row.touched && row.touched[column.at]) || 0;
      if (touched && touched !== cell.touched && now - touched < PANE_FLASH_MS) {
        if (cell.flash) cell.flash.cancel();
        cell.flash = flash(cell, "--flash", now - touched, PANE_FLASH_MS);
      }
      cell.touched = touched;
    });
  }

  /** A row that is no longer to be seen is struck out for a moment, so that the eye can find where it was. */
  leave(id, line) {
    this.lines.delete(id);
    this.forget(id);
    this.ghosts.set(id, line);
    line.leaving = true;
    line.className = "left";
    line.setAttribute("aria-hidden", "true");
    for (const cell of line.children) if (cell.flash) cell.flash.cancel();
    setTimeout(() => { if (this.ghosts.get(id) === line) this.forget(id); }, PANE_FLASH_MS);
  }

  forget(id) {
    const ghost = this.ghosts.get(id);
    if (ghost) ghost.remove();
    this.ghosts.delete(id);
  }

  /** Columns grow with what they have held, and never shrink: a table must not twitch. */
  setWidths() {
    const total = this.columns.reduce((sum, column) => sum + column.width + 3, 0);
    this.columns.forEach((column, i) => {
      const width = `${((column.width + 3) / total) * 100}%`;
      const shown = this.ui.columns.children[i];
      if (shown.style.width !== width) shown.style.width = width;
    });
    this.ui.table.style.minWidth = `${Math.round(total * CHARACTER)}px`;
  }
}

function sentence(words) { return `${words[0].toUpperCase()}${words.slice(1).replace(/\.$/, "")}.`; }

function classOf(column) {
  return column.at === null ? "withheld" : NUMERIC.has(column.type) ? "number" : "";
}
