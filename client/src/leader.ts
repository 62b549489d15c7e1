// What the leading tab does: holds the connection, puts messages together, and applies what they make, one
// transaction after another.
//
// Invariant: messages take effect in the order in which they came; a cursor is shown to the server only after all up to it
// was handed to the store, in order. So whatever dies first, what is stored is a state that the server's cursor names.
// Main thread of the leading tab.

import { Connection, type Status as ConnectionStatus } from "./connection/driver.ts";
import { Assembler, type Commit } from "./copy/assembler.ts";
import { type Definition, sameRows, wireText } from "./copy/layout.ts";
import { valuesText } from "./copy/values.ts";
import { RteError, type ErrorInfo } from "./errors.ts";
import { Integrity, type VerifyReport } from "./integrity.ts";
import { type Old, OldCopies } from "./old.ts";
import type { Settings } from "./options.ts";
import type { Down, ErrorMessage, Subscribed, Welcome } from "./protocol/down.ts";
import type { Subscription } from "./protocol/up.ts";
import type { ChangeEvent, Status, TableStatus } from "./status.ts";
import { Deposed, StorageFull, StorageGone } from "./store/errors.ts";
import type { Applied, Head, Store } from "./store/store.ts";

export interface LeaderEvents {
  onStatus(): void;
  onChange(event: ChangeEvent): void;
  onError(error: ErrorInfo): void;
  /** Another leader is at work, or the store cannot be written: this one has ended. */
  onEnd(why: Deposed | StorageFull | StorageGone | RteError): void;
  onLayout(): void;
}

interface Live {
  definition: Definition;
  status: TableStatus;
  /** There is a whole copy, if perhaps one of an earlier cursor. */
  filled: boolean;
  /** The server was asked for it in this connection, and has not ended it. */
  asked: boolean;
  /** Of one that the server has answered: why it is about to end it. */
  failure: ErrorInfo | null;
  answered: boolean;
  /** `hello` has asked to go on with its copy, or else to be told that it cannot. */
  resuming: boolean;
  /** It cannot because the table is another by now: its old copy is worth nothing. */
  redefined: boolean;
  /** It is being found out what to tell the server of its copy. */
  telling: object | null;
  /** What the server was told of its copy. */
  told: Old | null;
  retries: number;
  retry: ReturnType<typeof setTimeout> | undefined;
}

/** Codes of a subscription's error after which it is asked for again, by and by. */
const RETRY_MS = { first: 2000, most: 300_000 };
const ACK_MS = 1000;
/** Of a server that does not say how long a message may be. */
const MESSAGE_BYTES = 64 << 10;
const DAY_MS = 86_400_000;
/** A live table that no tab has asked for since is forgotten. */
const KEEP_MS = 7 * DAY_MS;

export class Leader {
  private readonly store: Store;
  private readonly events: LeaderEvents;
  private readonly assembler: Assembler;
  private readonly connection: Connection;
  /** A new connection begins with nothing; what the last one has brought is applied first. */
  private resetPending = false;
  private open = false;
  private changing: Promise<void> = Promise.resolve();
  private readonly integrity: Integrity;
  private readonly tables = new Map<string, Live>();
  private readonly old: OldCopies;
  private messageBytes = MESSAGE_BYTES;
  /** Subscriptions that were ended here, and not yet by the server: so many of each name. */
  private readonly ending = new Map<string, number>();
  /** Messages that are not put together yet, because a commit has to be applied first. */
  private inbox: Down[] = [];
  private reading = false;
  private commits: Commit[] = [];
  private applying: Promise<void> | null = null;
  /** The cursor of the last commit that was handed on, and the tables that are at it. */
  private cursor: string | undefined;
  private ready: string[] = [];
  private time: string | null = null;
  private connected: ConnectionStatus;
  private acked = 0;
  private ended = false;

  private constructor(store: Store, settings: Settings, events: LeaderEvents, head: Head) {
    this.store = store;
    this.events = events;
    this.assembler = new Assembler(store.stage);
    this.old = new OldCopies(store);
    this.cursor = head.cursor ?? undefined;
    this.time = head.time ?? null;
    for (const [name, table] of Object.entries(head.tables)) {
      this.tables.set(name, fresh(table.definition, table.filled));
      if (table.ready) this.ready.push(name);
    }
    this.integrity = new Integrity({
      store,
      send: (message) => this.connection.send(message),
      expect: (name, parts, want) => this.assembler.expectRepair(name, parts, want),
      values: settings.values,
      everyMs: settings.verifyEveryMs,
      tables: () => [...this.tables].filter(([, live]) => live.status.state === "live").map(([name]) => name),
      onReport: (report) => this.repaired(report),
    });
    this.connection = new Connection({
      url: settings.url,
      ...(settings.tenant !== undefined && { tenant: settings.tenant }),
      ...(settings.token !== undefined && { token: settings.token }),
      ...settings.connection,
      client: { name: settings.name, id: settings.tab },
      hello: () => this.hello(),
      onMessage: (message) => this.message(message),
      onOpen: (welcome) => this.opened(welcome),
      onClose: () => this.closed(),
      onStatus: (status) => {
        this.connected = status;
        if (!this.ended) this.events.onStatus();
      },
    });
    this.connected = this.connection.status;
  }

