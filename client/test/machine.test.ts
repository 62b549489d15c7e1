// What the machine promises, one thing at a time. The clock only moves when told.

import { expect, test } from "vitest";
import type { Effect } from "../src/connection/state.ts";
import { backoffBound, expiryOf, renewalIn, TIMING } from "../src/connection/timing.ts";
import { mulberry32, worldIn } from "./support/world.ts";

const HOUR = 3_600_000;
const does = (effects: Effect[], what: Effect["do"]): boolean => effects.some((effect) => effect.do === what);
const wait = (effects: Effect[]): number | undefined =>
  effects.flatMap((effect) => (effect.do === "setTimer" && effect.kind === "retry" ? [effect.ms] : []))[0];
const always = (n: number) => (): number => n;
const most = always(0.999999);

// Coming back

test.each([1000, 1001, 1006, 1012, 4408, 4409])("after %i it comes back at once, a little spread", (code) => {
  expect(wait(worldIn("live", { random: most }).closed(code))).toBe(TIMING.spread);
  expect(wait(worldIn("live", { random: always(0) }).closed(code))).toBe(0);
});

test.each([1013, 4429, 1009, 4999])("after %i it comes back with back-off", (code) => {
  const world = worldIn("live", { random: most });
  const waits = [wait(world.closed(code))];
  for (let i = 0; i < 6; i++) {
    world.fire();
    waits.push(wait(world.closed(code)));
  }
  expect(waits).toEqual([2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
});

test("the whole of the bound is used, evenly", () => {
  const random = mulberry32(7);
  const waits = Array.from({ length: 1000 }, () => wait(worldIn("live", { random }).closed(1013))!);
  for (const quarter of [0, 1, 2, 3]) {
    const inside = waits.filter((ms) => Math.min(3, Math.floor(ms / 500)) === quarter).length;
    expect(inside).toBeGreaterThan(200);
    expect(inside).toBeLessThan(300);
  }
});

test("tries that do not open: the first again at once, then with waits that double up to the last", () => {
  const world = worldIn("opening", { random: most, ladder: ["websocket"] });
  const waits: (number | undefined)[] = [];
  for (let i = 0; i < 9; i++) {
    waits.push(wait(world.closed(1006)));
    world.fire();
  }
  expect(waits).toEqual([500, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
});

test.each([
  ["a commit", (world: ReturnType<typeof worldIn>) => world.happen({ type: "frame", time: world.now }), 500],
  ["a stable time", (world: ReturnType<typeof worldIn>) => {
    for (let i = 0; i < 4; i++) {
      world.pass(10_000);
      world.happen({ type: "frame" });
    }
  }, 500],
  ["welcome alone does not", () => {}, 4000],
  ["a frame that is no commit does not", (world: ReturnType<typeof worldIn>) => world.happen({ type: "frame" }), 4000],
])("what went wrong is forgotten after %s", (_, then, expected) => {
  const world = worldIn("opening", { random: most, ladder: ["websocket"] });
  for (let i = 0; i < 4; i++) {
    world.closed(1006);
    world.fire();
  }
  world.opened();
  world.welcome(20_000);
  then(world);
  world.closed(1012);
  world.fire();
  // Whatever the return was like: the next failure shows how many are remembered.
  expect(wait(world.closed(1006))).toBe(expected);
});

test("returns at once that repeat are slowed down, though each saw a commit; of a slow client the second", () => {
  const waits = (code: number): (number | undefined)[] => {
    const world = worldIn("live", { random: most });
    return Array.from({ length: 6 }, () => {
      world.happen({ type: "frame", time: world.now });
      const ms = wait(world.closed(code));
      world.fire();
      world.opened();
      world.welcome(20_000);
      return ms;
    });
  };
  expect(waits(1012)).toEqual([500, 500, 500, 500, 1000, 2000]);
  expect(waits(4409)).toEqual([500, 500, 1000, 2000, 4000, 8000]);
});

test.each([4400, 4403, 4404, 4413])("after %i it is refused until a restart", (code) => {
  const world = worldIn("live");
  world.closed(code);
  expect(world.status).toMatchObject({ state: "refused", reason: { code: String(code) } });
  for (const type of ["online", "visible", "start", "expiring"] as const) world.happen({ type });
  expect(world.status.state).toBe("refused");
  expect(does(world.happen({ type: "restart" }), "open")).toBe(true);
});

test.each(["restart", "start"] as const)("%s forgets what went wrong", (type) => {
  const world = worldIn("opening", { random: most, ladder: ["websocket"] });
  for (let i = 0; i < 6; i++) {
    world.closed(1006);
    world.fire();
  }
  if (type === "start") world.happen({ type: "stop" });
  world.happen({ type });
  if (world.fetching) world.gotToken();
  expect(wait(world.closed(1006))).toBe(TIMING.spread);
});

test("restart asks anew for a token that does not come", () => {
  expect(worldIn("token").happen({ type: "restart" })).toContainEqual({ do: "fetchToken", reason: "first" });
});

test("a new token leaves refused too", () => {
  expect(does(worldIn("refused").gotToken(), "open")).toBe(true);
});

test.each(["online", "visible"] as const)("%s ends a wait at once", (type) => {
  const world = worldIn("live", { random: most });
  world.happen({ type: type === "online" ? "offline" : "hidden" });
  world.closed(1013);
  expect(does(world.happen({ type }), "open")).toBe(true);
});

test("without a network it waits for one, and tries now and then all the same", () => {
  const world = worldIn("live", { random: most });
  world.happen({ type: "offline" });
  expect(wait(world.closed(1006))).toBe(TIMING.offline);
  expect(world.status.state).toBe("offline");
  world.fire();
  expect(world.machine.state).toBe("opening");
  world.opened();
  world.welcome(20_000);
  expect(world.status.state).toBe("live");
});

test("a try on a network that went is given up for one on the network that came", () => {
  const world = worldIn("opening");
  world.happen({ type: "offline" });
  const effects = world.happen({ type: "online" });
  expect([does(effects, "close"), does(effects, "open")]).toEqual([true, true]);
  expect(does(world.happen({ type: "online" }), "close")).toBe(false);
});

test("opening and welcome take no longer than they may", () => {
  for (const [state, ms] of [["opening", TIMING.open], ["greeting", TIMING.welcome]] as const) {
    const world = worldIn(state);
    world.pass(ms - 1);
    expect(world.machine.state).toBe(state);
    world.pass(1);
    expect([world.machine.state, world.socket]).toEqual(["waiting", null]);
    expect(world.status.reason?.code).toBe("TIMEOUT");
  }
});

// The heartbeat

test("silence: a ping after one and a quarter heartbeats, the end after two", () => {
  const world = worldIn("live", { heartbeat: 20_000 });
  world.pass(24_999);
  expect(world.count("sendPing")).toBe(0);
  world.pass(1);
  expect([world.count("sendPing"), world.machine.state]).toEqual([1, "live"]);
  world.pass(14_999);
  expect(world.machine.state).toBe("live");
  world.pass(1);
  expect([world.machine.state, world.socket, world.status.reason?.code]).toEqual(["waiting", null, "SILENT"]);
  world.fire();
  expect(world.machine.state).toBe("opening");
});

test("whatever comes is a sign of life, also after the ping", () => {
  const world = worldIn("live", { heartbeat: 20_000 });
  for (let i = 0; i < 20; i++) {
    world.pass(20_000);
    world.happen({ type: "frame" });
  }
  expect(world.count("sendPing")).toBe(0);
  for (let i = 0; i < 20; i++) {
    world.pass(30_000);
    world.happen({ type: "frame" });
  }
  expect([world.count("sendPing"), world.machine.state, world.count("open")]).toEqual([20, "live", 1]);
});

test("after a sleep it asks first, and gives up soon if there is no answer", () => {
  const world = worldIn("live", { heartbeat: 20_000 });
  world.fire(HOUR);
  expect([world.count("sendPing"), world.machine.state]).toEqual([1, "live"]);
  world.pass(TIMING.grace);
  expect(world.machine.state).toBe("waiting");
});

test("after a sleep a connection that answers is kept", () => {
  const world = worldIn("live", { heartbeat: 20_000 });
  world.fire(HOUR);
  world.happen({ type: "frame" });
  world.pass(20_000);
  expect([world.machine.state, world.count("open")]).toEqual(["live", 1]);
});

test.each(["offline", "visible"] as const)("%s makes it ask, and give up soon if there is no answer", (type) => {
  const world = worldIn("live", { heartbeat: 60_000 });
  world.pass(10_000);
  expect(does(world.happen({ type }), "sendPing")).toBe(true);
  world.pass(TIMING.grace);
  expect(world.machine.state).not.toBe("live");
});

// Tokens

test("a refused token is replaced at once, the second time with back-off, until the connection was stable", () => {
  const world = worldIn("greeting", { facts: { fixed: false }, random: most });
  expect(world.closed(4401)).toContainEqual({ do: "fetchToken", reason: "refused" });
  world.gotToken({ fixed: false });
  world.opened();
  expect(wait(world.closed(4401))).toBe(2000);
  world.fire();
  expect(world.fetching).toBe("refused");
  world.gotToken({ fixed: false });
  world.opened();
  expect(wait(world.closed(4401))).toBe(4000);
  world.fire();
  world.gotToken({ fixed: false });
  world.opened();
  world.welcome(60_000);
  world.pass(TIMING.stable);
  expect(world.closed(4401)).toContainEqual({ do: "fetchToken", reason: "refused" });
});

test("where nobody can be asked for another token, a refused one is the end", () => {
  const world = worldIn("greeting", { facts: { fixed: true } });
  world.closed(4401);
  expect(world.status.state).toBe("refused");
});

test("a token that cannot be fetched is asked for again, with waits that double", () => {
  const world = worldIn("token", { random: most });
  const waits = Array.from({ length: 4 }, () => {
    const ms = wait(world.noToken());
    world.fire();
    return ms;
  });
  expect(waits).toEqual([500, 1000, 2000, 4000]);
  expect(world.status.reason).toEqual({ code: "TOKEN_FAILED", message: "no" });
});

test("a fetch that never ends does not hold up", () => {
  const world = worldIn("token");
  world.pass(TIMING.token);
  expect([world.machine.state, world.fetching]).toEqual(["waiting", null]);
});

test("a renewal has its time, and shows the fresh token on the open connection", () => {
  const world = worldIn("greeting", { facts: { exp: 100, fixed: false }, heartbeat: HOUR });
  world.welcome(10 * HOUR, HOUR);
  world.pass(0.8 * HOUR - 1);
  expect(world.fetching).toBeNull();
  world.pass(1);
  expect(world.fetching).toBe("renewal");
  expect(does(world.gotToken({ exp: 100 + 3600, fixed: false }), "sendAuth")).toBe(true);
  expect(world.count("open")).toBe(1);
  // The next one: of what is left by then, by the server's clock that `welcome` has told.
  const left = 2 * HOUR - 0.8 * HOUR;
  expect(world.timers.get("renew")).toBe(world.now + 0.8 * left);
});

test.each([
  [HOUR, 0.8 * HOUR], [60_000, 48_000], [40_000, 30_000], [20_001, 10_001],
  [20_000, 10_000], [4000, 2000], [500, 1000], [-1000, 1000],
])("a token that is good for %i ms is renewed after %i", (left, after) => {
  expect(renewalIn(left)).toBe(after);
});

test("a token of many years is no timer that fires at once", () => {
  const world = worldIn("greeting", { facts: { fixed: false } });
  world.welcome(365 * 24 * HOUR, 100 * 365 * 24 * HOUR);
  expect(world.timers.get("renew")! - world.now).toBe(2 ** 31 - 1);
  world.pass(100 * 24 * HOUR);
  expect([world.machine.state, world.count("fetchToken"), world.timers.has("renew")]).toEqual(["live", 1, true]);
});

test.each([-12, -1, 0, 1, 12])("a local clock that is %i hours off changes nothing", (hours) => {
  // The token is good for an hour by the server's clock, and has been for half of it.
  const facts = (serverNow: number) => ({ iat: serverNow / 1000 - 1800, exp: serverNow / 1000 + 1800, fixed: false });
  const world = worldIn("token");
  const server = (): number => world.now - hours * HOUR;
  world.gotToken(facts(server()));
  world.opened();
  world.welcome(HOUR);
  world.happen({ type: "frame", time: server() });
  expect(world.timers.get("renew")! - world.now).toBe(0.8 * HOUR / 2);
});

test("before the server's clock is known a token's own life counts, never the bare local clock", () => {
  expect(expiryOf({ iat: 5, exp: 65, fixed: false }, null, 1e12)).toBe(1e12 + 60_000);
  expect(expiryOf({ exp: 65, fixed: false }, null, 1e12)).toBeNull();
  expect(expiryOf({ exp: 65, fixed: false }, 1000, 1e12)).toBe(64_000);
});

test("a clock that is set back delays no renewal and no watchdog", () => {
  const world = worldIn("greeting", { facts: { fixed: false } });
  world.welcome(20_000, 30_000);
  world.setBack(5 * HOUR);
  world.pass(20_000);
  expect(world.fetching).toBe("renewal");
  world.pass(20_000);
  expect(world.machine.state).toBe("waiting");
});

test("a renewal that fails or gives the same token is tried again, and ends nothing", () => {
  for (const failed of ["tokenFailed", "same"] as const) {
    const world = worldIn("greeting", { facts: { fixed: false } });
    world.welcome(HOUR, 60_000);
    for (let i = 0; i < 4; i++) {
      world.now = world.timers.get("renew")!;
      world.happen({ type: "timer", kind: "renew" });
      expect(world.fetching).toBe("renewal");
      if (failed === "same") world.gotToken({ fixed: false }, true);
      else world.noToken();
      const again = world.timers.get("renew")! - world.now;
      expect(again).toBe(backoffBound(TIMING, i + 1, true) * 0.75);
    }
    expect([world.machine.state, world.count("sendAuth")]).toEqual(["live", 0]);
  }
});

test("one that comes while greeting is shown after welcome", () => {
  const world = worldIn("greeting", { facts: { fixed: false } });
  expect(does(world.gotToken({ fixed: false }), "sendAuth")).toBe(false);
  expect(does(world.welcome(20_000), "sendAuth")).toBe(true);
});

test("a token that has expired meanwhile is renewed before the next try; one just fetched is not doubted", () => {
  const world = worldIn("greeting", { facts: { exp: 50, fixed: false } });
  world.welcome(20_000, 60_000);
  world.happen({ type: "offline" });
  world.closed(1006);
  world.fire(HOUR);
  expect(world.fetching).toBe("renewal");
  world.gotToken({ exp: 50, fixed: false });
  expect(world.machine.state).toBe("opening");
});

// Transports

test("two tries that do not open, and a server that answers plain HTTP: the next transport", () => {
  const world = worldIn("opening");
  world.closed(1006);
  world.fire();
  expect(does(world.closed(1006), "checkHealth")).toBe(true);
  expect(world.reachable(true)).toContainEqual({ do: "open", transport: "events" });
  world.closed(1006);
  world.fire();
  world.closed(1006);
  expect(world.reachable(true)).toContainEqual({ do: "open", transport: "poll" });
  world.closed(1006);
  world.fire();
  world.closed(1006);
  expect(world.reachable(true)).toContainEqual({ do: "open", transport: "websocket" });
});

test.each([1013, 4401, 4429])("a server that refuses with %i is no reason for another transport", (code) => {
  const world = worldIn("opening", { facts: { fixed: false } });
  for (let i = 0; i < 5; i++) {
    world.closed(code);
    while (world.machine.state !== "opening") {
      if (world.fetching) world.gotToken({ fixed: false });
      else world.fire();
    }
  }
  expect(world.count("checkHealth")).toBe(0);
});

test("a welcome shows that the transport works: it takes two more to leave it", () => {
  const world = worldIn("opening");
  world.closed(1006);
  world.fire();
  world.opened();
  world.welcome(20_000);
  world.closed(1006);
  world.fire();
  world.closed(1006);
  expect(world.count("checkHealth")).toBe(0);
});

test("another transport looks for WebSockets every few minutes, and when the network changes", () => {
  const world = worldIn("live", { begin: "events", heartbeat: 10 * HOUR });
  world.pass(TIMING.probe);
  expect(world.count("probe")).toBe(1);
  world.probed(false);
  world.happen({ type: "offline" });
  world.happen({ type: "online" });
  expect(world.count("probe")).toBe(2);
  expect(world.probed(true)).toContainEqual({ do: "open", transport: "websocket" });
});

test("a WebSocket, or a list without one, looks for nothing", () => {
  for (const options of [{}, { ladder: ["events", "poll"] as const, begin: "poll" as const }]) {
    const world = worldIn("live", { ...options, heartbeat: 10 * HOUR });
    world.pass(2 * TIMING.probe);
    world.happen({ type: "offline" });
    world.happen({ type: "online" });
    expect(world.count("probe")).toBe(0);
  }
});
