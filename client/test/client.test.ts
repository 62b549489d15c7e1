// What the README promises of `connect` and of the client that it gives, against a server of small tables.

import { spawn } from "node:child_process";
import { IDBObjectStore } from "fake-indexeddb";
import { afterEach, beforeEach, expect, test } from "vitest";
import { RteError, type ChangeEvent, type ErrorInfo } from "../src/index.ts";
import { Browser, live, states, until } from "./support/browser.ts";
import { Database } from "./support/database.ts";

let db: Database;
let browser: Browser;
const put = IDBObjectStore.prototype.put;

beforeEach(async () => {
  db = await new Database().listen();
  db.create("orders", "id int4, customer int4?, item text?", [[1, 7, "tea"], [2, 7, "salt"], [3, 8, null]]);
  db.create("users", "id int4, name text", [[7, "Ada"], [8, "Bo"]]);
  browser = new Browser();
});

afterEach(async () => {
  IDBObjectStore.prototype.put = put;
  await browser.close();
  await db.close();
});

const code = (wanted: string) => expect.objectContaining({ code: wanted }) as unknown as RteError;
const ids = (rows: object[]) => rows.map((row) => (row as { id: number }).id).sort();

// Connecting

test("connect resolves from the local copy with the server down, and queries are answered", async () => {
  await (await browser.tab().connect({ url: db.url, tables: { orders: {} } })).close();
  const { url } = db;
  await db.close();
  const rte = await browser.tab().connect({ url, tables: { orders: {} } });
  expect(rte.status.state).toBe("connecting");
  expect(rte.status.tables).toEqual({ orders: { state: "stale" } });
  expect(ids(await rte.tables["orders"]!.toArray())).toEqual([1, 2, 3]);
  db = await new Database().listen();
});

test.each([
  ["an unknown table", "UNKNOWN_TABLE", { tables: { nothing: {} } }],
  ["an unknown tenant", "UNKNOWN_TENANT", { tenant: "nobody", tables: { orders: {} } }],
  ["a bad token", "UNAUTHORIZED", { token: "bad", tables: { orders: {} } }],
])("connect rejects with the server's code for %s", async (_, expected, options) => {
  db.tenants = ["", "acme"];
  db.refuses = (token) => (token === "bad" ? "UNAUTHORIZED" : undefined);
  await expect(browser.tab().connect({ url: db.url, ...options } as never)).rejects.toEqual(code(expected));
});

test("without a network connect waits, and a signal ends the waiting with its reason", async () => {
  const tab = browser.tab();
  tab.unplug();
  const aborter = new AbortController();
  const connecting = tab.connect({ url: db.url, tables: { orders: {} }, signal: aborter.signal });
  const state = await Promise.race([connecting.then(() => "resolved", () => "rejected"), new Promise((go) => setTimeout(go, 150, "waits"))]);
  expect(state).toBe("waits");
  aborter.abort(new Error("enough"));
  await expect(connecting).rejects.toThrow("enough");
});

test("a signal ends the waiting for a token that never comes", async () => {
  const connecting = browser.tab().connect({
    url: db.url, user: undefined, tables: { orders: {} }, token: () => new Promise<string>(() => {}), signal: AbortSignal.timeout(50),
  });
  await expect(connecting).rejects.toThrow(/timeout/i);
});

test("a signal that is aborted after connect has resolved ends nothing", async () => {
  const aborter = new AbortController();
  const rte = await browser.tab().connect({ url: db.url, tables: { orders: {} }, signal: aborter.signal });
  aborter.abort();
  expect(ids(await (await rte.subscribe("users")).toArray())).toEqual([7, 8]);
});

test("a token callback that fails makes connect reject with TOKEN_FAILED and its message", async () => {
  const connecting = browser.tab().connect({ url: db.url, user: undefined, tables: {}, token: () => Promise.reject(new Error("log in first")) });
  await expect(connecting).rejects.toEqual(code("TOKEN_FAILED"));
  await expect(connecting).rejects.toThrow(/log in first/);
});

test("an opaque token without a user is refused with NO_USER before anything is opened", async () => {
  await expect(browser.tab().connect({ url: db.url, user: undefined, token: "opaque", tables: {} })).rejects.toEqual(code("NO_USER"));
  expect(await browser.factory.databases()).toEqual([]);
});

test.each([
  ["BAD_NAME", { _rte_mine: {} }], ["BAD_INDEX", { orders: { indexes: ["a b"] } }], ["BAD_INDEX", { orders: { indexes: [[]] } }],
])("a definition that no store could keep is refused with %s", async (expected, tables) => {
  await expect(browser.tab().connect({ url: db.url, tables: tables as never })).rejects.toEqual(code(expected));
});

