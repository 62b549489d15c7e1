// What the server's messages make of each live table at a commit. Nothing counts before one: rows of a snapshot are
// staged, changes wait, and `commit` hands over what has become of each subscription that is ready.
//
// Invariant: what `receive` returns for a commit, applied to the copies of the commit before, gives the copies at its
// cursor. Pure: keeps no rows of snapshots itself, they go to the sink; knows no clock and no storage.

import type { Change, Changes, Down, Repair, Snapshot, Subscribed } from "../protocol/down.ts";
import type { Layout } from "./layout.ts";

/** Where rows of snapshots wait for their commit. */
export interface StageSink {
  begin(name: string, layout: Layout): void;
  append(name: string, rows: unknown[][]): void;
  drop(name: string): void;
}

/** What a commit does to one live table. */
export interface TableCommit {
  name: string;
  layout: Layout;
  /** The staged snapshot replaces the copy first. */
  replace: boolean;
  /** Of so many parts, the staged snapshot replaces first what the copy has of these. */
  parts?: { count: number; want: number[] };
  /** Rows of these parts replace what the copy has of them, before the changes. */
  repair?: { parts: number; want: number[]; rows: unknown[][] };
  changes: Change[];
}

/** A commit, to be applied in one transaction. */
export interface Commit {
  cursor: string;
  time: string;
  tables: TableCommit[];
  /** Live tables whose copies are at this cursor. */
  ready: string[];
  /** Live tables whose copy right after this commit the server has hashed. */
  verify: string[];
}

/** What a message came to, for those who show progress or wait for an answer. */
export type Received =
  | { kind: "nothing" }
  | { kind: "subscribed"; name: string; layout: Layout; resumed: boolean }
  | { kind: "progress"; name: string; rows: number; total: number | undefined; done: boolean }
  | { kind: "resync"; name: string; reason: string }
  | { kind: "ended"; name: string }
  | { kind: "commit"; commit: Commit };

interface Live {
  layout: Layout;
  shape: string;
  /** Takes part in commits. */
  ready: boolean;
  /** A snapshot is staged, or is being staged. */
  staging: boolean;
  staged: number;
  /** Which parts the snapshot has, if not all rows. */
  parts: { count: number; want: number[] } | null;
  total: number | undefined;
  pending: Change[];
  verifying: boolean;
  repair: { parts: number; want: number[]; rows: unknown[][]; begun: boolean; done: boolean; since: Change[] } | null;
}

export class Assembler {
  private readonly live = new Map<string, Live>();
  private readonly sink: StageSink;

  constructor(sink: StageSink) {
    this.sink = sink;
  }

  /** Forgets a connection's subscriptions: the next one begins with `subscribed` for each. */
  reset(): void {
    for (const [name, live] of this.live) if (live.staging) this.sink.drop(name);
    this.live.clear();
  }

  /** Names whose copies are at the cursor of the last commit. */
  ready(): string[] {
    return [...this.live].filter(([, live]) => live.ready && !live.staging).map(([name]) => name);
  }

  /** Whether a copy of it is on its way. */
  joining(name: string): boolean {
    const live = this.live.get(name);
    return !live || live.staging;
  }

  /** Parts that were asked for; their rows come as `repair`. */
  expectRepair(name: string, parts: number, want: number[]): void {
    const live = this.live.get(name);
    if (live) live.repair = { parts, want, rows: [], begun: false, done: false, since: [] };
  }

  /** `parts`: of `subscribed` that is partial, by how many the old copy was told. */
  receive(message: Down, parts = 0): Received {
    switch (message.type) {
      case "subscribed": return this.subscribed(message, parts);
      case "snapshot": return this.snapshot(message);
      case "changes": return this.changes(message);
      case "resync": return this.resync(message.id, message.reason);
      case "unsubscribed": return this.forget(message.id);
      case "verifying": return this.verifying(message.id);
      case "repair": return this.repair(message);
      case "commit": return { kind: "commit", commit: this.commit(message.cursor, message.time) };
      default: return { kind: "nothing" };
    }
  }

  private subscribed(message: Subscribed, count: number): Received {
    const { id: name, shape, table, key, columns, resumed, partial = false } = message;
    const layout = { table, key, columns };
    if (this.live.get(name)?.staging) this.sink.drop(name);
    this.live.set(name, {
      layout, shape, ready: resumed, staging: !resumed, staged: 0, parts: partial ? { count, want: [] } : null, total: undefined, pending: [], verifying: false, repair: null,
    });
    if (!resumed) this.sink.begin(name, layout);
    return { kind: "subscribed", name, layout, resumed };
  }

  private snapshot({ id: name, rows, done, total, parts }: Snapshot): Received {
    const live = this.live.get(name);
    if (!live?.staging || live.ready) return { kind: "nothing" };
    this.sink.append(name, rows);
    live.staged += rows.length;
    live.total ??= total;
    if (live.parts && parts) live.parts.want = parts;
    live.ready = done;
    return { kind: "progress", name, rows: live.staged, total: live.total, done };
  }

  private changes({ shape, changes }: Changes): Received {
    for (const live of this.live.values()) {
      if (live.shape !== shape) continue;
      for (const change of changes) live.pending.push(change);
      if (live.repair?.begun) for (const change of changes) live.repair.since.push(change);
    }
    return { kind: "nothing" };
  }

  /** The copy stays as it is until the snapshot that follows replaces it. */
  private resync(name: string, reason: string): Received {
    const live = this.live.get(name);
    if (live?.staging) this.sink.drop(name);
    this.live.delete(name);
    return { kind: "resync", name, reason };
  }

  private forget(name: string): Received {
    const live = this.live.get(name);
    if (!live) return { kind: "nothing" };
    if (live.staging) this.sink.drop(name);
    this.live.delete(name);
    return { kind: "ended", name };
  }

  private verifying(name: string): Received {
    const live = this.live.get(name);
    if (live) live.verifying = true;
    return { kind: "nothing" };
  }

  private repair({ id: name, rows, done }: Repair): Received {
    const repair = this.live.get(name)?.repair;
    if (!repair) return { kind: "nothing" };
    for (const row of rows) repair.rows.push(row);
    repair.done ||= done;
    return { kind: "nothing" };
  }

  private commit(cursor: string, time: string): Commit {
    const tables: TableCommit[] = [];
    const ready: string[] = [];
    const verify: string[] = [];
    for (const [name, live] of this.live) {
      if (!live.ready) continue;
      ready.push(name);
      const { layout, pending, repair } = live;
      const joins = live.staging;
      const replace = joins && !live.parts;
      live.staging = false;
      live.pending = [];
      const table: TableCommit = { name, layout, replace, changes: pending };
      if (joins && live.parts) table.parts = live.parts;
      if (repair?.done && repair.begun) {
        // What was recorded holds what is pending too.
        table.repair = { parts: repair.parts, want: repair.want, rows: repair.rows };
        table.changes = repair.since;
        live.repair = null;
      }
      if (live.verifying) {
        live.verifying = false;
        verify.push(name);
        if (live.repair) live.repair.begun = true;
      }
      if (joins || table.repair || table.changes.length > 0) tables.push(table);
    }
    return { cursor, time, tables, ready, verify };
  }
}
