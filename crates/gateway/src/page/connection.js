// How a page stays connected: when it comes back, with what, and what it tells meanwhile.

const OPEN_LIMIT_MS = 10000;

/** What a close code asks for (rule 7 of the contract): when to come back, and what to tell. */
const CLOSED = {
  1000: ["now", "the server closed the connection"],
  1001: ["now", "the server stops"],
  1006: ["now", "the connection broke"],
  1012: ["now", "the server restarts"],
  1013: ["later", "the server is busy or not ready"],
  4400: ["never", "the server did not understand this page"],
  4401: ["never", "the server wants a valid token"],
  4403: ["never", "the server does not allow it"],
  4404: ["never", "there is no such tenant, or not any more"],
  4408: ["now", "the connection timed out"],
  4409: ["now", "this page was too slow; it goes on where it was"],
  4413: ["never", "a message was too large"],
  4429: ["later", "too many messages, or too many wrong tokens"],
};

/** Plain words for the codes that a visitor of this page can meet. */
const PLAIN = {
  UNAUTHORIZED: ["The server does not let anonymous visitors in",
    "Show a token, or name a role whose rights visitors get:",
    "CREATE ROLE web_anon NOLOGIN;\nGRANT SELECT ON my_table TO web_anon;\nALTER SYSTEM SET rte.anon_role = 'web_anon';\nSELECT pg_reload_conf();"],
  FORBIDDEN: ["The role may not do that"],
  UNKNOWN_TENANT: ["There is no such tenant"],
  UNKNOWN_TABLE: ["This table cannot be read here", "It does not exist, is not registered, or the role may not read it."],
  UNKNOWN_COLUMN: ["A column cannot be read here", "It does not exist, is not registered, or the role may not read it."],
  TENANT_NOT_READY: ["The tenant's database is not ready yet", "This page tries again by itself."],
  POLICY_FAILED: ["The table's row-level security cannot be evaluated for this session", "The server's log says why."],
  POLICY_TOO_COSTLY: ["The table's policies are too costly to follow live", "They have to be asked of the database row by row, and it has more rows than rte.max_asked_rows."],
  CAPTURE_DISABLED: ["Changes of this table are not captured", "Its capture trigger is missing or disabled. Registering the table again puts it back:", "SELECT rte.register_table('my_table');"],
  NOT_READY: ["The database's workers are not running yet", "This page tries again by itself."],
  TOO_MANY_REQUESTS: ["Too many messages, or too many wrong tokens", "This page tries again by itself."],
  TOO_MANY_CONNECTIONS: ["Too many connections", "This page tries again by itself."],
  SNAPSHOT_FAILED: ["The table could not be read to its end"],
  INTERNAL: ["The server met a fault of its own", "Its log says more."],
};

/**
 * One connection that comes back by itself, as long as the close codes let it.
 * `on.hello()` is the first message, `on.message(message)` gets each that arrives, `on.state(kind, text)` is told how
 * it stands (wait, live, off, refused), `on.refused(text)` that it will not come back.
 */
class Connection {
  constructor(on) {
    this.on = on;
    this.socket = null;
    this.attempts = 0;
    this.timer = 0;
    this.wanted = true; // false while the visitor has disconnected, or the server has refused
  }

  open() {
    clearTimeout(this.timer);
    const address = new URL("/ws", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    address.search = "";
    address.hash = "";
    const socket = (this.socket = new WebSocket(address, "rte.v1"));
    this.on.state("wait", "Connecting");
    const late = setTimeout(() => socket.close(), OPEN_LIMIT_MS);
    socket.onopen = () => {
      clearTimeout(late);
      if (socket === this.socket) socket.send(JSON.stringify(this.on.hello()));
    };
    socket.onmessage = (event) => { if (socket === this.socket) this.on.message(JSON.parse(event.data)); };
    socket.onclose = (event) => { clearTimeout(late); if (socket === this.socket) this.closed(event); };
  }

  /** To be called when the server has welcomed. */
  welcomed() {
    this.attempts = 0;
    this.on.state("live", "Connected");
  }

  closed(event) {
    this.socket = null;
    if (!this.wanted) { this.on.state("off", "Disconnected by you"); return; }
    const [when, why] = CLOSED[event.code] || ["later", `closed with code ${event.code}`];
    if (when === "never") {
      this.wanted = false;
      this.on.state("refused", `Refused: ${why}`);
      this.on.refused(event.reason || why);
      return;
    }
    const first = when === "now" ? 50 : 1000;
    const delay = Math.min(first * 2 ** this.attempts, 15000) * (0.7 + Math.random() * 0.6);
    this.attempts++;
    this.on.state("wait", `Reconnecting${delay > 900 ? ` in ${Math.round(delay / 1000)} s` : ""}: ${why}`);
    this.timer = setTimeout(() => this.open(), delay);
  }

  close(why) {
    clearTimeout(this.timer);
    const socket = this.socket;
    this.socket = null;
    if (socket) socket.close(1000);
    this.on.state("off", why);
  }

  /** Opens at once what waits for its turn; a closed one that is not wanted stays closed. */
  hurry() {
    if (!this.wanted || this.socket) return;
    this.attempts = 0;
    this.open();
  }

  send(message) {
    if (this.socket && this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }
}
