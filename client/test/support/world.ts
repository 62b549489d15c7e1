// A world for the connection's machine: a clock that only moves when told, a network and a server that can be good or
// bad, and a driver that checks each effect against what the machine may ask for in that moment.

import { step } from "../../src/connection/machine.ts";
import {
  atRest, type Effect, type Event, type Machine, type State, type Status, statusOf, type TimerKind,
} from "../../src/connection/state.ts";
import { TIMING, type TokenFacts } from "../../src/connection/timing.ts";
import type { TransportKind } from "../../src/connection/transport.ts";

/** A number from 0 up to 1, the same for the same seed. */
export function mulberry32(seed: number): () => number {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export const LADDER: readonly TransportKind[] = ["websocket", "events", "poll"];

/** The timer without which a state could last for ever. */
const GUARD: Readonly<Record<State, TimerKind | null>> = {
  stopped: null, refused: null,
  token: "token", opening: "open", greeting: "welcome", live: "watch", waiting: "retry", offline: "retry",
};

export class World {
  machine: Machine;
  now = 1_000_000_000_000;
  socket: { kind: TransportKind; opened: boolean; greeted: boolean; welcomed: boolean } | null = null;
  readonly timers = new Map<TimerKind, number>();
  fetching: string | null = null;
  checking = false;
  probing = false;
  /** All effects, in order. */
  log: Effect[] = [];
  status: Status;
  private readonly random: () => number;

  constructor(random: () => number = () => 0.5, ladder = LADDER, begin?: TransportKind) {
    this.random = random;
    this.machine = atRest(ladder, begin);
    this.status = statusOf(this.machine);
  }

  /** One event, and its effects. */
  happen(event: Event): Effect[] {
    if (event.type === "timer") this.timers.delete(event.kind);
    const frozen = JSON.stringify(this.machine);
    const before = this.machine;
    const { machine, effects } = step(before, event, this.now, this.random());
    must(JSON.stringify(before) === frozen, "the machine before a step stays as it was");
    this.machine = machine;
    for (const effect of effects) this.run(effect);
    this.log.push(...effects);
    this.check();
    return effects;
  }

  /** Goes on to the next timer, and lets it fire, `late` if the machine slept. */
  fire(late = 0): TimerKind | null {
    const next = [...this.timers].sort((a, b) => a[1] - b[1])[0];
    if (!next) return null;
    this.now = Math.max(this.now, next[1]) + late;
    this.happen({ type: "timer", kind: next[0] });
    return next[0];
  }

  /** Lets time pass, with all timers that are due in it. */
  pass(ms: number): void {
    const until = this.now + ms;
    while (Math.min(...this.timers.values()) <= until) this.fire();
    this.now = until;
  }

  /** Somebody sets the clock back, and the next event tells. Timers do not follow the clock. */
  setBack(ms: number): void {
    this.now -= ms;
    for (const [kind, due] of this.timers) this.timers.set(kind, due - ms);
    this.happen({ type: this.machine.visible ? "visible" : "hidden" });
  }

  // What a driver reports when a network and a server do what they should, or do not

  gotToken(facts: TokenFacts = { fixed: true }, same = false): Effect[] {
    this.fetching = null;
    return this.happen({ type: "tokenGot", facts, same });
  }

  noToken(): Effect[] {
    this.fetching = null;
    return this.happen({ type: "tokenFailed", message: "no" });
  }

  opened(): Effect[] {
    if (this.socket) this.socket.opened = true;
    return this.happen({ type: "opened" });
  }

  welcome(heartbeatMs: number, expiresInMs?: number): Effect[] {
    if (this.socket) this.socket.welcomed = this.socket.greeted;
    return this.happen({ type: "welcome", heartbeatMs, expiresInMs });
  }

  closed(code: number): Effect[] {
    this.socket = null;
    return this.happen({ type: "closed", code, reason: { code: String(code), message: "" } });
  }

  reachable(ok: boolean): Effect[] {
    this.checking = false;
    return this.happen({ type: "reachable", ok });
  }

  probed(ok: boolean): Effect[] {
    this.probing = false;
    return this.happen({ type: "probed", ok });
  }

  count(what: Effect["do"]): number {
    return this.log.filter((effect) => effect.do === what).length;
  }

  private run(effect: Effect): void {
    const { socket } = this;
    switch (effect.do) {
      case "fetchToken": this.fetching = effect.reason; return;
      case "open":
        must(socket === null, "one connection at most");
        this.socket = { kind: effect.transport, opened: false, greeted: false, welcomed: false };
        return;
      case "close":
        must(socket !== null, "only a connection that is there is closed");
        this.socket = null;
        return;
      case "sendHello":
        must(socket?.opened === true && !socket.greeted, "hello is the first message");
        socket!.greeted = true;
        return;
      case "sendAuth": return must(socket?.welcomed === true, "auth after welcome");
      case "sendPing": return must(socket?.welcomed === true, "pings on a live connection");
      case "setTimer":
        must(Number.isInteger(effect.ms) && effect.ms >= 0 && effect.ms < 2 ** 31, `a timer takes no ${effect.ms} ms`);
        if (effect.kind === "retry") this.checkBackoff(effect.ms);
        this.timers.set(effect.kind, this.now + effect.ms);
        return;
      case "clearTimer":
        must(this.timers.delete(effect.kind), "only a timer that is armed is cleared");
        return;
      case "checkHealth":
        must(!this.checking, "one health check at a time");
        this.checking = true;
        return;
      case "probe":
        must(!this.probing && socket?.kind !== "websocket", "one probe at a time, from another transport");
        this.probing = true;
        return;
      case "abandon":
        if (effect.what === "token") this.fetching = null;
        else if (effect.what === "health") this.checking = false;
        else this.probing = false;
        return;
      case "report":
        must(JSON.stringify(effect.status) !== JSON.stringify(this.status), "only what is new is reported");
        this.status = effect.status;
    }
  }

  private checkBackoff(ms: number): void {
    if (this.machine.online) must(ms <= TIMING.last, `a wait of ${ms} ms`);
    else must(ms >= TIMING.offline / 2 && ms <= TIMING.offline, `a wait of ${ms} ms without a network`);
  }

  private check(): void {
    const { machine: m, timers } = this;
    const guard = GUARD[m.state];
    const asking = this.fetching !== null || this.checking || this.probing;
    if (guard) must(timers.has(guard), `in ${m.state} the timer ${guard} is armed`);
    else must(timers.size === 0 && !asking, `nothing is under way in ${m.state}`);
    must((this.socket !== null) === ["opening", "greeting", "live"].includes(m.state), `a connection in ${m.state}`);
    must((this.fetching !== null) === (m.fetching !== null), "a token is fetched if the machine thinks so");
    must(this.checking === m.checking && this.probing === m.probing, "what is asked beside is known");
    must(JSON.stringify(this.status) === JSON.stringify(statusOf(m)), "what is reported is so");
    must(Object.keys(m.timers).length === timers.size, "the machine knows its timers");
    for (const [kind, due] of timers) must(m.timers[kind] === due, `the machine knows when ${kind} is due`);
  }
}

function must(holds: boolean, promise: string): asserts holds {
  if (!holds) throw new Error(`broken: ${promise}`);
}

/** A world in which the machine has come to a state, by the shortest way. */
export function worldIn(state: State, { facts, random, ladder, begin, heartbeat = 20_000 }: {
  facts?: TokenFacts;
  random?: () => number;
  ladder?: readonly TransportKind[];
  begin?: TransportKind;
  heartbeat?: number;
} = {}): World {
  const world = new World(random, ladder, begin);
  if (state === "stopped") return world;
  world.happen({ type: "start" });
  if (state === "token") return world;
  world.gotToken(facts);
  if (state === "opening") return world;
  world.opened();
  if (state === "greeting") return world;
  if (state === "refused") world.closed(4404);
  if (state === "refused") return world;
  world.welcome(heartbeat);
  if (state === "live") return world;
  if (state === "offline") world.happen({ type: "offline" });
  world.closed(1012);
  return world;
}