test("a message that cannot be taken costs the connection, and nothing else", async () => {
  const errors: ErrorInfo[] = [];
  const rte = await browser.tab().connect({ url: db.url, tables: { orders: {} }, onError: (error) => errors.push(error) });
  await live(rte);
  const session = db.server.sessions.at(-1)!;
  session.raw(JSON.stringify({ type: "changes", shape: db.shapeOf(session, "orders") }));
  await until(rte, () => errors.length > 0);
  expect(errors[0]).toMatchObject({ code: "INTERNAL" });
  db.commit((t) => t.put("orders", 4, 8, "oil"));
  await until(rte, () => db.server.sessions.length > 1 && rte.status.state === "live");
  await until(rte, async () => ids(await rte.tables["orders"]!.toArray()).length === 4);
  expect(db.snapshots).toEqual(["orders"]);
});

// Status

test("the status goes from connecting through syncing, with rows and total, to live, and on when the network comes back", async () => {
  db.batch = 2;
  db.hold = true;
  const shown = states();
  const tab = browser.tab();
  const connecting = tab.connect({ url: db.url, tables: { orders: {} }, onStatus: shown.onStatus });
  await shown.until(({ tables }) => tables["orders"]?.rows === 2);
  expect(shown.seen.at(-1)).toMatchObject({ state: "syncing", tables: { orders: { state: "syncing", rows: 2, total: 3 } } });
  db.release();
  const rte = await connecting;
  await live(rte);
  expect(rte.status).toMatchObject({ state: "live", leader: true, transport: "websocket", storage: "indexeddb", error: undefined });
  expect(Date.parse(rte.status.time!)).toBeGreaterThan(0);
  expect(shown.names()).toEqual(["connecting", "syncing", "live"]);
  tab.unplug();
  await until(rte, () => rte.status.state === "connecting", "connecting again");
  tab.plug();
  rte.reconnect();
  await live(rte);
});

test("a client that the server does not want is refused, with the reason, and reading goes on", async () => {
  db.tenants = ["acme"];
  const rte = await browser.tab().connect({ url: db.url, tenant: "acme", tables: { orders: {} } });
  await live(rte);
  db.tenants = [];
  for (const session of db.open()) session.close(1012);
  await until(rte, () => rte.status.state === "refused", "refused");
  expect(rte.status.error).toMatchObject({ code: "UNKNOWN_TENANT" });
  expect(await rte.tables["orders"]!.count()).toBe(3);
});

// Tables that come and go

test("a table that may no longer be read loses its rows, says why, and comes back with its live queries when it is granted again", async () => {
  const rte = await browser.tab().connect({ url: db.url, tables: { orders: {}, users: {} } });
  const heard: number[][] = [];
  const errors: string[] = [];
  const events: ChangeEvent[] = [];
  rte.on("change", (event) => event.table === "orders" && events.push(event));
  rte.table("orders").live((table) => table.toArray(), (rows) => heard.push(ids(rows)), (error) => errors.push((error as RteError).code));
  await until(rte, () => heard.length > 0, "a first result");
  await live(rte);
  events.length = 0;
  db.revoke("orders");
  await until(rte, () => rte.status.tables["orders"]?.state === "refused", "refused");
  await expect(rte.tables["orders"]!.toArray()).rejects.toEqual(code("UNKNOWN_TABLE"));
  await until(rte, async () => (await rte.db.table("orders").count()) === 0, "no rows");
  await until(rte, () => events.some(({ replaced }) => replaced), "a change event that says so");
  await until(rte, () => errors.includes("UNKNOWN_TABLE"), "the live query says why");
  expect(await rte.tables["users"]!.count(), "others go on").toBe(2);
  expect(rte.status.state).toBe("live");
  db.grant("orders");
  db.commit((tx) => tx.put("orders", 4, 8, "pepper"));
  await until(rte, () => rte.status.tables["orders"]?.state === "live", "live again");
  expect(ids(await rte.tables["orders"]!.toArray())).toEqual([1, 2, 3, 4]);
  await until(rte, () => heard.at(-1)?.length === 4, "the live query goes on");
});

