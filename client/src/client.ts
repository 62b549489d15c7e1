// The client of one tab: its live tables, its queries, its part in the election of the tab that connects. Whether this tab or
// another one leads makes no difference to what it offers, but for `verify`. Main thread of a page, or Node.

import type { Dexie } from "dexie";
import { type Definition, type Layout, wireText } from "./copy/layout.ts";
import { Codec } from "./copy/values.ts";
import { Emitter } from "./emitter.ts";
import { RteError, type ErrorInfo } from "./errors.ts";
import type { VerifyReport } from "./integrity.ts";
import { Leader } from "./leader.ts";
import { definitionOf, type ConnectOptions, type Settings, type TableOptions } from "./options.ts";
import { Queries } from "./queries.ts";
import type { ChangeEvent, Status } from "./status.ts";
import { Deposed, StorageFull, StorageGone } from "./store/errors.ts";
import { identity, identityOf } from "./store/head.ts";
import { openStore, type Head, type Store, type StoreOptions } from "./store/store.ts";
import { LiveTable, noTable, type Row } from "./table.ts";
import { openChannel, type Channel, type TabMessage } from "./tabs/channel.ts";
import { Election } from "./tabs/election.ts";
import { Lifecycle } from "./tabs/lifecycle.ts";

export interface Events {
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

/** Row types by table name; an interface will do. */
type Rows<Tables> = { [Name in keyof Tables]: object };

export class Rte<Tables extends Rows<Tables> = Record<string, Row>> {
  /** The live tables by name. */
  readonly tables: { readonly [Name in keyof Tables]: LiveTable<Tables[Name]> };
  private readonly byName: Record<string, LiveTable> = Object.create(null) as Record<string, LiveTable>;
  private readonly options: ConnectOptions;
  private readonly identity: Identity;
  private readonly emitter = new Emitter<Events>();
  private readonly queries: Queries;
  private readonly wanted = new Map<string, Definition>();
  private readonly copies = new Set<string>();
  /** Tables whose copy was lost: queries that read them are asked anew when there is one again. */
  private readonly lost = new Set<string>();
  private readonly lifecycle: Lifecycle;
  private channel: Channel;
  private election: Election;
  private store: Store;
  private head: Head;
  private leader: Leader | null = null;
  private starting: Promise<void> = Promise.resolve();
  private current: Status;
  /** What was told last; shown once the head was read, where it says more than the head that is known. */
  private told: Status;
  private closed = false;

  private constructor(options: ConnectOptions, identity: Identity, store: Store, head: Head, tables: Record<string, Definition>) {
    this.options = options;
    this.identity = identity;
    this.store = store;
    this.head = head;
    this.queries = new Queries((error) => this.report(error));
    for (const [name, definition] of Object.entries(tables)) if (this.holds(name, definition)) this.copies.add(name);
    this.current = {
      state: "connecting",
      leader: false,
      transport: null,
      storage: store.kind,
      time: head.time ?? null,
      tables: Object.fromEntries(Object.keys(tables).map((name) => [name, { state: this.copies.has(name) ? "stale" : "waiting" }])),
    };
    this.told = this.current;
    this.tables = this.byName as unknown as typeof this.tables;
    for (const [name, definition] of Object.entries(tables)) this.add(name, definition);
    if (options.onStatus) this.on("status", options.onStatus);
    if (options.onError) this.on("error", options.onError);
    [this.channel, this.election] = this.join();
    this.lifecycle = new Lifecycle({
      freeze: () => this.election.stop(),
      thaw: () => !this.closed && this.election.start(),
      visible: () => this.election.check(),
    });
    this.watch(store);
  }

