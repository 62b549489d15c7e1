// Promises of the store, in Node on fake-indexeddb.
import { liveQuery } from "dexie";
import { IDBFactory, IDBKeyRange } from "fake-indexeddb";
import { expect, test } from "vitest";
import type { Commit, TableCommit } from "../src/copy/assembler.ts";
import type { Layout } from "../src/copy/layout.ts";
import type { Change } from "../src/protocol/down.ts";
import { openStore, type Store, type StoreOptions } from "../src/store/store.ts";

const LAYOUT: Layout = {
  table: "public.orders",
  key: ["id"],
  columns: [{ name: "id", type: "int4", nullable: false }, { name: "item", type: "text", nullable: true }],
};

function factory(): { indexedDB: IDBFactory; IDBKeyRange: typeof IDBKeyRange } {
  return { indexedDB: new IDBFactory(), IDBKeyRange };
}

function open(backend = factory(), options: Partial<StoreOptions> = {}): Promise<Store> {
  return openStore({ ...(backend as unknown as StoreOptions), name: "rte/test", ...options });
}

function commit(cursor: string, ...tables: TableCommit[]): Commit {
  return { cursor, time: `time of ${cursor}`, tables, ready: ["orders", "others"], verify: [] };
}

function changes(name: string, ...list: Change[]): TableCommit {
  return { name, layout: LAYOUT, replace: false, changes: list };
}

async function fill(store: Store, name: string, rows: unknown[][], layout = LAYOUT, cursor = "c1"): Promise<void> {
  store.stage.begin(name, layout);
  store.stage.append(name, rows);
  await store.apply([commit(cursor, { name, layout, replace: true, changes: [] })]);
}

test("a snapshot becomes the copy at its commit, with the cursor", async () => {
  const store = await open();
  await store.accede("a");
  await store.define({ orders: { table: "orders", indexes: ["item"] } });
  store.stage.begin("orders", LAYOUT);
  store.stage.append("orders", [[1, "tea"], [2, "salt"]]);
  expect((await store.head()).cursor).toBe(null);
  const applied = await store.apply([commit("c1", { name: "orders", layout: LAYOUT, replace: true, changes: [] })]);
  expect(applied).toEqual({ tables: [{ name: "orders", replaced: true, changes: [] }], skipped: [], layout: true });
  expect(await store.db.table("orders").toArray()).toEqual([{ id: 1, item: "tea" }, { id: 2, item: "salt" }]);
  expect(await store.db.table("orders").where("item").equals("salt").primaryKeys()).toEqual([2]);
  const head = await store.head();
  expect(head).toMatchObject({ cursor: "c1", time: "time of c1", epoch: 1, leader: "a" });
  expect(head.tables["orders"]).toMatchObject({ ready: true, filled: true, layout: LAYOUT });
});

test("changes tell what they did, and several commits are applied in one", async () => {
  const store = await open();
  await store.accede("a");
  await store.define({ orders: { table: "orders" } });
  await fill(store, "orders", [[1, "tea"], [2, "salt"], [3, "rice"]]);
  const applied = await store.apply([
    commit("c2", changes("orders", { op: "update", key: [1], set: { item: "green tea" } }, { op: "insert", row: [4, "x"] })),
    commit("c3", changes("orders", { op: "delete", key: [2] }, { op: "update", key: [9], set: { item: "nobody" } },
      { op: "insert", row: [3, "brown rice"] }, { op: "insert", row: [7, "y"] }, { op: "delete", key: [7] })),
  ]);
  expect(applied.tables).toEqual([{ name: "orders", replaced: false, missed: true, changes: [
    { op: "update", key: 1, row: { id: 1, item: "green tea" } },
    { op: "insert", key: 4, row: { id: 4, item: "x" } },
    { op: "delete", key: 2 },
    { op: "update", key: 3, row: { id: 3, item: "brown rice" } },
  ] }]);
  expect((await store.head()).cursor).toBe("c3");
  expect(await store.db.table("orders").toCollection().primaryKeys()).toEqual([1, 3, 4]);
});

test("a live query goes on over an upgrade by another tab and sees what that tab writes", async () => {
  const backend = factory();
  const one = await open(backend);
  const two = await open(backend);
  await one.accede("one");
  await one.define({ orders: { table: "orders" } });
  await fill(one, "orders", [[1, "tea"]]);
  const seen: unknown[][] = [];
  const identity = two.db;
  const subscription = liveQuery(() => two.db.table("orders").toArray()).subscribe((rows) => seen.push(rows));
  await expect.poll(() => seen.at(-1)).toEqual([{ id: 1, item: "tea" }]);
  await one.define({ others: { table: "others" }, orders: { table: "orders", indexes: ["item"] } });
  await fill(one, "others", [[5, "z"]], LAYOUT, "c2");
  await one.apply([commit("c3", changes("orders", { op: "insert", row: [2, "salt"] }))]);
  await expect.poll(() => seen.at(-1)).toEqual([{ id: 1, item: "tea" }, { id: 2, item: "salt" }]);
  expect(two.db).toBe(identity);
  expect(await two.db.table("orders").where("item").equals("salt").count()).toBe(1);
  expect(await two.db.table("others").count()).toBe(1);
  subscription.unsubscribe();
});
