// Several tabs and app versions on one database, and what the browser may do to it.
import { Dexie, liveQuery } from "dexie";
import { forceCloseDatabase, IDBFactory, IDBKeyRange, IDBObjectStore } from "fake-indexeddb";
import { afterEach, expect, test, vi } from "vitest";
import type { Commit, TableCommit } from "../src/copy/assembler.ts";
import { SetHash } from "../src/copy/hash.ts";
import type { Layout } from "../src/copy/layout.ts";
import type { Change } from "../src/protocol/down.ts";
import { Deposed, StorageFull, StorageGone } from "../src/store/errors.ts";
import { openStore, type Store, type StoreOptions } from "../src/store/store.ts";

const ID = { name: "id", type: "int4", nullable: false };
const ITEM = { name: "item", type: "text", nullable: true };
const LAYOUT: Layout = { table: "public.orders", key: ["id"], columns: [ID, ITEM] };

const warn = vi.spyOn(console, "warn");
const put = IDBObjectStore.prototype.put;
afterEach(() => {
  IDBObjectStore.prototype.put = put;
  expect(warn.mock.calls, "nothing is said on the console").toEqual([]);
});

function open(factory: IDBFactory, options: Partial<StoreOptions> = {}): Promise<Store> {
  const browser = { indexedDB: factory, IDBKeyRange } as unknown as Partial<StoreOptions>;
  return openStore({ name: "tabs", ...browser, ...options });
}

function commit(cursor: string, table: Partial<TableCommit>, ready = ["orders"]): Commit {
  return { cursor, time: "", tables: [{ name: "orders", layout: LAYOUT, replace: false, changes: [], ...table }], ready, verify: [] };
}

const insert = (id: number, item = "x"): Change => ({ op: "insert", row: [id, item] });

async function filled(factory: IDBFactory, rows: unknown[][] = [[1, "tea"], [2, "salt"]], options = {}): Promise<Store> {
  const store = await open(factory, options);
  await store.accede("leader");
  await store.define({ orders: { table: "orders" } });
  await snapshot(store, rows);
  return store;
}

async function snapshot(store: Store, rows: unknown[][], layout = LAYOUT, cursor = "c1") {
  store.stage.begin("orders", layout);
  for (const row of rows) store.stage.append("orders", [row]);
  return store.apply([commit(cursor, { replace: true, layout })]);
}

test("a leader that was deposed writes nothing any more", async () => {
  const factory = new IDBFactory();
  const old = await filled(factory);
  const next = await open(factory);
  expect(await next.accede("next")).toMatchObject({ epoch: 2, leader: "next", cursor: "c1" });
  await expect(old.apply([commit("c2", { changes: [insert(3)] })])).rejects.toBeInstanceOf(Deposed);
  expect((await next.head()).cursor).toBe("c1");
  expect(await next.db.table("orders").count()).toBe(2);
  const never = await open(factory);
  await expect(never.apply([commit("c2", { changes: [insert(3)] })])).rejects.toBeInstanceOf(Deposed);
});

test("of two versions of an app the later definition wins, and the earlier one's leader leaves the table alone", async () => {
  const factory = new IDBFactory();
  const old = await filled(factory);
  const next = await open(factory);
  await next.define({ orders: { table: "orders", where: "open" } });
  expect(await old.db.table("orders").count()).toBe(0);
  expect(await old.apply([commit("c2", { changes: [insert(3)] })])).toEqual({ tables: [], skipped: ["orders"], layout: false });
  expect((await snapshot(old, [[1, "all"]], LAYOUT, "c3")).skipped).toEqual(["orders"]);
  const head = await old.head();
  expect(head).toMatchObject({ cursor: "c3", tables: { orders: { ready: false, filled: false, definition: { where: "open" } } } });
  await old.define({ orders: head.tables["orders"]!.definition });
  expect((await snapshot(old, [[1, "open"]], LAYOUT, "c4")).skipped).toEqual([]);
  expect(await next.db.table("orders").toArray()).toEqual([{ id: 1, item: "open" }]);
});

