// How it stands, in words that a page can show. Pure.

import type { ErrorInfo } from "./errors.ts";
import type { RowChange } from "./store/store.ts";

/** `syncing`: connected, and a first or new copy of some table is under way. */
export type State = "connecting" | "syncing" | "live" | "offline" | "refused" | "stopped";

export interface TableStatus {
  /** `waiting`: not asked for yet. `stale`: there is a copy and it is being replaced. */
  state: "waiting" | "syncing" | "stale" | "live" | "refused";
  /** Rows that have arrived of the copy under way. */
  rows?: number | undefined;
  /** The server's estimate of all. */
  total?: number | undefined;
  error?: ErrorInfo | undefined;
}

export interface Status {
  state: State;
  /** Whether this tab holds the connection for all. */
  leader: boolean;
  transport: "websocket" | "events" | "poll" | null;
  storage: "indexeddb" | "memory";
  /** When the copy was last at a commit, ISO 8601. */
  time: string | null;
  tables: Record<string, TableStatus>;
  error?: ErrorInfo | undefined;
  /** When the next attempt is due, ms since 1970. */
  retryAt?: number | undefined;
}

export type { RowChange } from "./store/store.ts";

/** One commit's effect on one live table. */
export interface ChangeEvent {
  table: string;
  /** The copy was replaced, or more has changed than is told one by one. */
  replaced: boolean;
  changes: RowChange[];
  time: string;
}
