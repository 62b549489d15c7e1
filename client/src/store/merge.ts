// What several commits come to for each table, so that one transaction does the work of all. Pure.
//
// Invariant: the steps of a table, run in order over a copy, leave what its commits leave one after another; and
// running them twice leaves the same as once.

import { canonical } from "../copy/hash.ts";
import type { Commit, TableCommit } from "../copy/assembler.ts";
import type { Layout } from "../copy/layout.ts";
import { Codec, type ValueOptions } from "../copy/values.ts";

/** What becomes of one row. */
export type Net =
  | { op: "put"; key: unknown[]; row: unknown[] }
  | { op: "patch"; key: unknown[]; set: Record<string, unknown> }
  | { op: "delete"; key: unknown[] };

export interface Step {
  /** The copy, nothing, or the staged snapshot is what the rows change. */
  base: "copy" | "nothing" | "staged";
  /** First rows of these parts are replaced: by these, or by what is staged. */
  repair?: { parts: number; want: number[]; rows: unknown[][] | "staged" };
  rows: Map<string, Net>;
}

export interface Work {
  name: string;
  layout: Layout;
  codec: Codec;
  /** A staged snapshot is used up, even if a truncate behind it empties the copy. */
  staged: boolean;
  /** It has parts of the rows, and the copy keeps the others. */
  partial: boolean;
  steps: Step[];
}

/** Changes that are merged in one go. */
const CHANGES = 2000;

/** Yields from time to time, so that the page can do something else. */
export function* merge(commits: Commit[], values: ValueOptions): Generator<void, Work[], void> {
  const works = new Map<string, Work>();
  for (const commit of commits) {
    for (const table of commit.tables) {
      let work = works.get(table.name);
      if (!work || table.replace) {
        const { name, layout } = table;
        work = { name, layout, codec: new Codec(layout, values), staged: table.replace, partial: false, steps: [] };
        works.set(name, work);
      }
      if (table.parts) work.staged = work.partial = true;
      yield* add(work, table);
    }
  }
  return [...works.values()];
}

function* add(work: Work, { replace, parts, repair, changes }: TableCommit): Generator<void, void, void> {
  const { codec, steps } = work;
  if (replace) steps.push({ base: "staged", rows: new Map() });
  if (parts) steps.push({ base: "copy", repair: { parts: parts.count, want: parts.want, rows: "staged" }, rows: new Map() });
  if (repair) steps.push({ base: "copy", repair, rows: new Map() });
  for (const [i, change] of changes.entries()) {
    if (i % CHANGES === CHANGES - 1) yield;
    if (change.op === "truncate") {
      steps.splice(0, steps.length, { base: "nothing", rows: new Map() });
      continue;
    }
    if (steps.length === 0) steps.push({ base: "copy", rows: new Map() });
    const { rows } = steps.at(-1)!;
    const key = change.op === "insert" ? codec.keyOf(change.row) : change.key;
    const name = canonical(key);
    const before = rows.get(name);
    switch (change.op) {
      case "insert":
        rows.set(name, { op: "put", key, row: change.row });
        break;
      case "delete":
        rows.set(name, { op: "delete", key });
        break;
      case "update":
        if (!before) rows.set(name, { op: "patch", key, set: change.set });
        else if (before.op === "put") rows.set(name, { op: "put", key, row: codec.patched(before.row, change.set) });
        else if (before.op === "patch") rows.set(name, { op: "patch", key, set: { ...before.set, ...change.set } });
    }
  }
}