  /** Opens the store and takes part in the election. Resolves once the tables can be read. */
  static async open<Tables extends Rows<Tables>>(
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
      await rte.readable(Object.keys(tables), options.signal);
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
  on<Name extends keyof Events>(event: Name, listener: (event: Events[Name]) => void): () => void {
    return this.emitter.on(event, listener);
  }

  /** Resolves when each table has a copy: the state of one commit. Rejects where the server refuses one that has none. */
  async ready(): Promise<void> {
    for (const name of [...this.wanted.keys()]) {
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
    if (this.closed) throw new RteError(CLOSED);
    const before = this.wanted.get(name);
    // Later than what was asked for before, also within a millisecond.
    const definition = { ...definitionOf(name, options), asked: Math.max(Date.now(), (before?.asked ?? 0) + 1) };
    this.add(name, definition);
    // Its rows are other ones: queries wait for them.
    if (before && wireText(before) !== wireText(definition)) this.renew(name);
    this.want({ [name]: definition });
    await this.readable([name]);
    return this.table<T>(name);
  }

  /** Ends a live table, for all tabs, and forgets its rows. */
  async unsubscribe(name: string): Promise<void> {
    if (!this.wanted.has(name)) throw noTable(name);
    this.remove(name);
    this.channel.send({ type: "unwant", tab: this.identity.settings.tab, names: [name] });
    await this.leader?.unwant([name]).catch((error: unknown) => {
      if (!this.closed) throw error;
    });
  }

  /** Calls back with the query's result, now and whenever what it has read changes. Returns what ends it. */
  live<R>(query: () => Promise<R>, callback: (result: R) => void, onError?: (error: unknown) => void): () => void {
    return this.queries.add(() => this.known([...this.wanted.keys()]), query, callback, onError);
  }

  /** Runs queries over several tables that all see one commit. */
  async read<R>(names: string[], query: () => Promise<R>): Promise<R> {
    await Promise.all(names.map((name) => this.copied(name)));
    return this.db.transaction("r", names, query);
  }

  /** Compares copies with the server's, and fetches what differs. Only in the tab that leads. */
  async verify(...names: string[]): Promise<VerifyReport[]> {
    if (!this.leader) throw new RteError({ code: "NOT_LEADER", message: "another tab holds the connection", hint: "verify runs there by itself" });
    return this.leader.verify(names.length > 0 ? names : [...this.wanted.keys()]);
  }

  /** Tries to connect now, if it waits to. */
  reconnect(): void {
    if (this.leader) this.leader.restart();
    else this.channel.send({ type: "reconnect", tab: this.identity.settings.tab });
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
        storedKey: (table, key) => {
          const values = (columns: string[]) => (columns.length > 1 && Array.isArray(key) ? (key as unknown[]) : [key]);
          return this.storedKey(table, values) ?? key;
        },
        storedKeyOf: (table, row) => this.storedKey(table, (columns) => columns.map((column) => row[column])),
        typeOf: (table, column) => {
          const layout = this.head.tables[table]?.layout;
          return layout ? typeOf(layout, column) : undefined;
        },
        live: (query, callback, onError) => this.queries.add(() => this.known([name]), query, callback, onError),
      },
      name,
    );
  }

  private remove(name: string): void {
    this.wanted.delete(name);
    delete this.byName[name];
    this.lose(name);
    const { [name]: _, ...tables } = this.current.tables;
    this.show({ ...this.current, tables });
  }

  private want(tables: Record<string, Definition>): void {
    this.channel.send({ type: "want", tab: this.identity.settings.tab, tables });
    void this.leader?.want(tables).catch((error: unknown) => this.report(error));
  }

  /** What a row is stored under, by the values that its key columns show. */
  private storedKey(name: string, valuesOf: (columns: string[]) => unknown[]): unknown {
    const layout = this.head.tables[name]?.layout;
    if (!layout) return undefined;
    const values = valuesOf(layout.key);
    const codec = new Codec(layout, this.identity.settings.values);
    const wire = codec.wireKey(Object.fromEntries(layout.key.map((column, i) => [column, values[i]])));
    return codec.storedKey(wire.map((value, i) => (typeOf(layout, layout.key[i]!) === "int8" ? String(value) : value)));
  }

