// How long things may take and when to come back: the figures of the connection, and what is computed from them. Pure.

/** All in milliseconds. */
export interface Timing {
  /** For the token callback. Its promise may never settle. */
  token: number;
  /** For a transport to open. */
  open: number;
  /** From `hello` to `welcome`. The server waits up to 10 s for a tenant's feeder, and says so when it is late. */
  welcome: number;
  /** The most that a return "at once" is delayed: its clients shall not all come in one moment. */
  spread: number;
  /** Back-off: the first bound; it doubles up to the last. */
  first: number;
  last: number;
  /** The first bound where the server has asked for back-off (1013, 4429), or keeps refusing tokens. */
  firstBusy: number;
  /** Between tries while the browser says that there is no network: it is wrong at times. */
  offline: number;
  /** Live for so long, a connection counts as stable, and what went before is forgotten. */
  stable: number;
  /** For an answer to a ping after a sleep, or when the network changed. */
  grace: number;
  /** Between looks whether WebSockets work again, while another transport is used. */
  probe: number;
}

export const TIMING: Timing = {
  token: 30_000,
  open: 10_000,
  welcome: 15_000,
  spread: 500,
  first: 500,
  last: 30_000,
  firstBusy: 2_000,
  offline: 20_000,
  stable: 30_000,
  grace: 5_000,
  probe: 300_000,
};

/** What setTimeout takes; more would fire at once. */
export const TIMER_LIMIT = 2 ** 31 - 1;

/** The longest wait before a further try, after `n` (from 1) that came to nothing. */
export function backoffBound(timing: Timing, n: number, busy: boolean): number {
  return Math.min(timing.last, (busy ? timing.firstBusy : timing.first) * 2 ** Math.min(n - 1, 20));
}

/** Full jitter: anything up to the bound, so that clients that failed together do not come back together. */
export function backoff(timing: Timing, n: number, busy: boolean, random: number): number {
  return Math.ceil(random * backoffBound(timing, n, busy));
}

/** Figures of a token; seconds, as in its claims. */
export interface TokenFacts {
  iat?: number;
  exp?: number;
  /** There is nobody to ask for another one. */
  fixed: boolean;
}

/**
 * When a token expires, on the local clock; null where that cannot be told. `offset` is the server's clock minus the
 * local one, if it is known. If not, the token's own life counts, from when it was got: the local clock may be wrong by
 * any amount, and would have it renewed for ever, or never.
 */
export function expiryOf(facts: TokenFacts, offset: number | null, gotAt: number): number | null {
  if (facts.exp === undefined) return null;
  if (offset !== null) return facts.exp * 1000 - offset;
  return facts.iat === undefined ? null : gotAt + (facts.exp - facts.iat) * 1000;
}

/** How long to wait before renewing a token that is good for so long: 80 % of it, and up to 10 s before its end. */
export function renewalIn(remaining: number): number {
  return remaining > 20_000 ? Math.min(remaining * 0.8, remaining - 10_000) : Math.max(1000, remaining / 2);
}