test("a table that stays refused is told of once, and the status does not flicker while it is asked again", async () => {
  const rte = await browser.tab().connect({ url: db.url, tables: { orders: {}, users: {} } });
  await live(rte);
  const errors: ErrorInfo[] = [];
  rte.on("error", (error) => errors.push(error));
  db.revoke("users");
  await until(rte, () => rte.status.tables["users"]?.state === "refused", "refused");
  const shown = states();
  rte.on("status", shown.onStatus);
  const asked = () => db.open()[0]!.received.filter((message) => message.type === "subscribe" && message.id === "users").length;
  const before = asked();
  await db.server.until(() => asked() > before);
  await until(rte, () => shown.seen.length > 0, "the refusal");
  expect(shown.seen.map(({ tables }) => tables["users"]?.state)).toEqual(shown.seen.map(() => "refused"));
  expect(shown.names()).toEqual(["live"]);
  expect(errors.map((error) => error.code)).toEqual(["UNKNOWN_TABLE"]);
});

test("a table that is locked for a change keeps its copy meanwhile", async () => {
  const rte = await browser.tab().connect({ url: db.url, tables: { orders: {} } });
  await live(rte);
  db.complain("orders", "NOT_READY");
  await until(rte, () => rte.status.tables["orders"]?.state === "stale", "stale");
  expect(await rte.tables["orders"]!.count()).toBe(3);
  db.commit((tx) => tx.delete("orders", 3));
  await live(rte);
  expect(await rte.tables["orders"]!.count()).toBe(2);
});

test("one refused table does not keep live queries of the others from their results", async () => {
  const rte = await browser.tab().connect({ url: db.url, tables: { orders: {}, users: {} } });
  db.revoke("users");
  await until(rte, () => rte.status.tables["users"]?.state === "refused", "refused");
  let rows: object[] = [];
  rte.live(() => rte.table("orders").toArray(), (found) => (rows = found));
  await until(rte, () => rows.length === 3, "a result");
});

test("subscribe adds a table at run time; unsubscribe ends it, forgets its rows and fails what waits", async () => {
  const rte = await browser.tab().connect({ url: db.url, tables: { orders: {} } });
  const users = await rte.subscribe<{ id: number; name: string }>("users");
  expect((await users.get(7))?.name).toBe("Ada");
  await live(rte);
  await rte.unsubscribe("users");
  expect(() => rte.table("users")).toThrow(/no live table/);
  await expect(users.toArray()).rejects.toEqual(code("NO_TABLE"));
  await expect(rte.unsubscribe("users")).rejects.toEqual(code("NO_TABLE"));
  await until(rte, () => !("users" in rte.status.tables), "not shown");
  await db.server.until(() => db.open()[0]!.received.some((message) => message.type === "unsubscribe" && message.id === "users"));
  expect(rte.db.tables.map(({ name }) => name)).not.toContain("users");
  db.hold = true;
  const again = rte.subscribe("users");
  await db.server.until(() => db.snapshots.length === 3);
  void rte.unsubscribe("users");
  await expect(again).rejects.toEqual(code("NO_TABLE"));
});

test("subscribe with other rows replaces what a table holds, and nobody sees none in between", async () => {
  const rte = await browser.tab().connect({ url: db.url, tables: { orders: { where: "customer = $1", params: [7] } } });
  const heard: number[][] = [];
  rte.table("orders").live((table) => table.toArray(), (rows) => heard.push(ids(rows)));
  await until(rte, () => heard.length > 0, "a first result");
  expect(ids(await rte.table("orders").toArray())).toEqual([1, 2]);
  const table = await rte.subscribe("orders", { where: "customer = $1", params: [8] });
  expect(ids(await table.toArray())).toEqual([3]);
  await until(rte, () => heard.at(-1)?.[0] === 3, "the live query follows");
  expect(heard.filter((rows) => rows.length === 0)).toEqual([]);
  await live(rte);
});

test("what still comes of a subscription that was replaced is not taken for the new one", async () => {
  const rte = await browser.tab().connect({ url: db.url, tables: { orders: {} } });
  await live(rte);
  const seen: number[][] = [];
  rte.on("change", () => void rte.db.table("orders").toArray().then((rows) => seen.push(ids(rows))));
  // All in one go: the first two are answered when they mean nothing any more.
  const asked = [7, 9, 8].map((customer) => rte.subscribe("orders", { where: "customer = $1", params: [customer] }));
  await Promise.all(asked);
  await live(rte);
  expect(ids(await rte.table("orders").toArray())).toEqual([3]);
  expect(seen.filter((rows) => rows.includes(1))).toEqual([]);
});

test("a table that was refused can be asked for differently", async () => {
  const rte = await browser.tab().connect({ url: db.url, tables: { orders: {} } });
  await expect(rte.subscribe("people")).rejects.toEqual(code("UNKNOWN_TABLE"));
  const people = await rte.subscribe("people", { table: "users" });
  expect(await people.count()).toBe(2);
  await live(rte);
  expect(rte.status.tables["people"]).toMatchObject({ state: "live" });
});