  /** Undefined where there is a copy: a query that awaits nothing else stays visible to Dexie. */
  private copied(name: string): Promise<void> | undefined {
    if (this.closed) return Promise.reject(new RteError(CLOSED));
    if (this.copies.has(name)) return undefined;
    return this.until(() => {
      if (this.copies.has(name)) return true;
      const error = this.hopelessFor(name);
      if (error) throw error;
      return false;
    });
  }

  /** Resolves once each table has a copy, or is known to get none: then a query that reads it says why. */
  private known(names: string[]): Promise<void> | undefined {
    const test = () => names.every((name) => this.copies.has(name) || this.hopelessFor(name) !== undefined);
    return test() ? undefined : this.until(test);
  }

  /** Resolves once each of the tables has a copy. */
  private readable(names: string[], signal?: AbortSignal): Promise<void> {
    return this.until(() => names.every((name) => {
      const error = this.copies.has(name) ? undefined : this.hopelessFor(name);
      if (error) throw error;
      return this.copies.has(name);
    }), signal);
  }

  /** Whether the store has a whole copy of these rows, kept in this way. */
  private holds(name: string, definition: Definition): boolean {
    const table = this.head.tables[name];
    return table?.filled === true && identityOf(table) === identity(definition, this.identity.settings.values);
  }

  /** The leader keeps values in another way: its rows are what there is. */
  private holdsOtherwise(name: string, definition: Definition): boolean {
    const table = this.head.tables[name];
    if (this.leader || !table?.filled || wireText(table.definition) !== wireText(definition)) return false;
    const message = "another tab keeps values in another way: int8 or dates differ from those of this tab";
    if (!this.copies.has(name)) this.failed({ code: "SUPERSEDED", message, table: name }, false);
    return true;
  }

  /** Why a table that has no copy is not going to get one, as things are. */
  private hopelessFor(name: string): RteError | undefined {
    if (!this.wanted.has(name)) return noTable(name);
    const error = this.hopeless() ?? this.current.tables[name]?.error;
    return error && new RteError(error);
  }

  private hopeless(): ErrorInfo | undefined {
    if (this.closed) return CLOSED;
    return this.current.state === "refused" ? this.current.error : undefined;
  }

