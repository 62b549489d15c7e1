// One Dexie instance over the life of a store: it closes for upgrades by this or other tabs and opens again by itself,
// with the stores that are there then; live queries go on.
//
// Dexie reads the schema that it finds ("dynamic"), but of tables that it knew already it keeps the old one: `refresh`
// sets that right before any query that waited goes on. Invariant: who awaits `open` has a connection that shows all
// upgrades finished before. Main thread or worker of any tab.

import { Dexie, RangeSet, type Table } from "dexie";
import { StorageGone } from "./errors.ts";
import { upgrade, remove } from "./layout.ts";

export interface Backend { indexedDB: IDBFactory; IDBKeyRange: typeof IDBKeyRange }

export class Connection {
  readonly db: Dexie;
  /** How often the connection was closed for an upgrade. */
  yielded = 0;
  private readonly backend: Backend;
  private readonly listeners = new Set<() => void>();
  private opening: Promise<void> | null = null;
  private closed = false;
  /** The database was deleted: it comes back only when somebody asks for it. */
  private deleted = false;
  private version = 0;

  constructor(name: string, backend: Backend) {
    this.backend = backend;
    // Without a database of the browser's own Dexie lets no live query run.
    Dexie.dependencies.indexedDB ??= backend.indexedDB;
    Dexie.dependencies.IDBKeyRange ??= backend.IDBKeyRange;
    // Dexie's cache of results guesses at what writes do to them, and copies: what is stored is what counts here.
    this.db = new Dexie(name, { ...backend, cache: "disabled", autoOpen: true });
    this.db.on("versionchange", (event) => this.yieldTo(event));
    this.db.on("ready", () => this.refresh(), true);
  }

  onReopen(listener: () => void): void {
    this.listeners.add(listener);
  }

  /** Makes the database if it is not there. */
  async create(): Promise<void> {
    this.deleted = false;
    await upgrade(this.backend.indexedDB, this.db.name, 0, null);
  }

  /** Resolves when the connection is open. */
  open(): Promise<void> {
    if (this.closed || this.deleted) return Promise.reject(new StorageGone("the database is closed"));
    if (this.db.isOpen() && this.opening === null) return Promise.resolve();
    this.opening ??= this.reach().finally(() => (this.opening = null));
    return this.opening;
  }

  native(): IDBDatabase {
    return this.db.backendDB();
  }

  async reopen(): Promise<void> {
    if (this.closed) throw new StorageGone("the store is closed");
    await this.create();
    if (this.db.isOpen()) this.db.close({ disableAutoOpen: false });
    await this.open();
  }

  close(): void {
    this.closed = true;
    this.db.close();
  }

  async destroy(): Promise<void> {
    this.close();
    await remove(this.backend.indexedDB, this.db.name);
  }

  /** An upgrade or a deletion, here or in another tab, waits for us to close. */
  private yieldTo(event: IDBVersionChangeEvent): boolean {
    if (event.newVersion === null) {
      this.deleted = true;
      this.db.close();
    } else {
      this.yielded += 1;
      this.db.close({ disableAutoOpen: false });
      this.open().catch(() => {});
    }
    // Dexie's own answer comes with a warning on the console.
    return false;
  }

  private async reach(): Promise<void> {
    // An upgrade that begins while Dexie opens leaves it closed.
    for (let attempt = 0; attempt < 100; attempt++) {
      await this.db.open();
      if (this.closed || this.deleted) throw new StorageGone("the database is closed");
      if (this.db.isOpen()) return;
    }
    throw new StorageGone("the database does not stay open");
  }

  private refresh(): void {
    const inside = this.db as unknown as {
      _allTables: Record<string, Table>;
      _dbSchema: Record<string, Table["schema"]>;
    };
    for (const [name, table] of Object.entries(inside._allTables)) {
      const schema = inside._dbSchema[name];
      if (schema) Object.assign(table.schema, schema);
      else delete inside._allTables[name];
    }
    const native = this.native();
    native.addEventListener("close", () => this.open().catch(() => {}));
    const before = this.version;
    this.version = native.version;
    if (before !== 0 && before !== native.version) queueMicrotask(() => this.changed());
  }

  /**
   * Has live queries run again, those too that failed because the connection was closed or a table was not there yet.
   */
  private changed(): void {
    const everything = new RangeSet(-Infinity, [[]]) as unknown as never;
    Dexie.on.storagemutated.fire({ all: everything });
    for (const listener of this.listeners) listener();
  }
}
