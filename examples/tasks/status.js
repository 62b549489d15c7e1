// How the copy stands, in words: live, its first rows on their way, offline. The client knows; this only tells.

import { byId, h, write } from "./dom.js";

const WORDS = { connecting: "Connecting", syncing: "Syncing", live: "Live", offline: "Offline", refused: "Refused", stopped: "Stopped" };
const TRANSPORTS = { websocket: "WebSocket", events: "Server-sent events", poll: "Long polling" };

export class Status {
  constructor(rte, session, leave) {
    this.rte = rte;
    this.since = null;
    session.online = () => navigator.onLine && !["offline", "refused", "stopped"].includes(rte.status.state);
    this.stops = [rte.on("status", () => { this.draw(); }), rte.on("error", (error) => { this.failed(error); })];
    this.forget = () => leave(true);
    this.away = (event) => { if (event.key === "Escape" || (event.type === "pointerdown" && !byId("status").contains(event.target))) byId("status").open = false; };
    addEventListener("pointerdown", this.away);
    addEventListener("keydown", this.away);
    byId("forget").addEventListener("click", this.forget);
    this.draw();
  }

  close() {
    for (const stop of this.stops) stop();
    byId("forget").removeEventListener("click", this.forget);
    removeEventListener("pointerdown", this.away);
    removeEventListener("keydown", this.away);
    byId("status").open = false;
    byId("banner").hidden = true;
  }

  failed(error) { this.tell(error.message); }

  /** A sentence above the board; none with an empty text. */
  tell(text) {
    this.told = text;
    this.draw();
  }

  draw() {
    const { state, leader, transport, storage, tables } = this.rte.status;
    const copies = Object.entries(tables);
    const under = copies.filter(([, table]) => table.state === "syncing");
    const [rows, total] = under.reduce(([r, t], [, table]) => [r + table.rows, t + (table.total ?? table.rows)], [0, 0]);
    const percent = state === "syncing" && total ? ` ${Math.min(99, Math.floor((100 * rows) / total))} %` : "";
    const pill = byId("status");
    pill.dataset.state = state;
    write(byId("state"), `${WORDS[state] ?? state}${percent}`);
    const bar = byId("progress");
    bar.hidden = state !== "syncing" || !total;
    bar.max = Math.max(1, total);
    bar.value = rows;
    this.banner(state);
    byId("facts").replaceChildren(...[
      ["Connection", state === "live" || state === "syncing" ? TRANSPORTS[transport] ?? transport ?? "–" : leader ? "none just now" : "by another tab"],
      ["This tab", leader ? "holds the connection for all tabs" : "follows the tab that does"],
      ["The copy", storage === "memory" ? "in memory: it is gone when the tab closes" : "in IndexedDB: a reload opens it at once"],
    ].flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
    byId("copies").replaceChildren(...copies.map(([name, table]) => h("tr", {}, h("th", { scope: "row" }, name),
      h("td", {}, table.error?.message ?? table.error ?? table.state), h("td", {}, (table.rows ?? 0).toLocaleString("en")))));
  }

  banner(state) {
    const banner = byId("banner");
    if (state === "offline") this.since ??= new Date();
    else if (state === "live") this.since = null;
    const refused = state === "refused" ? "The server does not let you in any more." : "";
    const offline = this.since ? `Offline since ${this.since.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })}. You see the copy in this browser; what others do comes when the connection is back.` : "";
    const text = offline || refused || this.told || "";
    write(banner, text);
    banner.hidden = !text;
    document.body.classList.toggle("offline", Boolean(offline));
  }
}
