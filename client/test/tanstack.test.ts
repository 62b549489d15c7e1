// Live tables as collections of TanStack DB: what its live queries show is what the copy holds, whatever happens to it.

import { createCollection, createLiveQueryCollection, eq } from "@tanstack/db";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Rte } from "../src/index.ts";
import { rteCollectionOptions } from "../src/tanstack.ts";
import { Browser, live, until } from "./support/browser.ts";
import { Database } from "./support/database.ts";

interface Order { id: number; customer: number; item: string }
interface User { id: number; name: string }

let db: Database;
let browser: Browser;

beforeEach(async () => {
  db = await new Database().listen();
  db.create("orders", "id int4, customer int4, item text", [[1, 7, "tea"], [2, 8, "salt"], [3, 7, "rice"]]);
  db.create("users", "id int4, name text", [[7, "Ada"], [8, "Bo"]]);
  browser = new Browser();
});

afterEach(async () => {
  await browser.close();
  await db.close();
});

async function open(tables: Record<string, object> = { orders: {}, users: {} }): Promise<Rte> {
  const rte = await browser.tab().connect({ url: db.url, tables });
  await live(rte);
  return rte;
}

const collection = <T extends object>(rte: Rte, table: string) => createCollection(rteCollectionOptions<T>({ rte, table }));

test("a join of two tables in an order follows inserts, updates, deletes, truncates and new copies", async () => {
  const rte = await open();
  const [orders, users] = [collection<Order>(rte, "orders"), collection<User>(rte, "users")];
  const joined = createLiveQueryCollection({
    startSync: true,
    query: (q) => q.from({ order: orders }).join({ user: users }, ({ order, user }) => eq(order.customer, user.id), "inner")
      .orderBy(({ order }) => order.item).select(({ order, user }) => ({ item: order.item, name: user.name })),
  });
  await joined.preload();
  const shows = () => joined.toArray.map(({ item, name }) => `${item} ${name}`);
  expect(shows()).toEqual(["rice Ada", "salt Bo", "tea Ada"]);
  db.commit((tx) => { tx.put("orders", 4, 8, "oil"); tx.put("orders", 1, 8, "green tea"); tx.delete("orders", 2); tx.put("users", 8, "Bea"); });
  await until(rte, () => shows().join() === "green tea Bea,oil Bea,rice Ada", "the commit");
  db.commit((tx) => { tx.truncate("orders"); tx.put("orders", 9, 7, "figs"); });
  await until(rte, () => shows().join() === "figs Ada", "what was written after a truncate");
  db.resync("orders", "schema_changed");
  db.commit((tx) => tx.put("orders", 10, 7, "nuts"));
  await until(rte, () => shows().join() === "figs Ada,nuts Ada", "the new copy");
  await Promise.all([joined.cleanup(), orders.cleanup(), users.cleanup()]);
});

test.each([
  ["composite", "a int4, b text, v text", ["a", "b"], [[1, "x", "v"], [1, "y", "v"]], [1, "x"], '[1,"x"]'],
  ["a bool and int8", "a bool, b int8, v text", ["a", "b"], [[true, "7", "v"], [false, "7", "v"]], [true, "7"], "[true,7]"],
  ["bytes", "a bytea, v text", ["a"], [["AQI=", "v"], ["Ag==", "v"]], ["AQI="], '[{"0":1,"1":2}]'],
  ["text", "a text, v text", ["a"], [["x", "v"], ["y", "v"]], ["x"], "x"],
])("rows with keys of %s are found, updated and deleted", async (_, columns, key, rows, first, name) => {
  db.create("things", columns, rows as unknown[][], key as string[]);
  const rte = await open({ things: {} });
  const things = collection<{ v: string }>(rte, "things");
  await things.preload();
  expect(things.size).toBe(2);
  expect(things.get(name as string)?.v).toBe("v");
  db.commit((tx) => tx.put("things", ...(first as unknown[]), "w"));
  await until(rte, () => things.get(name as string)?.v === "w", "the update");
  db.commit((tx) => tx.delete("things", ...(first as unknown[])));
  await until(rte, () => things.size === 1, "the delete");
  expect(things.has(name as string)).toBe(false);
  await things.cleanup();
});

test("what changes while a collection begins is neither lost nor there twice", async () => {
  const rte = await open();
  for (let id = 100; id < 140; id++) {
    const orders = collection<Order>(rte, "orders");
    db.commit((tx) => { tx.put("orders", id, 7, "x"); tx.delete("orders", id - 1); });
    const preloading = orders.preload();
    db.commit((tx) => tx.put("orders", id, 8, `${id}`));
    await preloading;
    await until(rte, () => orders.get(id)?.item === `${id}`, "the last change");
    expect(orders.toArray.map((row) => row.id).sort((a, b) => a - b)).toEqual([1, 2, 3, id]);
    await orders.cleanup();
  }
});

test("a table that may no longer be read leaves no row, and comes back when it is granted again", async () => {
  const rte = await open();
  const orders = collection<Order>(rte, "orders");
  await orders.preload();
  db.revoke("orders");
  await until(rte, () => orders.status === "error", "an error");
  expect([...orders.keys()]).toEqual([]);
  db.grant("orders");
  await until(rte, () => orders.status === "ready" && orders.size === 3, "rows again");
});

test("a table that does not exist makes the collection fail with the reason", async () => {
  const rte = await open();
  await rte.subscribe("nothing").catch(() => {});
  const nothing = collection(rte, "nothing");
  await expect(nothing.preload()).rejects.toThrow(/no such table/);
  expect(nothing.status).toBe("error");
});

test("after cleanup a collection hears nothing, and can be begun again", async () => {
  const rte = await open();
  const orders = collection<Order>(rte, "orders");
  await orders.preload();
  const listeners = () => (rte as unknown as { emitter: { listeners: Map<string, Set<unknown>> } }).emitter.listeners.get("change")!.size;
  expect(listeners()).toBe(1);
  await orders.cleanup();
  expect(listeners()).toBe(0);
  db.commit((tx) => tx.put("orders", 4, 7, "oil"));
  await until(rte, async () => (await rte.table("orders").count()) === 4, "the row");
  await orders.preload();
  expect(orders.size).toBe(4);
  await orders.cleanup();
});