test("a snapshot that began before its table was defined differently does not become the copy", async () => {
  const store = await open(new IDBFactory());
  await store.accede("leader");
  await store.define({ orders: { table: "orders" } });
  store.stage.begin("orders", LAYOUT);
  store.stage.append("orders", [[1, "old"]]);
  await store.define({ orders: { table: "orders", where: "open" } });
  expect((await store.apply([commit("c1", { replace: true })])).skipped).toEqual(["orders"]);
});

test("an index is added and dropped without losing a row; other values or another condition lose the copy", async () => {
  const factory = new IDBFactory();
  const store = await filled(factory);
  await store.define({ orders: { table: "orders", indexes: ["item", ["item", "id"]] } });
  expect(await store.db.table("orders").where("[item+id]").equals(["tea", 1]).count()).toBe(1);
  await store.define({ orders: { table: "orders", indexes: [] } });
  expect(store.db.table("orders").schema.indexes).toEqual([]);
  expect((await store.head()).tables["orders"]).toMatchObject({ ready: true, filled: true });
  expect(await store.db.table("orders").count()).toBe(2);
  const dates = await open(factory, { values: { dates: true } });
  await dates.define({ orders: { table: "orders" } });
  expect(await dates.db.table("orders").count()).toBe(0);
  expect((await dates.head()).tables["orders"]).toMatchObject({ ready: false });
});

test("columns come and go without an upgrade; a key of other columns, or outside of the rows, makes the store anew", async () => {
  const store = await filled(new IDBFactory());
  const version = store.db.backendDB().version;
  const wider = { ...LAYOUT, columns: [ID, ITEM, { name: "more", type: "bool", nullable: true }] };
  expect(await snapshot(store, [[1, "tea", true]], wider, "c2")).toMatchObject({ layout: false, skipped: [] });
  expect(store.db.backendDB().version).toBe(version);
  const text = { ...LAYOUT, columns: [{ ...ID, type: "text" }, ITEM] };
  expect(await snapshot(store, [["one", "tea"]], text, "c3")).toMatchObject({ layout: false, skipped: [] });
  expect(await store.db.table("orders").toArray()).toEqual([{ id: "one", item: "tea" }]);
  const late = commit("c4", { changes: [{ op: "delete", key: ["one"] }] });
  expect(await store.apply([late]), "of the layout before").toMatchObject({ skipped: ["orders"] });
  expect((await store.head()).tables["orders"], "it misses a commit").toMatchObject({ ready: false, filled: true });
  const hidden = { ...LAYOUT, columns: [{ ...ID, type: "bool" }, ITEM] };
  expect(await snapshot(store, [[true, "tea"], [false, "salt"]], hidden, "c5")).toMatchObject({ layout: true, skipped: [] });
  expect(store.db.backendDB().version).toBe(version + 10);
  expect(await store.db.table("orders").get("[true]")).toEqual({ id: true, item: "tea" });
});

test("a table that is forgotten or emptied has no rows left; the others keep theirs", async () => {
  const store = await filled(new IDBFactory());
  await store.define({ others: { table: "others" } });
  store.stage.begin("others", LAYOUT);
  await store.apply([commit("c2", { name: "others", replace: true, changes: [insert(7)] }, ["orders", "others"])]);
  await store.empty(["others"]);
  expect(await store.db.table("others").count()).toBe(0);
  expect((await store.head()).tables["others"]).toMatchObject({ ready: false, filled: false });
  await store.forget(["others"]);
  expect(store.db.tables.map(({ name }) => name).sort()).toEqual(["_rte", "_rte_staging", "orders"]);
  expect(Object.keys((await store.head()).tables)).toEqual(["orders"]);
  expect(await store.db.table("orders").count()).toBe(2);
});

