// A database behind the fake server: small tables, commits that concern several of them, and the whole of `rte.v1` about them:
// snapshots, changes, cursors that name what they are good for, resuming, resyncs, refusals. `where` is `column = $1`.

import { partOf, SetHash } from "../../src/copy/hash.ts";
import type { Change, Column, Down } from "../../src/protocol/down.ts";
import type { Hello, Subscription, Up } from "../../src/protocol/up.ts";
import { FakeServer, type Session } from "./server.ts";

/** Rows are as on the wire: arrays in the order of the columns. */
interface Table {
  columns: Column[];
  key: string[];
  rows: Map<string, unknown[]>;
  granted: boolean;
}

type Write = { table: string; before: unknown[] | undefined; after: unknown[] | undefined } | { table: string; truncate: true };

interface Live {
  subscription: Subscription;
  shape: string;
  /** Its snapshot is done. */
  ready: boolean;
}

/** Writes of one commit. */
export interface Transaction {
  put(table: string, ...row: unknown[]): void;
  delete(table: string, ...key: unknown[]): void;
  truncate(table: string): void;
}

interface Cursor { at: number; subscriptions: Record<string, string> }

export class Database {
  readonly server = new FakeServer();
  url = "";
  /** Rows of one `snapshot` message. */
  batch = 100;
  /** Snapshots stop after their first message until `release`. */
  hold = false;
  /** Says why a token is not accepted, or nothing. */
  refuses: (token: string | undefined) => string | undefined = () => undefined;
  tenants: string[] | null = null;
  /** What `welcome` says of the token's life. */
  expiresInMs: number | undefined;
  /** Tokens that were shown, of `hello` and `auth`. */
  readonly tokens: (string | undefined)[] = [];
  /** Snapshots that were begun, by id. */
  readonly snapshots: string[] = [];
  /** Rows that snapshots have had, and subscriptions as they were asked for. */
  readonly sent: unknown[][] = [];
  readonly asked: Subscription[] = [];
  private readonly tables = new Map<string, Table>();
  private readonly lives = new Map<Session, Map<string, Live>>();
  private readonly log: { at: number; writes: Write[] }[] = [];
  private readonly held: (() => void)[] = [];
  private at = 1;
  private oldest = 1;

  async listen(): Promise<this> {
    this.server.onHello = (session, hello) => this.hello(session, hello);
    this.server.onMessage = (session, message) => this.message(session, message);
    this.url = await this.server.listen();
    return this;
  }

  async close(): Promise<void> {
    await this.server.close();
  }

  /** `columns` as in "id int4, name text?"; a question mark for what may be NULL. The first is the key unless `key` says more. */
  create(name: string, columns: string, rows: unknown[][] = [], key?: string[]): this {
    const described = describe(columns);
    const table: Table = { columns: described, key: key ?? [described[0]!.name], rows: new Map(), granted: true };
    for (const row of rows) table.rows.set(keyText(table, row), row);
    this.tables.set(name, table);
    return this;
  }