test("tables that nobody has asked for in seven days are forgotten, younger ones are kept up to date", async () => {
  const now = Date.now;
  const day = 86_400_000;
  try {
    Date.now = () => now() - 8 * day;
    await (await browser.tab().connect({ url: db.url, tables: { orders: {} } })).close();
    Date.now = () => now() - 6 * day;
    await (await browser.tab().connect({ url: db.url, tables: { users: {} } })).close();
  } finally {
    Date.now = now;
  }
  const rte = await browser.tab().connect({ url: db.url, tables: { more: { table: "users" } } });
  await live(rte);
  expect(Object.keys(rte.status.tables).sort()).toEqual(["more", "users"]);
  expect(rte.db.tables.map(({ name }) => name)).not.toContain("orders");
});

test("columns that are added come without a reload", async () => {
  const rte = await browser.tab().connect({ url: db.url, tables: { users: { indexes: ["name"] } } });
  await live(rte);
  db.alter("users", "id int4, name text, age int4?", [[7, "Ada", 36]]);
  await until(rte, async () => (await rte.tables["users"]!.get(7))?.["age"] === 36, "the new column");
  expect((await rte.tables["users"]!.layout())?.columns.map(({ name }) => name)).toEqual(["id", "name", "age"]);
  expect(await rte.tables["users"]!.where({ name: "Ada" }).count()).toBe(1);
});

// Going on

test("what was missed comes from the cursor, without a new copy; a cursor that is too old brings one", async () => {
  const tab = browser.tab();
  const rte = await tab.connect({ url: db.url, tables: { orders: {} } });
  await live(rte);
  tab.unplug();
  await until(rte, () => rte.status.state !== "live", "unplugged");
  db.commit((tx) => { tx.put("orders", 1, 7, "green tea"); tx.delete("orders", 2); tx.put("orders", 5, 8, "rice"); });
  tab.plug();
  rte.reconnect();
  await until(rte, async () => (await rte.tables["orders"]!.get(5)) !== undefined, "what was missed");
  expect(await rte.tables["orders"]!.get(1)).toEqual({ id: 1, customer: 7, item: "green tea" });
  expect(await rte.tables["orders"]!.get(2)).toBeUndefined();
  expect(db.snapshots).toEqual(["orders"]);
  await live(rte);
  tab.unplug();
  await until(rte, () => rte.status.state !== "live", "unplugged");
  db.commit((tx) => tx.delete("orders", 5));
  db.forget();
  db.hold = true;
  tab.plug();
  rte.reconnect();
  await db.server.until(() => db.snapshots.length === 2);
  await until(rte, () => rte.status.tables["orders"]?.state === "stale", "stale");
  expect(await rte.tables["orders"]!.count(), "the old copy is readable").toBe(3);
  db.release();
  await live(rte);
  expect(ids(await rte.tables["orders"]!.toArray())).toEqual([1, 3]);
});

test("a token is renewed before it expires, by the server's clock, and after a refusal a new one is asked for", async () => {
  const reasons: string[] = [];
  db.expiresInMs = 1500;
  const rte = await browser.tab().connect({
    url: db.url, tables: { orders: {} }, token: (reason) => {
      reasons.push(reason);
      return `token ${reasons.length}`;
    },
  });
  await db.server.until(() => db.tokens.length === 2);
  expect(reasons).toEqual(["first", "renewal"]);
  expect(db.tokens).toEqual(["token 1", "token 2"]);
  db.expiresInMs = undefined;
  db.refuses = (token) => (token === "token 2" ? "UNAUTHORIZED" : undefined);
  for (const session of db.open()) session.close(1012);
  await db.server.until(() => db.tokens.at(-1) === "token 3");
  expect(reasons.at(-1)).toBe("refused");
  await live(rte);
});

test("the token that told the user is the first that is shown", async () => {
  const token = `x.${btoa(JSON.stringify({ sub: "ada", role: "r" }))}.y`;
  let calls = 0;
  const rte = await browser.tab().connect({ url: db.url, user: undefined, tables: { orders: {} }, token: () => { calls++; return token; } });
  await live(rte);
  expect(calls).toBe(1);
  expect(db.tokens).toEqual([token]);
});