  /** Waits until `test` is true; it is asked again with each change of status. */
  private until(test: () => boolean, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const ask = () => {
        try {
          signal?.throwIfAborted();
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
        if (over) return led.stop();
        this.leader = led;
        await this.refresh();
        this.channel.send({ type: "leading", tab: this.identity.settings.tab, epoch: this.head.epoch });
        this.toldByLeader();
      } catch (error) {
        led?.stop();
        await this.leaderEnded(error);
      }
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
    const { election } = this;
    const full = why instanceof StorageFull;
    if (full || why instanceof StorageGone) {
      const code = full ? "STORAGE_FULL" : "STORAGE_GONE";
      this.failed({ code, message: why.message, hint: full ? "the copy goes on in memory" : "it is fetched anew" }, !full);
      await this.replaceStore(full ? "memory" : undefined);
    } else if (!(why instanceof Deposed)) {
      // Whatever it is, it would come again.
      this.report(why);
      await this.replaceStore("memory");
    }
    // A store that is this tab's alone came with an election of its own.
    if (election === this.election) election.deposed();
    else this.election.start();
  }

  /** Another store under the same name: the old one cannot be written, or is gone. */
  private async replaceStore(kind: "memory" | undefined): Promise<void> {
    const before = this.store;
    const store = await openStore({ ...storeOptions(this.options, this.identity), ...(kind && { kind }) });
    const head = await store.head();
    before.close();
    if (this.closed) return store.close();
    // At once, so that no query meets the new store with what was known of the old one.
    this.store = store;
    this.head = head;
    for (const name of [...this.copies]) this.lose(name);
    for (const [name, definition] of this.wanted) if (this.holds(name, definition)) this.copies.add(name);
    // What is in memory is this tab's alone: the others go on with the store, and with a leader of their own.
    if (this.store.kind !== before.kind) {
      this.election.stop();
      this.channel.close();
      [this.channel, this.election] = this.join();
    }
    this.watch(this.store);
    this.show({ ...this.current, storage: this.store.kind });
    this.queries.restart();
  }

  /** The channel to the tabs of the same store, and the part in their election. */
  private join(): [Channel, Election] {
    const { store: name, settings: { tab } } = this.identity;
    const place = this.store.kind === "indexeddb" ? name : `${name}/${tab}`;
    const channel = openChannel(place, (message) => this.heard(message));
    const given = this.options.runtime && "locks" in this.options.runtime;
    const locks = given ? (this.options.runtime?.locks ?? undefined) : globalThis.navigator?.locks;
    return [channel, new Election({ name: place, tab, channel, locks, lead: () => this.lead() })];
  }

  /** Other rows are wanted: the copy and what was said of it do not count. */
  private renew(name: string): void {
    this.lose(name);
    this.show({ ...this.current, tables: { ...this.current.tables, [name]: { state: "waiting" } } });
  }

  /** There is no copy any more, or it is one of other rows. */
  private lose(name: string): void {
    if (this.copies.delete(name)) this.lost.add(name);
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

  /** Takes over a status. A table that has become live has a copy, and its layout is in the head. */
  private take(status: Status): void {
    const before = this.told.tables;
    this.told = status;
    let gone = false;
    let fresh = false;
    for (const [name, { state }] of Object.entries(status.tables)) {
      if (state === "refused" && this.copies.has(name)) {
        this.lose(name);
        gone = true;
      }
      fresh ||= state === "live" && (!this.copies.has(name) || before[name]?.state !== "live");
    }
    if (!fresh) this.show(status);
    else {
      void this.filled()
        .catch((error: unknown) => this.report(error))
        .finally(() => !this.closed && this.show(this.told));
    }
    if (gone) this.queries.restart();
  }

  /** Looks which tables have a copy now. */
  private async filled(): Promise<void> {
    await this.refresh();
    const names = Object.keys(this.told.tables).filter((name) => this.told.tables[name]?.state === "live" && this.wanted.has(name));
    if (names.some((name) => !this.store.db.tables.some((table) => table.name === name))) await this.store.reopen();
    let again = false;
    for (const name of names) {
      const definition = this.wanted.get(name);
      if (!definition || this.told.tables[name]?.state !== "live") continue;
      if (!this.holds(name, definition) && !this.holdsOtherwise(name, definition)) continue;
      this.copies.add(name);
      again = this.lost.delete(name) || again;
    }
    if (again) this.queries.restart();
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

  /** Another tab asks for other rows under a name of ours, and did so later. */
  private superseded(tables: Record<string, Definition>): void {
    for (const [name, theirs] of Object.entries(tables)) {
      const ours = this.wanted.get(name);
      if (!ours || wireText(ours) === wireText(theirs) || (theirs.asked ?? 0) < (ours.asked ?? 0)) continue;
      this.wanted.set(name, theirs);
      this.renew(name);
      this.failed({ code: "SUPERSEDED", message: "another tab has since asked for other rows under this name", table: name }, false);
    }
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
        this.superseded(message.tables);
        if (!this.leader) return;
        void this.leader.want(message.tables).then(() => this.toldByLeader(), (error: unknown) => this.report(error));
        return;
      case "unwant":
        for (const name of message.names) if (this.wanted.has(name)) this.remove(name);
        void this.leader?.unwant(message.names).catch((error: unknown) => this.report(error));
        return;
      case "reconnect":
        return this.leader?.restart();
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

const CLOSED: ErrorInfo = { code: "CLOSED", message: "the client is closed" };

function typeOf(layout: Layout, name: string): string | undefined {
  return layout.columns.find((column) => column.name === name)?.type;
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
