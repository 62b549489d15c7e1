// The parts that the connection is made of: tokens, addresses, the stream of events, the inbox.

import { afterEach, expect, test, vi } from "vitest";
import { Inbox } from "../src/connection/inbox.ts";
import { EventParser } from "../src/connection/sse.ts";
import { claimsOf, factsOf, userOf } from "../src/connection/token.ts";
import { Endpoints, type Listener } from "../src/connection/transport.ts";
import { comeback } from "../src/protocol/close.ts";
import { mulberry32 } from "./support/world.ts";

afterEach(() => vi.unstubAllGlobals());

// Tokens

function jwt(payload: string | object): string {
  const text = typeof payload === "string" ? payload : JSON.stringify(payload);
  return `e30.${Buffer.from(text).toString("base64url")}.sig`;
}

test("claims are read from base64url and UTF-8", () => {
  const claims = { sub: "Zoë ✓ ÿ?>", role: "web", exp: 12.5, iat: 3 };
  expect(claimsOf(jwt(claims))).toEqual(claims);
  // Characters that base64url writes differently from base64.
  const token = jwt({ sub: "???>>>ÿÿÿ" });
  expect(token).toMatch(/[-_]/);
  expect(claimsOf(token)?.sub).toBe("???>>>ÿÿÿ");
});

test.each(["", "a.b", "a.b.c", "a.!.c", jwt("[1]"), jwt("null"), jwt("{"), "e30.eyJzdWIiOiL_In0.x"])(
  "what is no token has no claims: %j", (token) => {
    expect(claimsOf(token)).toBeNull();
    expect(userOf(token)).toBeUndefined();
    expect(factsOf(token, false)).toEqual({ iat: undefined, exp: undefined, fixed: false });
  },
);

test("claims of the wrong kind count as missing", () => {
  const none = { sub: undefined, role: "1", exp: undefined, iat: undefined };
  expect(claimsOf(jwt({ sub: {}, role: 1, exp: "soon", iat: null }))).toEqual(none);
});

test("different users are never taken for the same, whatever their names are made of", () => {
  const names = ["a", "a@b", "a%40b", "b", "@", "", "a/b"];
  const all = names.flatMap((sub) => [undefined, ...names].map((role) => userOf(jwt({ sub, role }))));
  expect(new Set(all).size).toBe(all.length);
  expect(userOf(jwt({ role: "web" }))).toBeUndefined();
});

// Addresses

test.each([
  ["https://db.example:8082", "https://db.example:8082/events", "wss://db.example:8082/ws"],
  ["wss://db.example", "https://db.example/events", "wss://db.example/ws"],
  ["ws://localhost:1/", "http://localhost:1/events", "ws://localhost:1/ws"],
  ["http://h/live/rte/?domain=a.b#x", "http://h/live/rte/events?domain=a.b", "ws://h/live/rte/ws?domain=a.b"],
])("%s leads to its endpoints", (url, http, ws) => {
  const endpoints = new Endpoints(url);
  expect([endpoints.http("/events"), endpoints.webSocket("/ws")]).toEqual([http, ws]);
});

test("an address may be relative to the page and have a query; another scheme is refused", () => {
  vi.stubGlobal("location", { href: "https://app.example/page" });
  expect(new Endpoints("/db").webSocket("/ws")).toBe("wss://app.example/db/ws");
  expect(new Endpoints("/?a=1").http("/send", { n: "0" })).toBe("https://app.example/send?a=1&n=0");
  expect(() => new Endpoints("ftp://h")).toThrow(TypeError);
});

// Events

const STREAM = "event: open\r\ndata: {}\r\n\r\n: comment\n\ndata: a\ndata:b\ndata\ndata:  c\n\n" +
  "id: 7\nretry: 5\nevent: lonely\n\n" +
  "event:x\rdata: \u{1F600}é\r\rdata: last\n\n";
