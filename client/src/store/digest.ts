// The hash of a stored copy, read in one transaction with the cursor that it is at, in pieces that leave the page
// alive.

import type { Dexie, Table } from "dexie";
import { SetHash } from "../copy/hash.ts";
import { Codec, exact, type Stored, type StoredKey, type ValueOptions } from "../copy/values.ts";
import { HEAD, readHead } from "./head.ts";

export interface Digest {
  cursor: string | null;
  /** Whether the copy is at the cursor. */
  ready: boolean;
  /** What is in `hash`: the columns to ask the server for, in the table's order; null means all. */
  columns: string[] | null;
  rows: number;
  hash: string;
  parts: [hash: string, rows: number][];
}

/** Rows that are read and hashed in one go. */
const SCAN = 250;

export async function digest(db: Dexie, name: string, parts: number, values: ValueOptions): Promise<Digest | null> {
  return db.transaction("r", [HEAD, name], async () => {
    const head = await readHead(db.table(HEAD));
    const { layout, ready } = head.tables[name] ?? { layout: null, ready: false };
    if (!layout) return null;
    const codec = new Codec(layout, values);
    const columns = exact(layout, values);
    const all = columns.length === layout.columns.length;
    const set = new SetHash(parts);
    const table: Table<Stored, StoredKey> = db.table(name);
    let rows = await table.limit(SCAN).toArray();
    while (rows.length > 0) {
      for (const row of rows) set.add(codec.wireRow(row, columns), codec.wireKey(row));
      if (rows.length < SCAN) break;
      const last = codec.storedKey(codec.wireKey(rows.at(-1)!));
      rows = await table.where(":id").above(last).limit(SCAN).toArray();
    }
    const { cursor } = head;
    return { cursor, ready, columns: all ? null : columns, rows: set.rows, hash: set.hash(), parts: set.list() };
  });
}
