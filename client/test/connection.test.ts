import { afterEach, beforeEach, expect, test } from "vitest";
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
  await server.close();
});

function connect(options: Partial<ConnectionOptions> = {}): Client {
  const client = new Client(url, options).start();
  clients.push(client);
  return client;
}

const KINDS: TransportKind[] = ["websocket", "events", "poll"];

test.each(KINDS)("over %s it greets, is welcomed, sends and receives in order", async (kind) => {
  const client = connect({
    transports: [kind], tenant: "acme", token: "t", client: { name: "test" },
    hello: () => ({ cursor: "c0", subscriptions: [{ id: "o", table: "orders" }] }),
  });
  await client.live(kind);
  const session = server.sessions[0]!;
  expect(session.received[0]).toEqual({
    type: "hello", token: "t", tenant: "acme", client: { name: "test" }, cursor: "c0",
    subscriptions: [{ id: "o", table: "orders" }],
  });
  for (let i = 0; i < 50; i++) client.connection.send({ type: "ack", cursor: `a${i}` });
  for (let i = 0; i < 50; i++) session.send({ type: "unsubscribed", id: `u${i}` });
  await Promise.all([
    server.until(() => session.received.length === 51),
    client.until(() => client.messages.some((m) => m.type === "unsubscribed" && m.id === "u49")),
  ]);
  const numbered = (letter: string): string[] => Array.from({ length: 50 }, (_, i) => letter + i);
  expect(session.received.slice(1).map((m) => (m.type === "ack" ? m.cursor : "?"))).toEqual(numbered("a"));
  expect(client.messages.flatMap((m) => (m.type === "unsubscribed" ? [m.id] : []))).toEqual(numbered("u"));
  expect(client.welcomes[0]?.tenant).toBe("t");
});

test.each(KINDS)("over %s a server that restarts is come back to at once, with the cursor of now", async (kind) => {
  let cursor = "old";
  const client = connect({ transports: [kind], hello: () => ({ cursor, subscriptions: [] }) });
  await client.live();
  cursor = "new";
  server.sessions[0]!.close(1012, "restart");
  await server.until(() => server.sessions.length === 2 && server.sessions[1]!.received.length > 0);
  expect(server.sessions[1]!.received[0]).toMatchObject({ cursor: "new" });
  await client.live();
  expect(client.closed.map((info) => info.closeCode)).toEqual([1012]);
});

// Fallback

test.each([
  ["refused"], ["hangs"], ["silent"],
] as const)("where WebSockets are %s it falls back to events", async (trouble) => {
  server.trouble.websocket = trouble;
  const client = connect();
  await client.live("events");
  expect(server.requests.filter((request) => request === "WS /ws").length).toBeGreaterThanOrEqual(2);
  expect(server.open.map((session) => session.kind)).toContain("events");
});

test("where a proxy buffers events too it falls back to polls, and says so", async () => {
  server.trouble.websocket = "refused";
  server.trouble.events = "silent";
  const client = connect();
  await client.live("poll");
  expect(server.requests.filter((request) => request === "GET /events").length).toBeGreaterThanOrEqual(2);
  expect(client.statuses.at(-1)).toEqual({ state: "live", transport: "poll" });
});

test("while the server itself is away nothing falls back", async () => {
  server.trouble.websocket = "refused";
  server.trouble.health = "refused";
  const client = connect();
  await server.until(() => server.requests.filter((request) => request === "WS /ws").length >= 6);
  expect(server.requests).toContain("GET /health");
  expect(client.status.transport).toBe("websocket");
  server.trouble.websocket = "none";
  await client.live("websocket");
});

