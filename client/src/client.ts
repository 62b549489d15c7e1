// The client of one tab: its live tables, its queries, its part in the election of the tab that connects. Whether this tab or
// another one leads makes no difference to what it offers. Main thread of a page, or Node.

import type Dexie from "dexie";
import type { Definition, Layout } from "./copy/layout.ts";
import { Codec } from "./copy/values.ts";
import { Emitter } from "./emitter.ts";
import { RteError, type ErrorInfo } from "./errors.ts";
import type { VerifyReport } from "./integrity.ts";
import { Leader } from "./leader.ts";
import { definitionOf, type ConnectOptions, type Settings, type TableOptions } from "./options.ts";
import { Queries } from "./queries.ts";
import type { ChangeEvent, Status } from "./status.ts";
import { Deposed, StorageFull, StorageGone } from "./store/errors.ts";
import { openStore, type Head, type Store, type StoreOptions } from "./store/store.ts";
import { LiveTable, noTable, type Row } from "./table.ts";
import { openChannel, type Channel, type TabMessage } from "./tabs/channel.ts";
import { Election } from "./tabs/election.ts";
import { Lifecycle } from "./tabs/lifecycle.ts";

export interface Events extends Record<string, unknown> {
  status: Status;
  change: ChangeEvent;
  error: ErrorInfo;
}

/** What a tab knows before it has a store. */
export interface Identity {
  settings: Settings;
  /** Name of the database: server, tenant, user. */
  store: string;
}

type Rows = Record<string, object>;

export class Rte<Tables extends Rows = Record<string, Row>> {
  /** The live tables by name. */
  readonly tables: { readonly [Name in keyof Tables]: LiveTable<Tables[Name]> };
  private readonly byName: Record<string, LiveTable> = Object.create(null) as Record<string, LiveTable>;
  private readonly options: ConnectOptions;
  private readonly identity: Identity;
  private readonly emitter = new Emitter<Events>();
  private readonly queries: Queries;
  private readonly wanted = new Map<string, Definition>();
  private readonly copies = new Set<string>();
  private readonly channel: Channel;
  private readonly election: Election;
  private readonly lifecycle: Lifecycle;
  private store: Store;
  private head: Head;
  private leader: Leader | null = null;
  private starting: Promise<void> = Promise.resolve();
  private current: Status;
  private closed = false;

  private constructor(options: ConnectOptions, identity: Identity, store: Store, head: Head, tables: Record<string, Definition>) {
    this.options = options;
    this.identity = identity;
    this.store = store;
    this.head = head;
    this.queries = new Queries((error) => this.report(error));
    for (const [name, table] of Object.entries(head.tables)) if (table.filled) this.copies.add(name);
    this.current = {
      state: "connecting",
      leader: false,
      transport: null,
      storage: store.kind,
      time: head.time ?? null,
      tables: Object.fromEntries(Object.keys(tables).map((name) => [name, { state: this.copies.has(name) ? "stale" : "waiting" }])),
    };
    this.tables = this.byName as unknown as typeof this.tables;
    for (const [name, definition] of Object.entries(tables)) this.add(name, definition);
    if (options.onStatus) this.on("status", options.onStatus);
    if (options.onError) this.on("error", options.onError);
    const { tab } = identity.settings;
    // A store in memory is seen by this tab alone.
    const shared = store.kind === "indexeddb";
    this.channel = openChannel(shared ? identity.store : `${identity.store}/${tab}`, (message) => this.heard(message));
    const locks = options.runtime && "locks" in options.runtime ? (options.runtime.locks ?? undefined) : globalThis.navigator?.locks;
    this.election = new Election({
      name: shared ? identity.store : `${identity.store}/${tab}`,
      tab,
      channel: this.channel,
      locks,
      lead: () => this.lead(),
    });
    this.lifecycle = new Lifecycle({
      freeze: () => this.election.stop(),
      thaw: () => !this.closed && this.election.start(),
      visible: () => this.election.check(),
    });
    this.watch(store);
  }

