// Values as the wire has them (docs/PROTOCOL.md, "Values") and as the browser keeps them: one converter per layout,
// both ways.
//
// Invariant: a stored row gives back the wire's values exactly, in all columns that `exact` names; a key always does.
// Pure; any thread.

import { canonical } from "./hash.ts";
import type { Layout } from "./layout.ts";

/** How values are kept. What is stored depends on it, so a copy that was made with other options is no good. */
export interface ValueOptions {
  /**
   * `auto`: number where it is exact, else BigInt. Key columns: number where it is exact, else string; with `string`,
   * string.
   */
  int8?: "auto" | "bigint" | "string";
  /**
   * `timestamp` and `timestamptz` as Date, to the millisecond; key columns stay strings. Infinity and BC stay strings
   * too.
   */
  dates?: boolean;
}

export type Stored = Record<string, unknown>;

/**
 * What a row is found by: the key column's value, an array of them, or a text where IndexedDB cannot take the types.
 */
export type StoredKey = IDBValidKey;

type Convert = (value: unknown) => unknown;
interface Pair { to: Convert; from: Convert }

/** Types whose values, as they are stored in key columns, IndexedDB takes as keys. Of other types one cannot know. */
const KEY_TYPES = new Set([
  "int2", "int4", "int8", "float4", "float8", "numeric", "money", "oid", "xid8", "pg_lsn",
  "text", "varchar", "bpchar", "name", "char", "uuid", "bytea", "bit", "varbit",
  "date", "time", "timetz", "timestamp", "timestamptz", "interval", "inet", "cidr", "macaddr", "macaddr8",
  "int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange",
]);
const IDENTIFIER = /^[\p{ID_Start}$_][\p{ID_Continue}$\u200c\u200d]*$/u;
const INSTANT = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(\+00:00)?$/;

/** Whether IndexedDB can look into rows by this name. */
export function isIdentifier(name: string): boolean {
  return IDENTIFIER.test(name);
}

/** Where a layout's key is: column names, or null when the key is kept outside of the rows. */
export function keyPath(layout: Layout): string | string[] | null {
  const inside = layout.key.length > 0 && layout.key.every((name) => {
    const type = layout.columns.find((column) => column.name === name)?.type;
    return isIdentifier(name) && type !== undefined && KEY_TYPES.has(type);
  });
  if (!inside) return null;
  return layout.key.length === 1 ? layout.key[0]! : [...layout.key];
}

/** Whether one object store can hold rows of either layout. Those of the one are not found by keys of the other. */
export function sameStore(a: Layout, b: Layout): boolean {
  return JSON.stringify(keyPath(a)) === JSON.stringify(keyPath(b));
}

/** Differs when rows of two layouts cannot be in one object store: by the key's columns or their types. */
export function keyText(layout: Layout): string {
  const types = layout.key.map((name) => layout.columns.find((column) => column.name === name)?.type ?? null);
  return JSON.stringify([layout.key, types]);
}

export function valuesText({ int8 = "auto", dates = false }: ValueOptions): string {
  return JSON.stringify([int8, dates]);
}

/** Columns whose values can be given back exactly, in the layout's order. */
export function exact(layout: Layout, { dates = false }: ValueOptions = {}): string[] {
  const lossy = (type: string) => dates && /^timestamp(tz)?(\[\])*$/.test(type);
  return layout.columns.filter(({ name, type }) => layout.key.includes(name) || !lossy(type)).map(({ name }) => name);
}

/** The converter of a layout. */
export class Codec {
  readonly layout: Layout;
  /** The key is a part of the rows. */
  readonly inside: boolean;
  private readonly names: string[];
  private readonly places: Map<string, number>;
  private readonly pairs: (Pair | null)[];
  private readonly key: number[];

  constructor(layout: Layout, options: ValueOptions = {}) {
    this.layout = layout;
    this.inside = keyPath(layout) !== null;
    this.names = layout.columns.map(({ name }) => name);
    this.places = new Map(this.names.map((name, place) => [name, place]));
    this.pairs = layout.columns.map(({ name, type }) => {
      const inKey = this.inside && layout.key.includes(name);
      return pairOf(type, options, inKey);
    });
    this.key = layout.key.map((name) => this.places.get(name) ?? -1);
  }

  /** Wire row → stored object. */
  row(wire: unknown[]): Stored {
    const { names, pairs } = this;
    const stored: Stored = {};
    for (let i = 0; i < names.length; i++) put(stored, names[i]!, forth(pairs[i]!, wire[i]));
    return stored;
  }

