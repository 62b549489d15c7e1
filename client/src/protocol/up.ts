// What a client says, `rte.v1`. Pure.

export interface Subscription {
  id: string;
  table: string;
  columns?: string[];
  where?: string;
  params?: unknown[];
  /** Where the copy cannot go on from the cursor, no snapshot is wanted. */
  resume_only?: boolean;
  have?: Have;
}

/** An old copy, hashed by parts: of a snapshot only the parts that differ are wanted. */
export interface Have {
  parts: number;
  /** One for each part, sixteen hexadecimal digits. */
  hashes: string[];
  columns?: string[];
}

export interface Hello {
  type: "hello";
  token?: string;
  tenant?: string;
  client?: { id?: string; name?: string };
  cursor?: string;
  subscriptions?: Subscription[];
}

export interface Verify {
  type: "verify";
  id: string;
  parts?: number;
  columns?: string[];
  want?: number[];
}

export type Up =
  | Hello
  | ({ type: "subscribe" } & Subscription)
  | { type: "unsubscribe"; id: string }
  | { type: "auth"; token: string }
  | { type: "ack"; cursor: string }
  | { type: "ping"; at?: unknown }
  | Verify;