  /** Opens the store and takes part in the election. Resolves once the tables can be read. */
  static async open<Tables extends Rows>(
    options: ConnectOptions,
    identity: Identity,
    tables: Record<string, Definition>,
  ): Promise<Rte<Tables>> {
    const store = await openStore(storeOptions(options, identity));
    const rte = new Rte<Tables>(options, identity, store, await store.head(), tables);
    rte.channel.send({ type: "want", tab: identity.settings.tab, tables });
    rte.election.start();
    rte.lifecycle.start();
    try {
      await rte.readable(Object.keys(tables));
    } catch (error) {
      await rte.close();
      throw error;
    }
    return rte;
  }

  /** How it stands. A new object with each change. */
  get status(): Status {
    return this.current;
  }

  /** The Dexie database of the live tables, for queries beyond the simple ones. Reading only. */
  get db(): Dexie {
    return this.store.db;
  }

  /** `status`, `change` (once for each commit and table) or `error`. Returns what ends it. */
  on<Name extends keyof Events & string>(event: Name, listener: (event: Events[Name]) => void): () => void {
    return this.emitter.on(event, listener);
  }

  /** Resolves when each table has a copy: the state of one commit. */
  async ready(): Promise<void> {
    for (const name of this.wanted.keys()) {
      const copy = this.copied(name);
      if (copy) await copy;
    }
  }

  /** The live table of this name. */
  table<T extends object = Row>(name: string): LiveTable<T> {
    const table = this.byName[name];
    if (!table) throw noTable(name);
    return table as unknown as LiveTable<T>;
  }

  /** Adds a live table, or changes what one holds. */
  async subscribe<T extends object = Row>(name: string, options: TableOptions = {}): Promise<LiveTable<T>> {
    const definition = { ...definitionOf(name, options), asked: Date.now() };
    this.add(name, definition);
    this.want({ [name]: definition });
    await this.readable([name]);
    return this.table<T>(name);
  }

  /** Ends a live table, for all tabs, and forgets its rows. */
  async unsubscribe(name: string): Promise<void> {
    if (!this.wanted.delete(name)) throw noTable(name);
    delete this.byName[name];
    this.copies.delete(name);
    if (this.leader) await this.leader.unwant([name]);
    else this.channel.send({ type: "unwant", tab: this.identity.settings.tab, names: [name] });
  }

  /** Calls back with the query's result, now and whenever what it has read changes. Returns what ends it. */
  live<R>(query: () => Promise<R>, callback: (result: R) => void, onError?: (error: unknown) => void): () => void {
    return this.queries.add(() => this.ready(), query, callback, onError);
  }

  /** Runs queries over several tables that all see one commit. */
  async read<R>(names: string[], query: () => Promise<R>): Promise<R> {
    for (const name of names) {
      const copy = this.copied(name);
      if (copy) await copy;
    }
    return this.db.transaction("r", names, query);
  }

  /** Compares copies with the server's, and fetches what differs. Only in the tab that leads. */
  async verify(...names: string[]): Promise<VerifyReport[]> {
    if (!this.leader) throw new RteError({ code: "NOT_LEADER", message: "another tab holds the connection", hint: "verify runs there by itself" });
    return this.leader.verify(names.length > 0 ? names : [...this.wanted.keys()]);
  }

  /** Tries to connect now, if it waits to. */
  reconnect(): void {
    this.leader?.restart();
  }

  /** Ends this tab's part. The copy stays for the next time. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    this.queries.end();
    this.lifecycle.stop();
    this.election.stop();
    await this.starting.catch(() => {});
    this.channel.close();
    this.store.close();
    this.show({ ...this.current, state: "stopped", leader: false, transport: null });
    this.emitter.clear();
  }

  /** Ends all tabs' part and deletes the copy: for logging out. */
  async clear(): Promise<void> {
    this.channel.send({ type: "clear", tab: this.identity.settings.tab });
    const store = this.store;
    await this.close();
    await store.destroy();
  }

  private add(name: string, definition: Definition): void {
    this.wanted.set(name, definition);
    this.byName[name] ??= new LiveTable(
      {
        copied: (table) => this.copied(table),
        dexie: (table) => this.store.db.table(table),
        layout: async (table) => (await this.store.head()).tables[table]?.layout ?? undefined,
        storedKey: (table, key) => this.storedKey(table, key),
        live: (query, callback, onError) => this.queries.add(() => this.copied(name), query, callback, onError),
      },
      name,
    );
  }

  private want(tables: Record<string, Definition>): void {
    if (this.leader) void this.leader.want(tables).catch((error: unknown) => this.report(error));
    else this.channel.send({ type: "want", tab: this.identity.settings.tab, tables });
  }

