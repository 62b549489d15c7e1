// TanStack DB: a live table as a collection. Rows come from the store, and with each commit what it has changed.

import type { CollectionConfig, SyncConfig } from "@tanstack/db";
import type { Rte } from "./client.ts";
import type { ChangeEvent } from "./status.ts";
import type { Row } from "./table.ts";

export interface RteCollectionOptions<T extends object> {
  rte: Pick<Rte, "table" | "on">;
  /** Name of the live table. */
  table: string;
  /** Default: the table's name. */
  id?: string;
  /** Default: the primary key; a composite one as the JSON text of its values. */
  getKey?: (row: T) => string | number;
}

type Sync<T extends object> = Parameters<SyncConfig<T, string | number>["sync"]>[0];

/** Options for `createCollection`. Reading only: a change that is made through the collection is not sent. */
export function rteCollectionOptions<T extends object = Row>(
  options: RteCollectionOptions<T>,
): CollectionConfig<T, string | number> & { id: string } {
  const { rte, table: name, id = name } = options;
  let key: string[] = [];
  const getKey = options.getKey ?? ((row: T) => keyOf(key, row as Row));
  return {
    id,
    getKey,
    sync: {
      rowUpdateMode: "full",
      sync: (sync) => {
        const read = async () => {
          const rows = await rte.table<T>(name).toArray();
          key = (await rte.table(name).layout())?.key ?? [];
          return rows;
        };
        const feed = new Feed<T>(sync, getKey, (row) => textOf(rte.table<T>(name).keyOf(row)), read);
        // Heard from before the rows are read, so nothing falls between; to hear of a change twice does no harm.
        const stop = rte.on("change", (event) => event.table === name && feed.changed(event));
        feed.reload();
        return () => {
          stop();
          feed.end();
        };
      },
    },
  };
}

function keyOf(key: string[], row: Row): string | number {
  const values = key.map((column) => row[column]);
  const [first] = values;
  if (values.length === 1 && (typeof first === "string" || typeof first === "number")) return first;
  return JSON.stringify(values, (_, value: unknown) => (typeof value === "bigint" ? String(value) : value));
}

/** The text of what a row is stored under. */
function textOf(key: unknown): string {
  return JSON.stringify([key]);
}

/** Writes rows into a collection. What changes while all are read waits for it. */
class Feed<T extends object> {
  private readonly sync: Sync<T>;
  private readonly getKey: (row: T) => string | number;
  private readonly rowText: (row: T) => string;
  private readonly read: () => Promise<T[]>;
  /** The collection's keys by the text of the stored ones: a deleted row is known by its key alone. */
  private readonly keys = new Map<string, string | number>();
  private waiting: ChangeEvent[] | null = null;
  private ended = false;

  constructor(sync: Sync<T>, getKey: (row: T) => string | number, rowText: (row: T) => string, read: () => Promise<T[]>) {
    this.sync = sync;
    this.getKey = getKey;
    this.rowText = rowText;
    this.read = read;
  }

  end(): void {
    this.ended = true;
  }

  changed(event: ChangeEvent): void {
    if (this.waiting) this.waiting.push(event);
    else if (event.replaced) this.reload();
    else this.apply(event);
  }

  /** Replaces all rows, once there is a copy to read. */
  reload(): void {
    const waiting: ChangeEvent[] = [];
    this.waiting = waiting;
    void this.read().then(
      (rows) => this.replace(rows),
      (error: unknown) => {
        // Such as a table that may not be read any more: nothing of it stays.
        this.replace([], error);
      },
    ).finally(() => {
      this.waiting = null;
      for (const event of waiting) this.changed(event);
    });
  }

  private replace(rows: T[], error?: unknown): void {
    if (this.ended) return;
    const { begin, write, truncate, commit, markReady, markError } = this.sync;
    begin();
    truncate({ markReady: error === undefined });
    this.keys.clear();
    for (const value of rows) {
      write({ type: "insert", value });
      this.keys.set(this.rowText(value), this.getKey(value));
    }
    void commit();
    if (error === undefined) markReady();
    else markError(error);
  }

  private apply(event: ChangeEvent): void {
    if (this.ended) return;
    const { begin, write, commit } = this.sync;
    begin();
    for (const change of event.changes) {
      if (change.op !== "delete") {
        const value = change.row as T;
        const text = this.rowText(value);
        write({ type: this.keys.has(text) ? "update" : "insert", value });
        this.keys.set(text, this.getKey(value));
      } else {
        const text = textOf(change.key);
        const id = this.keys.get(text);
        if (id === undefined) continue;
        this.keys.delete(text);
        write({ type: "delete", key: id });
      }
    }
    void commit();
  }
}
