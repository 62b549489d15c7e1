// The moves that the machine's table is made of: what it takes to connect, to wait, to renew, to find out whether
// anybody is there. Pure: a move changes the turn's own copy of the machine and adds effects.
//
// Invariant: timers that a state has no use for are cleared as it is entered (`ARMED`), so none outlives its reason.

import { CLOSE, comeback } from "../protocol/close.ts";
import type { Effect, EventOf, Machine, Reason, State, TimerKind, TokenReason } from "./state.ts";
import { transportOf } from "./state.ts";
import { backoff, backoffBound, expiryOf, renewalIn, TIMER_LIMIT, type Timing } from "./timing.ts";

export interface Turn {
  /** A copy, to be changed. */
  readonly m: Machine;
  readonly effects: Effect[];
  readonly timing: Timing;
  readonly now: number;
  /** From 0 up to 1. */
  readonly random: number;
  /** By how much the timer that fired was late. */
  readonly late: number;
}

/** Tries in a row that do not open before another transport is thought of. */
const UNOPENED = 2;
/** Returns at once, from live connections, before back-off; fewer for who is too slow, because that may not change. */
const FREE_RETURNS = 3;
/** Heartbeats without a sign of life before asking. The rest up to two is for the answer. */
const PATIENCE = 1.25;
/** Waits up to this are not worth speaking of. */
const SHORT = 1000;

const ARMED: Readonly<Record<State, readonly TimerKind[]>> = {
  stopped: [],
  token: ["token"],
  opening: ["open", "token"],
  greeting: ["welcome", "token"],
  live: ["watch", "stable", "renew", "probe", "token"],
  waiting: ["retry"],
  refused: [],
  offline: ["retry"],
};

export function arm(t: Turn, kind: TimerKind, ms: number): void {
  const wait = Math.min(Math.max(0, Math.ceil(ms)), TIMER_LIMIT);
  t.m.timers[kind] = t.now + wait;
  t.effects.push({ do: "setTimer", kind, ms: wait });
}

export function disarm(t: Turn, kind: TimerKind): void {
  if (t.m.timers[kind] === undefined) return;
  delete t.m.timers[kind];
  t.effects.push({ do: "clearTimer", kind });
}

export function enter(t: Turn, state: State): void {
  t.m.state = state;
  for (const kind of Object.keys(t.m.timers) as TimerKind[]) if (!ARMED[state].includes(kind)) disarm(t, kind);
}

/** Begins a try: with a token first, if one is needed. */
export function connect(t: Turn): void {
  const { m } = t;
  const expired = m.token?.fixed === false && m.expiresAt !== null && m.expiresAt <= t.now;
  if (expired) m.need ??= "renewal";
  if (m.need !== null && m.need !== m.fetching) fetchToken(t, m.need);
  if (m.fetching !== null) {
    enter(t, "token");
    arm(t, "token", t.timing.token);
  } else {
    open(t);
  }
}

/** With the token that there is. One that was just fetched is not doubted: the clock may be what is wrong. */
export function open(t: Turn): void {
  const { m } = t;
  enter(t, "opening");
  m.owed = false;
  t.effects.push({ do: "open", transport: transportOf(m) });
  arm(t, "open", t.timing.open);
}

/** Gives the connection up, without a word on what comes next. */
export function drop(t: Turn): void {
  const { state } = t.m;
  const connected = state === "opening" || state === "greeting" || state === "live";
  if (connected) t.effects.push({ do: "close", code: CLOSE.normal });
}

/** The connection was lost, or did not come about: what next depends on the code. */
export function lost(t: Turn, code: number, reason: Reason): void {
  const { m, timing, random } = t;
  const wasLive = m.state === "live";
  m.reason = reason;
  switch (comeback(code)) {
    case "never": return refuse(t);
    case "token": return unauthorized(t);
    case "later": return wait(t, backoff(timing, ++m.failures, true, random));
    case "now": {
      const tries = wasLive ? ++m.returns : ++m.failures;
      const free = wasLive && code !== CLOSE.slowConsumer ? FREE_RETURNS : 1;
      wait(t, tries > free ? backoff(timing, tries - free, false, random) : Math.ceil(random * timing.spread));
    }
  }
}

/** A try in which the transport did not open or stayed silent: is it the transport, or is there no server? */
export function unopened(t: Turn): void {
  const { m } = t;
  m.unopened += 1;
  if (m.unopened < UNOPENED || m.ladder.length < 2 || m.checking) return;
  m.checking = true;
  t.effects.push({ do: "checkHealth" });
}

/** To the next transport; after the last the first has its turn again. */
export function stepDown({ m }: Turn): void {
  m.rung = (m.rung + 1) % m.ladder.length;
  m.unopened = 0;
}

export function wait(t: Turn, ms: number): void {
  const { m, timing } = t;
  const delay = m.online ? ms : Math.ceil(timing.offline * (0.5 + t.random / 2));
  m.idle = delay > SHORT;
  enter(t, m.online ? "waiting" : "offline");
  arm(t, "retry", delay);
}

export function refuse(t: Turn): void {
  abandon(t);
  t.m.need = t.m.token?.fixed === false ? "refused" : null;
  enter(t, "refused");
}

