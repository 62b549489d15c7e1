// Applies commits in one transaction: the fence, the rows, the head.
//
// Invariant: it happens whole or not at all, and only while the leader that asks for it is the one in the head. Rows go
// in batches so that the page can do something else in between. Main thread of the leading tab.

import type { Dexie, Table } from "dexie";
import type { Commit } from "../copy/assembler.ts";
import { partOf } from "../copy/hash.ts";
import { sameRows } from "../copy/layout.ts";
import { type Codec, keyText, sameStore, valuesText } from "../copy/values.ts";
import type { Stored, StoredKey, ValueOptions } from "../copy/values.ts";
import { Deposed } from "./errors.ts";
import { HEAD, identityOf, readHead, STAGING, writeHead, type Head, type TableHead } from "./head.ts";
import type { Net, Step, Work } from "./merge.ts";
import type { Stage, Staging } from "./stage.ts";

/** A row that is not as it was. */
export type RowChange =
  | { op: "insert" | "update"; key: StoredKey; row: Stored }
  | { op: "delete"; key: StoredKey };

export interface Changed {
  name: string;
  /**
   * Anything may have changed: a snapshot, a truncate, a repair, or more than is told one by one. Then `changes` is
   * empty.
   */
  replaced: boolean;
  changes: RowChange[];
  /** The server has changed a row that was not there: something is wrong with the copy, or the change came twice. */
  missed?: true;
}

export interface Applied {
  tables: Changed[];
  /** Live tables of the commits that were left as they are: somebody has defined them differently, or given them up. */
  skipped: string[];
  /** Object stores were made or changed for it. */
  layout: boolean;
}

/** Rows that are put, got or deleted in one go: some ten milliseconds of the main thread, also of a slow one. */
const BATCH = 200;
/** Batches that wait for the database at a time: it works at one while the next is made. */
const AHEAD = 2;
/** Keys that are hashed in one go. */
const SCAN = 1000;
/** Changes of a table that are told one by one. */
const TOLD = 1000;

export interface Context {
  db: Dexie;
  fence: { epoch: number; leader: string };
  values: ValueOptions;
  staging: Staging;
}

/** Stores that must be made before these commits can be applied. */
export function missing(works: Work[], head: Head, context: Context): Work[] {
  return works.filter((work) => {
    const table = own(head, work.name);
    if (!table || !concerns(work, table, context)) return false;
    return work.staged && !work.partial && (!table.layout || !sameStore(table.layout, work.layout));
  });
}

/** Prepares the head for a store that is made anew: what was in it is lost. */
export function remade(head: Head, { name, layout }: Work, context: Context): void {
  const table = own(head, name);
  if (table) Object.assign(table, { layout, values: valuesText(context.values), ready: false, filled: false });
}

export async function applyCommits(
  commits: Commit[],
  works: Work[],
  context: Context,
): Promise<Omit<Applied, "layout">> {
  const { db, staging, fence } = context;
  const stages = new Map(works.filter(({ staged }) => staged).map(({ name }) => [name, staging.get(name)]));
  const there = new Set(db.tables.map(({ name }) => name));
  const spilled = [...stages.values()].some((stage) => stage && staging.spilled(stage));
  const touched = works.map(({ name }) => name).filter((name) => there.has(name));
  const scope = [HEAD, ...(spilled ? [STAGING] : []), ...touched];
  const applied = await db.transaction("rw", scope, async () => {
    const head = await readHead(db.table(HEAD));
    if (head.epoch !== fence.epoch || head.leader !== fence.leader) throw new Deposed("another tab leads");
    const tables: Changed[] = [];
    const skipped: string[] = [];
    for (const work of works) {
      const table = own(head, work.name);
      if (!table || !there.has(work.name) || !fit(work, table, context)) {
        skipped.push(work.name);
        if (table) table.ready = false;
        continue;
      }
      tables.push(await new Run(db, work, staging, stages.get(work.name)).run());
      table.layout = work.layout;
      table.ready = table.filled = true;
    }
    const last = commits.at(-1)!;
    // Copies that wait for a snapshot stay where they were: not at this cursor.
    for (const [name, table] of Object.entries(head.tables)) table.ready &&= last.ready.includes(name);
    head.cursor = last.cursor;
    head.time = last.time;
    await writeHead(db.table(HEAD), head);
    return { tables, skipped };
  });
  for (const [name, stage] of stages) if (stage) staging.used(name, stage);
  return applied;
}

function own(head: Head, name: string): TableHead | undefined {
  return Object.hasOwn(head.tables, name) ? head.tables[name] : undefined;
}

/** Whether work is about what the head means by the name: a definition that asks for something else ends what is ready. */
function concerns({ name, staged }: Work, table: TableHead, { staging }: Context): boolean {
  return staged ? staging.get(name)?.identity === identityOf(table) : table.ready;
}

function fit(work: Work, table: TableHead, context: Context): boolean {
  if (!concerns(work, table, context) || !table.layout) return false;
  // What is not sent again must be there, and as it would be sent.
  if (work.partial) return table.filled && sameRows(table.layout, work.layout);
  // Rows that are all replaced may be of another type of key than those before them.
  return work.staged ? sameStore(table.layout, work.layout) : keyText(table.layout) === keyText(work.layout);
}