  /** An update's columns → those of the stored object. */
  set(set: Record<string, unknown>): Stored {
    const stored: Stored = {};
    for (const name of Object.keys(set)) {
      const place = this.places.get(name);
      if (place !== undefined) put(stored, name, forth(this.pairs[place]!, set[name]));
    }
    return stored;
  }

  /** Wire key → what the row is stored under. */
  storedKey(key: unknown[]): StoredKey {
    if (!this.inside) return canonical(key);
    const values = key.map((value, i) => forth(this.pairs[this.key[i]!]!, value) as StoredKey);
    return values.length === 1 ? values[0]! : values;
  }

  /** Wire row → wire key. */
  keyOf(wire: unknown[]): unknown[] {
    return this.key.map((place) => wire[place] ?? null);
  }

  /** Wire row with some columns set anew; the row itself stays. */
  patched(wire: unknown[], set: Record<string, unknown>): unknown[] {
    const row = [...wire];
    for (const name of Object.keys(set)) {
      const place = this.places.get(name);
      if (place !== undefined) row[place] = set[name];
    }
    return row;
  }

  /** Stored object → wire row, or the given columns of it. */
  wireRow(stored: Stored, columns: string[] = this.names): unknown[] {
    return columns.map((name) => {
      const place = this.places.get(name);
      return place === undefined ? null : back(this.pairs[place]!, stored[name]);
    });
  }

  /** Stored object → wire key. */
  wireKey(stored: Stored): unknown[] {
    return this.wireRow(stored, this.layout.key);
  }

  /** What a row is stored under → wire key. */
  wireKeyOf(key: StoredKey): unknown[] {
    if (!this.inside) return JSON.parse(key as string) as unknown[];
    const values = this.key.length === 1 ? [key] : (key as StoredKey[]);
    return values.map((value, i) => back(this.pairs[this.key[i]!]!, value));
  }
}

function forth(pair: Pair | null, value: unknown): unknown {
  if (value === undefined || value === null) return null;
  return pair === null ? value : pair.to(value);
}

function back(pair: Pair | null, value: unknown): unknown {
  if (value === undefined || value === null) return null;
  return pair === null ? value : pair.from(value);
}

/** `__proto__` may be a column too. */
function put(object: Stored, name: string, value: unknown): void {
  if (name !== "__proto__") object[name] = value;
  else Object.defineProperty(object, name, { value, enumerable: true, configurable: true, writable: true });
}

function pairOf(type: string, options: ValueOptions, inKey: boolean): Pair | null {
  if (type.endsWith("[]")) {
    const element = pairOf(type.replace(/(\[\])+$/, ""), options, inKey);
    return element && { to: deep(element.to), from: deep(element.from) };
  }
  switch (type) {
    case "int8": return int8Pair(options.int8 ?? "auto", inKey);
    case "float4":
    case "float8": return inKey ? null : FLOAT;
    case "bytea": return BYTES;
    case "timestamp": return options.dates && !inKey ? dates("") : null;
    case "timestamptz": return options.dates && !inKey ? dates("+00:00") : null;
    default: return null;
  }
}

function deep(convert: Convert): Convert {
  const each: Convert = (value) => (value === null ? null : Array.isArray(value) ? value.map(each) : convert(value));
  return each;
}

function int8Pair(kept: "auto" | "bigint" | "string", inKey: boolean): Pair | null {
  if (kept === "string") return null;
  const safe = (text: string): number | null => {
    const number = Number(text);
    return Number.isSafeInteger(number) ? number : null;
  };
  const to: Convert = inKey
    ? (value) => safe(value as string) ?? value
    : kept === "bigint"
      ? (value) => BigInt(value as string)
      : (value) => safe(value as string) ?? BigInt(value as string);
  return { to, from: String };
}

const FLOAT: Pair = {
  to: (value) => (typeof value === "string" ? Number(value) : value),
  from: (value) => (Number.isFinite(value) ? value : String(value)),
};

const BYTES: Pair = {
  to: (value) => {
    const text = atob(value as string);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  },
  from: (value) => {
    // A key that IndexedDB gives back is an ArrayBuffer.
    const bytes = value instanceof Uint8Array ? value : new Uint8Array(value as ArrayBuffer);
    let text = "";
    for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
    return btoa(text);
  },
};

/** A `timestamp` is taken for UTC, as the server takes it wherever a zone matters. */
function dates(zone: string): Pair {
  return {
    to: (value) => {
      const text = value as string;
      if (!INSTANT.test(text)) return text;
      const date = new Date(zone === "" ? text + "Z" : text);
      return Number.isNaN(date.getTime()) ? text : date;
    },
    from: (value) => (value instanceof Date ? value.toISOString().replace(/\.?0*Z$/, "") + zone : value),
  };
}