function unauthorized(t: Turn): void {
  const { m } = t;
  if (m.token?.fixed !== false) return refuse(t);
  m.need = "refused";
  m.refusals += 1;
  if (m.refusals === 1) return connect(t);
  wait(t, backoff(t.timing, m.refusals - 1, true, t.random));
}

/** Gives up what is under way besides the connection. */
export function abandon(t: Turn): void {
  const { m, effects } = t;
  if (m.fetching !== null) effects.push({ do: "abandon", what: "token" });
  if (m.checking) effects.push({ do: "abandon", what: "health" });
  if (m.probing) effects.push({ do: "abandon", what: "probe" });
  m.fetching = null;
  m.checking = m.probing = false;
}

// Tokens

export function fetchToken(t: Turn, reason: TokenReason): void {
  t.m.fetching = reason;
  t.effects.push({ do: "fetchToken", reason });
  arm(t, "token", t.timing.token);
}

export function learnToken(t: Turn, { facts, same }: EventOf<"tokenGot">): void {
  const { m } = t;
  if (!same) {
    m.gotAt = t.now;
    m.unrenewed = 0;
  }
  m.token = facts;
  m.need = m.fetching = null;
  m.expiresAt = expiryOf(facts, m.offset, m.gotAt);
  disarm(t, "token");
}

/** Forgets the fetch that failed; what it was needed for is needed still. */
export function loseToken(t: Turn): void {
  t.m.fetching = null;
  disarm(t, "token");
}

export function scheduleRenewal(t: Turn): void {
  const { m } = t;
  if (m.token?.fixed !== false || m.expiresAt === null) return disarm(t, "renew");
  m.renewAt = t.now + renewalIn(m.expiresAt - t.now);
  arm(t, "renew", m.renewAt - t.now);
}

/** The token in use still counts: another is asked for later. */
export function postponeRenewal(t: Turn): void {
  const { m, timing } = t;
  m.unrenewed += 1;
  m.renewAt = t.now + Math.ceil(backoffBound(timing, m.unrenewed, true) * (0.5 + t.random / 2));
  arm(t, "renew", m.renewAt - t.now);
}

/** Asks for a token without leaving the state. */
export function renew(t: Turn): void {
  if (t.m.token?.fixed === false && t.m.fetching === null) fetchToken(t, "renewal");
}

/** What a commit's time says of the server's clock: it is at least that. */
export function learnTime(t: Turn, time: number): void {
  const { m } = t;
  const offset = time - t.now;
  if (!m.sampled || m.offset === null || offset > m.offset) m.offset = offset;
  if (m.sampled) return;
  m.sampled = true;
  // Of a token that does not say when it expires only the server's word is known.
  if (m.token?.exp === undefined) return;
  m.expiresAt = expiryOf(m.token, m.offset, m.gotAt);
  // One that is being renewed already has its own time.
  if (m.fetching === null && m.unrenewed === 0) scheduleRenewal(t);
}

// Life

export function goLive(t: Turn, { heartbeatMs, expiresInMs }: EventOf<"welcome">): void {
  const { m, now } = t;
  enter(t, "live");
  m.unopened = 0;
  m.reason = null;
  m.idle = false;
  m.heartbeat = Math.max(1, heartbeatMs);
  m.heard = now;
  m.asked = m.sampled = false;
  if (expiresInMs !== undefined && !m.owed) {
    m.expiresAt = now + expiresInMs;
    if (m.token?.exp !== undefined) {
      m.offset = m.token.exp * 1000 - m.expiresAt;
      m.sampled = true;
    }
  }
  scheduleRenewal(t);
  arm(t, "watch", m.heartbeat * PATIENCE);
  arm(t, "stable", t.timing.stable);
  armProbe(t);
  if (m.owed) t.effects.push({ do: "sendAuth" });
  m.owed = false;
}

/** A ping is sent, and little time given for an answer. */
export function check(t: Turn): void {
  if (!t.m.asked) ask(t, Math.min(t.timing.grace, rest(t.m)));
}

function ask(t: Turn, patience: number): void {
  t.m.asked = true;
  t.effects.push({ do: "sendPing" });
  arm(t, "watch", patience);
}

function rest(m: Machine): number {
  return m.heartbeat * (2 - PATIENCE);
}

/** The watchdog. A first look never ends the connection: after a sleep what has come may wait behind this timer. */
export function watch(t: Turn): void {
  const { m, timing, now } = t;
  const remaining = m.heard + m.heartbeat * PATIENCE - now;
  if (m.asked) {
    drop(t);
    lost(t, CLOSE.timeout, { code: "SILENT", message: "nothing was heard of the server for too long" });
  } else if (remaining > 0) {
    arm(t, "watch", remaining);
  } else if (t.late > timing.grace) {
    check(t);
  } else {
    ask(t, rest(m));
  }
}

function armProbe(t: Turn): void {
  const { m } = t;
  if (m.rung > 0 && m.ladder[0] === "websocket") arm(t, "probe", t.timing.probe * (0.75 + t.random / 2));
}

/** Looks whether a WebSocket works by now, beside the connection that does. */
export function probe(t: Turn): void {
  const { m } = t;
  if (m.rung === 0 || m.ladder[0] !== "websocket") return;
  armProbe(t);
  if (m.probing) return;
  m.probing = true;
  t.effects.push({ do: "probe" });
}
