// Runs the connection's machine: the only one that knows the clock, timers, transports, the token callback and what the
// browser says of the network. It decides nothing; see machine.ts.
//
// Invariant: nothing of it is left after `stop()`: no timer, listener, request or socket. Callbacks are called one at a
// time, and may call any method of the connection.

import { CLOSE, closeText } from "../protocol/close.ts";
import type { Down, Welcome } from "../protocol/down.ts";
import type { Hello, Subscription, Up } from "../protocol/up.ts";
import { openEvents } from "./events.ts";
import { step } from "./machine.ts";
import { openPoll } from "./poll.ts";
import { type Abandon, type Answer, checkHealth, probeWebSocket } from "./side.ts";
import {
  atRest, type Effect, type Event, type Machine, type Reason, type Status, statusOf, type TimerKind, type TokenReason,
} from "./state.ts";
import { type Timing, TIMING } from "./timing.ts";
import { factsOf } from "./token.ts";
import { Endpoints, type OpenTransport, type Platform, type Transport, type TransportKind } from "./transport.ts";
import { openWebSocket } from "./websocket.ts";

export type { Reason, Status, TokenReason, TransportKind };

/** Why a connection that was live is not any more. */
export interface CloseInfo extends Reason {
  closeCode: number;
}

export interface ConnectionOptions {
  /** Where the server is: "https://db.example:8082", "wss://…"; a path is a prefix of the server's own. */
  url: string;
  tenant?: string;
  /** A token, or who can be asked for one whenever it is needed. */
  token?: string | ((reason: TokenReason) => Promise<string> | string);
  client?: Hello["client"];
  /** In the order in which they are tried; default all. */
  transports?: readonly TransportKind[];
  /** Which to begin with: what `status.transport` said the last time. */
  transport?: TransportKind;
  /** Default: the platform's. */
  WebSocket?: unknown;
  fetch?: typeof fetch;
  timing?: Partial<Timing>;
  /** What is asked for; called whenever `hello` is sent. */
  hello: () => { cursor?: string; subscriptions: Subscription[] };
  /** Each message but `welcome`. If it throws, the connection is made anew, with back-off. */
  onMessage(message: Down): void;
  onOpen(welcome: Welcome): void;
  /** Once for each `onOpen`, after the last message, and before the next `onOpen`. */
  onClose(info: CloseInfo): void;
  onStatus(status: Status): void;
}

const OPEN: Readonly<Record<TransportKind, OpenTransport>> = {
  websocket: openWebSocket,
  events: openEvents,
  poll: openPoll,
};

const LADDER: readonly TransportKind[] = ["websocket", "events", "poll"];

export class Connection {
  private readonly options: ConnectionOptions;
  private readonly endpoints: Endpoints;
  private readonly platform: Platform;
  private readonly timing: Timing;
  private machine: Machine;
  private transport: Transport | null = null;
  private greeted = false;
  private welcomed = false;
  /** The server's last word that is about the connection as a whole. */
  private complaint: Reason | null = null;
  private token: string | null = null;
  /** Counts fetches: an answer to an earlier one is not taken. */
  private fetches = 0;
  private readonly timers = new Map<TimerKind, ReturnType<typeof setTimeout>>();
  private readonly pending = new Map<"health" | "probe", Abandon>();
  private readonly events: Event[] = [];
  private running = false;
  private forgetPage: (() => void) | null = null;

  constructor(options: ConnectionOptions) {
    const { url, fetch: ownFetch, timing, transports = LADDER, transport } = options;
    this.options = options;
    this.endpoints = new Endpoints(url);
    this.platform = {
      WebSocket: (options.WebSocket ?? globalThis.WebSocket) as Platform["WebSocket"],
      fetch: ownFetch ?? ((input, init) => globalThis.fetch(input, init)),
    };
    this.timing = { ...TIMING, ...timing };
    if (transports.length === 0) throw new TypeError("no transport is allowed");
    this.machine = atRest(transports, transport);
    if (typeof options.token === "string") this.token = options.token;
  }