  private storedKey(name: string, key: unknown): unknown {
    const layout = this.head.tables[name]?.layout;
    if (!layout) return key;
    const codec = new Codec(layout, this.identity.settings.values);
    // Keys that IndexedDB cannot take are kept as the text of their values.
    return codec.inside ? key : codec.storedKey(Array.isArray(key) ? key : [key]);
  }

  /** Undefined where there is a copy: a query that awaits nothing else stays visible to Dexie. */
  private copied(name: string): Promise<void> | undefined {
    if (this.copies.has(name)) return undefined;
    if (!this.wanted.has(name)) return Promise.reject(noTable(name));
    return this.until(() => {
      if (this.copies.has(name)) return true;
      const error = this.current.tables[name]?.error ?? this.hopeless();
      if (error) throw new RteError(error);
      return false;
    });
  }

  /** Resolves once there is a store for each of the tables. */
  private readable(names: string[]): Promise<void> {
    const exists = new Set(this.store.db.tables.map((table) => table.name));
    return this.until(() => {
      const error = this.hopeless();
      return names.every((name) => {
        if (this.copies.has(name) || exists.has(name)) return true;
        const refused = this.current.tables[name]?.error ?? error;
        if (refused) throw new RteError(refused);
        return this.store.db.tables.some((table) => table.name === name);
      });
    });
  }

  private hopeless(): ErrorInfo | undefined {
    if (this.closed) return { code: "CLOSED", message: "the client is closed" };
    return this.current.state === "refused" ? this.current.error : undefined;
  }

