// The connection as a state machine: when to fetch a token, open, greet, wait, fall back to another transport, give up.
//
// Pure: the clock and a random number are arguments, what is to be done comes back as effects, and the driver does it.
// Invariants: at most one connection; in every state but `stopped` and `refused` a timer is armed or something is under
// way that will answer; the table is total, and a pair that it lacks does not compile.

import { CLOSE } from "../protocol/close.ts";
import {
  abandon, arm, check, connect, drop, enter, fetchToken, goLive, learnTime, learnToken, loseToken, lost,
  open, postponeRenewal, probe, renew, scheduleRenewal, stepDown, type Turn, unopened, wait, watch,
} from "./moves.ts";
import type { Effect, Event, EventOf, EventType, Machine, Reason, State, Status, TimerKind } from "./state.ts";
import { statusOf } from "./state.ts";
import { backoff, type Timing, TIMING } from "./timing.ts";

type Handler<E extends EventType> = (t: Turn, event: EventOf<E>) => void;
type Table = { readonly [S in State]: { readonly [E in EventType]: Handler<E> } };

/** What becomes of the machine at an event, and what the driver has to do for it, in order. `random` is from 0 to 1. */
export function step(
  before: Machine, event: Event, now: number, random: number, timing: Timing = TIMING,
): { machine: Machine; effects: Effect[] } {
  const m: Machine = { ...before, timers: { ...before.timers }, now };
  if (now < before.now) setBack(m, before.now - now);
  const due = event.type === "timer" ? m.timers[event.kind] : now;
  if (event.type === "timer") delete m.timers[event.kind];
  const t: Turn = { m, effects: [], timing, now, random, late: now - (due ?? now) };
  // A timer that is not armed any more fired too late to matter. (TypeScript does not relate an event to its column.)
  if (due !== undefined) (TABLE[m.state][event.type] as Handler<EventType>)(t, event);
  const status = statusOf(m);
  if (!sameStatus(status, statusOf(before))) t.effects.push({ do: "report", status });
  return { machine: m, effects: t.effects };
}

/** The local clock was set back: what was remembered moves with it. */
function setBack(m: Machine, by: number): void {
  m.heard -= by;
  m.gotAt -= by;
  m.renewAt -= by;
  if (m.expiresAt !== null) m.expiresAt -= by;
  if (m.offset !== null) m.offset += by;
  for (const kind of Object.keys(m.timers) as TimerKind[]) m.timers[kind] = (m.timers[kind] ?? 0) - by;
}

function sameStatus(a: Status, b: Status): boolean {
  const [p, q] = [a.reason, b.reason];
  return a.state === b.state && a.transport === b.transport && a.retryAt === b.retryAt
    && p?.code === q?.code && p?.message === q?.message && p?.hint === q?.hint;
}

// Handlers that several states share

const stay = (): void => {};
const wentOnline = ({ m }: Turn): void => { m.online = true; };
const wentOffline = ({ m }: Turn): void => { m.online = false; };
const shown = ({ m }: Turn): void => { m.visible = true; };
const hidden = ({ m }: Turn): void => { m.visible = false; };
const checked = ({ m }: Turn): void => { m.checking = false; };
const probed = ({ m }: Turn): void => { m.probing = false; };
/** Between two tries: the next is by WebSocket. */
const mayClimb = ({ m }: Turn, { ok }: EventOf<"probed">): void => {
  m.probing = false;
  if (ok) m.rung = 0;
};
const needToken = ({ m }: Turn): void => { if (m.token?.fixed === false) m.need ??= "renewal"; };

function start(t: Turn): void {
  Object.assign(t.m, {
    failures: 0, returns: 0, refusals: 0, unopened: 0, unrenewed: 0,
    token: null, need: "first", owed: false, expiresAt: null, reason: null, idle: false,
  } satisfies Partial<Machine>);
  connect(t);
}

function stop(t: Turn): void {
  drop(t);
  abandon(t);
  enter(t, "stopped");
}

function restart(t: Turn): void {
  drop(t);
  if (t.m.fetching !== null) lateToken(t);
  Object.assign(t.m, { failures: 0, returns: 0, refusals: 0, unopened: 0, unrenewed: 0 } satisfies Partial<Machine>);
  connect(t);
}

const timeOut = (what: string): Reason => ({ code: "TIMEOUT", message: `${what} took too long` });

function lateToken(t: Turn): void {
  t.effects.push({ do: "abandon", what: "token" });
  loseToken(t);
}

function noToken(t: Turn, message: string): void {
  const { m } = t;
  loseToken(t);
  m.need ??= "renewal";
  m.reason = { code: "TOKEN_FAILED", message };
  m.failures += 1;
  wait(t, backoff(t.timing, m.failures, false, t.random));
}

/** An idea of the network has changed while a try was under way on the old one. */
function tryAnew(t: Turn): void {
  if (!t.m.online) {
    t.m.online = true;
    drop(t);
    connect(t);
  }
}

