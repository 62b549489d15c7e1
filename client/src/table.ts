// A live table as the application reads it. Questions wait for the first copy, then are answered from the store; `live` asks
// again whenever what it read has changed. For everything beyond, `rte.db` is the Dexie database. Any tab.

import type { Collection, Table } from "dexie";
import type { Layout } from "./copy/layout.ts";
import { RteError } from "./errors.ts";

export type Row = Record<string, unknown>;
/** A key's value, or the values of a composite key in its order. */
export type Key = KeyValue | KeyValue[] | object;
type KeyValue = string | number | bigint | boolean | Date | Uint8Array | object;
export type Criteria<T> = Partial<T> | ((row: T) => boolean);

/** What a live table needs of the client. */
export interface TableHost {
  /**
   * Resolves when the table has a copy; rejects where the server refuses it and there is none. Undefined where there is one:
   * what a query awaits besides the store would hide its reads from Dexie.
   */
  copied(name: string): Promise<void> | undefined;
  dexie(name: string): Table<unknown, unknown>;
  layout(name: string): Promise<Layout | undefined>;
  storedKey(name: string, key: unknown): unknown;
  /** What a row is stored under; undefined before the first copy. */
  storedKeyOf(name: string, row: Row): unknown;
  /** Postgres' name of a column's type, where it is known. */
  typeOf(name: string, column: string): string | undefined;
  live<R>(query: () => Promise<R>, callback: (result: R) => void, onError?: (error: unknown) => void): () => void;
}

export class LiveTable<T extends object = Row> {
  readonly name: string;
  private readonly host: TableHost;

  constructor(host: TableHost, name: string) {
    this.host = host;
    this.name = name;
  }

  /** The row with this key; composite keys as an array. */
  async get(key: Key): Promise<T | undefined> {
    const copy = this.host.copied(this.name);
    if (copy) await copy;
    return (await this.dexie.get(this.host.storedKey(this.name, key) as never)) as T | undefined;
  }

  async toArray(): Promise<T[]> {
    const copy = this.host.copied(this.name);
    if (copy) await copy;
    return this.dexie.toArray();
  }

  async count(): Promise<number> {
    const copy = this.host.copied(this.name);
    if (copy) await copy;
    return this.dexie.count();
  }

  /** Rows whose columns have these values, or for which a function is true. Uses an index where there is one. */
  where(criteria: Criteria<T>): Query<T> {
    return new Query<T>(this.host, this.name, criteria);
  }

  /** Calls back with the query's result, now and after each commit that changes it. Returns what ends it. */
  live<R>(query: (table: LiveTable<T>) => Promise<R>, callback: (result: R) => void, onError?: (error: unknown) => void): () => void {
    return this.host.live(() => query(this), callback, onError);
  }

  /** Key and columns as the server has told them; undefined before the first copy. */
  layout(): Promise<Layout | undefined> {
    return this.host.layout(this.name);
  }

  /** What a row is stored under, as `change` tells keys. */
  keyOf(row: T): unknown {
    return this.host.storedKeyOf(this.name, row as Row);
  }

  private get dexie(): Table<T, unknown> {
    return this.host.dexie(this.name) as Table<T, unknown>;
  }
}

export class Query<T extends object> {
  private readonly host: TableHost;
  private readonly name: string;
  private readonly criteria: Criteria<T>;
  private readonly filters: ((row: T) => boolean)[] = [];
  private most: number | undefined;

  constructor(host: TableHost, name: string, criteria: Criteria<T>) {
    this.host = host;
    this.name = name;
    this.criteria = criteria;
  }

  /** Only rows for which it is true. */
  filter(test: (row: T) => boolean): this {
    this.filters.push(test);
    return this;
  }

  /** No more rows than this: the first ones, where they are sorted. */
  limit(count: number): this {
    this.most = count;
    return this;
  }

  async toArray(): Promise<T[]> {
    return (await this.limited()).toArray();
  }

  async first(): Promise<T | undefined> {
    return (await this.limited()).first();
  }

  async count(): Promise<number> {
    return (await this.limited()).count();
  }

  /** Rows in the order of a column. NULLs come last. Numbers that are kept as text are compared as numbers. */
  async sortBy(column: keyof T & string): Promise<T[]> {
    const rows = await (await this.collection()).toArray();
    const type = this.host.typeOf(this.name, column);
    const compare = type === "numeric" || type === "int8" ? orderOfNumbers : order;
    rows.sort((a, b) => nullsLast(a[column], b[column], compare));
    return this.most === undefined ? rows : rows.slice(0, this.most);
  }