  /** What a table holds, in the order of the keys' text. */
  rows(name: string): unknown[][] {
    return [...this.tables.get(name)!.rows].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, row]) => row);
  }

  commit(work: (transaction: Transaction) => void): void {
    const writes: Write[] = [];
    const put = (name: string, ...row: unknown[]): void => {
      const table = this.tables.get(name)!;
      const key = keyText(table, row);
      writes.push({ table: name, before: table.rows.get(key), after: row });
      table.rows.set(key, row);
    };
    work({
      put,
      delete: (name, ...key) => {
        const table = this.tables.get(name)!;
        const text = JSON.stringify(key);
        const before = table.rows.get(text);
        if (before) writes.push({ table: name, before, after: undefined });
        table.rows.delete(text);
      },
      truncate: (name) => {
        this.tables.get(name)!.rows.clear();
        writes.push({ table: name, truncate: true });
      },
    });
    this.at += 1;
    this.log.push({ at: this.at, writes });
    for (const session of this.open()) this.tick(session, [writes]);
  }

  /** By which name the session's changes of a live table come. */
  shapeOf(session: Session, id: string): string {
    return this.lives.get(session)!.get(id)!.shape;
  }

  /** A commit that concerns nobody. */
  beat(): void {
    for (const session of this.open()) this.sendCommit(session);
  }

  /** What was missed is not known any more. */
  forget(): void {
    this.log.length = 0;
    this.oldest = ++this.at;
  }

  revoke(name: string): void {
    this.tables.get(name)!.granted = false;
    this.each(name, (session, id, lives) => {
      session.send(unknown(id));
      session.send({ type: "unsubscribed", id });
      lives.delete(id);
    });
  }

  grant(name: string): void {
    this.tables.get(name)!.granted = true;
  }

  /** Other columns, and rows for them. Every copy of it is replaced. */
  alter(name: string, columns: string, rows: unknown[][]): void {
    this.create(name, columns, rows);
    this.resync(name, "schema_changed");
  }

  resync(name: string, reason: string): void {
    this.at += 1;
    this.each(name, (session, id, lives) => {
      const { subscription } = lives.get(id)!;
      lives.delete(id);
      session.send({ type: "resync", id, reason });
      this.subscribe(session, subscription);
    });
  }

  /** Ends subscriptions for a reason that passes. */
  complain(name: string, code: string): void {
    this.each(name, (session, id, lives) => {
      lives.delete(id);
      session.send({ type: "error", id, code, message: "not now" });
      session.send({ type: "unsubscribed", id });
    });
  }

  /** Lets snapshots that are held go on. */
  release(): void {
    this.hold = false;
    for (const go of this.held.splice(0)) go();
  }

  /** Whom the server talks with. */
  open(): Session[] {
    return this.server.open.filter((session) => this.lives.has(session));
  }

  private each(name: string, work: (session: Session, id: string, lives: Map<string, Live>) => void): void {
    for (const session of this.open()) {
      const lives = this.lives.get(session)!;
      const ids = [...lives].filter(([, { subscription }]) => subscription.table === name).map(([id]) => id);
      for (const id of ids) work(session, id, lives);
    }
  }

  private hello(session: Session, { token, tenant, cursor, subscriptions = [] }: Hello): void {
    this.tokens.push(token);
    const refusal = this.refuses(token);
    if (refusal !== undefined) return this.refuse(session, refusal, 4401, "the token is not accepted");
    if (this.tenants && !this.tenants.includes(tenant ?? "")) return this.refuse(session, "UNKNOWN_TENANT", 4404, "no such tenant");
    this.lives.set(session, new Map());
    session.send({
      type: "welcome", session: "s", tenant: tenant ?? "landlord", role: "r", server: "fake", heartbeat_ms: 60_000,
      ...(this.expiresInMs !== undefined && { expires_in_ms: this.expiresInMs }),
    });
    const from = cursor === undefined ? null : (JSON.parse(atob(cursor)) as Cursor);
    for (const subscription of subscriptions) this.resume(session, subscription, from);
    if (!from) return this.sendCommit(session);
    this.tick(session, this.log.filter(({ at }) => at > from.at).map(({ writes }) => writes));
  }

  private resume(session: Session, subscription: Subscription, from: Cursor | null): void {
    const { id } = subscription;
    if (!this.tables.get(subscription.table)?.granted) return void session.send(unknown(id));
    const held = from?.subscriptions[id] === text(subscription);
    if (subscription.resume_only && (!held || from!.at < this.oldest)) {
      this.asked.push(subscription);
      session.send({ type: "resync", id, reason: held ? "cursor_expired" : "not_held" });
      return session.send({ type: "unsubscribed", id });
    }
    if (!held) return this.subscribe(session, subscription);
    if (from!.at < this.oldest) {
      session.send({ type: "resync", id, reason: "cursor_expired" });
      return this.subscribe(session, subscription);
    }
    this.add(session, subscription, true);
  }

  private message(session: Session, message: Up): void {
    const lives = this.lives.get(session);
    if (!lives || session.ended) return;
    if (message.type === "subscribe") this.subscribe(session, message);
    else if (message.type === "unsubscribe") {
      const { id } = message;
      if (lives.delete(id)) session.send({ type: "unsubscribed", id });
      else session.send({ type: "error", id, code: "UNKNOWN_SUBSCRIPTION", message: "no such subscription" });
    } else if (message.type === "auth") {
      this.tokens.push(message.token);
      const refusal = this.refuses(message.token);
      if (refusal !== undefined) this.refuse(session, refusal, 4401, "the token is not accepted");
    } else if (message.type === "verify") {
      session.send({ type: "error", id: message.id, code: "NOT_SUPPORTED", message: "not by this server" });
    }
  }

  private subscribe(session: Session, subscription: Subscription): void {
    const { id, table: name } = subscription;
    const lives = this.lives.get(session)!;
    if (lives.has(id)) return session.send({ type: "error", id, code: "DUPLICATE_SUBSCRIPTION", message: "in use" });
    const table = this.tables.get(name);
    if (!table?.granted) return session.send(unknown(id));
    const live = this.add(session, subscription, false);
    this.snapshots.push(id);
    this.asked.push(subscription);
    const chosen = [...table.rows.values()].filter((row) => holds(table, subscription, row));
    const parts = differing(table, subscription, chosen);
    const wanted = (row: unknown[]) => !parts || parts.includes(partOf(keyOf(table, row), subscription.have!.parts));
    const rows = chosen.filter(wanted).map((row) => cut(table, subscription, row));
    this.sent.push(...rows);
    const first = rows.splice(0, this.batch);
    session.send({ type: "snapshot", id, rows: first, done: false, total: first.length + rows.length, ...(parts && { parts }) });
    const since = this.at;
    const rest = (): void => {
      if (session.ended || lives.get(id) !== live) return;
      while (rows.length > 0) session.send({ type: "snapshot", id, rows: rows.splice(0, this.batch), done: false });
      session.send({ type: "snapshot", id, rows: [], done: true });
      live.ready = true;
      this.tick(session, this.log.filter(({ at }) => at > since).map(({ writes }) => writes), id);
    };
    if (this.hold) this.held.push(rest);
    else rest();
  }

  private add(session: Session, subscription: Subscription, resumed: boolean): Live {
    const { id, table: name } = subscription;
    const table = this.tables.get(name)!;
    const live: Live = { subscription, shape: text(subscription), ready: resumed };
    this.lives.get(session)!.set(id, live);
    const columns = chosen(table, subscription);
    session.send({ type: "subscribed", id, shape: live.shape, table: `public.${name}`, key: table.key, columns, resumed, ...(!resumed && subscription.have && { partial: true }) });
    return live;
  }

  /** Changes of commits, then the commit. Once for each shape. */
  private tick(session: Session, commits: Write[][], only?: string): void {
    const shapes = new Map<string, Subscription>();
    for (const [id, live] of this.lives.get(session)!) {
      if (live.ready && (only === undefined || id === only)) shapes.set(live.shape, live.subscription);
    }
    for (const [shape, subscription] of shapes) {
      const table = this.tables.get(subscription.table)!;
      const changes = commits.flat().filter((write) => write.table === subscription.table).flatMap((write) => changeOf(table, subscription, write));
      if (changes.length > 0) session.send({ type: "changes", shape, changes });
    }
    this.sendCommit(session);
  }

  private sendCommit(session: Session): void {
    const subscriptions: Record<string, string> = {};
    for (const [id, live] of this.lives.get(session)!) if (live.ready) subscriptions[id] = live.shape;
    const cursor: Cursor = { at: this.at, subscriptions };
    session.send({ type: "commit", cursor: btoa(JSON.stringify(cursor)), time: new Date().toISOString() });
  }

  private refuse(session: Session, code: string, close: number, message: string): void {
    session.send({ type: "error", code, message });
    session.close(close, message);
  }
}