const opening: Table["opening"] = {
  start: stay,
  stop,
  tokenGot: learnToken,
  tokenFailed: loseToken,
  opened(t) {
    enter(t, "greeting");
    t.effects.push({ do: "sendHello" });
    arm(t, "welcome", t.timing.welcome);
  },
  welcome: stay,
  frame: stay,
  closed(t, { code, reason }) {
    if (code === CLOSE.broken) unopened(t);
    lost(t, code, reason);
  },
  timer(t, { kind }) {
    if (kind === "token") return lateToken(t);
    drop(t);
    unopened(t);
    lost(t, CLOSE.broken, timeOut("opening a connection"));
  },
  online: tryAnew,
  offline: wentOffline,
  visible: shown,
  hidden,
  restart,
  expiring: renew,
  reachable(t, { ok }) {
    t.m.checking = false;
    if (!ok) return;
    drop(t);
    stepDown(t);
    connect(t);
  },
  probed,
};

const greeting: Table["greeting"] = {
  ...opening,
  tokenGot(t, event) {
    learnToken(t, event);
    if (!event.same) t.m.owed = true;
  },
  opened: stay,
  welcome: goLive,
  timer(t, { kind }) {
    if (kind === "token") return lateToken(t);
    drop(t);
    unopened(t);
    lost(t, CLOSE.broken, timeOut("the server's welcome"));
  },
};

const live: Table["live"] = {
  start: stay,
  stop,
  tokenGot(t, event) {
    const renewed = t.m.fetching !== null;
    learnToken(t, event);
    if (event.same && renewed) return postponeRenewal(t);
    if (!event.same) t.effects.push({ do: "sendAuth" });
    scheduleRenewal(t);
  },
  tokenFailed(t) {
    loseToken(t);
    postponeRenewal(t);
  },
  opened: stay,
  welcome: stay,
  frame(t, { time }) {
    t.m.heard = t.now;
    t.m.asked = false;
    if (time === undefined) return;
    t.m.failures = 0;
    learnTime(t, time);
  },
  closed: (t, { code, reason }) => lost(t, code, reason),
  timer(t, { kind }) {
    switch (kind) {
      case "watch": return watch(t);
      case "stable": {
        t.m.failures = t.m.returns = t.m.refusals = 0;
        return;
      }
      case "renew": return t.m.renewAt > t.now ? arm(t, "renew", t.m.renewAt - t.now) : renew(t);
      case "probe": return probe(t);
      case "token": {
        lateToken(t);
        return postponeRenewal(t);
      }
    }
  },
  online(t) {
    if (t.m.online) return;
    t.m.online = true;
    check(t);
    probe(t);
  },
  offline(t) {
    t.m.online = false;
    check(t);
  },
  visible(t) {
    t.m.visible = true;
    if (t.now - t.m.heard > t.timing.grace) check(t);
  },
  hidden,
  restart,
  expiring: renew,
  reachable: checked,
  probed(t, { ok }) {
    t.m.probing = false;
    if (!ok || t.m.rung === 0) return;
    drop(t);
    t.m.rung = 0;
    connect(t);
  },
};

const waiting: Table["waiting"] = {
  start: stay,
  stop,
  tokenGot(t, event) {
    const wanted = t.m.need !== null;
    learnToken(t, event);
    if (wanted) connect(t);
  },
  tokenFailed: loseToken,
  opened: stay,
  welcome: stay,
  frame: stay,
  closed: stay,
  timer: connect,
  online(t) {
    t.m.online = true;
    connect(t);
  },
  offline(t) {
    t.m.online = false;
    wait(t, 0);
  },
  visible(t) {
    if (t.m.visible) return;
    t.m.visible = true;
    connect(t);
  },
  hidden,
  restart,
  expiring: needToken,
  reachable(t, { ok }) {
    t.m.checking = false;
    if (!ok) return;
    stepDown(t);
    connect(t);
  },
  probed: mayClimb,
};

const token: Table["token"] = {
  start: stay,
  stop,
  tokenGot(t, event) {
    learnToken(t, event);
    open(t);
  },
  tokenFailed: (t, { message }) => noToken(t, message),
  opened: stay,
  welcome: stay,
  frame: stay,
  closed: stay,
  timer(t) {
    lateToken(t);
    noToken(t, "the token took too long");
  },
  online(t) {
    if (!t.m.online && t.m.fetching !== null) fetchToken(t, t.m.fetching);
    t.m.online = true;
  },
  offline: wentOffline,
  visible: shown,
  hidden,
  restart(t) {
    t.m.need ??= t.m.fetching;
    restart(t);
  },
  expiring: stay,
  reachable(t, { ok }) {
    t.m.checking = false;
    if (ok) stepDown(t);
  },
  probed: mayClimb,
};

const refused: Table["refused"] = {
  ...waiting,
  tokenGot(t, event) {
    learnToken(t, event);
    open(t);
  },
  timer: stay,
  online: wentOnline,
  offline: wentOffline,
  visible: shown,
  expiring: needToken,
  reachable: checked,
};

const resting: Table["stopped"] = {
  start,
  stop: stay,
  tokenGot: stay,
  tokenFailed: stay,
  opened: stay,
  welcome: stay,
  frame: stay,
  closed: stay,
  timer: stay,
  online: wentOnline,
  offline: wentOffline,
  visible: shown,
  hidden,
  restart: stay,
  expiring: stay,
  reachable: stay,
  probed: stay,
};

const TABLE: Table = {
  stopped: resting,
  token,
  opening,
  greeting,
  live,
  waiting,
  refused,
  offline: { ...waiting, offline: wentOffline },
};
