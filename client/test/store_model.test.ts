// Against a plain model: whatever commits come, however they are cut into transactions, and wherever a tab dies, each
// copy that the head calls ready is what a Map that takes change by change has at the head's cursor.
//
// RTE_SEED=n runs one seed.
import { IDBFactory, IDBKeyRange, IDBObjectStore } from "fake-indexeddb";
import { afterEach, expect, test } from "vitest";
import type { Commit, TableCommit } from "../src/copy/assembler.ts";
import { canonical, partOf, SetHash } from "../src/copy/hash.ts";
import type { Layout } from "../src/copy/layout.ts";
import { Codec, type Stored, type StoredKey } from "../src/copy/values.ts";
import type { Change } from "../src/protocol/down.ts";
import { openStore, type Store } from "../src/store/store.ts";

const COMMITS = 40;
const PARTS = 4;

/** Layouts by table; the server goes over from one to the next when it redefines the table. */
const LAYOUTS: Record<string, Layout[]> = {
  plain: [layout(["id:int4"], ["a:text", "b:int8"]), layout(["id:text"], ["a:text", "b:int8"])],
  composite: [layout(["x:int8", "y:text"], ["a:bytea", "b:float8"]), layout(["x:int8", "y:text"], ["a:bytea", "b:float8", "c:jsonb"])],
  odd: [layout(["flag:bool", "doc:jsonb"], ["a:text", "b:int8[]"]), layout(["doc:jsonb"], ["flag:bool", "a:text", "b:int8[]"])],
};

function layout(key: string[], rest: string[]): Layout {
  const columns = [...rest.slice(0, 1), ...key, ...rest.slice(1)].map((text) => {
    const [name, type] = text.split(":") as [string, string];
    return { name, type, nullable: true };
  });
  return { table: "public.t", key: key.map((text) => text.split(":")[0]!), columns };
}

class Dice {
  private state: number;
  constructor(seed: number) {
    this.state = seed >>> 0;
  }
  below(n: number): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let t = this.state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % n;
  }
  in(n: number): boolean {
    return this.below(n) === 0;
  }
  of<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
}

function value(dice: Dice, type: string, key: boolean): unknown {
  if (!key && dice.in(6)) return null;
  switch (type) {
    case "int4": return dice.below(8);
    case "int8": return dice.of(["1", "2", "-3", "9007199254740993", "9007199254740992"]);
    case "text": return dice.of(["", "a", "b", "ä😀"]);
    case "bytea": return dice.of(["", "AA==", "3q2+7w=="]);
    case "float8": return dice.of([0.1, -5e-324, "NaN", "-Infinity"]);
    case "bool": return dice.in(2);
    case "jsonb": return dice.of([1, "1", { b: 1, a: [null] }, [], { a: { z: 1, y: "2" } }]);
    default: return dice.of([[], ["1", null], ["9007199254740993"]]);
  }
}

type Rows = Map<string, unknown[]>;
interface Tick { cursor: string; changes: Map<string, Change[]>; state: Map<string, { layout: Layout; rows: Rows }>; redefined: Set<string> }

/** The model: one change after another, nothing merged. */
function change(rows: Rows, { key, columns }: Layout, op: Change): void {
  const place = (name: string) => columns.findIndex((column) => column.name === name);
  if (op.op === "truncate") rows.clear();
  else if (op.op === "insert") rows.set(canonical(key.map((name) => op.row[place(name)])), op.row);
  else if (op.op === "delete") rows.delete(canonical(op.key));
  else {
    const before = rows.get(canonical(op.key));
    if (!before) return;
    const row = [...before];
    for (const [name, next] of Object.entries(op.set)) row[place(name)] = next;
    rows.set(canonical(op.key), row);
  }
}

function someRow(dice: Dice, { key, columns }: Layout): unknown[] {
  return columns.map(({ name, type }) => value(dice, type, key.includes(name)));
}

function someChange(dice: Dice, layout: Layout): Change {
  const row = someRow(dice, layout);
  const key = layout.key.map((name) => row[layout.columns.findIndex((column) => column.name === name)]);
  if (dice.in(25)) return { op: "truncate" };
  if (dice.in(3)) return { op: "insert", row };
  if (dice.in(3)) return { op: "delete", key };
  const free = layout.columns.filter(({ name }) => !layout.key.includes(name) && dice.in(2));
  return { op: "update", key, set: Object.fromEntries(free.map(({ name, type }) => [name, value(dice, type, false)])) };
}