  get status(): Status {
    return statusOf(this.machine);
  }

  start(): void {
    this.forgetPage ??= this.listenToPage();
    this.happen({ type: "start" });
  }

  stop(): void {
    this.forgetPage?.();
    this.forgetPage = null;
    this.happen({ type: "stop" });
  }

  /** Tries at once, also where the server has refused. */
  restart(): void {
    this.happen({ type: "restart" });
  }

  /** A fresh token, from whoever has one before it was asked for. */
  authenticate(token: string): void {
    this.gotToken(token);
  }

  /** Asks for another token now. */
  renew(): void {
    this.happen({ type: "expiring" });
  }

  /** What came could not be taken: the connection is made anew, with back-off. */
  fail(): void {
    if (!this.transport) return;
    this.transport.close(CLOSE.normal);
    this.closed(CLOSE.internal, "the client could not take a message");
  }

  /** Says whether it was sent. What was not belongs into the next `hello`. */
  send(message: Up): boolean {
    if (!this.transport || !this.greeted) return false;
    this.transport.send(message);
    return true;
  }

  private happen(event: Event): void {
    this.events.push(event);
    if (this.running) return;
    this.running = true;
    try {
      for (let next = this.events.shift(); next; next = this.events.shift()) {
        const { machine, effects } = step(this.machine, next, Date.now(), Math.random(), this.timing);
        this.machine = machine;
        for (const effect of effects) this.run(effect);
      }
    } finally {
      this.running = false;
    }
  }

  private run(effect: Effect): void {
    switch (effect.do) {
      case "fetchToken": return this.fetchToken(effect.reason);
      case "open": return this.open(effect.transport);
      case "close": return this.close(effect.code);
      case "sendHello": return this.sendHello();
      case "sendAuth": if (this.token !== null) this.transport?.send({ type: "auth", token: this.token }); return;
      case "sendPing": this.transport?.send({ type: "ping" }); return;
      case "setTimer": return this.setTimer(effect.kind, effect.ms);
      case "clearTimer": return this.clearTimer(effect.kind);
      case "checkHealth":
        return this.ask("health", checkHealth, (ok) => this.happen({ type: "reachable", ok }));
      case "probe":
        return this.ask("probe", probeWebSocket, (ok) => this.happen({ type: "probed", ok }));
      case "abandon": return this.abandon(effect.what);
      case "report": return void this.call(() => this.options.onStatus(effect.status));
    }
  }

  private open(kind: TransportKind): void {
    this.complaint = null;
    this.greeted = this.welcomed = false;
    const current = (): boolean => this.transport === transport;
    const transport: Transport = OPEN[kind](this.endpoints, this.platform, {
      opened: () => { if (current()) this.happen({ type: "opened" }); },
      alive: () => { if (current()) this.happen({ type: "frame" }); },
      message: (message) => { if (current()) this.receive(message); },
      closed: (code, reason) => { if (current()) this.closed(code, reason); },
    });
    this.transport = transport;
  }

  private receive(message: Down): void {
    if (message.type === "welcome") {
      this.welcomed = true;
      this.call(() => this.options.onOpen(message));
      return this.happen({ type: "welcome", heartbeatMs: message.heartbeat_ms, expiresInMs: message.expires_in_ms });
    }
    // The server says why right before it closes.
    this.complaint = message.type === "error" && message.id === undefined
      ? { code: message.code, message: message.message, hint: message.hint }
      : null;
    const transport = this.transport;
    const taken = this.call(() => this.options.onMessage(message));
    if (this.transport !== transport) return;
    if (!taken) return this.fail();
    if (message.type === "commit") {
      const time = Date.parse(message.time);
      if (!Number.isNaN(time)) this.happen({ type: "frame", time });
    }
  }

