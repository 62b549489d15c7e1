// What surrounds the machine: the page it lives in, callbacks that misbehave, and that nothing is left of it.

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { ConnectionOptions, TransportKind } from "../src/connection/driver.ts";
import { Client, QUICK } from "./support/connected.ts";
import { FakeServer } from "./support/server.ts";

let server: FakeServer;
let url: string;
let clients: Client[];

beforeEach(async () => {
  server = new FakeServer();
  url = await server.listen();
  clients = [];
});

afterEach(async () => {
  for (const client of clients) client.connection.stop();
  vi.unstubAllGlobals();
  await server.close();
});

function connect(options: Partial<ConnectionOptions> = {}): Client {
  const client = new Client(url, options).start();
  clients.push(client);
  return client;
}

/** A page that counts who listens to it. */
function page(): { window: EventTarget; document: EventTarget & { visibilityState: string }; listeners: () => number } {
  let listeners = 0;
  class Counting extends EventTarget {
    visibilityState = "visible";
    override addEventListener(...args: Parameters<EventTarget["addEventListener"]>): void {
      listeners += 1;
      super.addEventListener(...args);
    }
    override removeEventListener(...args: Parameters<EventTarget["removeEventListener"]>): void {
      listeners -= 1;
      super.removeEventListener(...args);
    }
  }
  const made = { window: new Counting(), document: new Counting() };
  vi.stubGlobal("window", made.window);
  vi.stubGlobal("document", made.document);
  return { ...made, listeners: () => listeners };
}

/** Timers of the connection that are armed, of those that it sets from now on; libraries have their own. */
function countTimers(): () => number {
  const armed = new Set<unknown>();
  const { setTimeout: set, clearTimeout: clear } = globalThis;
  vi.stubGlobal("setTimeout", (run: () => void, ms?: number, ...more: unknown[]) => {
    if (!new Error().stack!.split("\n")[2]!.includes("/src/connection/")) return set(run, ms, ...(more as []));
    const timer = set(() => {
      armed.delete(timer);
      run();
    }, ms);
    armed.add(timer);
    return timer;
  });
  vi.stubGlobal("clearTimeout", (timer: Parameters<typeof clear>[0]) => {
    armed.delete(timer);
    clear(timer);
  });
  return () => armed.size;
}

/** Never comes back by itself. */
const SLOW = { ...QUICK, first: 1e9, last: 1e9, firstBusy: 1e9, offline: 1e9 };

const KINDS: TransportKind[] = ["websocket", "events", "poll"];

test.each(KINDS)("nothing is left after stop, over %s, whatever was under way", async (kind) => {
  const stages: [string, (client: Client) => Promise<void>, Partial<ConnectionOptions>][] = [
    ["live", async (client) => {
      await client.live();
      // One that polls is waited for while it waits, so that the server sees it go.
      if (kind === "poll") await server.until(() => server.polling === 1);
    }, {}],
    ["opening", () => server.until(() => server.requests.length > 0), {}],
    ["token", async () => {}, { token: () => new Promise<string>(() => {}) }],
    ["waiting", (client) => client.until(() => client.status.state === "offline"), { timing: SLOW }],
  ];
  for (const [stage, reached, options] of stages) {
    const { listeners } = page();
    const timers = countTimers();
    server.requests.length = 0;
    server.trouble[kind] = stage === "opening" ? "hangs" : stage === "waiting" ? "refused" : "none";
    const client = connect({ transports: [kind], ...options });
    await reached(client);
    expect([stage, listeners()]).toEqual([stage, 3]);
    expect(timers()).toBeGreaterThan(0);
    client.connection.stop();
    expect([stage, timers(), listeners(), client.status.state]).toEqual([stage, 0, 0, "stopped"]);
    await server.until(() => server.open.length === 0);
    const told = client.log.length;
    const asked = server.requests.length;
    client.connection.stop();
    await new Promise((done) => setImmediate(done));
    expect([client.log.length, server.requests.length]).toEqual([told, asked]);
    vi.unstubAllGlobals();
  }
});

test("a health check and a probe that are under way end with stop", async () => {
  const timers = countTimers();
  server.trouble = { websocket: "refused", events: "none", poll: "none", health: "hangs" };
  const checking = connect({ timing: { ...QUICK, open: 1e6 } });
  await server.until(() => server.requests.includes("GET /health"));
  checking.connection.stop();
  expect(timers()).toBe(0);
  server.trouble.websocket = "silent";
  const probing = connect({ transport: "events", timing: { ...QUICK, probe: 1, open: 1e6 } });
  await server.until(() => server.open.some((session) => session.kind === "websocket"));
  probing.connection.stop();
  expect(timers()).toBe(0);
  await server.until(() => server.open.length === 0);
});

test("it can be started again, with a token of then", async () => {
  let n = 0;
  const client = connect({ token: (reason) => `${reason} ${++n}` });
  await client.live();
  client.connection.stop();
  client.connection.start();
  await client.live();
  const hellos = server.sessions.map((session) => session.received[0]);
  expect(hellos).toMatchObject([{ token: "first 1" }, { token: "first 2" }]);
  expect(client.closed).toHaveLength(1);
});

