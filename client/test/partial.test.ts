// Who was away for too long has an old copy: only what of it differs is fetched, and it becomes the new one in one step.

import { afterEach, beforeEach, expect, test } from "vitest";
import { Assembler, type StageSink } from "../src/copy/assembler.ts";
import type { Down } from "../src/protocol/down.ts";
import { Browser, live, until } from "./support/browser.ts";
import { Database } from "./support/database.ts";

const ROWS = 2000;
let db: Database;
let browser: Browser;

beforeEach(async () => {
  db = await new Database().listen();
  db.create("orders", "id int4, item text?, at timestamptz?", Array.from({ length: ROWS }, (_, id) => [id, `item ${id}`, null]));
  db.create("users", "id int4, name text", [[7, "Ada"], [8, "Bo"]]);
  browser = new Browser();
});

afterEach(async () => {
  await browser.close();
  await db.close();
});

type Options = Parameters<ReturnType<Browser["tab"]>["connect"]>[0];

/** A live page, and what brings it back from where the server has no history any more. */
async function page(options: Partial<Options> = {}) {
  const tab = browser.tab();
  const rte = await tab.connect({ url: db.url, tables: { orders: {}, users: {} }, ...options } as Options);
  await live(rte);
  const away = async (meanwhile: () => void) => {
    tab.unplug();
    await until(rte, () => rte.status.state !== "live", "offline");
    meanwhile();
    db.forget();
    db.sent.length = db.asked.length = 0;
    tab.plug();
    rte.reconnect();
    await live(rte);
  };
  const rows = async () => (await rte.table("orders").toArray()).map((row) => Object.values(row)).sort((a, b) => (a[0] as number) - (b[0] as number));
  const truth = () => db.rows("orders").sort((a, b) => (a[0] as number) - (b[0] as number));
  return { tab, rte, away, rows, truth };
}

test("only parts that differ are sent, and the page sees the old copy and then the new one", async () => {
  const { rte, away, rows, truth } = await page();
  const seen: string[] = [];
  const states = new Set<string>();
  rte.on("status", ({ tables }) => states.add(tables["orders"]!.state));
  rte.table("orders").live((table) => table.toArray(), (all) => seen.push(`${all.length} ${all.filter((row) => (row as { item: string }).item === "new").length}`));
  await until(rte, () => seen.length === 1, "the old copy");
  await away(() => db.commit((t) => {
    t.put("orders", 3, "new", null);
    t.put("orders", ROWS, "new", null);
    t.delete("orders", 9);
    t.delete("orders", 10);
    t.put("users", 9, "Cy");
  }));
  await until(rte, () => seen.length > 1, "the new copy");
  expect(seen).toEqual([`${ROWS} 0`, `${ROWS - 1} 2`]);
  expect(await rows()).toEqual(truth());
  expect(states).not.toContain("syncing");
  expect(await rte.table("users").count()).toBe(3);
  expect(db.sent.length).toBeLessThan(100);
  expect(db.asked.map(({ id, resume_only, have }) => [id, resume_only ?? false, have !== undefined])).toEqual([
    ["orders", true, false], ["users", false, false], ["orders", false, true],
  ]);
});

test("nothing is sent where nothing differs, and all where all does", async () => {
  const { away, rows, truth } = await page({ tables: { orders: {} } });
  await away(() => {});
  expect(db.sent).toEqual([]);
  expect(await rows()).toEqual(truth());
  await away(() => db.commit((t) => truth().forEach(([id]) => t.put("orders", id, "all", null))));
  expect(db.sent.length).toBe(ROWS);
  expect(await rows()).toEqual(truth());
  await away(() => db.commit((t) => t.truncate("orders")));
  expect(await rows()).toEqual([]);
});

test("what changes while parts are on their way is not lost", async () => {
  const { rte, tab, away, rows, truth } = await page();
  db.hold = true;
  const back = away(() => db.commit((t) => t.put("orders", 1, "away", null)));
  await until(rte, () => db.snapshots.filter((id) => id === "orders").length === 2, "its beginning");
  db.commit((t) => {
    t.put("orders", 1, "later", null);
    t.put("orders", 5, "later", null);
    t.delete("orders", 6);
  });
  db.release();
  await back;
  await until(rte, () => tab !== undefined && rte.status.tables["orders"]!.state === "live", "live");
  expect(await rows()).toEqual(truth());
});

test("a connection that breaks in the middle begins again with the old copy", async () => {
  const { rte, away, rows, truth } = await page();
  db.hold = true;
  const back = away(() => db.commit((t) => t.put("orders", 1, "away", null)));
  await until(rte, () => db.snapshots.filter((id) => id === "orders").length === 2, "its beginning");
  for (const session of db.open()) session.cut();
  await until(rte, () => db.snapshots.filter((id) => id === "orders").length === 3, "another");
  expect(db.asked.at(-1)!.have).toBeDefined();
  db.release();
  await back;
  expect(await rows()).toEqual(truth());
});

test("a table that has other columns by now is fetched whole", async () => {
  const { rte, away } = await page();
  await away(() => db.create("orders", "id int4, thing text?, at timestamptz?", db.rows("orders")));
  expect(db.sent.length).toBeGreaterThanOrEqual(ROWS);
  expect(db.asked.at(-1)!.have).toBeUndefined();
  expect(await rte.table("orders").get(4)).toEqual({ id: 4, thing: "item 4", at: null });
});

test("values that are not kept exactly are fetched whole", async () => {
  const { away, rte } = await page({ dates: true });
  await away(() => db.commit((t) => t.put("orders", 1, "item 1", "2026-01-01T00:00:00.000001+00:00")));
  expect(db.sent.length).toBeGreaterThanOrEqual(ROWS);
  expect(await rte.table("orders").get(1)).toMatchObject({ at: new Date("2026-01-01T00:00:00Z") });
});

test("a commit says which parts the staged rows are, and that of all rows replaces", () => {
  const staged: string[] = [];
  const sink: StageSink = { begin: (name) => staged.push(`begin ${name}`), append: (_, rows) => staged.push(`${rows.length} rows`), drop: () => staged.push("drop") };
  const assembler = new Assembler(sink);
  const columns = [{ name: "id", type: "int4", nullable: false }];
  const subscribed: Down = { type: "subscribed", id: "a", shape: "s", table: "public.a", key: ["id"], columns, resumed: false };
  const commit: Down = { type: "commit", cursor: "c", time: "" };
  const tables = (message: Down) => {
    const received = assembler.receive(message);
    return received.kind === "commit" ? received.commit.tables : [];
  };
  assembler.receive({ ...subscribed, partial: true }, 8);
  assembler.receive({ type: "snapshot", id: "a", rows: [[1]], done: false, parts: [2, 5] });
  expect(tables(commit)).toEqual([]);
  assembler.receive({ type: "snapshot", id: "a", rows: [], done: true });
  assembler.receive({ type: "changes", shape: "s", changes: [{ op: "delete", key: [7] }] });
  expect(tables(commit)).toMatchObject([{ name: "a", replace: false, parts: { count: 8, want: [2, 5] }, changes: [{ op: "delete" }] }]);
  expect(tables(commit)).toEqual([]);
  assembler.receive({ type: "resync", id: "a", reason: "snapshot_failed" });
  assembler.receive(subscribed, 8);
  assembler.receive({ type: "snapshot", id: "a", rows: [[1]], done: true });
  const [whole] = tables(commit);
  expect(whole).toMatchObject({ replace: true });
  expect(whole!.parts).toBeUndefined();
  expect(staged).toEqual(["begin a", "1 rows", "0 rows", "begin a", "1 rows"]);
});
