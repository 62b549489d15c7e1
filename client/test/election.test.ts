// Tabs of one store: one of them leads, whatever dies another goes on, and all of them show the same. With Web Locks and without.

import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { IDBObjectStore } from "fake-indexeddb";
import type { ChangeEvent, Rte } from "../src/index.ts";
import { Browser, live, until, type Tab } from "./support/browser.ts";
import { Database } from "./support/database.ts";
import { mulberry32 } from "./support/world.ts";

let db: Database;
let browser: Browser;
const put = IDBObjectStore.prototype.put;

beforeEach(async () => {
  db = await new Database().listen();
  db.create("orders", "id int4, customer int4, item text?", [[1, 7, "tea"], [2, 8, "salt"]]);
  db.create("users", "id int4, name text", [[7, "Ada"]]);
});

afterEach(async () => {
  IDBObjectStore.prototype.put = put;
  await browser.close();
  await db.close();
});

const ids = (rows: object[]) => rows.map((row) => (row as { id: number }).id).sort();

describe.each([["with Web Locks", true], ["without Web Locks", false]])("%s", (_, locks) => {
  beforeEach(() => {
    browser = new Browser({ locks });
  });

  async function open(count: number, tables: object = { orders: {} }): Promise<{ tabs: Tab[]; clients: Rte[] }> {
    const tabs = Array.from({ length: count }, () => browser.tab());
    const clients: Rte[] = [];
    for (const tab of tabs) clients.push(await tab.connect({ url: db.url, tables: tables as never }));
    for (const rte of clients) await live(rte);
    return { tabs, clients };
  }

  test("tabs share one connection, one leads, and each shows rows, change events and status of all", async () => {
    const { clients } = await open(3);
    expect(db.open().length).toBe(1);
    expect(clients.filter((rte) => rte.status.leader).length).toBe(1);
    const events: ChangeEvent[][] = clients.map(() => []);
    const shown: number[][] = clients.map(() => []);
    for (const [i, rte] of clients.entries()) {
      rte.on("change", (event) => events[i]!.push(event));
      rte.table("orders").live((table) => table.toArray(), (rows) => (shown[i] = ids(rows)));
    }
    db.commit((tx) => tx.put("orders", 3, 7, "rice"));
    for (const [i, rte] of clients.entries()) {
      await until(rte, () => events[i]!.length === 1, `the event in tab ${i}`);
      await until(rte, () => shown[i]!.length === 3, `the row in tab ${i}`);
      expect(events[i]![0]).toMatchObject({ table: "orders", replaced: false, changes: [{ op: "insert", key: 3 }] });
    }
    for (const session of db.open()) session.close(4404, "gone");
    for (const rte of clients) await until(rte, () => rte.status.state === "refused", "refused in each tab");
  });

  test("a leader that is closed or dies is followed by another, from the stored place", async () => {
    const { tabs, clients } = await open(3);
    const leads = () => clients.findIndex((rte) => rte.status.leader);
    let leader = leads();
    await clients[leader]!.close();
    tabs.splice(leader, 1);
    clients.splice(leader, 1);
    db.commit((tx) => tx.put("orders", 3, 7, "rice"));
    for (const rte of clients) await until(rte, async () => (await rte.table("orders").count()) === 3, "the row after a close");
    leader = leads();
    tabs[leader]!.kill();
    const [left] = clients.filter((_, i) => i !== leader) as [Rte];
    if (!locks) document_visible(left);
    db.commit((tx) => tx.put("orders", 4, 7, "oil"));
    await until(left, async () => (await left.table("orders").count()) === 4, "the row after a death", 40_000);
    expect(db.snapshots).toEqual(["orders"]);
    expect(left.status.leader).toBe(true);
  });

  test("a table that one tab subscribes is there in the others that want it, and unsubscribe ends it for all", async () => {
    const { clients } = await open(2);
    const [one, two] = clients as [Rte, Rte];
    const [a, b] = await Promise.all([one.subscribe("users"), two.subscribe("users")]);
    expect([await a.count(), await b.count()]).toEqual([1, 1]);
    expect(db.snapshots.filter((id) => id === "users").length).toBe(1);
    await two.unsubscribe("users");
    for (const rte of clients) await until(rte, () => !("users" in rte.tables) && !("users" in rte.status.tables), "not there");
    await expect(a.count()).rejects.toMatchObject({ code: "NO_TABLE" });
    await db.server.until(() => db.open()[0]!.received.some((message) => message.type === "unsubscribe"));
  });

  test("of two tabs that ask for different rows the later is followed, and only the other hears SUPERSEDED", async () => {
    const errors: string[][] = [[], []];
    const asks = [7, 8].map((customer) => ({ orders: { where: "customer = $1", params: [customer] } }));
    const one = await browser.tab().connect({ url: db.url, tables: asks[0]!, onError: (error) => errors[0]!.push(error.code) });
    await live(one);
    let shown: number[] = [];
    one.table("orders").live((table) => table.toArray(), (rows) => (shown = ids(rows)));
    const two = await browser.tab().connect({ url: db.url, tables: asks[1]!, onError: (error) => errors[1]!.push(error.code) });
    expect(ids(await two.table("orders").toArray())).toEqual([2]);
    await until(one, () => errors[0]!.length === 1, "the event");
    await until(one, () => shown[0] === 2, "its live query shows the rows that are held now");
    await one.subscribe("orders", asks[0]!.orders);
    expect(ids(await one.table("orders").toArray())).toEqual([1]);
    await until(two, () => errors[1]!.length === 1, "the event in the other tab");
    expect(errors).toEqual([["SUPERSEDED"], ["SUPERSEDED"]]);
  });

  test("a tab whose storage is full goes on alone; the others keep the store and lead it themselves", async () => {
    const { clients } = await open(2);
    const leader = clients.find((rte) => rte.status.leader)!;
    const other = clients.find((rte) => rte !== leader)!;
    const errors: string[] = [];
    other.on("error", (error) => errors.push(error.code));
    let full = true;
    IDBObjectStore.prototype.put = function (this: unknown, ...args: unknown[]) {
      if ((args[0] as { item?: unknown }).item === "rice" && full) {
        full = false;
        throw new DOMException("no room", "QuotaExceededError");
      }
      return put.apply(this as never, args as never) as never;
    } as typeof put;
    db.commit((tx) => tx.put("orders", 3, 7, "rice"));
    for (const rte of clients) await until(rte, async () => (await rte.table("orders").count()) === 3, "the row", 40_000);
    for (const rte of clients) await until(rte, () => rte.status.state === "live" && rte.status.leader, "a leader each", 40_000);
    expect([leader.status.storage, other.status.storage]).toEqual(["memory", "indexeddb"]);
    expect(errors).toEqual([]);
  });

  test("a tab that asks to connect at once is heard by the one that leads", async () => {
    const { tabs, clients } = await open(2);
    const leader = clients.findIndex((rte) => rte.status.leader);
    tabs[leader]!.unplug();
    await until(clients[1 - leader]!, () => clients[1 - leader]!.status.state !== "live", "unplugged");
    tabs[leader]!.plug();
    clients[1 - leader]!.reconnect();
    await live(clients[1 - leader]!);
  });
});