test("tabs that upgrade at the same time all get what they want", async () => {
  const factory = new IDBFactory();
  const leader = await filled(factory);
  const tabs = await Promise.all([open(factory), open(factory), open(factory)]);
  await Promise.all(tabs.map(async (tab, i) => {
    await tab.define({ orders: { table: "orders", indexes: ["item"] }, [`t${i}`]: { table: "orders" } });
  }));
  for (const [i] of tabs.entries()) {
    leader.stage.begin(`t${i}`, LAYOUT);
    await leader.head();
    await leader.define({ [`t${i}`]: { table: "orders" } });
    leader.stage.begin(`t${i}`, LAYOUT);
    await leader.apply([commit(`d${i}`, { name: `t${i}`, replace: true, changes: [insert(i)] }, ["orders", "t0", "t1", "t2"])]);
  }
  for (const [i, tab] of tabs.entries()) {
    await expect.poll(() => tab.db.tables.map(({ name }) => name)).toContain(`t${i}`);
    expect(await tab.db.table(`t${i}`).toArray()).toEqual([{ id: i, item: "x" }]);
    expect(await tab.db.table("orders").where("item").equals("tea").count()).toBe(1);
  }
});

test("a live query goes on when the connection was closed under it, and starts when its table is made", async () => {
  const factory = new IDBFactory();
  const store = await open(factory);
  await store.accede("leader");
  await store.define({ orders: { table: "orders" } });
  const seen: unknown[] = [];
  liveQuery(async () => store.db.table("orders").count())
    .subscribe({ next: (rows) => seen.push(rows), error: () => seen.push("none") });
  await expect.poll(() => seen).toEqual(["none"]);
  await snapshot(store, [[1, "tea"]]);
  await expect.poll(() => seen.at(-1)).toBe(1);
  forceCloseDatabase(store.db.backendDB() as never);
  await store.apply([commit("c2", { changes: [insert(2)] })]);
  await expect.poll(() => seen.at(-1)).toBe(2);
});

test("staged rows beyond the bound wait on disk, and what a dead leader left there is removed", async () => {
  const factory = new IDBFactory();
  const store = await filled(factory, [], { stageBytes: 1000 });
  store.stage.begin("orders", LAYOUT);
  for (let i = 0; i < 200; i++) store.stage.append("orders", [[i, "some text"]]);
  await store.stage.settled();
  expect(await store.db.table("_rte_staging").count()).toBeGreaterThan(100);
  const other = await open(factory);
  expect(await other.db.table("_rte_staging").count(), "another tab leaves the leader's alone").toBeGreaterThan(100);
  await store.apply([commit("c2", { replace: true, changes: [{ op: "delete", key: [0] }] })]);
  expect(await store.db.table("orders").count()).toBe(199);
  expect(await store.db.table("_rte_staging").count()).toBe(0);
  store.stage.begin("orders", LAYOUT);
  for (let i = 0; i < 200; i++) store.stage.append("orders", [[i, "some text"]]);
  await store.stage.settled();
  store.close();
  await other.accede("other");
  expect(await other.db.table("_rte_staging").count()).toBe(0);
  expect(await other.db.table("orders").count()).toBe(199);
});

test("a full disk is told as such, and leaves copy and cursor as they were", async () => {
  const store = await filled(new IDBFactory());
  const full = () => {
    throw new DOMException("no room", "QuotaExceededError");
  };
  IDBObjectStore.prototype.put = full;
  await expect(store.apply([commit("c2", { changes: [insert(3)] })])).rejects.toBeInstanceOf(StorageFull);
  store.stage.begin("orders", LAYOUT);
  store.stage.append("orders", [[9, "x"]]);
  await expect(store.apply([commit("c2", { replace: true })])).rejects.toBeInstanceOf(StorageFull);
  IDBObjectStore.prototype.put = put;
  expect((await store.head()).cursor).toBe("c1");
  expect(await store.db.table("orders").toCollection().primaryKeys()).toEqual([1, 2]);
});

test("a database that another tab deletes is gone, until it is opened anew", async () => {
  const factory = new IDBFactory();
  const store = await filled(factory);
  const other = await open(factory);
  await other.destroy();
  await expect(store.apply([commit("c2", { changes: [insert(3)] })])).rejects.toBeInstanceOf(StorageGone);
  await expect(store.head()).rejects.toBeInstanceOf(StorageGone);
  await expect(other.head()).rejects.toBeInstanceOf(StorageGone);
  expect(await factory.databases()).toEqual([]);
  await store.reopen();
  expect(await store.head()).toMatchObject({ epoch: 0, cursor: null, tables: {} });
  await expect(store.apply([commit("c2", { changes: [insert(3)] })])).rejects.toBeInstanceOf(Deposed);
});

