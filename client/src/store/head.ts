// The store's one record: who leads, where the copy is, and which live tables there are.
//
// Invariant: it is written in the transaction that changes what it speaks of, so copy and head agree whenever a tab
// dies.

import type { Table } from "dexie";
import { type Definition, type Layout, wireText } from "../copy/layout.ts";
import { type ValueOptions, valuesText } from "../copy/values.ts";

export const HEAD = "_rte";
export const STAGING = "_rte_staging";
const KEY = "head";
const FORMAT = 1;

/** A live table. */
export interface TableHead {
  definition: Definition;
  /** How its values are kept. */
  values: string;
  /** As the server described what is stored; null before the first snapshot. */
  layout: Layout | null;
  /** The copy is at the cursor. */
  ready: boolean;
  /** There is a whole copy to show, if perhaps one of an earlier cursor. */
  filled: boolean;
}

export interface Head {
  format: number;
  /** Counts accessions: who writes rows must have acceded last. */
  epoch: number;
  leader: string;
  cursor: string | null;
  time: string | null;
  tables: Record<string, TableHead>;
}

export function freshHead(): Head {
  return { format: FORMAT, epoch: 0, leader: "", cursor: null, time: null, tables: {} };
}

/** Whether this version of the client understands a head. */
export function known(head: Head | undefined): head is Head {
  return head?.format === FORMAT;
}

export async function readHead(table: Table): Promise<Head> {
  const head = (await table.get(KEY)) as Head | undefined;
  return known(head) ? head : freshHead();
}

export async function writeHead(table: Table, head: Head): Promise<void> {
  await table.put(head, KEY);
}

/** The same by bare IndexedDB, inside an upgrade. */
export function editHead(store: IDBObjectStore, edit: (head: Head) => Head): void {
  const request = store.get(KEY);
  request.onsuccess = () => {
    const head = request.result as Head | undefined;
    store.put(edit(known(head) ? head : freshHead()), KEY);
  };
}

/** Differs when a copy that was made for one is no good for the other. */
export function identity(definition: Definition, values: ValueOptions | string): string {
  return wireText(definition) + (typeof values === "string" ? values : valuesText(values));
}

export function identityOf(table: TableHead): string {
  return identity(table.definition, table.values);
}