/** What a page does when it comes to the front: without locks a follower asks then whether somebody still leads. */
function document_visible(rte: Rte): void {
  (rte as unknown as { election: { check(): void } }).election.check();
}

test("a tab with other options for values shows what the leading one keeps, says so, and keeps its own once it leads", async () => {
  browser = new Browser();
  db.create("things", "id int4, n int8", [[1, "5"]]);
  const one = await browser.tab().connect({ url: db.url, tables: { things: {} } });
  await live(one);
  const errors: string[] = [];
  const two = await browser.tab().connect({ url: db.url, tables: { things: {} }, int8: "bigint", onError: (error) => errors.push(error.code) });
  expect(await two.table("things").get(1)).toEqual({ id: 1, n: 5 });
  expect(errors).toEqual(["SUPERSEDED"]);
  await one.close();
  await until(two, async () => two.status.leader && (await two.table("things").get(1))?.["n"] === 5n, "its own values");
});

const SEED = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
const LIVES = Number(process.env["LIVES"] ?? 60);

test(`tabs that die between any two steps leave a copy that equals the server's, at each commit (SEED=${SEED})`, async () => {
  const random = mulberry32(SEED);
  const pick = (n: number) => Math.floor(random() * n);
  // Dexie warns of databases that are closed under it: those of the dead.
  vi.spyOn(console, "warn").mockImplementation(() => {});
  browser = new Browser();
  db.batch = 3;
  const write = () => db.commit((tx) => {
    for (let i = pick(3); i >= 0; i--) {
      const id = pick(30);
      if (random() < 0.3) tx.delete("orders", id);
      else tx.put("orders", id, pick(3), `v${pick(1000)}`);
      if (random() < 0.05) tx.truncate("orders");
      tx.put("users", id, `n${pick(1000)}`);
      // Both tables change with each commit: a counter that has to be the same in both.
      const counter = (stamp += 1);
      tx.put("orders", 1000, 0, `${counter}`);
      tx.put("users", 1000, `${counter}`);
    }
  });
  let stamp = 0;
  write();
  const torn: unknown[] = [];
  for (let i = 0; i < LIVES; i++) {
    const tab = browser.tab();
    const connecting = tab.connect({ url: db.url, tables: { orders: { indexes: ["customer"] }, users: {} } });
    connecting.catch(() => {});
    let steps = pick(40);
    const rte = await Promise.race([connecting, new Promise<null>((go) => setTimeout(go, random() < 0.5 ? pick(20) : 2000, null))]);
    while (steps-- > 0) {
      if (random() < 0.3) write();
      if (random() < 0.02) db.forget();
      if (random() < 0.03) db.resync(random() < 0.5 ? "orders" : "users", "schema_changed");
      if (random() < 0.02) for (const session of db.open()) session.cut();
      if (rte && random() < 0.2) {
        const [order, user] = await rte.read(["orders", "users"], async () => [await rte.table("orders").get(1000), await rte.table("users").get(1000)]);
        const both = Object.values(rte.status.tables).every(({ state }) => state === "live");
        if (both && order?.["item"] !== user?.["name"]) torn.push([i, order, user]);
      }
      await new Promise((go) => setTimeout(go, random() < 0.5 ? 0 : 1));
    }
    if (random() < 0.8) tab.kill();
    else void connecting.then((client) => client.close(), () => {});
  }
  const last = await browser.tab().connect({ url: db.url, tables: { orders: { indexes: ["customer"] }, users: {} } });
  await live(last);
  write();
  await until(last, async () => (await last.table("orders").get(1000))?.["item"] === `${stamp}`, "the last commit", 40_000);
  for (const name of ["orders", "users"]) {
    const rows = await last.table(name).toArray();
    expect(rows.map((row) => JSON.stringify(Object.values(row))).sort()).toEqual(db.rows(name).map((row) => JSON.stringify(row)).sort());
  }
  expect(torn).toEqual([]);
});