  /** Accedes in the store and connects. `tables` are wanted besides those that the store has. */
  static async start(
    store: Store,
    settings: Settings,
    tables: Record<string, Definition>,
    events: LeaderEvents,
  ): Promise<Leader> {
    const head = await store.accede(settings.tab);
    const kept = Object.entries(head.tables).map(([name, table]) => [name, table.definition] as const);
    const old = kept.filter(([name, { asked = 0 }]) => !(name in tables) && asked < Date.now() - KEEP_MS);
    if (old.length > 0) await store.forget(old.map(([name]) => name));
    // What was kept in another way is fetched anew, also what others want: a copy is all of one kind.
    const values = valuesText(settings.values);
    const odd = kept.filter(([name]) => head.tables[name]!.values !== values && !old.some(([other]) => other === name));
    await store.define({ ...Object.fromEntries(odd), ...later(Object.fromEntries(kept), tables) });
    const leader = new Leader(store, settings, events, await store.head());
    await leader.old.measure().catch(() => {});
    leader.connection.start();
    leader.integrity.start();
    return leader;
  }

  stop(): void {
    if (this.ended) return;
    this.ended = true;
    for (const live of this.tables.values()) clearTimeout(live.retry);
    this.integrity.stop();
    this.connection.stop();
    this.inbox = [];
    this.assembler.reset();
  }

  /** Resolves when nothing is being written any more. */
  async settled(): Promise<void> {
    while (this.applying) await this.applying;
  }

  /** Live tables that are wanted from now on, or differently. One change after the other. */
  want(tables: Record<string, Definition>): Promise<void> {
    return this.next(() => this.changeTo(tables));
  }

  private next(change: () => Promise<void>): Promise<void> {
    const done = this.changing.then(() => (this.ended ? undefined : change()));
    this.changing = done.catch(() => {});
    return done;
  }

  private async changeTo(tables: Record<string, Definition>): Promise<void> {
    const before = Object.fromEntries([...this.tables].map(([name, live]) => [name, live.definition]));
    const changed = Object.entries(later(before, tables));
    if (changed.length === 0) return;
    const others = changed.filter(([name, definition]) => !before[name] || wireText(before[name]) !== wireText(definition));
    // Before the name means something else: what still comes is of the old meaning.
    for (const [name] of others) this.unsubscribe(name);
    await this.settled();
    await this.store.define(Object.fromEntries(changed));
    for (const [name, definition] of changed) {
      const live = this.tables.get(name);
      if (live) live.definition = definition;
    }
    for (const [name, definition] of others) {
      this.unsubscribe(name);
      this.tables.set(name, fresh(definition, false));
      this.subscribe(name);
    }
    this.events.onStatus();
  }

  unwant(names: string[]): Promise<void> {
    return this.next(() => this.giveUp(names));
  }

  private async giveUp(names: string[]): Promise<void> {
    const known = names.filter((name) => this.tables.has(name));
    for (const name of known) {
      this.unsubscribe(name);
      this.tables.delete(name);
    }
    await this.settled();
    await this.store.forget(known);
    this.events.onStatus();
  }

  private unsubscribe(name: string): void {
    const live = this.tables.get(name);
    clearTimeout(live?.retry);
    this.ready = this.ready.filter((other) => other !== name);
    this.integrity.forget(name);
    this.assembler.receive({ type: "unsubscribed", id: name });
    if (!live) return;
    const { asked } = live;
    begun(live, false);
    if (asked && this.connection.send({ type: "unsubscribe", id: name })) this.ending.set(name, (this.ending.get(name) ?? 0) + 1);
  }

  async verify(names: string[]): Promise<VerifyReport[]> {
    return this.integrity.ask(names);
  }

  /** Connects at once, if it waits to. */
  restart(): void {
    this.connection.restart();
  }