test("a choice is kept over reconnects, and a later connection can begin with it", async () => {
  server.trouble.websocket = "refused";
  const client = connect({ timing: { ...QUICK, probe: 60_000 } });
  await client.live("events");
  const before = server.requests.length;
  server.sessions.at(-1)!.close(1012);
  await server.until(() => server.sessions.length === 2);
  await client.live("events");
  expect(server.requests.slice(before)).not.toContain("WS /ws");
  const later = connect({ transport: "events", timing: { ...QUICK, probe: 60_000 } });
  await later.live("events");
  expect(server.requests.slice(before)).not.toContain("WS /ws");
});

test("once WebSockets work again it returns to them, and a probe leaves no session", async () => {
  server.trouble.websocket = "silent";
  const client = connect();
  await client.live("events");
  const sessions = server.sessions.length;
  // The first probe finds a WebSocket that opens and carries nothing.
  await server.until(() => server.sessions.length === sessions + 2);
  expect([client.status.transport, client.closed]).toEqual(["events", []]);
  server.trouble.websocket = "none";
  await client.live("websocket");
  await server.until(() => server.open.length === 1);
  expect(client.closed).toHaveLength(1);
});

// Tokens

test("a refused token is replaced at once, by asking with the reason", async () => {
  const reasons: string[] = [];
  server.onHello = (session, hello) => {
    if (hello.token === "good") return server.welcome(session);
    session.send({ type: "error", code: "UNAUTHORIZED", message: "expired" });
    session.close(4401, "expired");
  };
  const client = connect({
    token: (reason) => {
      reasons.push(reason);
      return reason === "refused" ? "good" : "bad";
    },
  });
  await client.live();
  expect(reasons).toEqual(["first", "refused"]);
  expect(server.sessions).toHaveLength(2);
});

test("a fixed token that is refused ends in refused, with the server's words; another one goes on", async () => {
  server.onHello = (session, hello) => {
    if (hello.token === "good") return server.welcome(session);
    session.send({ type: "error", code: "UNAUTHORIZED", message: "no such key", hint: "set rte.jwt_keys" });
    session.close(4401);
  };
  const client = connect({ token: "bad" });
  await client.until(() => client.status.state === "refused");
  expect(client.status.reason).toEqual({ code: "UNAUTHORIZED", message: "no such key", hint: "set rte.jwt_keys" });
  client.connection.authenticate("good");
  await client.live();
});

test("a token callback that throws, rejects, gives no text or nothing is asked again", async () => {
  const answers: (() => Promise<string> | string)[] = [
    () => { throw new Error("logged out"); },
    () => Promise.reject(new Error("502")),
    () => undefined as unknown as string,
    () => new Promise(() => {}),
    () => "token",
  ];
  const reasons: string[] = [];
  const client = connect({
    token: (reason) => {
      reasons.push(reason);
      return answers.shift()!();
    },
  });
  await client.live();
  expect(reasons).toEqual(["first", "first", "first", "first", "first"]);
  const said = client.statuses.flatMap(({ reason }) => (reason ? [`${reason.code} ${reason.message}`] : []));
  expect(said).toEqual(expect.arrayContaining([
    "TOKEN_FAILED logged out", "TOKEN_FAILED 502", "TOKEN_FAILED the token callback gave no text",
    "TOKEN_FAILED the token took too long",
  ]));
});

test("a token is renewed before it expires, on the open connection", async () => {
  const tokens = [jwt(2), jwt(3600)];
  const all = [...tokens];
  server.onHello = (session) => server.welcome(session, { expires_in_ms: 200 });
  const client = connect({ token: () => tokens.shift()! });
  await server.until(() => !!server.sessions[0]?.received.some((message) => message.type === "auth"));
  expect(server.sessions[0]!.received.filter(({ type }) => type === "auth")).toEqual([{ type: "auth", token: all[1] }]);
  expect(client.closed).toEqual([]);
});