  /** Waits until `test` is true; it is asked again with each change of status. */
  private until(test: () => boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      const { signal } = this.options;
      const ask = () => {
        try {
          if (signal?.aborted) throw signal.reason;
          if (!test()) return;
          resolve();
        } catch (error) {
          reject(error as Error);
        }
        stop();
        signal?.removeEventListener("abort", ask);
      };
      const stop = this.emitter.on("status", ask);
      signal?.addEventListener("abort", ask);
      ask();
    });
  }

  // The leader's part.

  private lead(): () => void {
    let led: Leader | null = null;
    let over = false;
    this.starting = this.starting.then(async () => {
      if (over || this.closed) return;
      try {
        led = await Leader.start(this.store, this.identity.settings, Object.fromEntries(this.wanted), {
          onStatus: () => this.toldByLeader(),
          onChange: (event) => this.changed(event, true),
          onError: (error) => this.failed(error, true),
          onLayout: () => this.layoutChanged(),
          onEnd: (why) => void this.leaderEnded(why),
        });
      } catch (error) {
        return this.leaderEnded(error);
      }
      if (over) return led.stop();
      this.leader = led;
      const { tab } = this.identity.settings;
      this.channel.send({ type: "leading", tab, epoch: (await this.store.head()).epoch });
      await this.refresh();
      this.toldByLeader();
    });
    return () => {
      over = true;
      this.leader = null;
      led?.stop();
      if (!this.closed) this.show({ ...this.current, leader: false });
    };
  }

  private async leaderEnded(why: unknown): Promise<void> {
    this.leader = null;
    if (this.closed) return;
    const full = why instanceof StorageFull;
    if (full || why instanceof StorageGone) {
      this.failed({ code: full ? "STORAGE_FULL" : "STORAGE_GONE", message: String((why as Error).message), hint: full ? "the copy goes on in memory" : "it is fetched anew" }, true);
      await this.replaceStore(full ? "memory" : undefined);
    } else if (!(why instanceof Deposed)) {
      // Whatever it is, it would come again.
      this.report(why);
      await this.replaceStore("memory");
    }
    this.election.deposed();
  }

  /** Another store under the same name: the old one cannot be written, or is gone. */
  private async replaceStore(kind: "memory" | undefined): Promise<void> {
    const before = this.store;
    this.store = await openStore({ ...storeOptions(this.options, this.identity), ...(kind && { kind }) });
    before.close();
    this.head = await this.store.head();
    this.copies.clear();
    for (const [name, table] of Object.entries(this.head.tables)) if (table.filled) this.copies.add(name);
    this.watch(this.store);
    this.show({ ...this.current, storage: this.store.kind });
    this.queries.restart();
  }

  private watch(store: Store): void {
    store.onLayout(() => this.layoutChanged());
  }

  private layoutChanged(): void {
    this.channel.send({ type: "layout", tab: this.identity.settings.tab });
    void this.refresh().then(() => this.toldByLeader());
  }

  /** Reads the head again: which tables have a copy, and of what layout. */
  private async refresh(): Promise<void> {
    const store = this.store;
    const head = await store.head();
    if (store !== this.store || this.closed) return;
    this.head = head;
  }

  private toldByLeader(): void {
    if (!this.leader) return;
    const status: Status = { ...this.leader.status(), leader: true, storage: this.store.kind };
    this.channel.send({ type: "status", tab: this.identity.settings.tab, status: { ...status, leader: false } });
    this.take(status);
  }

  /** Takes over a status; a table that has become live has a copy, and its layout is in the head. */
  private take(status: Status): void {
    const fresh = Object.entries(status.tables).filter(([name, { state }]) => state === "live" && !this.copies.has(name));
    for (const [name, { state }] of Object.entries(status.tables)) {
      if (state === "refused" && this.copies.delete(name)) this.queries.restart();
    }
    if (fresh.length === 0) return this.show(status);
    void this.refresh()
      .then(async () => {
        if (fresh.some(([name]) => !this.store.db.tables.some((table) => table.name === name))) await this.store.reopen();
        for (const [name] of fresh) if (this.head.tables[name]?.filled) this.copies.add(name);
      })
      .catch((error: unknown) => this.report(error))
      .finally(() => this.show(this.leader ? { ...this.leader.status(), leader: true, storage: this.store.kind } : status));
  }

  private show(status: Status): void {
    this.current = status;
    this.emitter.emit("status", status);
  }

  private changed(event: ChangeEvent, tell: boolean): void {
    if (tell) this.channel.send({ type: "change", tab: this.identity.settings.tab, event });
    this.emitter.emit("change", event);
  }

  private failed(error: ErrorInfo, tell: boolean): void {
    if (tell) this.channel.send({ type: "error", tab: this.identity.settings.tab, error });
    this.emitter.emit("error", error);
  }

  private report(error: unknown): void {
    const known = error instanceof RteError ? error : new RteError({ code: "INTERNAL", message: String(error) }, error);
    this.emitter.emit("error", { code: known.code, message: known.message, hint: known.hint, table: known.table });
  }

  private heard(message: TabMessage): void {
    if (this.closed) return;
    this.election.heard(message);
    const { tab } = this.identity.settings;
    switch (message.type) {
      case "leading":
        // Who acceded last leads; without locks two may have thought that nobody did.
        if (this.leader && message.epoch > this.head.epoch) this.election.deposed();
        this.channel.send({ type: "want", tab, tables: Object.fromEntries(this.wanted) });
        return;
      case "who":
        if (!this.leader) return;
        this.channel.send({ type: "leading", tab, epoch: this.head.epoch });
        return this.toldByLeader();
      case "want":
        if (!this.leader) return;
        void this.leader.want(message.tables).then(() => this.toldByLeader(), (error: unknown) => this.report(error));
        return;
      case "unwant":
        void this.leader?.unwant(message.names);
        return;
      case "status":
        if (!this.leader) this.take({ ...message.status, leader: false, storage: this.store.kind });
        return;
      case "change":
        return this.changed(message.event, false);
      case "error":
        return this.failed(message.error, false);
      case "layout":
        void this.store.reopen().then(() => this.refresh()).then(() => this.show({ ...this.current }), (error: unknown) => this.report(error));
        return;
      case "clear":
        this.failed({ code: "CLEARED", message: "the copy was deleted by another tab" }, false);
        void this.close();
        return;
      case "resign":
        return;
    }
  }
}

function storeOptions(options: ConnectOptions, { store, settings }: Identity): StoreOptions {
  const { storage, runtime = {} } = options;
  const nowhere = runtime.indexedDB === null;
  return {
    name: store,
    values: settings.values,
    ...((storage === "memory" || nowhere) && { kind: "memory" as const }),
    ...(runtime.indexedDB && { indexedDB: runtime.indexedDB }),
    ...(runtime.IDBKeyRange && { IDBKeyRange: runtime.IDBKeyRange }),
  };
}

export type { Layout };