  status(): Pick<Status, "state" | "transport" | "time" | "tables" | "error" | "retryAt"> {
    const tables = Object.fromEntries([...this.tables].map(([name, live]) => [name, { ...live.status }]));
    const under = Object.values(tables).some(({ state }) => state !== "live" && state !== "refused");
    const { state, transport, reason, retryAt } = this.connected;
    return {
      state: state === "live" && under ? "syncing" : state,
      transport: transport ?? null,
      time: this.time,
      tables,
      error: reason && state !== "live" ? { code: String(reason.code), message: reason.message, hint: reason.hint } : undefined,
      retryAt,
    };
  }

  private hello(): { cursor?: string; subscriptions: Subscription[] } {
    for (const [name, live] of this.tables) {
      begun(live, this.ready.includes(name));
      live.resuming = live.asked && live.filled && this.old.has(name);
    }
    this.ending.clear();
    const subscriptions = this.ready.map((name) => ({
      ...this.subscription(name),
      ...(this.tables.get(name)!.resuming && { resume_only: true }),
    }));
    return this.cursor !== undefined && subscriptions.length > 0 ? { cursor: this.cursor, subscriptions } : { subscriptions: [] };
  }

  private subscription(name: string): Subscription {
    const { table, columns, where, params } = this.tables.get(name)!.definition;
    return { id: name, table, ...(columns && { columns }), ...(where !== undefined && { where }), ...(params && { params }) };
  }

  /** Asks for what `hello` has not: the rest of the tables have no copy that could go on. */
  private opened(welcome: Welcome): void {
    this.open = true;
    this.messageBytes = welcome.limits?.max_frame_bytes ?? MESSAGE_BYTES;
    this.inbox = [];
    this.resetPending = true;
    for (const [name, live] of this.tables) {
      clearTimeout(live.retry);
      live.retries = 0;
      if (live.status.state === "live") live.status = { state: "stale" };
      if (!this.ready.includes(name)) this.subscribe(name);
    }
    this.integrity.connected();
  }

  private closed(): void {
    this.open = false;
    // What came behind the last commit is sent again.
    this.inbox = [];
    this.resetPending = true;
    for (const live of this.tables.values()) live.telling = null;
    this.integrity.disconnected();
    void this.old.measure().catch(() => {});
  }

  /** Asks for a snapshot; where there is a large copy, for what of it differs, unless it is to come `whole`. */
  private subscribe(name: string, whole = false): void {
    if (!this.open) return;
    const live = this.tables.get(name)!;
    begun(live, false);
    if (!whole && live.filled && this.old.has(name)) {
      void this.compare(name, live).catch((error: unknown) => this.end(error));
    } else {
      this.ask(name, live, null);
    }
  }

  private async compare(name: string, live: Live): Promise<void> {
    const telling = {};
    live.telling = telling;
    // What the last connection has brought belongs to the copy.
    await this.settled();
    const old = await this.old.tell(name, this.messageBytes);
    if (!this.ended && this.tables.get(name) === live && live.telling === telling) this.ask(name, live, old);
  }

  private ask(name: string, live: Live, old: Old | null): void {
    begun(live, true);
    live.told = old;
    // What was refused stays so until the server says otherwise.
    if (live.status.state === "waiting") live.status = { state: "syncing" };
    this.connection.send({ type: "subscribe", ...this.subscription(name), ...(old && { have: old.have }) });
  }

  /** Asks for all rows, where only some were asked for. */
  private askWhole(name: string): void {
    this.unsubscribe(name);
    this.subscribe(name, true);
  }

  private message(message: Down): void {
    if (this.ended) return;
    this.inbox.push(message);
    if (!this.reading) void this.read().catch((error: unknown) => this.failedToTake(error));
  }

  /** Puts messages together in order. A new copy begins only when the one before it has been applied: they are staged by name. */
  private async read(): Promise<void> {
    this.reading = true;
    try {
      while (this.inbox.length > 0) {
        const first = this.inbox[0]!;
        if ((this.resetPending || (first.type === "subscribed" && !first.resumed)) && this.applying) {
          await this.settled();
          continue;
        }
        if (this.resetPending) {
          this.resetPending = false;
          this.assembler.reset();
        }
        this.inbox.shift();
        this.take(first);
      }
    } finally {
      this.reading = false;
    }
  }

  /** The copy is as of the last commit, from where another connection goes on. */
  private failedToTake(error: unknown): void {
    if (this.ended) return;
    this.events.onError({ code: "INTERNAL", message: `a message of the server could not be taken: ${String(error)}` });
    this.connection.fail();
  }