/** The work on one table, inside the transaction. */
class Run {
  private readonly db: Dexie;
  private readonly table: Table<Stored, StoredKey>;
  private readonly work: Work;
  private readonly codec: Codec;
  private readonly staging: Staging;
  private readonly stage: Stage | undefined;
  private readonly changed: Changed;
  private readonly pending: Promise<unknown>[] = [];

  constructor(db: Dexie, work: Work, staging: Staging, stage: Stage | undefined) {
    this.db = db;
    this.table = db.table(work.name);
    this.work = work;
    this.codec = work.codec;
    this.staging = staging;
    this.stage = stage;
    this.changed = { name: work.name, replaced: false, changes: [] };
  }

  async run(): Promise<Changed> {
    const { steps } = this.work;
    const repairs = (steps[0]?.repair?.want.length ?? 0) > 0;
    if (steps.length !== 1 || steps[0]!.base !== "copy" || repairs || steps[0]!.rows.size > TOLD) {
      this.changed.replaced = steps.length > 0;
    }
    for (const step of steps) await this.step(step);
    await Promise.all(this.pending);
    if (this.stage && this.staging.spilled(this.stage)) {
      await this.db.table(STAGING).bulkDelete(this.staging.keys(this.stage));
    }
    return this.changed;
  }

  private async step({ base, repair, rows }: Step): Promise<void> {
    if (base !== "copy") await this.table.clear();
    if (base === "staged") await this.unstage();
    if (repair) await this.repair(repair);
    const nets = [...rows.values()];
    for (let at = 0; at < nets.length; at += BATCH) await this.nets(nets.slice(at, at + BATCH));
  }

  private async unstage(): Promise<void> {
    const stage = this.stage!;
    const staged = this.staging.spilled(stage) ? this.db.table(STAGING) : null;
    for (let part = 0; part < stage.parts.length; part++) await this.put(await this.staging.part(stage, part, staged));
  }

  private async put(rows: unknown[][]): Promise<void> {
    for (let at = 0; at < rows.length; at += BATCH) {
      const some = rows.slice(at, at + BATCH);
      const keys = () => some.map((row) => this.codec.storedKey(this.codec.keyOf(row)));
      await this.store(some.map((row) => this.codec.row(row)), keys);
    }
  }

  private store(rows: Stored[], keys: () => StoredKey[]): Promise<void> {
    if (rows.length === 0) return Promise.resolve();
    return this.sent(this.codec.inside ? this.table.bulkPut(rows) : this.table.bulkPut(rows, keys() as string[]));
  }

  private remove(keys: StoredKey[]): Promise<void> {
    // Dexie's types of keys leave out some that IndexedDB takes.
    return keys.length === 0 ? Promise.resolve() : this.sent(this.table.bulkDelete(keys as string[]));
  }

  /** Resolves when few enough requests wait; the database runs them in order. */
  private async sent(request: PromiseLike<unknown>): Promise<void> {
    const sent = Promise.resolve(request);
    sent.catch(() => {});
    this.pending.push(sent);
    if (this.pending.length >= AHEAD) await this.pending.shift();
  }

  /** Replaces what the copy has of some parts. */
  private async repair({ parts, want, rows }: NonNullable<Step["repair"]>): Promise<void> {
    if (want.length === 0) return;
    const wanted = new Set(want);
    let keys = await this.table.toCollection().limit(SCAN).primaryKeys();
    while (keys.length > 0) {
      const next = this.table.where(":id").above(keys.at(-1)!).limit(SCAN);
      const gone: StoredKey[] = keys.filter((key) => wanted.has(partOf(this.codec.wireKeyOf(key), parts)));
      for (let at = 0; at < gone.length; at += BATCH) await this.remove(gone.slice(at, at + BATCH));
      keys = keys.length < SCAN ? [] : await next.primaryKeys();
    }
    if (rows === "staged") await this.unstage();
    else await this.put(rows);
  }

  private async nets(nets: Net[]): Promise<void> {
    const told = !this.changed.replaced;
    const keys = nets.map(({ key }) => this.codec.storedKey(key));
    const asked = keys.filter((_, i) => told || nets[i]!.op === "patch");
    const found = asked.length > 0 ? await this.table.bulkGet(asked) : [];
    const puts: Stored[] = [];
    const putKeys: StoredKey[] = [];
    const deletes: StoredKey[] = [];
    let next = 0;
    for (const [i, net] of nets.entries()) {
      const key = keys[i]!;
      const before = told || net.op === "patch" ? found[next++] : undefined;
      if (net.op === "delete") {
        if (before || !told) deletes.push(key);
        if (before && told) this.changed.changes.push({ op: "delete", key });
        continue;
      }
      if (net.op === "patch" && !before) {
        this.changed.missed = true;
        continue;
      }
      const row = net.op === "put" ? this.codec.row(net.row) : { ...before, ...this.codec.set(net.set) };
      puts.push(row);
      putKeys.push(key);
      if (told) this.changed.changes.push({ op: before ? "update" : "insert", key, row });
    }
    await this.store(puts, () => putKeys);
    await this.remove(deletes);
  }
}

