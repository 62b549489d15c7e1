// What a live table looks like: which rows of which table are wanted, and how the server describes them. Pure.

import type { Column } from "../protocol/down.ts";

/** A table as the server described it. */
export interface Layout {
  /** `schema.name`. */
  table: string;
  /** Columns of the primary key, in its order. */
  key: string[];
  columns: Column[];
}

/** Which rows a live table holds; equal definitions have equal copies. */
export interface Definition {
  /** The server's name of the table: `orders` or `public.orders`. */
  table: string;
  columns?: string[];
  /** A condition in SQL, with `$1` … for `params`. */
  where?: string;
  params?: unknown[];
  /** Columns, or groups of columns, that are looked up by; in the browser only. */
  indexes?: (string | string[])[];
  /** When it was asked for last, ms since 1970. Of two tabs that differ the later one is followed. */
  asked?: number;
}

/** Says whether two definitions ask the server for the same. */
export function wireText(definition: Definition): string {
  const { table, columns, where, params } = definition;
  return JSON.stringify([table, columns ? [...columns].sort() : null, where ?? null, params ?? null]);
}

/** Whether equal rows of two layouts mean the same: by table, key, and names and types of columns. */
export function sameRows(a: Layout, b: Layout): boolean {
  const text = ({ table, key, columns }: Layout) => JSON.stringify([table, key, columns.map(({ name, type }) => [name, type])]);
  return text(a) === text(b);
}

/** Whether two layouts hold the same columns and key. */
export function sameLayout(a: Layout, b: Layout): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}
