// The store of one user's copies in one database. What is stored where is in layout.ts and head.ts, how rows get there
// in apply.ts and stage.ts; here is when: each operation on an open connection, tried again when it was closed under
// it.
//
// Invariant: the copy of each live table that the head calls ready is at the head's cursor. Any tab may open, define
// and read; only the one that acceded last applies.

import type { Dexie } from "dexie";
import type { Commit } from "../copy/assembler.ts";
import type { Definition } from "../copy/layout.ts";
import { type ValueOptions, valuesText } from "../copy/values.ts";
import { applyCommits, missing, remade, type Applied, type Context } from "./apply.ts";
import { type Backend, Connection } from "./connection.ts";
import { digest, type Digest } from "./digest.ts";
import { meaning, StorageFull, StorageGone } from "./errors.ts";
import { HEAD, identity, identityOf, readHead, STAGING, writeHead, type Head } from "./head.ts";
import { checkDefinition, fits, storesOf, upgrade, type Edit } from "./layout.ts";
import { merge, type Work } from "./merge.ts";
import { Staging } from "./stage.ts";

export type { Applied, Changed, RowChange } from "./apply.ts";
export type { Digest } from "./digest.ts";
export type { Head, TableHead } from "./head.ts";

export interface StoreOptions {
  name: string;
  /** `memory`: lives as long as the page, and is this tab's alone. */
  kind?: "memory";
  values?: ValueOptions;
  /** Instead of the browser's own. */
  indexedDB?: IDBFactory;
  IDBKeyRange?: typeof IDBKeyRange;
  /** Estimated bytes of staged rows that are kept in memory; default 64 MiB. */
  stageBytes?: number;
}

export interface Store {
  readonly db: Dexie;
  readonly kind: "indexeddb" | "memory";
  /** Where the staged rows of snapshots go; bounded memory. */
  readonly stage: Staging;
  head(): Promise<Head>;
  /** Makes this tab the one that applies: epoch + 1. */
  accede(leader: string): Promise<Head>;
  /**
   * Adds live tables or defines them anew; those that ask the server for something else lose their copy. Others stay.
   */
  define(tables: Record<string, Definition>): Promise<void>;
  /** One transaction for all. Throws Deposed, StorageFull, StorageGone. */
  apply(commits: Commit[]): Promise<Applied>;
  /** Removes live tables with their rows. */
  forget(names: string[]): Promise<void>;
  /** Removes the rows of live tables, which stay defined. */
  empty(names: string[]): Promise<void>;
  /** The hash of a copy by parts, with the cursor that it is at; null if there is none. */
  digest(name: string, parts?: number): Promise<Digest | null>;
  /** Object stores were added or changed, by this or another tab, and `db` shows them. */
  onLayout(listener: () => void): void;
  /** Opens again, and makes the database anew if it is gone. */
  reopen(): Promise<void>;
  close(): void;
  /** Deletes the database, under other tabs too. */
  destroy(): Promise<void>;
}

/** Falls back to memory where IndexedDB is missing or cannot be opened. */
export async function openStore(options: StoreOptions): Promise<Store> {
  const { name, kind, indexedDB = globalThis.indexedDB, IDBKeyRange = globalThis.IDBKeyRange } = options;
  if (kind !== "memory" && indexedDB && IDBKeyRange) {
    const store = new LiveStore("indexeddb", { indexedDB, IDBKeyRange }, options);
    try {
      await store.start();
      return store;
    } catch (error) {
      store.close();
      if (!(error instanceof StorageGone || error instanceof StorageFull)) throw error;
    }
  }
  const { memory } = await import("./fake.ts");
  const store = new LiveStore("memory", memory(), { ...options, name });
  await store.start();
  return store;
}

class LiveStore implements Store {
  readonly kind: "indexeddb" | "memory";
  readonly stage: Staging;
  private readonly connection: Connection;
  private readonly backend: Backend;
  private readonly values: ValueOptions;
  private readonly mine = new Map<string, string>();
  private fence = { epoch: -1, leader: "" };

  constructor(kind: "indexeddb" | "memory", backend: Backend, { name, values = {}, stageBytes }: StoreOptions) {
    this.kind = kind;
    this.backend = backend;
    this.values = values;
    this.connection = new Connection(name, backend);
    const ready = async () => {
      await this.connection.open();
      return this.db;
    };
    this.stage = new Staging(ready, () => this.fence, (table) => this.mine.get(table), stageBytes);
  }

  get db(): Dexie {
    return this.connection.db;
  }

  async start(): Promise<void> {
    await this.connection.create().catch((error: unknown) => {
      const met = meaning(error);
      throw met === "closed" ? new StorageGone("the browser's storage cannot be opened", { cause: error }) : met;
    });
    await this.shape();
    await this.run(() => this.db.transaction("rw", [HEAD, STAGING], async () => {
      const head = await readHead(this.db.table(HEAD));
      await this.db.table(STAGING).where(":id").below([head.epoch]).delete();
    }));
  }

  head(): Promise<Head> {
    return this.run(async () => this.seen(await readHead(this.db.table(HEAD))));
  }

  accede(leader: string): Promise<Head> {
    return this.run(async () => {
      const head = await this.db.transaction("rw", [HEAD, STAGING], async () => {
        const head = await readHead(this.db.table(HEAD));
        head.epoch += 1;
        head.leader = leader;
        await writeHead(this.db.table(HEAD), head);
        await this.db.table(STAGING).where(":id").below([head.epoch]).delete();
        return head;
      });
      for (const name of this.stage.open()) this.stage.drop(name);
      this.fence = { epoch: head.epoch, leader };
      return this.seen(head);
    });
  }

