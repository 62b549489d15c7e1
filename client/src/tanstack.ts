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
        const feed = new Feed<T>(sync, getKey, (row) => textOf(key.map((column) => (row as Row)[column])), () => rte.table<T>(name).toArray());
        // Heard from before the rows are read, so nothing falls between; to hear of a change twice does no harm.
        const stop = rte.on("change", (event) => event.table === name && feed.changed(event));
        void rte.table<T>(name).toArray()
          .then(async () => {
            key = (await rte.table(name).layout())?.key ?? [];
            await feed.reload();
          })
          .catch((error: unknown) => sync.markError(error));
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
  return values.length === 1 && (typeof first === "string" || typeof first === "number") ? first : textOf(values);
}

/** The text of a key, the same whether it was read off a row or stands in a change. */
function textOf(key: unknown): string {
  const values = Array.isArray(key) ? key : [key];
  return JSON.stringify(values, (_, value: unknown) => (typeof value === "bigint" ? String(value) : value));
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
    else if (event.replaced) void this.reload().catch((error: unknown) => this.sync.markError(error));
    else this.apply(event);
  }

  /** Replaces all rows. */
  async reload(): Promise<void> {
    const waiting: ChangeEvent[] = [];
    this.waiting = waiting;
    const rows = await this.read();
    this.waiting = null;
    if (this.ended) return;
    const { begin, write, truncate, commit, markReady } = this.sync;
    begin();
    truncate();
    this.keys.clear();
    for (const value of rows) {
      write({ type: "insert", value });
      this.keys.set(this.rowText(value), this.getKey(value));
    }
    void commit();
    markReady();
    for (const event of waiting) this.changed(event);
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