test("a database that the browser evicts is gone", async () => {
  const factory = new IDBFactory();
  const store = await filled(factory);
  forceCloseDatabase(store.db.backendDB() as never);
  (factory as unknown as { _databases: Map<string, unknown> })._databases.delete("tabs");
  await expect(store.apply([commit("c2", { changes: [insert(3)] })])).rejects.toBeInstanceOf(StorageGone);
});

test("without a database of the browser's the same store lives in memory", async () => {
  const broken = { open: () => { throw new DOMException("not here", "SecurityError"); } };
  for (const options of [{ kind: "memory" as const }, { indexedDB: broken as unknown as globalThis.IDBFactory }]) {
    const store = await openStore({ name: "none", IDBKeyRange: IDBKeyRange as never, ...options });
    expect(store.kind).toBe("memory");
    await store.accede("a");
    await store.define({ orders: { table: "orders" } });
    await snapshot(store, [[1, "tea"]]);
    expect(await store.db.table("orders").get(1)).toEqual({ id: 1, item: "tea" });
  }
});

test("a copy whose object store went missing is not called ready", async () => {
  const factory = new IDBFactory();
  const store = await filled(factory);
  const { version } = store.db.backendDB();
  store.close();
  const request = factory.open("tabs", version + 10);
  request.onupgradeneeded = () => request.result.deleteObjectStore("orders");
  await new Promise((resolve) => (request.onsuccess = resolve));
  request.result.close();
  const next = await open(factory);
  expect((await next.head()).tables["orders"]).toMatchObject({ ready: false, filled: false });
  expect(await next.db.table("orders").count()).toBe(0);
});

test("a store of a format that is not known is begun anew", async () => {
  const factory = new IDBFactory();
  const store = await filled(factory);
  await store.db.table("_rte").put({ format: 99, tables: { orders: {} } }, "head");
  store.close();
  const next = await open(factory);
  expect(await next.head()).toMatchObject({ format: 1, epoch: 0, cursor: null, tables: {} });
  expect(next.db.tables.map(({ name }) => name).sort()).toEqual(["_rte", "_rte_staging"]);
});

test("a digest is of the copy at the head's cursor, and leaves out columns that lose digits", async () => {
  const columns = [ID, { name: "at", type: "timestamptz", nullable: true }, ITEM];
  const layout = { ...LAYOUT, columns };
  const rows = Array.from({ length: 700 }, (_, i) => [i, "2026-02-02T23:05:06.123456+00:00", `item ${i}`]);
  for (const dates of [false, true]) {
    const store = await open(new IDBFactory(), { values: { dates } });
    await store.accede("a");
    await store.define({ orders: { table: "orders" } });
    expect(await store.digest("orders")).toBe(null);
    await snapshot(store, rows, layout);
    const set = new SetHash(16);
    for (const row of rows) set.add(dates ? [row[0], row[2]] : row, [row[0]]);
    const found = await store.digest("orders", 16);
    expect(found).toEqual({
      cursor: "c1", ready: true, columns: dates ? ["id", "item"] : null, rows: 700, hash: set.hash(), parts: set.list(),
    });
  }
});

test("names and indexes that IndexedDB cannot keep are refused", async () => {
  const store = await open(new IDBFactory());
  for (const name of ["", "_rte", "_rte_x", "__proto__"]) {
    await expect(store.define(Object.fromEntries([[name, { table: "orders" }]])), name).rejects.toBeInstanceOf(TypeError);
  }
  await expect(store.define({ orders: { table: "orders", indexes: ["a b"] } })).rejects.toBeInstanceOf(TypeError);
  await expect(store.define({ orders: { table: "orders", indexes: [[]] } })).rejects.toBeInstanceOf(TypeError);
  expect((await store.head()).tables).toEqual({});
  expect(Dexie.semVer).toMatch(/^4/);
});
