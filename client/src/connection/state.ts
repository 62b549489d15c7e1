// The words of the connection's machine: its states, what happens to it, and what it asks its driver to do. And what
// of it people are shown. Pure.

import type { TransportKind } from "./transport.ts";
import type { TokenFacts } from "./timing.ts";

export type State =
  | "stopped"
  /** A token is being fetched. */
  | "token"
  /** A transport is being opened. */
  | "opening"
  /** `hello` was sent, `welcome` has not come. */
  | "greeting"
  | "live"
  /** Until the next try. */
  | "waiting"
  /** Not without a change: a restart, or a new token. */
  | "refused"
  /** Waits for the browser's network; tries now and then all the same. */
  | "offline";

export type TimerKind = "token" | "open" | "welcome" | "watch" | "stable" | "renew" | "probe" | "retry";

/** Why a token is asked for: there is none, it is about to expire, or the server has refused it. */
export type TokenReason = "first" | "renewal" | "refused";

/** Why there is no connection. `code` is the server's error code, else its close code, else the client's own word. */
export interface Reason {
  code: string;
  message: string;
  hint?: string;
}

export type Event =
  | { type: "start" }
  | { type: "stop" }
  /** `same`: the one that was there before. */
  | { type: "tokenGot"; facts: TokenFacts; same: boolean }
  | { type: "tokenFailed"; message: string }
  | { type: "opened" }
  | { type: "welcome"; heartbeatMs: number; expiresInMs?: number }
  /** Anything that came; `time` is that of a commit, in milliseconds since 1970 by the server's clock. */
  | { type: "frame"; time?: number }
  | { type: "closed"; code: number; reason: Reason }
  | { type: "timer"; kind: TimerKind }
  | { type: "online" }
  | { type: "offline" }
  | { type: "visible" }
  | { type: "hidden" }
  | { type: "restart" }
  /** Whoever knows the token says that it will not do much longer. */
  | { type: "expiring" }
  /** The answer to `checkHealth`: whether plain HTTP reaches the server. */
  | { type: "reachable"; ok: boolean }
  /** The answer to `probe`: whether a WebSocket carries messages. */
  | { type: "probed"; ok: boolean };

export type EventType = Event["type"];
export type EventOf<T extends EventType> = Extract<Event, { type: T }>;

export type Effect =
  /** Takes the place of one that is under way. */
  | { do: "fetchToken"; reason: TokenReason }
  | { do: "open"; transport: TransportKind }
  /** Drops the connection: nothing more is heard of it, no `closed` either. */
  | { do: "close"; code: number }
  | { do: "sendHello" }
  | { do: "sendAuth" }
  | { do: "sendPing" }
  | { do: "setTimer"; kind: TimerKind; ms: number }
  | { do: "clearTimer"; kind: TimerKind }
  | { do: "checkHealth" }
  | { do: "probe" }
  /** The answer is not wanted any more. */
  | { do: "abandon"; what: "token" | "health" | "probe" }
  | { do: "report"; status: Status };

export interface Status {
  state: "connecting" | "live" | "offline" | "refused" | "stopped";
  transport: TransportKind;
  /** Why it is not live. */
  reason?: Reason;
  /** When it is tried again, in milliseconds since 1970 by the local clock. */
  retryAt?: number;
}

export interface Machine {
  readonly ladder: readonly TransportKind[];
  state: State;
  /** The local clock at the last event. */
  now: number;
  /** Which of the ladder's transports is used. */
  rung: number;
  online: boolean;
  visible: boolean;
  /** When each armed timer is due. */
  timers: Partial<Record<TimerKind, number>>;

  /** Tries in a row that came to nothing; a commit forgets them. */
  failures: number;
  /** Returns at once; only a stable time forgets them. */
  returns: number;
  /** Tokens in a row that were refused. */
  refusals: number;
  /** Tries in a row in which this transport did not open, or stayed silent. */
  unopened: number;
  checking: boolean;
  probing: boolean;

  token: TokenFacts | null;
  /** A token must be fetched before the next try. */
  need: TokenReason | null;
  /** A token is being fetched. */
  fetching: TokenReason | null;
  /** Fetched after `hello` was sent: to be shown after `welcome`. */
  owed: boolean;
  gotAt: number;
  expiresAt: number | null;
  renewAt: number;
  /** Renewals in a row that failed. */
  unrenewed: number;
  /** The server's clock minus the local one, or less than that. */
  offset: number | null;
  /** `offset` is of this connection. */
  sampled: boolean;

  heartbeat: number;
  heard: number;
  /** A ping was sent, and nothing has come since. */
  asked: boolean;
  reason: Reason | null;
  /** The wait is long enough to speak of. */
  idle: boolean;
}

/** A machine at rest. `begin` is the transport that worked the last time. */
export function atRest(ladder: readonly TransportKind[], begin?: TransportKind): Machine {
  return {
    ladder, state: "stopped", now: 0, rung: Math.max(0, begin ? ladder.indexOf(begin) : 0),
    online: true, visible: true, timers: {},
    failures: 0, returns: 0, refusals: 0, unopened: 0, checking: false, probing: false,
    token: null, need: "first", fetching: null, owed: false, gotAt: 0, expiresAt: null, renewAt: 0, unrenewed: 0,
    offset: null, sampled: false, heartbeat: 0, heard: 0, asked: false, reason: null, idle: false,
  };
}

export function transportOf(m: Machine): TransportKind {
  return m.ladder[m.rung] ?? "websocket";
}

export function statusOf(m: Machine): Status {
  const status: Status = { state: shown(m), transport: transportOf(m) };
  if (m.reason && status.state !== "live" && status.state !== "stopped") status.reason = m.reason;
  if (m.timers.retry !== undefined) status.retryAt = m.timers.retry;
  return status;
}

function shown({ state, idle }: Machine): Status["state"] {
  switch (state) {
    case "token": case "opening": case "greeting": return "connecting";
    case "waiting": return idle ? "offline" : "connecting";
    default: return state;
  }
}