  private take(message: Down): void {
    if (this.stray(message)) return;
    if (message.type === "error") return this.failed(message);
    if (message.type === "verified") return this.integrity.verified(message);
    if (message.type === "repair") this.integrity.repairing(message);
    if (message.type === "subscribed" && !this.fits(message)) return this.askWhole(message.id);
    const live = "id" in message && message.id !== undefined ? this.tables.get(message.id) : undefined;
    if (live?.resuming && message.type === "unsubscribed") return this.subscribe(message.id, live.redefined);
    if (live && message.type === "resync") live.redefined = message.reason === "schema_changed";
    const received = this.assembler.receive(message, live?.told?.have.parts);
    switch (received.kind) {
      case "nothing":
        return;
      case "commit":
        return this.commit(received.commit);
      case "subscribed":
        this.answered(received.name);
        return this.mark(received.name, received.resumed ? { state: "stale" } : { state: this.underWay(received.name), rows: 0 });
      case "progress":
        return this.mark(received.name, { state: this.underWay(received.name), rows: received.rows, total: received.total });
      case "resync":
        this.ready = this.ready.filter((name) => name !== received.name);
        return this.mark(received.name, { state: "stale" });
      case "ended":
        return this.gone(received.name);
    }
  }

  /** Whether it is of a subscription that was ended here: its name may mean other rows by now. */
  private stray(message: Down): boolean {
    const id = "id" in message ? message.id : undefined;
    const ending = id === undefined ? 0 : (this.ending.get(id) ?? 0);
    if (id === undefined || ending === 0) return false;
    if (message.type === "unsubscribed" || (message.type === "error" && message.code === "UNKNOWN_SUBSCRIPTION")) {
      if (ending === 1) this.ending.delete(id);
      else this.ending.set(id, ending - 1);
    }
    return true;
  }

  /** Whether an answer can be used: of parts, where it is of the copy's columns that they are. */
  private fits(message: Subscribed): boolean {
    const live = this.tables.get(message.id);
    if (live) live.resuming = false;
    if (!message.partial) return true;
    return live?.told != null && sameRows(live.told.layout, message);
  }

  private underWay(name: string): "stale" | "syncing" {
    return this.tables.get(name)?.filled ? "stale" : "syncing";
  }

  private mark(name: string, status: TableStatus): void {
    const live = this.tables.get(name);
    if (!live) return;
    live.status = status;
    this.events.onStatus();
  }

  private failed(message: ErrorMessage): void {
    const { code, message: text, hint, id } = message;
    const info: ErrorInfo = { code, message: text, hint, table: id };
    if (id !== undefined && this.integrity.failed(message)) return;
    const live = id === undefined ? undefined : this.tables.get(id);
    // Of two sides that end a subscription at the same time, one comes too late.
    if (live && (code === "UNKNOWN_SUBSCRIPTION" || code === "DUPLICATE_SUBSCRIPTION")) return;
    if (live?.answered) {
      // It counts when the server ends the subscription, which follows if it does.
      live.failure = info;
      return;
    }
    if (live) this.refused(id!, live, info);
    else this.events.onError(info);
  }

  private answered(name: string): void {
    const live = this.tables.get(name);
    if (live) live.answered = true;
  }

  private gone(name: string): void {
    const live = this.tables.get(name);
    if (live) this.refused(name, live, live.failure ?? { code: "ENDED", message: "the server has ended the subscription", table: name });
  }

  /** The server has ended a subscription, or not begun it. It is asked again, by and by. */
  private refused(name: string, live: Live, error: ErrorInfo): void {
    const known = live.status.error?.code === error.code;
    begun(live, false);
    this.ready = this.ready.filter((other) => other !== name);
    if (error.code === "NOT_READY") {
      live.status = { state: live.filled ? "stale" : "waiting" };
    } else {
      live.status = { state: "refused", error };
      if (live.filled) this.empty(name, live);
    }
    const delay = Math.min(RETRY_MS.first * 2 ** live.retries++, RETRY_MS.most);
    clearTimeout(live.retry);
    live.retry = setTimeout(() => {
      if (!this.ended && this.tables.get(name) === live) this.subscribe(name);
    }, delay * (0.7 + 0.6 * Math.random()));
    if (!known) this.events.onError(error);
    this.events.onStatus();
  }

  /** Rows that may not be read any more must not stay, nor come by a commit that waits. */
  private empty(name: string, live: Live): void {
    live.filled = false;
    this.commits = this.commits.map((commit) => without(commit, name));
    void this.next(async () => {
      await this.settled();
      if (this.tables.get(name) !== live || live.filled) return;
      await this.store.empty([name]);
      this.events.onChange({ table: name, replaced: true, changes: [], time: this.time ?? new Date().toISOString() });
    }).catch((error: unknown) => this.end(error));
  }