function jwt(seconds: number): string {
  const now = Math.floor(Date.now() / 1000);
  const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "none" })}.${part({ sub: "u", iat: now, exp: now + seconds })}.x`;
}

// Closing

test.each([4400, 4403, 4404, 4413])("after %i it stays away until it is restarted", async (code) => {
  server.onHello = (session) => session.close(code, "no");
  const client = connect();
  await client.until(() => client.status.state === "refused");
  const reason = { code: String(code), message: "no" };
  expect(client.status).toEqual({ state: "refused", transport: "websocket", reason });
  server.onHello = (session) => server.welcome(session);
  client.connection.restart();
  await client.live();
  expect(server.sessions).toHaveLength(2);
});

test("a storm of restarts is met with growing waits, and ends live", async () => {
  let storms = 12;
  server.onHello = (session) => {
    server.welcome(session);
    if (storms-- > 0) session.close(1012);
  };
  const waits: number[] = [];
  const client = connect({
    timing: { ...QUICK, first: 20, last: 80 },
    onStatus: ({ retryAt }) => { if (retryAt) waits.push(retryAt - Date.now()); },
  });
  await server.until(() => server.sessions.length === 13);
  await client.live();
  expect(waits).toHaveLength(12);
  expect(Math.max(...waits.slice(0, 3))).toBeLessThanOrEqual(5);
  expect(Math.max(...waits)).toBeLessThanOrEqual(80);
  expect(Math.max(...waits.slice(5))).toBeGreaterThan(5);
});

test("a server that falls silent is noticed, asked, and left for a new connection", async () => {
  server.heartbeatMs = 100;
  const client = connect();
  await client.live();
  const first = server.sessions[0]!;
  // It takes what it is sent, and says nothing.
  first.send = () => {};
  await client.until(() => client.closed.length === 1);
  expect(client.closed[0]).toMatchObject({ code: "CLOSED" });
  expect(first.received.at(-1)).toEqual({ type: "ping" });
  await server.until(() => server.sessions.length === 2);
});

test("a server that only answers pings is kept", async () => {
  server.heartbeatMs = 60;
  const client = connect();
  await client.live();
  await server.until(() => server.sessions[0]!.received.filter((message) => message.type === "ping").length >= 4);
  expect(server.sessions).toHaveLength(1);
  expect(client.status.state).toBe("live");
});

test.each(["events", "poll"] as const)("over %s it posts a ping where it has nothing to say", async (kind) => {
  server.heartbeatMs = 100;
  const client = connect({ transports: [kind] });
  await server.until(() => server.sessions[0]?.received.map(({ type }) => type).join(" ") === "hello ping ping ping");
  expect(client.status.state).toBe("live");
});

test.each(["events", "poll"] as const)("over %s a message that cannot be sent ends the connection", async (kind) => {
  const client = connect({ transports: [kind] });
  await client.live();
  server.refuseSends = 409;
  client.connection.send({ type: "ack", cursor: "c" });
  await client.until(() => client.closed.length === 1);
  server.refuseSends = null;
  await client.live();
  expect(server.sessions.at(-1)!.received.filter((message) => message.type === "ack")).toEqual([]);
});

test("messages that came before a close are delivered before it, though the page has its turn between", async () => {
  const client = connect({
    onMessage(message) {
      client.messages.push(message);
      client.log.push("message");
      // Long enough to use up a slice several times over.
      for (const until = performance.now() + 2; performance.now() < until;);
    },
    transports: ["poll"],
  });
  await client.live();
  let turns = 0;
  const count = (): void => {
    turns += 1;
    counting = setImmediate(count);
  };
  let counting = setImmediate(count);
  const session = server.sessions[0]!;
  for (let i = 0; i < 40; i++) session.send({ type: "unsubscribed", id: String(i) });
  session.close(1001);
  await client.until(() => client.closed.length === 1);
  clearImmediate(counting);
  const ids = client.messages.flatMap((message) => (message.type === "unsubscribed" ? [message.id] : []));
  expect(ids).toEqual(Array.from({ length: 40 }, (_, i) => String(i)));
  expect(client.log.lastIndexOf("message")).toBeLessThan(client.log.indexOf("close 1001"));
  expect(turns).toBeGreaterThan(2);
});
