// A board: four columns of cards. Cards are kept from one change to the next, so that focus stays, moves can be followed with
// the eye, and what others do lights up for a moment.

import { badge, byId, calm, h, speak } from "./dom.js";

export const STATES = { todo: "To do", doing: "Doing", review: "Review", done: "Done" };
const ORDER = Object.keys(STATES);
/** Cards of a column that are shown at first, and with each further wish. */
const PAGE = 40;

export class Board {
  constructor(rte, session, { users, open }) {
    Object.assign(this, { rte, session, users, open });
    this.board = null;
    this.rows = null; // tasks, null until they are read
    this.counts = new Map(); // task → comments
    this.cards = new Map(); // task → card
    this.lists = {};
    this.pages = {};
    this.stops = [];
  }

  close() {
    for (const stop of this.stops.splice(0)) stop();
    this.board = null;
    byId("columns").replaceChildren();
  }

  show(board) {
    if (this.board?.id === board.id) {
      this.board = board;
      return;
    }
    this.close();
    this.board = board;
    this.rows = null;
    this.cards.clear();
    this.pages = Object.fromEntries(ORDER.map((state) => [state, PAGE]));
    byId("columns").replaceChildren(...ORDER.map((state) => this.column(state)));
    this.draw();
    this.stops.push(
      this.rte.tables.tasks.live(
        (tasks) => tasks.where({ board_id: board.id }).toArray(),
        (rows) => {
          this.rows = rows;
          this.draw();
        },
      ),
      this.rte.tables.comments.live(
        (comments) => comments.toArray(),
        (rows) => {
          this.counts = new Map();
          for (const { task_id: task } of rows) this.counts.set(task, (this.counts.get(task) ?? 0) + 1);
          this.draw();
        },
      ),
    );
  }