  private commit(commit: Commit): void {
    this.cursor = commit.cursor;
    this.ready = commit.ready.filter((name) => this.tables.has(name));
    this.commits.push(commit);
    this.applying ??= this.apply().finally(() => (this.applying = null));
  }

  /** Applies what waits; what has gathered meanwhile goes into one transaction. */
  private async apply(): Promise<void> {
    while (this.commits.length > 0 && !this.ended) {
      const cut = this.commits.findIndex((commit) => commit.verify.length > 0);
      const batch = this.commits.splice(0, cut === -1 ? this.commits.length : cut + 1);
      const last = batch.at(-1)!;
      let applied: Applied;
      try {
        applied = await this.store.apply(batch.map((commit) => this.wanted(commit)));
      } catch (error) {
        this.commits = [];
        return this.end(error);
      }
      this.told(applied, batch);
      for (const name of last.verify) await this.integrity.compare(name, last.cursor).catch((error: unknown) => this.end(error));
    }
  }

  /** Without tables that were given up since. */
  private wanted(commit: Commit): Commit {
    const wanted = (name: string) => this.tables.has(name);
    return { ...commit, tables: commit.tables.filter(({ name }) => wanted(name)), ready: commit.ready.filter(wanted) };
  }

  private told(applied: Applied, batch: Commit[]): void {
    const last = batch.at(-1)!;
    this.time = last.time;
    let became = false;
    for (const { name, parts } of batch.flatMap(({ tables }) => tables)) {
      const live = this.tables.get(name);
      if (!parts || !live?.told) continue;
      live.told = null;
      // The copy that they were to go into was emptied meanwhile.
      if (applied.skipped.includes(name)) this.askWhole(name);
    }
    for (const name of last.ready) {
      const live = this.tables.get(name);
      if (!live || applied.skipped.includes(name) || this.assembler.joining(name)) continue;
      live.filled = true;
      if (live.status.state !== "live") {
        live.status = { state: "live" };
        live.retries = 0;
        became = true;
      }
    }
    for (const table of applied.tables) {
      if (table.missed) this.integrity.suspect(table.name);
      this.events.onChange({ table: table.name, replaced: table.replaced, changes: table.changes, time: last.time });
    }
    if (applied.layout) this.events.onLayout();
    if (became) {
      this.events.onStatus();
      void this.old.measure().catch(() => {});
    }
    const now = Date.now();
    if (now - this.acked > ACK_MS) {
      this.acked = now;
      this.connection.send({ type: "ack", cursor: last.cursor });
    }
  }

  private repaired(report: VerifyReport): void {
    if (report.repaired > 0) {
      this.events.onError({
        code: "REPAIRED",
        message: `${report.repaired} of ${report.parts} parts of the stored copy differed and were fetched again`,
        table: report.table,
      });
    }
  }

  private end(error: unknown): void {
    if (this.ended) return;
    this.stop();
    const known = error instanceof Deposed || error instanceof StorageFull || error instanceof StorageGone;
    this.events.onEnd(known ? error : new RteError({ code: "STORAGE_FAILED", message: String(error) }, error));
  }
}

function begun(live: Live, asked: boolean): void {
  const anew = { resuming: false, redefined: false, telling: null, told: null };
  Object.assign(live, { asked, answered: false, failure: null, ...anew } satisfies Partial<Live>);
}

function fresh(definition: Definition, filled: boolean): Live {
  const status: TableStatus = { state: filled ? "stale" : "waiting" };
  const live = { definition, status, filled, asked: false, answered: false, failure: null, retries: 0, retry: undefined };
  return { ...live, resuming: false, redefined: false, telling: null, told: null };
}

function without(commit: Commit, name: string): Commit {
  const other = (one: string) => one !== name;
  const { tables, ready, verify } = commit;
  return { ...commit, tables: tables.filter((table) => other(table.name)), ready: ready.filter(other), verify: verify.filter(other) };
}

/** Of two definitions the one that was asked for later counts; those that change nothing are left out, but once a day. */
function later(before: Record<string, Definition>, wanted: Record<string, Definition>): Record<string, Definition> {
  const text = (definition: Definition) => wireText(definition) + JSON.stringify(definition.indexes ?? []);
  const changed = Object.entries(wanted).filter(([name, definition]) => {
    const old = before[name];
    if (!old) return true;
    const [asked, askedBefore] = [definition.asked ?? 0, old.asked ?? 0];
    return text(old) === text(definition) ? asked > askedBefore + DAY_MS : asked >= askedBefore;
  });
  return Object.fromEntries(changed);
}