test("each user and tenant has a store of their own", async () => {
  for (const [user, tenant] of [["a", "x"], ["b", "x"], ["a", "y"], ["a%2Fy", ""], ["a/y", ""]] as const) {
    await (await browser.tab().connect({ url: db.url, user, tenant, tables: { orders: {} } })).close();
  }
  expect((await browser.factory.databases()).length).toBe(5);
  expect(db.snapshots.length).toBe(5);
});

// Storage

test("a full storage is told, and the copy goes on in memory, with its live queries", async () => {
  const rte = await browser.tab().connect({ url: db.url, tables: { orders: {} } });
  await live(rte);
  const errors: string[] = [];
  let rows: object[] = [];
  rte.on("error", (error) => errors.push(error.code));
  rte.table("orders").live((table) => table.toArray(), (found) => (rows = found));
  IDBObjectStore.prototype.put = function (this: unknown, ...args: unknown[]) {
    if ((args[0] as { item?: unknown }).item === "rice" && errors.length === 0) throw new DOMException("no room", "QuotaExceededError");
    return put.apply(this as never, args as never) as never;
  } as typeof put;
  db.commit((tx) => tx.put("orders", 4, 7, "rice"));
  await until(rte, () => errors.includes("STORAGE_FULL"), "the error");
  await until(rte, () => rte.status.storage === "memory" && rte.status.state === "live", "live in memory");
  expect(ids(await rte.tables["orders"]!.toArray())).toEqual([1, 2, 3, 4]);
  db.commit((tx) => tx.put("orders", 5, 7, "oil"));
  await until(rte, () => rows.length === 5, "the live query goes on");
  expect(errors).toEqual(["STORAGE_FULL"]);
});

test("where there is no IndexedDB the copy is in memory", async () => {
  const rte = await browser.tab().connect({ url: db.url, tables: { orders: {} }, runtime: { indexedDB: null } });
  await live(rte);
  expect(rte.status.storage).toBe("memory");
  expect(await rte.tables["orders"]!.count()).toBe(3);
});

// Ending

test("close leaves the copy, ends live queries and waits, and what is asked later is answered with CLOSED", async () => {
  const rte = await browser.tab().connect({ url: db.url, tables: { orders: {} } });
  await live(rte);
  db.hold = true;
  const waits = rte.subscribe("users");
  await db.server.until(() => db.snapshots.includes("users"));
  await Promise.all([expect(waits).rejects.toEqual(code("CLOSED")), rte.close()]);
  await db.server.until(() => db.server.open.length === 0);
  expect(rte.status.state).toBe("stopped");
  expect(browser.locks!.names).toEqual([]);
  await expect(rte.tables["orders"]!.count()).rejects.toEqual(code("CLOSED"));
  await expect(rte.subscribe("users")).rejects.toEqual(code("CLOSED"));
  expect((await browser.factory.databases()).length).toBe(1);
  await rte.close();
});

test("clear deletes the store, in all tabs", async () => {
  const [one, two] = [browser.tab(), browser.tab()];
  const first = await one.connect({ url: db.url, tables: { orders: {} } });
  const second = await two.connect({ url: db.url, tables: { orders: {} } });
  await Promise.all([live(first), live(second)]);
  const errors: string[] = [];
  first.on("error", (error) => errors.push(error.code));
  await second.clear();
  expect(await browser.factory.databases()).toEqual([]);
  await db.server.until(() => db.server.open.length === 0);
  expect(errors).toEqual(["CLEARED"]);
  expect(first.status.state).toBe("stopped");
});

test.each(["close", "clear"])("after %s nothing keeps a program from its end", async (how) => {
  const program = `
    import "fake-indexeddb/auto";
    import { WebSocket } from "ws";
    const { connect } = await import("./bundle/client.js");
    const rte = await connect({ url: ${JSON.stringify(db.url)}, user: "node", tables: { orders: {} }, runtime: { WebSocket } });
    rte.tables.orders.live((table) => table.toArray(), () => {});
    await rte.subscribe("users");
    await rte.${how}();
    console.log("ended");`;
  expect(await run(program)).toEqual({ output: "ended\n", status: 0, signal: null });
});

function run(program: string): Promise<{ output: string; status: number | null; signal: string | null }> {
  const child = spawn(process.execPath, ["--input-type=module", "-e", program], { cwd: new URL("..", import.meta.url).pathname });
  let output = "";
  child.stdout.on("data", (data) => (output += String(data)));
  child.stderr.on("data", (data) => (output += String(data)));
  const limit = setTimeout(() => child.kill(), 10_000);
  return new Promise((resolve) => child.on("close", (status, signal) => {
    clearTimeout(limit);
    resolve({ output, status, signal });
  }));
}
