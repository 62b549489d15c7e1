// Close codes of `rte.v1` and what each asks of a client. Pure.

/** When to come back: at once, with back-off, with another token, or not without a change. */
export type Comeback = "now" | "later" | "token" | "never";

export const CLOSE = {
  normal: 1000,
  goingAway: 1001,
  /** Never sent: stands for a connection that broke, or never came about. */
  broken: 1006,
  internal: 1011,
  restart: 1012,
  tryAgainLater: 1013,
  protocol: 4400,
  unauthorized: 4401,
  forbidden: 4403,
  noSuchTenant: 4404,
  timeout: 4408,
  slowConsumer: 4409,
  tooLarge: 4413,
  tooMany: 4429,
} as const;

const CODES: Readonly<Record<number, readonly [Comeback, string]>> = {
  [CLOSE.normal]: ["now", "the server closed the connection"],
  [CLOSE.goingAway]: ["now", "the server stops"],
  [CLOSE.broken]: ["now", "the connection broke, or could not be made"],
  [CLOSE.restart]: ["now", "the server restarts"],
  [CLOSE.tryAgainLater]: ["later", "the server is busy or not ready"],
  [CLOSE.protocol]: ["never", "the server did not understand the client"],
  [CLOSE.unauthorized]: ["token", "the server wants a valid token"],
  [CLOSE.forbidden]: ["never", "the server does not allow it, and a new token would not help"],
  [CLOSE.noSuchTenant]: ["never", "there is no such tenant, or not any more"],
  [CLOSE.timeout]: ["now", "the connection timed out"],
  [CLOSE.slowConsumer]: ["now", "the client took too long; it goes on where it was"],
  [CLOSE.tooLarge]: ["never", "a message was too large"],
  [CLOSE.tooMany]: ["later", "too many messages, or too many wrong tokens from this address"],
};

/** What a code asks for. Codes that the contract does not know come from something between: later. */
export function comeback(code: number): Comeback {
  return CODES[code]?.[0] ?? "later";
}

/** Plain words for a code, where the server said none. */
export function closeText(code: number): string {
  return CODES[code]?.[1] ?? `the connection was closed with code ${code}`;
}
