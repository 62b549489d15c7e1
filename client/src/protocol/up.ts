// What a client says, `rte.v1`. Pure.

export interface Subscription {
  id: string;
  table: string;
  columns?: string[];
  where?: string;
  params?: unknown[];
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
