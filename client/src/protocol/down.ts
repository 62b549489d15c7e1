// What the server says, `rte.v1`. One closed union; a `type` that is not in it is ignored. Pure.

/** A column of a subscription; `type` is Postgres' name, such as `int8` or `text[]`. */
export interface Column {
  name: string;
  type: string;
  nullable: boolean;
}

export interface Welcome {
  type: "welcome";
  session: string;
  tenant: string;
  role: string;
  server: string;
  heartbeat_ms: number;
  limits?: { max_frame_bytes?: number; max_subscriptions?: number; client_queue_bytes?: number };
  tables?: { name: string; key: string[] }[];
  /** Milliseconds that the token is still good for, by the server's clock. */
  expires_in_ms?: number;
}

export interface Subscribed {
  type: "subscribed";
  id: string;
  shape: string;
  table: string;
  key: string[];
  columns: Column[];
  resumed: boolean;
  /** The snapshot that follows has only parts in which the old copy that was told of differs. */
  partial?: boolean;
}

export interface Snapshot {
  type: "snapshot";
  id: string;
  rows: unknown[][];
  done: boolean;
  total?: number;
  /** Of a partial one, in its first message: which parts it has. */
  parts?: number[];
}

export type Change =
  | { op: "insert"; row: unknown[] }
  | { op: "update"; key: unknown[]; set: Record<string, unknown> }
  | { op: "delete"; key: unknown[] }
  | { op: "truncate" };

export interface Changes {
  type: "changes";
  shape: string;
  changes: Change[];
}

export interface CommitMessage {
  type: "commit";
  cursor: string;
  /** ISO 8601, UTC. */
  time: string;
}

export interface Resync {
  type: "resync";
  id: string;
  reason: string;
}

export interface Unsubscribed {
  type: "unsubscribed";
  id: string;
}

/** The copy as it is with the next commit is what `verified` speaks of. */
export interface Verifying {
  type: "verifying";
  id: string;
}

export interface Verified {
  type: "verified";
  id: string;
  cursor: string;
  /** Sixteen hexadecimal digits. */
  hash: string;
  rows: number;
  parts?: [hash: string, rows: number][];
}

/** Rows of the parts that were asked for, as of the commit after `verifying`. */
export interface Repair {
  type: "repair";
  id: string;
  rows: unknown[][];
  done: boolean;
}

export interface Pong {
  type: "pong";
  at?: unknown;
}

export interface ErrorMessage {
  type: "error";
  code: string;
  message: string;
  hint?: string;
  id?: string;
}

export type Down =
  | Welcome
  | Subscribed
  | Snapshot
  | Changes
  | CommitMessage
  | Resync
  | Unsubscribed
  | Verifying
  | Verified
  | Repair
  | Pong
  | ErrorMessage;