  async define(tables: Record<string, Definition>): Promise<void> {
    const wanted = Object.entries(tables);
    for (const [name, definition] of wanted) checkDefinition(name, definition);
    await this.edit(wanted.map(([name]) => name), (head, clear) => {
      for (const [name, definition] of wanted) {
        const table = Object.hasOwn(head.tables, name) ? head.tables[name]! : null;
        const values = valuesText(this.values);
        if (table && identityOf(table) === identity(definition, values)) {
          table.definition = definition;
          continue;
        }
        clear(name);
        head.tables[name] = { definition, values, layout: table?.layout ?? null, ready: false, filled: false };
      }
    });
    for (const [name, definition] of wanted) {
      const before = this.mine.get(name);
      const now = identity(definition, this.values);
      if (before !== undefined && before !== now) this.stage.drop(name);
      this.mine.set(name, now);
    }
    await this.shape();
  }

  async forget(names: string[]): Promise<void> {
    await this.edit(names, (head, clear) => {
      for (const name of names) {
        clear(name);
        delete head.tables[name];
      }
    });
    for (const name of names) {
      this.stage.drop(name);
      this.mine.delete(name);
    }
    await this.shape();
  }

  empty(names: string[]): Promise<void> {
    return this.edit(names, (head, clear) => {
      for (const name of names) {
        clear(name);
        const table = head.tables[name];
        if (table) table.ready = table.filled = false;
      }
    });
  }

  async apply(commits: Commit[]): Promise<Applied> {
    if (commits.length === 0) return { tables: [], skipped: [], layout: false };
    const works = await merged(commits, this.values);
    let layout = false;
    return this.run(async () => {
      await this.stage.settled();
      const context = this.context();
      const head = await readHead(this.db.table(HEAD));
      if (missing(works, head, context).length > 0) {
        layout = true;
        await this.shape((head, remake) => {
          if (head.epoch !== this.fence.epoch || head.leader !== this.fence.leader) return;
          for (const work of missing(works, head, context)) {
            remade(head, work, context);
            remake(work.name);
          }
        });
      }
      return { ...(await applyCommits(commits, works, context)), layout };
    });
  }

  digest(name: string, parts = 1): Promise<Digest | null> {
    return this.run(async () => {
      const there = this.db.tables.some((table) => table.name === name);
      return there ? digest(this.db, name, parts, this.values) : null;
    });
  }

  onLayout(listener: () => void): void {
    this.connection.onReopen(listener);
  }

  async reopen(): Promise<void> {
    await this.connection.reopen();
    await this.shape();
  }

  close(): void {
    this.connection.close();
  }

  destroy(): Promise<void> {
    return this.connection.destroy();
  }

  private context(): Context {
    const { db, fence, values, stage: staging } = this;
    return { db, fence, values, staging };
  }

  /** What this tab has not defined itself it takes as it finds it first. */
  private seen(head: Head): Head {
    for (const [name, table] of Object.entries(head.tables)) {
      if (!this.mine.has(name)) this.mine.set(name, identityOf(table));
    }
    return head;
  }

  /** Changes the head, and clears tables, in one transaction. */
  private edit(names: string[], change: (head: Head, clear: (name: string) => void) => void): Promise<void> {
    return this.run(() => {
      const there = names.filter((name) => this.db.tables.some((table) => table.name === name));
      return this.db.transaction("rw", [HEAD, ...there], async () => {
        const head = await readHead(this.db.table(HEAD));
        const cleared: string[] = [];
        change(head, (name) => cleared.push(name));
        for (const name of cleared) if (there.includes(name)) await this.db.table(name).clear();
        await writeHead(this.db.table(HEAD), head);
      });
    });
  }

  /** Upgrades until the object stores are those that the head wants, and the edit is done. */
  private async shape(edit?: Edit): Promise<void> {
    let done = false;
    while (!done) {
      done = await this.run(async () => {
        const native = this.connection.native();
        if (!edit && fits(await readHead(this.db.table(HEAD)), storesOf(native))) return true;
        // Another tab's upgrade may have come first: then the version is taken, and what it has made is looked at.
        if (await upgrade(this.backend.indexedDB, this.db.name, native.version, edit ?? (() => {}))) edit = undefined;
        return false;
      });
    }
  }

  /** Runs on an open connection. If that was closed under the work, nothing was done, and it runs again. */
  private async run<T>(work: () => Promise<T>): Promise<T> {
    let tries = 0;
    for (;;) {
      const { yielded } = this.connection;
      try {
        await this.connection.open();
        return await work();
      } catch (error) {
        const met = meaning(error);
        if (met !== "closed") throw met;
        // Upgrades by other tabs are over some time: they count for little. What else closes a connection may last.
        tries += this.connection.yielded === yielded ? 10 : 1;
        if (tries >= TRIES) {
          throw new StorageGone("the browser's storage does not work", { cause: error });
        }
      }
    }
  }
}

async function merged(commits: Commit[], values: ValueOptions): Promise<Work[]> {
  const merging = merge(commits, values);
  for (;;) {
    const { done, value } = merging.next();
    if (done) return value;
    await pause();
  }
}

/** Lets the page have its turn; a timer would wait long in a tab that is hidden. */
function pause(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/** Of how much closing the store gives up: five failures, or fifty upgrades. */
const TRIES = 50;