/** What the server's tables are after each commit. */
function history(dice: Dice): Tick[] {
  const ticks: Tick[] = [];
  const now = new Map(Object.entries(LAYOUTS).map(([name, [first]]) => [name, { variant: 0, layout: first!, rows: new Map() as Rows }]));
  for (let n = 1; n <= COMMITS; n++) {
    const tick: Tick = { cursor: `c${n}`, changes: new Map(), state: new Map(), redefined: new Set() };
    for (const [name, table] of now) {
      if (dice.in(12)) {
        table.variant = (table.variant + 1) % LAYOUTS[name]!.length;
        table.layout = LAYOUTS[name]![table.variant]!;
        table.rows = new Map();
        for (let i = dice.below(12); i > 0; i--) change(table.rows, table.layout, { op: "insert", row: someRow(dice, table.layout) });
        tick.redefined.add(name);
      } else {
        const changes = Array.from({ length: dice.below(6) }, () => someChange(dice, table.layout));
        for (const op of changes) change(table.rows, table.layout, op);
        tick.changes.set(name, changes);
      }
      tick.state.set(name, { layout: table.layout, rows: new Map(table.rows) });
    }
    ticks.push(tick);
  }
  return ticks;
}

/** Aborts every transaction that puts a row, after so many puts. */
const crash = { after: Infinity };
const put = IDBObjectStore.prototype.put;
IDBObjectStore.prototype.put = function (this: IDBObjectStore, ...args: Parameters<typeof put>) {
  const request = put.apply(this, args);
  if (crash.after-- <= 0) this.transaction.abort();
  return request;
};
afterEach(() => {
  crash.after = Infinity;
});

class Tab {
  store: Store;
  staged = new Map<string, number>();
  private constructor(store: Store) {
    this.store = store;
  }
  static async open(factory: IDBFactory, dice: Dice): Promise<Tab> {
    const browser = { indexedDB: factory, IDBKeyRange } as unknown as { indexedDB: globalThis.IDBFactory };
    const store = await openStore({ ...browser, name: "model", stageBytes: dice.of([1, 500, 1 << 20]) });
    await store.accede("tab");
    await store.define(Object.fromEntries(Object.keys(LAYOUTS).map((name) => [name, { table: name, indexes: ["a"] }])));
    return new Tab(store);
  }
}

async function check(store: Store, ticks: Tick[]): Promise<number> {
  const head = await store.head();
  const at = head.cursor === null ? 0 : Number(head.cursor.slice(1));
  for (const [name, { ready, filled, layout }] of Object.entries(head.tables)) {
    const there = store.db.tables.some((table) => table.name === name);
    const table = there ? store.db.table<Stored, StoredKey>(name) : null;
    if (!filled) expect(await table?.count() ?? 0, `${name} is empty`).toBe(0);
    if (!ready) continue;
    const expected = ticks[at - 1]!.state.get(name)!;
    expect(layout).toEqual(expected.layout);
    const codec = new Codec(layout!);
    const rows = await table!.toArray();
    const keys = await table!.toCollection().primaryKeys();
    const found = new Map(rows.map((row, i) => {
      expect(codec.wireKeyOf(keys[i]!)).toEqual(codec.wireKey(row));
      return [canonical(codec.wireKey(row)), codec.wireRow(row)];
    }));
    expect(found, `${name} at ${head.cursor}`).toEqual(expected.rows);
    const set = new SetHash(PARTS);
    for (const [key, row] of expected.rows) set.add(row, JSON.parse(key) as unknown[]);
    const digest = await store.digest(name, PARTS);
    expect(digest).toEqual({ cursor: head.cursor, ready, columns: null, rows: set.rows, hash: set.hash(), parts: set.list() });
  }
  return at;
}