  column(state) {
    const list = h("ul", { className: "cards", data: { state } });
    const input = h("input", {
      placeholder: "Add a task",
      maxLength: 200,
      required: true,
      aria: { label: `Add a task to ${STATES[state]}` },
    });
    const form = h("form", {}, input);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const title = input.value.trim();
      if (
        title &&
        (await this.session.act("add_task", { board: this.board.id, title, state, assignee: this.session.user }))
      )
        input.value = "";
    });
    const more = h("button", { type: "button", className: "more", hidden: true });
    more.addEventListener("click", () => {
      this.pages[state] += PAGE;
      this.draw();
    });
    const section = h(
      "section",
      { className: "column", data: { state }, aria: { label: STATES[state] } },
      h("h2", {}, STATES[state], h("span", { className: "count" })),
      form,
      list,
      more,
    );
    section.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("text/task")) return;
      event.preventDefault();
      section.classList.add("over");
    });
    section.addEventListener("dragleave", (event) => {
      if (!section.contains(event.relatedTarget)) section.classList.remove("over");
    });
    section.addEventListener("drop", (event) => {
      event.preventDefault();
      section.classList.remove("over");
      const below = [...list.children].find(
        (card) => event.clientY < card.getBoundingClientRect().top + card.offsetHeight / 2,
      );
      this.move(Number(event.dataTransfer.getData("text/task")), state, below ? Number(below.dataset.task) : null);
    });
    this.lists[state] = { list, more, section, count: section.querySelector(".count") };
    return section;
  }

  move(task, state, before) {
    if (before === task) return;
    this.session.act("move_task", { task, state, before });
  }

  draw() {
    if (!this.board) return;
    byId("columns").classList.toggle("waiting", this.rows === null);
    if (!this.rows) return;
    const places = calm.matches ? null : this.places();
    const first = this.cards.size === 0;
    const active = document.activeElement;
    const shown = new Set();
    for (const state of ORDER) {
      const rows = this.rows
        .filter((row) => row.state === state)
        .sort((a, b) => a.position - b.position || a.id - b.id);
      const { list, more, count, section } = this.lists[state];
      count.textContent = rows.length.toLocaleString("en");
      section.classList.toggle("empty", rows.length === 0);
      const cards = rows.slice(0, this.pages[state]).map((row) => {
        shown.add(row.id);
        return this.card(row, first);
      });
      // Only what is out of place is moved: a node that is taken out and put back loses its focus, which it gets back below.
      cards.forEach((card, i) => {
        if (list.children[i] !== card) list.insertBefore(card, list.children[i] ?? null);
      });
      more.hidden = rows.length <= this.pages[state];
      more.textContent = `${(rows.length - this.pages[state]).toLocaleString("en")} more`;
    }
    for (const [id, card] of this.cards)
      if (!shown.has(id)) {
        card.remove();
        this.cards.delete(id);
      }
    if (active !== document.activeElement && active.isConnected) active.focus();
    if (places) this.glide(places);
  }

  places() {
    return new Map([...this.cards].map(([id, card]) => [id, card.getBoundingClientRect()]));
  }

  /** Lets cards that have moved come from where they were. */
  glide(places) {
    for (const [id, card] of this.cards) {
      const [from, to] = [places.get(id), card.getBoundingClientRect()];
      if (!from || (from.left === to.left && from.top === to.top)) continue;
      card.animate(
        [{ transform: `translate(${from.left - to.left}px, ${from.top - to.top}px)` }, { transform: "none" }],
        { duration: 260, easing: "cubic-bezier(.2,.7,.2,1)" },
      );
    }
  }

  card(row, first) {
    let card = this.cards.get(row.id);
    const fresh = !card;
    if (fresh) {
      card = this.make(row.id);
      this.cards.set(row.id, card);
    }
    const talk = this.counts.get(row.id) ?? 0;
    const assignee = this.users.get(row.assignee);
    const now = JSON.stringify([row.title, row.state, row.position, row.assignee]);
    if (!fresh && card.now === now && card.talk === talk && card.who === assignee?.name) return card;
    const changed = fresh ? !first : card.now !== now;
    Object.assign(card, { row, now, talk, who: assignee?.name });
    const [tick, open, foot] = card.children;
    tick.checked = row.state === "done";
    tick.setAttribute("aria-label", `Done: ${row.title}`);
    open.textContent = row.title;
    foot.replaceChildren(
      h("span", { className: "number" }, `#${row.id}`),
      ...(talk
        ? [h("span", { className: "talk", aria: { label: `${talk} comment${talk === 1 ? "" : "s"}` } }, String(talk))]
        : []),
      badge(assignee),
    );
    if (changed && row.changed_by !== this.session.user) this.flash(card, this.users.get(row.changed_by));
    return card;
  }

  /** Somebody else has done something: for a moment in their colour, with their name. */
  flash(card, user) {
    if (!user) return;
    card.style.setProperty("--hue", user.hue);
    card.dataset.by = user.name.split(" ")[0];
    card.classList.remove("changed");
    void card.offsetWidth;
    card.classList.add("changed");
  }

  make(id) {
    const tick = h("input", { type: "checkbox", className: "tick" });
    tick.addEventListener("change", async () => {
      const wanted = tick.checked;
      if (!(await this.session.act("tick_task", { task: id, done: wanted }))) tick.checked = !wanted;
    });
    const open = h("button", { type: "button", className: "open" });
    open.addEventListener("click", () => {
      this.open(id);
    });
    const card = h(
      "li",
      { className: "card", draggable: true, data: { task: id } },
      tick,
      open,
      h("p", { className: "foot" }),
    );
    card.addEventListener("dragstart", (event) => {
      event.dataTransfer.setData("text/task", String(id));
      event.dataTransfer.effectAllowed = "move";
      card.classList.add("dragged");
    });
    card.addEventListener("dragend", () => {
      card.classList.remove("dragged");
    });
    card.addEventListener("animationend", (event) => {
      if (event.animationName === "changed") card.classList.remove("changed");
    });
    card.addEventListener("keydown", (event) => {
      if (event.altKey && this.byKey(event.key, card)) event.preventDefault();
    });
    return card;
  }

  /** Alt and an arrow move the card: left and right to the next column, up and down within its own. */
  byKey(key, card) {
    const { row } = card;
    const column = ORDER.indexOf(row.state);
    const beside = [...card.parentElement.children];
    const at = beside.indexOf(card);
    let state = row.state,
      before;
    if (key === "ArrowLeft" || key === "ArrowRight") {
      state = ORDER[column + (key === "ArrowLeft" ? -1 : 1)];
      before = state && this.lists[state].list.firstElementChild;
    } else if (key === "ArrowUp" && at > 0) before = beside[at - 1];
    else if (key === "ArrowDown" && at < beside.length - 1) before = beside[at + 2] ?? null;
    else return false;
    if (!state) return false;
    this.move(row.id, state, before ? Number(before.dataset.task) : null);
    speak(
      state === row.state
        ? `${row.title}: moved ${key === "ArrowUp" ? "up" : "down"}`
        : `${row.title}: to ${STATES[state]}`,
    );
    return true;
  }
}