test("a page that comes back to the foreground, or finds a network, is connected at once", async () => {
  const { window, document } = page();
  const client = connect({ timing: SLOW });
  await client.live();
  document.visibilityState = "hidden";
  document.dispatchEvent(new Event("visibilitychange"));
  server.sessions[0]!.close(1013);
  await client.until(() => client.status.retryAt !== undefined);
  document.visibilityState = "visible";
  document.dispatchEvent(new Event("visibilitychange"));
  await client.live();
  window.dispatchEvent(new Event("offline"));
  server.sessions[1]!.close(1013);
  await client.until(() => client.status.state === "offline");
  window.dispatchEvent(new Event("online"));
  await client.live();
  expect(server.sessions).toHaveLength(3);
});

test("nothing can be sent before hello, or after the end", async () => {
  let sent = false;
  const client = connect({
    onOpen: () => { sent = client.connection.send({ type: "subscribe", id: "o", table: "orders" }); },
  });
  expect(client.connection.send({ type: "ping" })).toBe(false);
  await client.live();
  expect(sent).toBe(true);
  await server.until(() => server.sessions[0]!.received.length === 2);
  expect(server.sessions[0]!.received.map((message) => message.type)).toEqual(["hello", "subscribe"]);
  client.connection.stop();
  expect(client.connection.send({ type: "ping" })).toBe(false);
});

test("each open is followed by one close, before the next open", async () => {
  const client = connect();
  for (let i = 0; i < 4; i++) {
    await server.until(() => server.sessions.length === i + 1 && server.sessions[i]!.received.length > 0);
    await client.until(() => client.welcomes.length === i + 1);
    if (i % 2) server.sessions[i]!.cut();
    else server.sessions[i]!.close(1012);
  }
  await client.until(() => client.welcomes.length === 5);
  const order = client.log.filter((line) => /^(open|close)/.test(line));
  expect(order.join(" ")).toBe("open close 1012 open close 1006 open close 1012 open close 1006 open");
});

test("a message that the client cannot take is reported, and the connection made anew", async () => {
  const reported: unknown[] = [];
  vi.stubGlobal("reportError", (error: unknown) => reported.push(error));
  let bad = true;
  const client = connect({
    onMessage() {
      if (!bad) return;
      bad = false;
      throw new Error("disk full");
    },
  });
  await server.until(() => server.sessions.length === 2);
  await client.live();
  expect(reported).toEqual([new Error("disk full")]);
  expect(client.closed.map((info) => info.closeCode)).toEqual([1011]);
});

test.each(["onOpen", "onMessage", "onStatus", "onClose"] as const)("stop in %s is the end", async (callback) => {
  const client = new Client(url, {
    [callback]: () => {
      client.connection.stop();
      client.log.push("stopped by callback");
    },
  });
  clients.push(client.start());
  if (callback === "onClose") {
    await client.live();
    server.sessions[0]!.close(1012);
  }
  await client.until(() => client.status.state === "stopped");
  await server.until(() => server.open.length === 0);
  const after = client.log.slice(client.log.indexOf("stopped by callback") + 1);
  expect(after.filter((line) => !/^(status stopped|close 1000|stopped by callback)$/.test(line))).toEqual([]);
});

test("only the error right before a close is its reason", async () => {
  server.onHello = (session) => {
    server.welcome(session);
    session.send({ type: "error", code: "INVALID_CURSOR", message: "old" });
    server.commit(session);
    session.close(1013, "busy");
  };
  const client = connect();
  await client.until(() => client.closed.length > 0);
  expect(client.closed[0]).toEqual({ code: "1013", message: "busy", closeCode: 1013 });
});

test.each([
  [429, "4429"], [503, "1013"],
] as const)("status %i is the server's word, and no reason for another transport", async (status, code) => {
  server.trouble.events = "refused";
  server.refusal = status;
  const client = connect({ transports: ["events", "poll"] });
  await server.until(() => server.requests.length >= 6);
  expect(new Set(server.requests)).toEqual(new Set(["GET /events"]));
  expect(client.statuses.at(-1)?.reason?.code ?? client.status.reason?.code).toBe(code);
});

test("too large a message is the end, over POST too", async () => {
  const client = connect({ transports: ["events"] });
  await client.live();
  server.refuseSends = 413;
  client.connection.send({ type: "ping" });
  await client.until(() => client.status.state === "refused");
  expect(client.closed[0]?.closeCode).toBe(4413);
});

test("a newline inside of a message becomes lines of an event, and a message again", async () => {
  const client = connect({ transports: ["events"] });
  await client.live();
  server.sessions[0]!.raw('{"type":\n"unsubscribed",\n"id":"é"}');
  await client.until(() => client.messages.some((message) => message.type === "unsubscribed" && message.id === "é"));
});
