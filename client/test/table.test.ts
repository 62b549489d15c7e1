// What the README promises of reading: keys, conditions, order, live queries, one commit over several tables, types.

import { afterEach, beforeEach, expect, test } from "vitest";
import type { Rte, TableOptions } from "../src/index.ts";
import { Browser, live, until } from "./support/browser.ts";
import { Database } from "./support/database.ts";

let db: Database;
let browser: Browser;

beforeEach(async () => {
  db = await new Database().listen();
  browser = new Browser();
});

afterEach(async () => {
  await browser.close();
  await db.close();
});

async function open(tables: Record<string, TableOptions>, more = {}): Promise<Rte> {
  const rte = await browser.tab().connect({ url: db.url, tables, ...more });
  await live(rte);
  return rte;
}

const ids = (rows: object[]) => rows.map((row) => (row as { id: number }).id);

test("queries wait for the first copy of their table", async () => {
  db.create("orders", "id int4", [[1], [2]]);
  db.create("slow", "id int4", [[1]]);
  const rte = await open({ orders: {} });
  db.hold = true;
  const subscribing = rte.subscribe("slow");
  let answer: number | undefined;
  let shown: object[] | undefined;
  void rte.table("slow").count().then((count) => (answer = count));
  rte.table("slow").live((table) => table.toArray(), (rows) => (shown = rows));
  await db.server.until(() => db.snapshots.includes("slow"));
  expect(await rte.table("orders").count()).toBe(2);
  expect([answer, shown]).toEqual([undefined, undefined]);
  db.release();
  await subscribing;
  await until(rte, () => answer === 1 && shown?.length === 1, "the answers");
  db.commit((tx) => tx.put("slow", 2));
  await until(rte, () => shown?.length === 2, "the live query that has waited follows");
});

test.each([
  ["one column", "id int4, v text", undefined, [42, "x"], 42, 43],
  ["text", "id text, v text", undefined, ["ünï", "x"], "ünï", "uni"],
  ["several columns", "a int4, b text, v text", ["a", "b"], [1, "x", "v"], [1, "x"], [1, "y"]],
  ["a bool", "id bool, v text", undefined, [true, "x"], true, false],
  ["jsonb", "id jsonb, v text", undefined, [{ a: 1, b: [2] }, "x"], { b: [2], a: 1 }, { a: 1 }],
  ["jsonb that is an array", "id jsonb, v text", undefined, [[1, 2], "x"], [1, 2], [2, 1]],
  ["bytes", "id bytea, v text", undefined, ["AQI=", "x"], new Uint8Array([1, 2]), new Uint8Array([2])],
  ["a long int8 as BigInt", "id int8, v text", undefined, ["9007199254740993", "x"], 9007199254740993n, 9007199254740992n],
  ["a long int8 as text", "id int8, v text", undefined, ["9007199254740993", "x"], "9007199254740993", "9007199254740992"],
  ["int8 as number", "id int8, v text", undefined, ["7", "x"], 7, 8],
  ["int8 beside a bool", "a bool, b int8, v text", ["a", "b"], [true, "7", "v"], [true, 7], [true, 8]],
])("a row is found by a key of %s", async (_, columns, key, row, wanted, other) => {
  db.create("things", columns, [row as unknown[]], key);
  const rte = await open({ things: {} });
  expect(await rte.table("things").get(wanted as never)).toBeDefined();
  expect(await rte.table("things").get(other as never)).toBeUndefined();
});

test("with int8 as text a key may still be given as a number", async () => {
  db.create("things", "id int8", [["7"]]);
  const rte = await open({ things: {} }, { int8: "string" });
  expect(await rte.table("things").get(7)).toEqual({ id: "7" });
  expect(await rte.table("things").get("7")).toEqual({ id: "7" });
});

const ROWS = [
  [1, 7, "open", { a: 1, b: 2 }, "10.50"], [2, 7, "done", null, "9"], [3, 8, "open", { b: 2, a: 1 }, null], [4, null, "open", [1], "NaN"], [5, 8, "done", null, "-1"],
];