const EVENTS = [
  { event: "open", data: "{}" }, { event: "message", data: "a\nb\n\n c" },
  { event: "x", data: "\u{1F600}é" }, { event: "message", data: "last" },
];

test("events are the same wherever the chunks end", () => {
  expect(new EventParser().feed(STREAM)).toEqual(EVENTS);
  for (let cut = 0; cut <= STREAM.length; cut++) {
    const parser = new EventParser();
    expect([...parser.feed(STREAM.slice(0, cut)), ...parser.feed(STREAM.slice(cut))]).toEqual(EVENTS);
  }
  const random = mulberry32(1);
  for (let run = 0; run < 200; run++) {
    const parser = new EventParser();
    const events = [];
    for (let at = 0; at < STREAM.length;) {
      const size = Math.floor(random() * 6);
      events.push(...parser.feed(STREAM.slice(at, at + size)));
      at += size;
    }
    expect(events).toEqual(EVENTS);
  }
});

test("an event is told as soon as it is whole", () => {
  const parser = new EventParser();
  expect(parser.feed("data: 1\n\n")).toHaveLength(1);
  expect(parser.feed("data: 2\n")).toHaveLength(0);
  expect(parser.feed("\n")).toHaveLength(1);
});

// The inbox

function listen(take: (type: string) => void = () => {}): { log: string[]; inbox: Inbox; ended: Promise<void> } {
  const log: string[] = [];
  let end = (): void => {};
  const ended = new Promise<void>((resolve) => { end = resolve; });
  const listener: Listener = {
    opened() {},
    alive() {},
    message(message) {
      log.push(message.type);
      take(message.type);
    },
    closed(code) {
      log.push(`closed ${code}`);
      end();
    },
  };
  return { log, inbox: new Inbox(listener), ended };
}

const busy = (ms: number): void => { for (const until = performance.now() + ms; performance.now() < until;); };

test.each(["scheduler", "MessageChannel", "setTimeout"])("a burst lets the page have its turn, by %s", async (by) => {
  let yields = 0;
  const scheduler = { yield: () => new Promise((done) => setImmediate(done, yields++)) };
  vi.stubGlobal("scheduler", by === "scheduler" ? scheduler : undefined);
  if (by === "setTimeout") vi.stubGlobal("MessageChannel", undefined);
  const { log, inbox, ended } = listen(() => busy(5));
  for (let i = 0; i < 20; i++) inbox.text(JSON.stringify({ type: String(i) }));
  inbox.end(1012, "");
  // Not all in one go, and not none.
  expect(log.length).toBeGreaterThan(0);
  expect(log.length).toBeLessThan(5);
  await ended;
  expect(log).toEqual([...Array.from({ length: 20 }, (_, i) => String(i)), "closed 1012"]);
  if (by === "scheduler") expect(yields).toBeGreaterThan(4);
});

test("a message that arrives while another is delivered waits for it", () => {
  const { log, inbox } = listen((type) => {
    if (type === "a") inbox.text('{"type":"b"}');
    log.push(`${type} is done`);
  });
  inbox.text('{"type":"a"}');
  expect(log).toEqual(["a", "a is done", "b", "b is done"]);
});

test("what was discarded is not delivered, neither now nor later", async () => {
  const { log, inbox } = listen((type) => {
    busy(10);
    if (type === "1") inbox.discard();
  });
  for (const type of ["0", "1", "2"]) inbox.text(JSON.stringify({ type }));
  inbox.discard();
  const after = [...log];
  await new Promise((done) => setTimeout(done, 5));
  inbox.text('{"type":"3"}');
  inbox.end(1000, "");
  expect(log).toEqual(after);
});

test.each(["<html>", "[]", "null", "{}", '{"type":1}', "1"])("what is no message ends the transport: %s", (text) => {
  const { log, inbox } = listen();
  inbox.text(text);
  inbox.text('{"type":"late"}');
  expect(log).toEqual(["closed 1011"]);
  expect(comeback(1011)).toBe("later");
});
