// How the copy stands, in words: its first rows on their way, live, offline. The client knows; this only tells.

import { byId, h, write } from "./dom.js";

const WORDS = {
  connecting: "Connecting",
  syncing: "Syncing",
  live: "Live",
  offline: "Offline",
  refused: "Refused",
  stopped: "Stopped",
};
const TRANSPORTS = { websocket: "WebSocket", events: "server-sent events", poll: "long polling" };
const TABLES = { waiting: "waiting", syncing: "first copy", stale: "catching up", live: "live", refused: "refused" };

export class Status {
  /** `leave` ends the visit and removes the copy. */
  constructor(session, leave) {
    this.status = { state: "connecting", leader: false, transport: null, storage: "indexeddb", time: null, tables: {} };
    this.counts = {};
    this.told = "";
    session.online = () => !["offline", "refused", "stopped"].includes(this.state());
    this.forget = () => leave(true);
    this.away = (event) => {
      const outside = event.type === "pointerdown" && !byId("status").contains(event.target);
      if (event.key === "Escape" || outside) byId("status").open = false;
    };
    byId("forget").addEventListener("click", this.forget);
    addEventListener("pointerdown", this.away);
    addEventListener("keydown", this.away);
    this.draw();
  }

  close() {
    byId("forget").removeEventListener("click", this.forget);
    removeEventListener("pointerdown", this.away);
    removeEventListener("keydown", this.away);
    byId("status").open = false;
    byId("banner").hidden = true;
    byId("progress").hidden = true;
  }

  show(status) {
    // What went wrong on the way is over once it goes well.
    if (status.state === "live" && this.status.state !== "live") this.told = "";
    this.status = status;
    this.draw();
  }

  /** Rows of each table that are here. */
  count(counts) {
    this.counts = counts;
    this.draw();
  }

  failed(error) {
    this.tell(
      error.code === "CLEARED" ? "You have logged out in another tab, and the copy is removed." : error.message,
    );
  }

  /** A sentence above the board; none with an empty text. */
  tell(text) {
    this.told = text;
    this.draw();
  }

  /** The browser may know before the client does. */
  state() {
    return navigator.onLine ? this.status.state : "offline";
  }

  draw() {
    const { leader, transport, storage, tables } = this.status;
    const state = this.state();
    const copies = Object.entries(tables);
    const under = copies.filter(([, table]) => table.total);
    const [rows, total] = under.reduce(
      ([r, t], [, table]) => [r + (table.rows ?? 0), t + Math.max(table.total, table.rows ?? 0)],
      [0, 0],
    );
    byId("status").dataset.state = state;
    write(
      byId("state"),
      `${WORDS[state] ?? state}${state === "syncing" && total ? ` ${Math.floor((100 * rows) / total)} %` : ""}`,
    );
    const bar = byId("progress");
    bar.hidden = state !== "syncing" || !total;
    bar.max = Math.max(1, total);
    bar.value = rows;
    this.banner();
    byId("facts").replaceChildren(
      ...[
        [
          "Connection",
          state !== "live" && state !== "syncing"
            ? "none just now"
            : leader
              ? (TRANSPORTS[transport] ?? "–")
              : "another tab’s",
        ],
        ["This tab", leader ? "holds the connection for all tabs" : "follows the tab that holds the connection"],
        [
          "The copy",
          storage === "memory" ? "in memory: gone when the tab closes" : "in IndexedDB: a reload opens it at once",
        ],
      ].flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
    );
    byId("copies").replaceChildren(
      ...copies.map(([name, table]) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, name),
          h("td", {}, table.error?.message ?? TABLES[table.state] ?? table.state),
          h("td", {}, (this.counts[name] ?? table.rows ?? 0).toLocaleString("en")),
        ),
      ),
    );
  }

  banner() {
    const { time, error } = this.status;
    const state = this.state();
    const of = time
      ? `of ${new Date(time).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })}`
      : "in this browser";
    const text =
      state === "offline"
        ? `Offline. You see the copy ${of}; what others do comes when the connection is back.`
        : state === "refused"
          ? `The server does not let you in: ${error?.message ?? "it does not say why"}.`
          : this.told;
    const banner = byId("banner");
    write(banner, text);
    banner.hidden = !text;
  }
}
