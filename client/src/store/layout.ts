// Object stores and indexes: what the head wants, and the upgrade that makes it so.
//
// Decides when a store is made anew (its key has changed: the copy is lost) and when only indexes change. Upgrades go
// by bare IndexedDB: Dexie would want all versions declared. Invariant: an upgrade that loses rows says so in the head,
// in the same transaction. Tabs that upgrade at the same time meet in the version number: who loses looks again.

import type { Definition } from "../copy/layout.ts";
import { isIdentifier, keyPath } from "../copy/values.ts";
import { editHead, HEAD, STAGING, type Head, type TableHead } from "./head.ts";

/** Dexie shows a version as a tenth of the native one. */
const STEP = 10;

interface Index { name: string; path: string | string[] }
interface Shape { path: string | string[] | null; indexes: Index[] }
type Stores = Map<string, { path: string | string[] | null; indexes: string[] }>;

/** Throws a TypeError where IndexedDB could not keep a live table so. */
export function checkDefinition(name: string, definition: Definition): void {
  if (name === "" || name === "__proto__" || name.startsWith(HEAD)) {
    throw new TypeError(`a live table cannot be named "${name}"`);
  }
  for (const index of definition.indexes ?? []) {
    const columns = typeof index === "string" ? [index] : index;
    const odd = columns.find((column) => !isIdentifier(column));
    if (columns.length === 0 || odd !== undefined) {
      throw new TypeError(`"${name}": an index is a column or an array of columns, with names like identifiers`);
    }
  }
}

/** What a live table wants; null while the server has not described it. */
function shapeOf({ layout, definition }: TableHead): Shape | null {
  if (!layout) return null;
  const indexes = (definition.indexes ?? []).map((index): Index => {
    if (typeof index === "string" || index.length === 1) return { name: String(index), path: String(index) };
    return { name: `[${index.join("+")}]`, path: [...index] };
  });
  const once = indexes.filter(({ name }, i) => indexes.findIndex((other) => other.name === name) === i);
  return { path: keyPath(layout), indexes: once };
}

function same(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** Whether the stores that are there are those that the head wants. */
export function fits(head: Head, stores: Stores): boolean {
  for (const name of stores.keys()) if (!reserved(name) && !head.tables[name]?.layout) return false;
  return Object.entries(head.tables).every(([name, table]) => {
    const shape = shapeOf(table);
    if (!shape) return true;
    const store = stores.get(name);
    return store !== undefined && same(store.path, shape.path) && same(names(shape), [...store.indexes].sort());
  });
}

function names(shape: Shape): string[] {
  return shape.indexes.map(({ name }) => name).sort();
}

export function reserved(name: string): boolean {
  return name === HEAD || name === STAGING;
}

/** What stores a connection sees. */
export function storesOf(db: IDBDatabase): Stores {
  const stores: Stores = new Map();
  const all = [...db.objectStoreNames];
  if (all.length === 0) return stores;
  const transaction = db.transaction(all, "readonly");
  for (const name of all) {
    const store = transaction.objectStore(name);
    stores.set(name, { path: store.keyPath, indexes: [...store.indexNames] });
  }
  return stores;
}

/** An edit of the head inside an upgrade; `remake` drops a store so that it is made anew. */
export type Edit = (head: Head, remake: (name: string) => void) => void;

/**
 * Opens the database, made if it is not there, and unless `edit` is null upgrades it: edits the head, then makes stores
 * and indexes as the head wants them. False: another tab was quicker, or nobody had to; look again.
 */
export function upgrade(factory: IDBFactory, name: string, from: number, edit: Edit | null): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const request = edit ? factory.open(name, from + STEP) : factory.open(name, STEP);
    let upgraded = false;
    request.onupgradeneeded = () => {
      upgraded = true;
      const db = request.result;
      const transaction = request.transaction!;
      if (!db.objectStoreNames.contains(HEAD)) db.createObjectStore(HEAD);
      if (!db.objectStoreNames.contains(STAGING)) db.createObjectStore(STAGING);
      editHead(transaction.objectStore(HEAD), (head) => {
        edit?.(head, (store) => {
          if (db.objectStoreNames.contains(store)) db.deleteObjectStore(store);
        });
        reconcile(db, transaction, head);
        return head;
      });
    };
    request.onsuccess = () => {
      request.result.close();
      resolve(upgraded);
    };
    request.onerror = (event) => {
      event.preventDefault?.();
      if (request.error?.name === "VersionError") resolve(false);
      else reject(request.error ?? new Error("the database could not be opened"));
    };
  });
}

function reconcile(db: IDBDatabase, transaction: IDBTransaction, head: Head): void {
  for (const name of [...db.objectStoreNames]) {
    if (reserved(name)) continue;
    const table = Object.hasOwn(head.tables, name) ? head.tables[name] : undefined;
    const shape = table && shapeOf(table);
    if (!shape || !same(transaction.objectStore(name).keyPath, shape.path)) db.deleteObjectStore(name);
  }
  for (const [name, table] of Object.entries(head.tables)) {
    const shape = shapeOf(table);
    if (!shape) continue;
    const found = db.objectStoreNames.contains(name);
    if (!found) table.ready = table.filled = false;
    const store = found
      ? transaction.objectStore(name)
      : db.createObjectStore(name, shape.path === null ? undefined : { keyPath: shape.path });
    const wanted = names(shape);
    for (const index of [...store.indexNames]) if (!wanted.includes(index)) store.deleteIndex(index);
    for (const { name: index, path } of shape.indexes) {
      if (!store.indexNames.contains(index)) store.createIndex(index, path);
    }
  }
}

/** Resolves when the database is no more; connections of other tabs are asked to close. */
export function remove(factory: IDBFactory, name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const request = factory.deleteDatabase(name);
    request.onsuccess = () => resolve();
    request.onerror = () => reject(request.error ?? new Error("the database could not be deleted"));
  });
}
