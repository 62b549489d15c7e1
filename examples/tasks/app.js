// The page: who is here, which board is on show, and the one connection that everything reads from.
//
// The address says all of it (#/company/person/board/task), so that two windows can be two people and a reload comes back.

import { companies, Session } from "./backend.js";
import { Board } from "./board.js";
import { badge, byId, h, write } from "./dom.js";
import { Found } from "./search.js";
import { Status } from "./status.js";
import { Panel } from "./task.js";
import { title, welcome } from "./welcome.js";

const known = await companies().catch(() => null);
/** The visit under way: {session, status, users, boards, stops}, and once it is connected {rte, board, panel, found}. */
let visit = null;

function place() {
  const [tenant = "", user = "", board = "", task = ""] = location.hash
    .replace(/^#\/?/, "")
    .split("/")
    .map(decodeURIComponent);
  return { tenant, user, board: Number(board) || null, task: Number(task) || null };
}

/** The address of a board or task of this visit. */
function at(board, task) {
  const { tenant, user } = visit.session;
  return `#/${[tenant, user, board, task]
    .filter((part) => part !== null && part !== undefined)
    .map(encodeURIComponent)
    .join("/")}`;
}

async function enter(tenant, user, signal) {
  const session = new Session(tenant, user);
  const status = new Status(session, leave);
  visit = { session, status, stops: [], users: new Map(), boards: [] };
  const { connect } = await import(`${known.gateway}/client.js`);
  // Resolves when there is something to read: at once where a copy is here from the last visit.
  const rte = await connect({
    url: known.gateway,
    tenant,
    user,
    token: () => session.token(),
    onStatus: (now) => status.show(now),
    onError: (error) => status.failed(error),
    signal,
    tables: {
      users: {},
      boards: {},
      tasks: { indexes: ["board_id", "state"] },
      comments: { indexes: ["task_id"] },
    },
  });
  visit.rte = rte;
  const { users } = visit;
  const go = (board, task) => {
    location.hash = at(board, task);
  };
  visit.panel = new Panel(rte, session, { users, close: () => go(place().board) });
  visit.board = new Board(rte, session, { users, open: (task) => go(place().board, task) });
  visit.found = new Found(rte, { users, boards: () => visit.boards, open: go });
  visit.stops.push(watchUsers(rte), watchBoards(rte), watchCounts(rte));
}

function watchUsers({ tables }) {
  return tables.users.live(
    (users) => users.toArray(),
    (rows) => {
      const { users, session } = visit;
      users.clear();
      for (const row of rows) users.set(row.id, row);
      const me = users.get(session.user);
      byId("me").replaceChildren(badge(me));
      byId("me").setAttribute("aria-label", `${me?.name ?? session.user}: log in as somebody else`);
      visit.board.draw();
      visit.panel.draw();
    },
  );
}

/** Boards with the number of their tasks: a query over two tables that sees one commit of both. */
function watchBoards(rte) {
  const { boards, tasks } = rte.tables;
  return rte.live(
    () =>
      rte.read(["boards", "tasks"], async () => {
        const rows = await boards.toArray();
        const counts = await Promise.all(rows.map(({ id }) => tasks.where({ board_id: id }).count()));
        return rows.map((board, i) => ({ ...board, count: counts[i] }));
      }),
    (rows) => {
      visit.boards = rows.sort((a, b) => a.archived - b.archived || a.id - b.id);
      show();
    },
  );
}

function watchCounts(rte) {
  const { users, boards, tasks, comments } = rte.tables;
  const queries = [users, boards, tasks, comments, tasks.where({ state: "done" })];
  return rte.live(
    () => Promise.all(queries.map((query) => query.count())),
    ([people, places, all, talk, done]) => {
      visit.status.count({ users: people, boards: places, tasks: all, comments: talk });
      write(
        byId("counts"),
        `${number(all, "task")} (${done.toLocaleString("en")} done) and ${number(talk, "comment")} in this browser`,
      );
    },
  );
}

const number = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;

/** Ends the visit. Of its copy nothing remains where that is wanted. */
async function leave(forget) {
  if (!visit) return;
  const { rte, board, panel, found, status, stops } = visit;
  visit = null;
  for (const part of [board, panel, found, status]) part?.close();
  for (const stop of stops) stop();
  for (const id of ["boards", "me", "counts"]) byId(id).replaceChildren();
  if (forget) location.hash = "#/";
  await (forget ? rte?.clear() : rte?.close());
}

/** Shows what the address names. */
function show() {
  if (!visit?.rte) return;
  const { board, task } = place();
  const shown = visit.boards.find(({ id }) => id === board);
  byId("boards").replaceChildren(
    ...visit.boards.map(({ id, title: name, team, count }) => {
      const link = h(
        "a",
        { href: at(id) },
        name,
        team === "leads" ? h("span", { className: "lock", title: "Leads only" }, "leads") : null,
        h("span", { className: "count" }, count.toLocaleString("en")),
      );
      if (id === board) link.setAttribute("aria-current", "page");
      return link;
    }),
  );
  if (!shown && visit.boards.length) {
    // None is named yet, or it was taken out of this person's sight.
    visit.status.tell(board ? "That board is not yours to see any more." : "");
    history.replaceState(null, "", at(visit.boards[0].id));
    show();
    return;
  }
  if (!shown) return;
  write(byId("title"), shown.title);
  document.title = `${shown.title} · ${title(visit.session.tenant)}`;
  visit.board.show(shown);
  visit.panel.show(task);
}

async function follow() {
  const { tenant, user } = place();
  const same = visit && visit.session.tenant === tenant && visit.session.user === user;
  if (same) {
    visit.status.tell("");
    show();
    return;
  }
  await leave(false);
  if (!known?.companies.some((company) => company.tenant === tenant && company.people.some(({ id }) => id === user))) {
    welcome(known);
    return;
  }
  byId("welcome").hidden = true;
  byId("app").hidden = false;
  write(byId("company"), title(tenant));
  entering = new AbortController();
  await enter(tenant, user, entering.signal);
  show();
}

/** Ends waiting for a first copy, when somebody else is to come in or nobody. */
let entering = null;
let turn = Promise.resolve();

function next() {
  const { tenant, user } = place();
  if (visit && (visit.session.tenant !== tenant || visit.session.user !== user)) entering?.abort();
  turn = turn.then(follow).catch((error) => {
    if (error.name !== "AbortError") visit?.status.tell(`This did not work: ${error.message}`);
  });
}

addEventListener("hashchange", next);
addEventListener("offline", () => {
  visit?.status.draw();
});
addEventListener("online", () => {
  visit?.status.draw();
});
next();
turn.then(keep).catch(() => {});

/** Has the page's own files kept for a visit without a network: those that came before there was a worker to keep them. */
async function keep() {
  if (!navigator.serviceWorker) return;
  await navigator.serviceWorker.register("/sw.js");
  const { active } = await navigator.serviceWorker.ready;
  const files = performance
    .getEntriesByType("resource")
    .map(({ name }) => name)
    .filter((name) => /\.(js|css|svg)$/.test(name));
  active.postMessage(["/", "/api/companies", ...new Set(files)]);
}
