// Search over every task that is here: no request goes anywhere, so it works offline and answers as one types.

import { STATES } from "./board.js";
import { badge, byId, h } from "./dom.js";

const MOST = 60;

export class Found {
  constructor(rte, { users, boards, open }) {
    Object.assign(this, { rte, users, boards, open });
    this.input = byId("search");
    this.root = byId("found");
    this.stop = null;
    this.listen = () => {
      this.seek(this.input.value.trim());
    };
    this.input.addEventListener("input", this.listen);
  }

  close() {
    this.input.removeEventListener("input", this.listen);
    this.input.value = "";
    this.seek("");
  }

  seek(words) {
    this.stop?.();
    this.stop = null;
    this.root.hidden = !words;
    byId("columns").hidden = Boolean(words);
    if (!words) return;
    const parts = words.toLowerCase().split(/\s+/);
    this.stop = this.rte.tables.tasks.live(
      async (tasks) => {
        const begun = performance.now();
        const all = await tasks.toArray();
        const hits = all.filter(({ title, id }) =>
          parts.every((part) => title.toLowerCase().includes(part) || `#${id}` === part),
        );
        return { hits, all: all.length, took: performance.now() - begun };
      },
      (found) => {
        this.draw(found);
      },
    );
  }

  draw({ hits, all, took }) {
    const boards = new Map(this.boards().map((board) => [board.id, board]));
    const shown = hits.sort((a, b) => (a.state === "done") - (b.state === "done") || b.id - a.id).slice(0, MOST);
    const [found, of, ms] = [hits.length, all, Math.max(1, Math.round(took))].map((n) => n.toLocaleString("en"));
    const cut = hits.length > MOST ? `; the first ${MOST}` : "";
    this.root.replaceChildren(
      h("p", { className: "fine", aria: { role: "status" } }, `${found} of ${of} tasks, found here in ${ms} ms${cut}`),
      h(
        "ul",
        {},
        ...shown.map((row) => {
          const item = h(
            "button",
            { type: "button" },
            badge(this.users.get(row.assignee)),
            h("span", { className: "what" }, row.title),
            h("span", { className: "where" }, `${boards.get(row.board_id)?.title ?? ""} · ${STATES[row.state]}`),
          );
          item.addEventListener("click", () => {
            this.input.value = "";
            this.seek("");
            this.open(row.board_id, row.id);
          });
          return h("li", {}, item);
        }),
      ),
    );
  }
}