function unknown(id: string): Down {
  return { type: "error", id, code: "UNKNOWN_TABLE", message: "no such table" };
}

function describe(columns: string): Column[] {
  return columns.split(", ").map((column) => {
    const [name, type] = column.split(" ") as [string, string];
    return { name, type: type.replace("?", ""), nullable: type.endsWith("?") };
  });
}

function text({ table, columns, where, params }: Subscription): string {
  return JSON.stringify([table, columns ?? null, where ?? null, params ?? null]);
}

function keyOf(table: Table, row: unknown[]): unknown[] {
  return table.key.map((name) => row[table.columns.findIndex((column) => column.name === name)]);
}

function keyText(table: Table, row: unknown[]): string {
  return JSON.stringify(keyOf(table, row));
}

function chosen(table: Table, { columns }: Subscription): Column[] {
  return columns ? table.columns.filter(({ name }) => columns.includes(name) || table.key.includes(name)) : table.columns;
}

function cut(table: Table, subscription: Subscription, row: unknown[]): unknown[] {
  const names = chosen(table, subscription);
  return names.map((column) => row[table.columns.indexOf(column)]);
}

function holds(table: Table, { where, params = [] }: Subscription, row: unknown[]): boolean {
  if (where === undefined) return true;
  const column = where.replace(" = $1", "");
  return row[table.columns.findIndex(({ name }) => name === column)] === params[0];
}

/** Parts in which an old copy differs; null where none was told. */
function differing(table: Table, subscription: Subscription, rows: unknown[][]): number[] | null {
  const { have } = subscription;
  if (!have) return null;
  const set = new SetHash(have.parts);
  for (const row of rows) set.add(cut(table, subscription, row), keyOf(table, row));
  return set.list().flatMap(([hash], part) => (hash === have.hashes[part] ? [] : [part]));
}

function changeOf(table: Table, subscription: Subscription, write: Write): Change[] {
  if ("truncate" in write) return [{ op: "truncate" }];
  const was = write.before && holds(table, subscription, write.before);
  const is = write.after && holds(table, subscription, write.after);
  if (!is) return was ? [{ op: "delete", key: keyOf(table, write.before!) }] : [];
  const row = cut(table, subscription, write.after!);
  if (!was) return [{ op: "insert", row }];
  const before = cut(table, subscription, write.before!);
  const changed = chosen(table, subscription).map(({ name }, i) => [name, i] as const)
    .filter(([, i]) => JSON.stringify(row[i]) !== JSON.stringify(before[i]));
  return [{ op: "update", key: keyOf(table, write.after!), set: Object.fromEntries(changed.map(([name, i]) => [name, row[i]])) }];
}
