// One task beside the board: its title, place and person, and what is said about it.

import { STATES } from "./board.js";
import { ago, badge, byId, h } from "./dom.js";

export class Panel {
  constructor(rte, session, { users, close }) {
    Object.assign(this, { rte, session, users, leave: close });
    this.root = byId("panel");
    this.task = null;
    this.stops = [];
    this.escape = (event) => {
      if (event.key === "Escape" && this.task !== null) this.leave();
    };
    addEventListener("keydown", this.escape);
  }

  close() {
    this.show(null);
    removeEventListener("keydown", this.escape);
  }

  show(task) {
    if (task === this.task) return;
    for (const stop of this.stops.splice(0)) stop();
    const before = this.task;
    this.task = task;
    this.row = undefined;
    this.said = [];
    this.root.hidden = task === null;
    document.body.classList.toggle("with-panel", task !== null);
    if (task === null) {
      document.querySelector(`.card[data-task="${before}"] .open`)?.focus();
      return;
    }
    this.build();
    this.stops.push(
      this.rte.tables.tasks.live(
        (tasks) => tasks.get(task),
        (row) => {
          this.row = row ?? null;
          this.draw();
        },
      ),
      this.rte.tables.comments.live(
        (comments) => comments.where({ task_id: task }).toArray(),
        (rows) => {
          this.said = rows;
          this.draw();
        },
      ),
    );
    this.root.focus();
  }

  build() {
    const close = h("button", { type: "button", className: "close", aria: { label: "Close the task" } }, "×");
    close.addEventListener("click", () => {
      this.leave();
    });
    this.number = h("h2", { id: "panel-title" });
    this.title = h("textarea", { rows: 2, maxLength: 200, aria: { label: "Title" } });
    this.title.addEventListener("change", () => {
      this.edit({ title: this.title.value.trim() || this.row.title });
    });
    this.title.addEventListener("keydown", (event) => {
      if (event.key === "Enter") {
        event.preventDefault();
        this.title.blur();
      }
    });
    this.state = h("select", {}, ...Object.entries(STATES).map(([value, name]) => h("option", { value }, name)));
    this.state.addEventListener("change", () => {
      this.session.act("move_task", { task: this.task, state: this.state.value, before: null });
    });
    this.person = h("select");
    this.person.addEventListener("change", () => {
      this.edit({ assignee: this.person.value });
    });
    this.changed = h("p", { className: "fine" });
    this.list = h("ol", { className: "comments" });
    this.silence = h("p", { className: "fine" }, "Nobody has said anything yet.");
    const body = h("textarea", {
      rows: 2,
      maxLength: 2000,
      required: true,
      placeholder: "Say something",
      aria: { label: "Your comment" },
    });
    const send = h("button", { type: "submit" }, "Comment");
    const form = h("form", { className: "say" }, body, send);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (body.value.trim() && (await this.session.act("add_comment", { task: this.task, body: body.value.trim() })))
        body.value = "";
    });
    body.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    const remove = h("button", { type: "button", className: "remove" }, "Delete");
    remove.addEventListener("click", async () => {
      if (await this.session.act("delete_task", { task: this.task })) this.leave();
    });
    this.inside = h(
      "div",
      { className: "inside" },
      this.title,
      h("div", { className: "fields" }, h("label", {}, "Column", this.state), h("label", {}, "Person", this.person)),
      this.changed,
      h("h3", {}, "Comments"),
      this.silence,
      this.list,
      form,
    );
    this.nothing = h("p", { className: "nothing", hidden: true }, "This task is gone, or not yours to see any more.");
    this.root.replaceChildren(h("div", { className: "top" }, this.number, remove, close), this.nothing, this.inside);
  }

  edit(change) {
    if (!this.row) return;
    this.session.act("edit_task", { task: this.task, title: this.row.title, assignee: this.row.assignee, ...change });
  }

  draw() {
    if (this.task === null || this.row === undefined) return;
    this.number.textContent = `Task #${this.task}`;
    this.nothing.hidden = this.row !== null;
    this.inside.hidden = this.row === null;
    if (!this.row) return;
    const { title, state, assignee, changed_by: by, changed_at: at } = this.row;
    // What is being typed is not taken away by what others change.
    if (document.activeElement !== this.title || this.title.value === "") this.title.value = title;
    this.state.value = state;
    this.person.replaceChildren(
      h("option", { value: "" }, "Nobody"),
      ...[...this.users.values()].map(({ id, name }) => h("option", { value: id }, name)),
    );
    this.person.value = assignee ?? "";
    this.changed.textContent = `Last changed by ${this.users.get(by)?.name ?? by}, ${ago(at)}`;
    this.silence.hidden = this.said.length > 0;
    const kept = new Map([...this.list.children].map((item) => [Number(item.dataset.comment), item]));
    const first = kept.size === 0;
    this.list.replaceChildren(
      ...this.said.sort((a, b) => a.id - b.id).map((comment) => kept.get(comment.id) ?? this.comment(comment, first)),
    );
    if (!first && this.said.length > kept.size) this.list.lastElementChild?.scrollIntoView({ block: "nearest" });
  }

  comment({ id, author, body, created_at: at }, first) {
    const user = this.users.get(author);
    const item = h(
      "li",
      { data: { comment: id } },
      badge(user),
      h(
        "div",
        {},
        h("p", { className: "who" }, h("b", {}, user?.name ?? author), " ", h("time", { dateTime: at }, ago(at))),
        h("p", { className: "body" }, body),
      ),
    );
    if (!first && author !== this.session.user && user) {
      item.style.setProperty("--hue", user.hue);
      item.classList.add("changed");
    }
    return item;
  }
}
