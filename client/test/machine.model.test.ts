// The machine against random worlds: nothing that may happen, in any order, breaks what it promises; and wherever a
// connection is possible it comes about.

import { expect, test } from "vitest";
import type { Event, EventType, State, TimerKind } from "../src/connection/state.ts";
import { TIMING } from "../src/connection/timing.ts";
import type { TransportKind } from "../src/connection/transport.ts";
import { LADDER, mulberry32, World, worldIn } from "./support/world.ts";

const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32));
const HEARTBEAT = 25_000;

const STATES: State[] = ["stopped", "token", "opening", "greeting", "live", "waiting", "refused", "offline"];
const EVENTS = Object.keys({
  start: 0, stop: 0, tokenGot: 0, tokenFailed: 0, opened: 0, welcome: 0, frame: 0, closed: 0, timer: 0, online: 0,
  offline: 0,  visible: 0, hidden: 0, restart: 0, expiring: 0, reachable: 0, probed: 0,
} satisfies Record<EventType, 0>) as EventType[];
const TIMERS: TimerKind[] = ["token", "open", "welcome", "watch", "stable", "renew", "probe", "retry"];
const CODES = [
  1000, 1001, 1006, 1006, 1006, 1009, 1011, 1012, 1012, 1013, 4400, 4401, 4401, 4403, 4404, 4408, 4409, 4409, 4413,
  4429, 4999,
];

/** Anything that may come next in this world; things that cannot be are left out. */
function anything(world: World, random: () => number): void {
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
  const chance = (p: number): boolean => random() < p;
  // A driver keeps these apart from events of connections that are gone; sometimes the machine has to do it.
  const idle = world.machine.state === "refused" || world.machine.state === "stopped";
  const type = chance(idle ? 0.6 : 0.04) ? pick(EVENTS) : likely(world, pick);
  if (chance(0.02)) world.setBack(Math.floor(random() * 3_600_000));
  switch (type) {
    case "timer":
      if (chance(0.05)) world.happen({ type: "timer", kind: pick(TIMERS) });
      else world.fire(chance(0.1) ? Math.floor(random() * 3_600_000) : 0);
      return;
    case "tokenGot": {
      const iat = Math.floor(world.now / 1000) + pick([0, -7200, 7200]);
      const exp = chance(0.2) ? undefined : iat + pick([1, 15, 60, 3600, 86_400, 3_000_000]);
      return void world.gotToken({ iat: chance(0.2) ? undefined : iat, exp, fixed: chance(0.1) }, chance(0.1));
    }
    case "tokenFailed": return void world.noToken();
    case "opened": return void world.opened();
    case "welcome":
      return void world.welcome(pick([100, HEARTBEAT]), chance(0.5) ? pick([0, 5000, 60_000, 1e12]) : undefined);
    case "frame": {
      world.now += Math.floor(random() * HEARTBEAT * 2);
      const time = world.now + pick([0, -86_400_000, 86_400_000]);
      return void world.happen({ type, time: chance(0.5) ? time : undefined });
    }
    case "closed": return void world.closed(pick(CODES));
    case "reachable": return void world.reachable(chance(0.5));
    case "probed": return void world.probed(chance(0.5));
    default:
      return void world.happen({ type } as Event);
  }
}

/** What a driver could report now. */
function likely(world: World, pick: <T>(list: readonly T[]) => T): EventType {
  const { socket } = world;
  const now: EventType[] = ["online", "offline", "visible", "hidden", "restart", "expiring", "start", "stop"];
  now.push("timer", "timer", "timer");
  if (world.fetching) now.push("tokenGot", "tokenGot", "tokenGot", "tokenGot", "tokenFailed");
  if (socket) now.push("closed", "closed");
  if (socket && !socket.opened) now.push("opened", "opened", "opened", "opened", "opened");
  if (socket?.greeted && !socket.welcomed) now.push("welcome", "welcome", "welcome", "welcome", "welcome");
  if (socket?.welcomed) now.push("frame", "frame", "frame", "frame");
  if (world.checking) now.push("reachable");
  if (world.probing) now.push("probed");
  return pick(now);
}