test.each([
  ["without an index", {}], ["with an index on one column", { indexes: ["customer"] }], ["with one on both", { indexes: [["customer", "state"], "state"] }],
])("where finds the same rows %s", async (_, options) => {
  db.create("orders", "id int4, customer int4?, state text, meta jsonb?, price numeric?", ROWS);
  const { orders } = (await open({ orders: options })).tables;
  const where = (criteria: object) => orders!.where(criteria).toArray().then(ids);
  expect(await where({ customer: 7 })).toEqual([1, 2]);
  expect(await where({ customer: 8, state: "open" })).toEqual([3]);
  expect(await where({ customer: null })).toEqual([4]);
  expect(await where({ state: "open", customer: null })).toEqual([4]);
  expect(await where({ meta: { b: 2, a: 1 } })).toEqual([1, 3]);
  expect(await where({ meta: null, state: "done" })).toEqual([2, 5]);
  expect(await where({ id: 3, state: "done" })).toEqual([]);
  expect(await where({})).toEqual([1, 2, 3, 4, 5]);
  expect(await where({ customer: NaN })).toEqual([]);
  expect(await orders!.where((row) => row["customer"] === 8).toArray().then(ids)).toEqual([3, 5]);
  const open_ = () => orders!.where({ state: "open" });
  expect(await open_().filter((row) => row["customer"] !== null).toArray().then(ids)).toEqual([1, 3]);
  expect(await open_().limit(2).toArray().then((rows) => rows.length)).toBe(2);
  expect(await open_().limit(2).count()).toBe(2);
  expect(await open_().filter((row) => row["id"] !== 1).first()).toMatchObject({ id: 3 });
  expect(await orders!.where({ state: "lost" }).first()).toBeUndefined();
});

test("sortBy puts NULLs last, numerics in the order of numbers, and limit takes the first of the order", async () => {
  db.create("orders", "id int4, customer int4?, state text, meta jsonb?, price numeric?", ROWS);
  const { orders } = (await open({ orders: {} })).tables;
  expect(ids(await orders!.where({}).sortBy("customer"))).toEqual([1, 2, 3, 5, 4]);
  expect(ids(await orders!.where({}).sortBy("price"))).toEqual([5, 2, 1, 4, 3]);
  expect(ids(await orders!.where({}).limit(2).sortBy("price"))).toEqual([5, 2]);
  expect(ids(await orders!.where({ state: "open" }).sortBy("price"))).toEqual([1, 4, 3]);
});

test("sortBy tells numbers apart that doubles cannot", async () => {
  const numbers = ["9007199254740993.2", "9007199254740993.10", "-9007199254740993.2", "9007199254740992", "0.1"];
  db.create("orders", "id int4, price numeric", numbers.map((price, id) => [id, price]));
  db.create("longs", "id int4, n int8", [[1, "9007199254740995"], [2, "9007199254740994"], [3, "5"]]);
  const rte = await open({ orders: {}, longs: {} }, { int8: "string" });
  expect(ids(await rte.table("orders").where({}).sortBy("price"))).toEqual([2, 4, 3, 1, 0]);
  expect(ids(await rte.table("longs").where({}).sortBy("n"))).toEqual([3, 2, 1]);
});

test("a live query calls back now, after each commit that changes it, after resubscribing, and not any more when told to stop", async () => {
  db.create("orders", "id int4, customer int4", [[1, 7], [2, 8]]);
  db.create("users", "id int4", [[7]]);
  const tab = browser.tab();
  const rte = await tab.connect({ url: db.url, tables: { orders: { indexes: ["customer"] }, users: {} } });
  await live(rte);
  const heard: number[][] = [];
  const stop = rte.table("orders").live((table) => table.where({ customer: 7 }).toArray(), (rows) => heard.push(ids(rows)));
  await until(rte, () => heard.length === 1, "a first result");
  db.commit((tx) => tx.put("orders", 3, 7));
  await until(rte, () => heard.length === 2, "a second");
  db.commit((tx) => tx.put("users", 8));
  await until(rte, async () => (await rte.table("users").count()) === 2, "a commit that does not concern it");
  tab.unplug();
  await until(rte, () => rte.status.state !== "live", "unplugged");
  db.commit((tx) => tx.delete("orders", 1));
  tab.plug();
  rte.reconnect();
  await until(rte, () => heard.length === 3, "after it was unplugged");
  db.resync("orders", "access_changed");
  await live(rte);
  db.commit((tx) => tx.put("orders", 4, 7));
  await until(rte, () => heard.at(-1)!.length === 2, "after a new copy");
  expect(heard.filter((rows, i) => JSON.stringify(rows) !== JSON.stringify(heard[i - 1]))).toEqual([[1], [1, 3], [3], [3, 4]]);
  stop();
  const count = heard.length;
  db.commit((tx) => tx.put("orders", 5, 7));
  await until(rte, async () => (await rte.table("orders").get(5)) !== undefined, "the row");
  expect(heard.length).toBe(count);
});

test("an error in a live query is told, and does not end it", async () => {
  db.create("orders", "id int4", [[1]]);
  const rte = await open({ orders: {} });
  const [results, errors]: [number[], string[]] = [[], []];
  rte.live(async () => {
    const count = await rte.table("orders").count();
    if (count === 2) throw new Error("two");
    return count;
  }, (count) => results.push(count), (error) => errors.push((error as Error).message));
  await until(rte, () => results.length === 1, "a result");
  db.commit((tx) => tx.put("orders", 2));
  await until(rte, () => errors.length === 1, "an error");
  db.commit((tx) => tx.put("orders", 3));
  await until(rte, () => results.length === 2, "another result");
  expect([results, errors]).toEqual([[1, 3], ["two"]]);
});

