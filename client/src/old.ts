// Old copies: which are worth telling the server of, so that it sends what differs instead of all; and what it is told.
//
// Invariant: what is told of a copy is true of it until its snapshot is applied, for nothing but that changes a copy that is
// not at the cursor. One that was emptied meanwhile is found out when the snapshot is applied. Main thread of the leading
// tab.

import type { Layout } from "./copy/layout.ts";
import type { Have } from "./protocol/up.ts";
import type { Store } from "./store/store.ts";

/** A copy as the server was told of it. */
export interface Old {
  layout: Layout;
  have: Have;
}

/** Copies of fewer rows are fetched whole: that takes one answer instead of two. */
const LARGE = 1000;
/** Rows of a part, about: what is fetched for one row that differs, against some twenty bytes that a part takes to be told. */
const ROWS_OF_A_PART = 8;
const MOST_PARTS = 4096;
/** A hash with its quotes and comma takes nineteen bytes; half of a message is left for the rest. */
const BYTES_OF_A_PART = 2 * 19;

export class OldCopies {
  private readonly store: Store;
  private readonly large = new Set<string>();

  constructor(store: Store) {
    this.store = store;
  }

  /** Looks how large the copies are. What is known of them may be a little old, which costs no more than an answer. */
  async measure(): Promise<void> {
    const { tables } = await this.store.head();
    for (const [name, { filled, layout }] of Object.entries(tables)) {
      const rows = filled && layout ? await this.store.db.table(name).count() : 0;
      if (rows > LARGE) this.large.add(name);
      else this.large.delete(name);
    }
  }

  has(name: string): boolean {
    return this.large.has(name);
  }

  /** What to tell the server of a copy, in a message of at most so many bytes; null if it is to be fetched whole. */
  async tell(name: string, maxBytes: number): Promise<Old | null> {
    const table = (await this.store.head()).tables[name];
    if (!table?.filled || !table.layout) return null;
    const rows = await this.store.db.table(name).count();
    const most = Math.min(MOST_PARTS, Math.floor(maxBytes / BYTES_OF_A_PART));
    const parts = Math.min(Math.max(1, Math.ceil(rows / ROWS_OF_A_PART)), Math.max(1, most));
    const digest = await this.store.digest(name, parts);
    // Values that are not kept exactly could differ without being found.
    if (!digest || digest.columns) return null;
    return { layout: table.layout, have: { parts, hashes: digest.parts.map(([hash]) => hash) } };
  }
}