/** What a server would send from `at` on for the next `n` commits, as the assembler would put it together. */
async function next(dice: Dice, tab: Tab, ticks: Tick[], at: number, n: number, corrupt: boolean): Promise<Commit[]> {
  const { tables } = await tab.store.head();
  const ready = new Set(Object.keys(tables).filter((name) => tables[name]!.ready && !tab.staged.has(name)));
  // Some come back too late to go on.
  for (const name of [...ready]) if (dice.in(4)) ready.delete(name);
  const behind = new Set(Object.keys(tables).filter((name) => !ready.has(name)));
  const replaced = new Set<string>();
  const commits: Commit[] = [];
  for (const tick of ticks.slice(at, at + n)) {
    const commit: Commit = { cursor: tick.cursor, time: "", tables: [], ready: [], verify: [] };
    for (const [name, { layout, rows }] of tick.state) {
      const table: TableCommit = { name, layout, replace: false, changes: tick.changes.get(name) ?? [] };
      if (tick.redefined.has(name)) ready.delete(name);
      if (!ready.has(name)) {
        // A snapshot may take several commits; only one is staged at a time.
        if (replaced.has(name) || dice.in(2)) {
          if (!replaced.has(name) && dice.in(3)) tab.store.stage.begin(name, layout);
          continue;
        }
        // An old copy, of whatever cursor, may be compared by its hashes: then only parts that differ are staged.
        const old = tables[name]!;
        const compares = behind.has(name) && !replaced.has(name) && old.filled && old.layout && canonical(old.layout) === canonical(layout) && !tab.staged.has(name);
        if (compares && dice.in(2)) {
          const count = dice.of([1, PARTS, 64]);
          const sums = new SetHash(count);
          for (const [key, row] of rows) sums.add(row, JSON.parse(key) as unknown[]);
          const theirs = sums.list();
          const ours = (await tab.store.digest(name, count))!.parts;
          const want = theirs.flatMap(([hash], part) => (hash === ours[part]![0] ? [] : [part]));
          const differing = [...rows].filter(([key]) => want.includes(partOf(JSON.parse(key) as unknown[], count)));
          tab.store.stage.begin(name, layout);
          for (const [, row] of differing) tab.store.stage.append(name, [row]);
          Object.assign(table, { parts: { count, want }, changes: [] });
          if (dice.in(2) && !tick.redefined.has(name)) table.changes = [...rows.values()].map((row) => ({ op: "insert", row }));
          partial += 1;
          ready.add(name);
          replaced.add(name);
          commit.tables.push(table);
          continue;
        }
        tab.store.stage.begin(name, layout);
        const all = [...rows.values()];
        for (let from = 0; from < all.length; from += 3) tab.store.stage.append(name, all.slice(from, from + 3));
        Object.assign(table, { replace: true, changes: [] });
        ready.add(name);
        replaced.add(name);
        // What is sent again does no harm.
        if (dice.in(2) && !tick.redefined.has(name)) table.changes = [...rows.values()].map((row) => ({ op: "insert", row }));
      } else if (dice.in(5)) {
        const before = ticks[Number(tick.cursor.slice(1)) - 2]!.state.get(name)!.rows;
        const want = [0, 1, 2, 3].filter(() => dice.in(2));
        const mended = [...before].filter(([key]) => want.includes(partOf(JSON.parse(key) as unknown[], PARTS)));
        table.repair = { parts: PARTS, want, rows: mended.map(([, row]) => row) };
        if (corrupt && !replaced.has(name)) await damage(dice, tab.store, name, layout, tables[name]!.layout!, want);
      }
      if (table.replace || table.repair || table.changes.length > 0) commit.tables.push(table);
    }
    commit.ready = [...ready];
    commits.push(commit);
  }
  return commits;
}

/** Loses, changes and invents rows of some parts behind the store's back. */
async function damage(dice: Dice, store: Store, name: string, now: Layout, stored: Layout, want: number[]): Promise<void> {
  if (canonical(now) !== canonical(stored)) return;
  const codec = new Codec(now);
  const table = store.db.table<Stored, StoredKey>(name);
  for (let i = 0; i < 3; i++) {
    const row = someRow(dice, now);
    if (!want.includes(partOf(codec.keyOf(row), PARTS))) continue;
    const key = codec.storedKey(codec.keyOf(row));
    if (dice.in(2)) await table.bulkDelete([key] as string[]);
    else await table.bulkPut([codec.row(row)], codec.inside ? undefined : ([key] as string[]));
  }
}

/** Snapshots that were partial. */
let partial = 0;

async function run(seed: number): Promise<{ crashes: number; batches: number }> {
  const dice = new Dice(seed);
  const ticks = history(dice);
  const factory = new IDBFactory();
  let tab = await Tab.open(factory, dice);
  let at = 0;
  let [crashes, batches] = [0, 0];
  while (at < ticks.length) {
    const doomed = dice.in(3);
    const batch = await next(dice, tab, ticks, at, 1 + dice.below(5), !doomed);
    if (doomed) crash.after = dice.below(30);
    const died = await tab.store.apply(batch).then(() => false, (error: Error) => {
      expect(["StorageGone"]).toContain(error.name);
      return true;
    });
    crash.after = Infinity;
    batches += 1;
    if (died) crashes += 1;
    if (died || dice.in(6)) {
      tab.store.close();
      tab = await Tab.open(factory, dice);
    }
    const reached = await check(tab.store, ticks);
    expect(reached).toBe(died ? at : at + batch.length);
    at = reached;
  }
  tab.store.close();
  return { crashes, batches };
}

const first = process.env["RTE_SEED"] ? Number(process.env["RTE_SEED"]) : Date.now() % 1_000_000;
const seeds = process.env["RTE_SEED"] ? [first] : Array.from({ length: 30 }, (_, i) => first + i);

test(`copies and cursor agree with the model, seeds ${first} to ${seeds.at(-1)}`, async () => {
  let [crashes, batches] = [0, 0];
  for (const seed of seeds) {
    const done = await run(seed).catch((error: Error) => {
      error.message = `RTE_SEED=${seed}: ${error.message}`;
      throw error;
    });
    crashes += done.crashes;
    batches += done.batches;
  }
  console.log(`${batches} transactions, ${crashes} of them aborted, ${partial} partial snapshots`);
  if (seeds.length > 1) {
    expect(crashes).toBeGreaterThan(seeds.length);
    expect(partial).toBeGreaterThan(seeds.length);
  }
}, 120_000);