test("read over two tables sees one commit, whatever is applied meanwhile", async () => {
  db.create("a", "id int4, n int4", [[1, 0]]);
  db.create("b", "id int4, n int4", [[1, 0]]);
  const rte = await open({ a: {}, b: {} });
  let n = 0;
  const different: unknown[] = [];
  while (n < 40) {
    const next = ++n;
    db.commit((tx) => { tx.put("a", 1, next); tx.put("b", 1, next); });
    for (let i = 0; i < 3; i++) {
      const [a, b] = await rte.read(["a", "b"], async () => [await rte.table("a").get(1), await rte.table("b").get(1)]);
      if (a!["n"] !== b!["n"]) different.push([a, b]);
    }
  }
  expect(different).toEqual([]);
  await until(rte, async () => (await rte.table("a").get(1))!["n"] === n, "the last");
});

test("change events tell rows put and keys deleted for each commit, and say so where more has changed", async () => {
  db.create("orders", "id int4, item text", [[1, "tea"]]);
  const rte = await open({ orders: {} });
  const events: object[] = [];
  rte.on("change", ({ table, replaced, changes }) => events.push({ table, replaced, changes }));
  db.commit((tx) => { tx.put("orders", 2, "salt"); tx.put("orders", 1, "green tea"); });
  await until(rte, () => events.length === 1, "a first event");
  db.commit((tx) => tx.delete("orders", 2));
  await until(rte, () => events.length === 2, "a second");
  db.commit((tx) => tx.truncate("orders"));
  await until(rte, () => events.length === 3, "a third");
  expect(events).toEqual([
    { table: "orders", replaced: false, changes: [
      { op: "insert", key: 2, row: { id: 2, item: "salt" } }, { op: "update", key: 1, row: { id: 1, item: "green tea" } },
    ] },
    { table: "orders", replaced: false, changes: [{ op: "delete", key: 2 }] },
    { table: "orders", replaced: true, changes: [] },
  ]);
});

const MOMENTS = ["2026-02-03T04:05:06.789123+00:00", "2026-02-03T04:05:06.7", "infinity"];

test.each([
  ["by default", {}, { n: 5, big: 9007199254740993n, at: MOMENTS[0], local: MOMENTS[1] }],
  ["int8 as BigInt", { int8: "bigint" }, { n: 5n, big: 9007199254740993n }],
  ["int8 as text", { int8: "string" }, { n: "5", big: "9007199254740993" }],
  ["dates", { dates: true }, { at: new Date("2026-02-03T04:05:06.789Z"), local: new Date("2026-02-03T04:05:06.700Z"), end: "infinity" }],
])("values are kept as asked: %s", async (_, options, expected) => {
  db.create("things", "id int4, n int8, big int8, at timestamptz, local timestamp, end timestamptz, bytes bytea, x float8, price numeric", [
    [1, "5", "9007199254740993", ...MOMENTS, "3q2+7w==", "NaN", "12.50"],
  ]);
  const rte = await open({ things: {} }, options);
  const row = await rte.table("things").get(1);
  expect(row).toMatchObject({ ...expected, bytes: new Uint8Array([0xde, 0xad, 0xbe, 0xef]), x: NaN, price: "12.50" });
  db.commit((tx) => tx.put("things", 1, "6", "9007199254740993", ...MOMENTS, "", "Infinity", "12.5"));
  await until(rte, async () => (await rte.table("things").get(1))!["x"] === Infinity, "an update");
  expect(await rte.table("things").get(1)).toMatchObject({ n: typeof row!["n"] === "bigint" ? 6n : typeof row!["n"] === "string" ? "6" : 6, bytes: new Uint8Array() });
});

test("a copy that was made with other options is not shown, but replaced", async () => {
  db.create("things", "id int4, n int8", [[1, "5"]]);
  await (await open({ things: {} })).close();
  const rte = await browser.tab().connect({ url: db.url, tables: { things: {} }, int8: "bigint" });
  expect(await rte.table("things").get(1)).toEqual({ id: 1, n: 5n });
});

test("a copy of other rows is not shown by a connect that asks differently", async () => {
  db.create("orders", "id int4, customer int4", [[1, 7], [2, 8]]);
  await (await open({ orders: { where: "customer = $1", params: [7] } })).close();
  const rte = await browser.tab().connect({ url: db.url, tables: { orders: { where: "customer = $1", params: [8] } } });
  expect(ids(await rte.table("orders").toArray())).toEqual([2]);
});

test("only the columns that are asked for are held, and the key", async () => {
  db.create("orders", "id int4, customer int4, secret text", [[1, 7, "x"]]);
  const rte = await open({ orders: { columns: ["customer"] } });
  expect(await rte.table("orders").toArray()).toEqual([{ id: 1, customer: 7 }]);
});