  live(callback: (rows: T[]) => void, onError?: (error: unknown) => void): () => void {
    return this.host.live(() => this.toArray(), callback, onError);
  }

  private async collection(): Promise<Collection<T, unknown>> {
    const copy = this.host.copied(this.name);
    if (copy) await copy;
    const table = this.host.dexie(this.name) as Table<T, unknown>;
    let found = typeof this.criteria === "function" ? table.filter(this.criteria) : matching(table, this.criteria);
    for (const test of this.filters) found = found.and(test);
    return found;
  }

  private async limited(): Promise<Collection<T, unknown>> {
    const found = await this.collection();
    return this.most === undefined ? found : found.limit(this.most);
  }
}

/** Values that IndexedDB can look up. */
function isKey(value: unknown): boolean {
  if (typeof value === "number") return !Number.isNaN(value);
  return typeof value === "string" || value instanceof Date || value instanceof Uint8Array;
}

/** By the index that covers most of the columns; the rest is compared row by row. */
function matching<T extends object>(table: Table<T, unknown>, criteria: Partial<T>): Collection<T, unknown> {
  const wanted = Object.entries(criteria) as [string, unknown][];
  const values = new Map(wanted);
  const indexes = [table.schema.primKey, ...table.schema.indexes];
  let best: { path: string | string[]; columns: string[] } | undefined;
  for (const { keyPath } of indexes) {
    if (keyPath === null || keyPath === undefined) continue;
    const columns = Array.isArray(keyPath) ? keyPath : [keyPath];
    if (columns.length > 0 && columns.every((column) => isKey(values.get(column))) && columns.length > (best?.columns.length ?? 0)) {
      best = { path: keyPath, columns };
    }
  }
  const covered = new Set(best?.columns);
  const rest = wanted.filter(([column]) => !covered.has(column));
  const test = (row: T) => rest.every(([column, value]) => same((row as Row)[column], value));
  if (!best) return wanted.length === 0 ? table.toCollection() : table.filter(test);
  const key = Array.isArray(best.path) ? best.path.map((column) => values.get(column)) : values.get(best.path);
  const index = Array.isArray(best.path) ? `[${best.path.join("+")}]` : best.path;
  const found = table.where(index).equals(key as never);
  return rest.length === 0 ? found : found.and(test);
}

function same(a: unknown, b: unknown): boolean {
  if (Object.is(a, b) || a === b || (a === null && b === undefined)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (a instanceof Date || b instanceof Date) return a instanceof Date && b instanceof Date && a.getTime() === b.getTime();
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const names = Object.keys(a);
  const sameIn = (name: string) => Object.hasOwn(b, name) && same((a as Row)[name], (b as Row)[name]);
  return names.length === Object.keys(b).length && names.every(sameIn);
}

type Compare = (a: unknown, b: unknown) => number;

function nullsLast(a: unknown, b: unknown, compare: Compare): number {
  if (a === null || a === undefined) return b === null || b === undefined ? 0 : 1;
  return b === null || b === undefined ? -1 : compare(a, b);
}

function order(a: unknown, b: unknown): number {
  return (a as number) < (b as number) ? -1 : (a as number) > (b as number) ? 1 : 0;
}

/** Exactly, where doubles cannot tell them apart. NaN comes last, as in Postgres. */
function orderOfNumbers(a: unknown, b: unknown): number {
  const [x, y] = [Number(a), Number(b)];
  if (Number.isNaN(x) || Number.isNaN(y)) return Number(Number.isNaN(x)) - Number(Number.isNaN(y));
  if (x !== y || !Number.isFinite(x)) return order(x, y);
  const [[p, scale], [q, other]] = [whole(String(a)), whole(String(b))];
  return order(p * 10n ** BigInt(Math.max(0, other - scale)), q * 10n ** BigInt(Math.max(0, scale - other)));
}

/** A decimal as an integer, and how many of its digits are behind the point. */
function whole(text: string): [bigint, number] {
  const [head = "", tail = ""] = text.split(".");
  return [BigInt(head + tail), tail.length];
}

export function noTable(name: string): RteError {
  return new RteError({ code: "NO_TABLE", message: `there is no live table "${name}"`, hint: `name it in connect's tables, or rte.subscribe("${name}", …)`, table: name });
}