/** Lets good days come: whoever is asked answers, and what `works` carries messages. Time passes up to `ms`. */
function fair(world: World, works: (kind: TransportKind) => boolean, ms: number, done: () => boolean): void {
  const until = world.now + ms;
  let heartbeat = world.now;
  const now = (): number => world.now;
  for (let steps = 0; !done() && now() < until; steps++) {
    if (steps > 100_000) throw new Error(`busy in ${world.machine.state}`);
    const { socket } = world;
    if (world.machine.state === "stopped") world.happen({ type: "start" });
    else if (world.machine.state === "refused") world.happen({ type: "restart" });
    else if (world.fetching) world.gotToken({ iat: now() / 1000, exp: now() / 1000 + 3600, fixed: false });
    else if (world.checking) world.reachable(true);
    else if (world.probing) world.probed(works("websocket"));
    else if (socket && !works(socket.kind)) world.closed(1006);
    else if (socket && !socket.opened) world.opened();
    else if (socket?.greeted && !socket.welcomed) {
      world.welcome(HEARTBEAT);
      world.happen({ type: "frame", time: now() });
      heartbeat = now() + HEARTBEAT;
    } else if (socket?.welcomed && Math.min(...world.timers.values()) > heartbeat) {
      world.now = Math.max(now(), heartbeat);
      heartbeat += HEARTBEAT;
      world.happen({ type: "frame", time: now() });
    } else if (world.fire() === null) {
      throw new Error(`stuck in ${world.machine.state}`);
    }
  }
}

test(`nothing that happens breaks a promise (SEED=${SEED})`, () => {
  const random = mulberry32(SEED);
  for (let run = 0; run < 100; run++) {
    const world = new World(random, LADDER.slice(Math.floor(random() * 3)), LADDER[Math.floor(random() * 4)]);
    for (let i = 0; i < 400; i++) anything(world, random);
    world.happen({ type: "stop" });
    const { timers, socket, fetching, checking, probing } = world;
    expect([timers.size, socket, fetching, checking, probing]).toEqual([0, null, null, false, false]);
  }
}, 60_000);

test("every state takes every event", () => {
  for (const state of STATES) {
    for (const type of EVENTS) {
      const world = worldIn(state);
      expect(world.machine.state).toBe(state);
      if (type === "timer") world.fire();
      else if (type === "closed") world.closed(1012);
      else if (type === "tokenGot") world.gotToken({ iat: 0, exp: 3600, fixed: false });
      else if (type === "tokenFailed") world.noToken();
      else if (type === "opened") world.opened();
      else if (type === "welcome") world.welcome(HEARTBEAT);
      else if (type === "reachable") world.reachable(true);
      else if (type === "probed") world.probed(true);
      else world.happen({ type } as Event);
    }
  }
});

test(`whatever has happened, a fair server is reached over what works, and kept (SEED=${SEED})`, () => {
  const random = mulberry32(SEED + 1);
  for (let run = 0; run < 100; run++) {
    const world = new World(random);
    for (let i = Math.floor(random() * 100); i > 0; i--) anything(world, random);
    // The browser is not always right about the network, and nobody may come to press a button.
    const blocked = Math.floor(random() * 3);
    const works = (kind: TransportKind): boolean => LADDER.indexOf(kind) >= blocked;
    const live = (): boolean => world.machine.state === "live" && !!world.socket?.welcomed && works(world.socket.kind);
    fair(world, works, 10 * 60_000, live);
    expect([run, live(), world.status.state]).toEqual([run, true, "live"]);
    // Settles on what works, and then has no reason to leave it but to climb.
    fair(world, works, 2 * TIMING.probe, () => false);
    const opens = world.count("open");
    fair(world, works, 20 * 60_000, () => false);
    expect([run, live(), world.count("open") - opens]).toEqual([run, true, 0]);
    if (blocked === 0) expect([run, world.socket?.kind]).toEqual([run, "websocket"]);
  }
}, 60_000);