  private closed(code: number, text: string): void {
    const reason = this.complaint ?? { code: String(code), message: text || closeText(code) };
    this.transport = null;
    this.ended({ ...reason, closeCode: code });
    this.happen({ type: "closed", code, reason });
  }

  private close(code: number): void {
    this.transport?.close(code);
    this.transport = null;
    this.ended({ code: "CLOSED", message: "the client has closed the connection", closeCode: code });
  }

  private ended(info: CloseInfo): void {
    const { welcomed } = this;
    this.greeted = this.welcomed = false;
    if (welcomed) this.call(() => this.options.onClose(info));
  }

  private sendHello(): void {
    const { tenant, client, hello } = this.options;
    this.call(() => {
      const { cursor, subscriptions } = hello();
      const token = this.token ?? undefined;
      this.transport?.send({ type: "hello", token, tenant, client, cursor, subscriptions });
      this.greeted = true;
    });
  }

  private fetchToken(reason: TokenReason): void {
    const { token } = this.options;
    if (typeof token !== "function") return this.gotToken(this.token);
    const fetch = ++this.fetches;
    const current = (): boolean => fetch === this.fetches;
    new Promise<string>((resolve) => resolve(token(reason))).then(
      (fresh) => {
        if (!current()) return;
        if (typeof fresh === "string") return this.gotToken(fresh);
        this.happen({ type: "tokenFailed", message: "the token callback gave no text" });
      },
      (error: unknown) => {
        const message = error instanceof Error ? error.message : String(error);
        if (current()) this.happen({ type: "tokenFailed", message });
      },
    );
  }

  private gotToken(token: string | null): void {
    this.fetches += 1;
    const same = token === this.token && this.machine.token !== null;
    this.token = token;
    this.happen({ type: "tokenGot", facts: factsOf(token, typeof this.options.token !== "function"), same });
  }

  private setTimer(kind: TimerKind, ms: number): void {
    this.clearTimer(kind);
    this.timers.set(kind, setTimeout(() => {
      this.timers.delete(kind);
      this.happen({ type: "timer", kind });
    }, ms));
  }

  private clearTimer(kind: TimerKind): void {
    clearTimeout(this.timers.get(kind));
    this.timers.delete(kind);
  }

  private ask(
    what: "health" | "probe",
    begin: typeof checkHealth,
    answer: Answer,
  ): void {
    this.abandon(what);
    this.pending.set(what, begin(this.endpoints, this.platform, this.timing.open, (ok) => {
      this.pending.delete(what);
      answer(ok);
    }));
  }

  private abandon(what: "token" | "health" | "probe"): void {
    if (what === "token") {
      this.fetches += 1;
      return;
    }
    this.pending.get(what)?.();
    this.pending.delete(what);
  }

  /** Calls what the client gave. Its errors are its own: they are reported as uncaught, and stop nothing here. */
  private call(callback: () => void): boolean {
    try {
      callback();
      return true;
    } catch (error) {
      if (typeof reportError === "function") reportError(error);
      else queueMicrotask(() => { throw error; });
      return false;
    }
  }

  private listenToPage(): () => void {
    const { window, document, navigator }: { window?: Window; document?: Document; navigator?: Navigator } = globalThis;
    const ends: (() => void)[] = [];
    const listen = (target: EventTarget | undefined, name: string, then: () => void): void => {
      target?.addEventListener?.(name, then);
      ends.push(() => target?.removeEventListener?.(name, then));
    };
    const look = (): void => this.happen({ type: document?.visibilityState === "hidden" ? "hidden" : "visible" });
    listen(window, "online", () => this.happen({ type: "online" }));
    listen(window, "offline", () => this.happen({ type: "offline" }));
    listen(document, "visibilitychange", look);
    this.happen({ type: navigator?.onLine === false ? "offline" : "online" });
    look();
    return () => { for (const end of ends) end(); };
  }
}
