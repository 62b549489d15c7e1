// What the scenarios have in common: a Chromium, a page from another origin than the gateway's, a network that can be cut, and
// the server's side, which the test that runs the scenario has in hand.

import { chromium } from "playwright-core";
import { createServer as createHttpServer } from "node:http";
import { connect as connectTcp, createServer as createTcpServer } from "node:net";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const bundle = new URL("../../bundle/", import.meta.url);
const ARGUMENTS = [
  "--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
];
/** How long a state may take to come, ms. */
export const PATIENCE_MS = 60_000;

/** A seeded random source (mulberry32). */
export class Dice {
  constructor(seed) { this.state = seed >>> 0; }
  next() {
    let t = (this.state = (this.state + 0x6d2b79f5) >>> 0);
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }
  below(n) { return Math.floor(this.next() * n); }
  pick(list) { return list[this.below(list.length)]; }
}

/** The server's side: a question a line on standard output, an answer a line on standard input. */
class Server {
  constructor() {
    this.answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
    this.last = Promise.resolve();
  }

  ask(what, more = {}) {
    this.last = this.last.then(async () => {
      process.stdout.write(`${JSON.stringify({ do: what, ...more })}\n`);
      const { value, done } = await this.answers.next();
      if (done) throw new Error(`no answer to ${what}`);
      return JSON.parse(value);
    });
    return this.last;
  }

  query(sql) { return this.ask("query", { sql }); }
  run(sql) { return this.ask("run", { sql }); }
  rows(table, columns) { return this.ask("rows", { table, columns }); }
  token(claims) { return this.ask("token", { claims }); }
  kill(kind) { return this.ask("kill", { kind }); }
  restart(how) { return this.ask("restart", { how }); }
  load(on) { return this.ask("load", { on }); }
  conf(name, value) { return this.ask("conf", { name, value }); }
}

/** A TCP relay to the gateway that can be cut, and that can refuse WebSockets as some proxies do. */
class Network {
  constructor(target) {
    this.target = target;
    this.cut = false;
    this.refuse = () => false;
    this.open = new Set();
    this.bytes = 0;
    this.server = createTcpServer((socket) => this.relay(socket));
  }

  async listen() {
    await new Promise((done) => this.server.listen(0, "127.0.0.1", done));
    this.port = this.server.address().port;
    this.url = `http://127.0.0.1:${this.port}`;
  }

  relay(socket) {
    socket.on("error", () => {});
    if (this.cut) return socket.destroy();
    socket.once("data", (head) => {
      if (this.refuse(head.toString("latin1"))) {
        socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
      }
      const peer = connectTcp(this.target, "127.0.0.1");
      const end = () => { socket.destroy(); peer.destroy(); this.open.delete(end); };
      this.open.add(end);
      for (const one of [socket, peer]) one.on("error", end).on("close", end);
      peer.write(head);
      peer.on("data", (data) => { this.bytes += data.length; });
      socket.pipe(peer);
      peer.pipe(socket);
    });
  }

  /** Cuts what is open and lets nothing through until `mend`. */
  break() { this.cut = true; for (const end of [...this.open]) end(); }
  mend() { this.cut = false; }
  /** Cuts what is open once. */
  drop() { for (const end of [...this.open]) end(); }
  close() { this.break(); this.server.close(); }
}

/** The application's own origin: a page that is empty but for the module. */
async function pages() {
  const files = new Map();
  for (const name of ["client.js", "client-memory.js"]) files.set(`/${name}`, await readFile(new URL(name, bundle)));
  const server = createHttpServer((request, response) => {
    const path = new URL(request.url, "http://page").pathname;
    if (files.has(path)) {
      response.writeHead(200, { "content-type": "text/javascript" }).end(files.get(path));
    } else if (path === "/") {
      response.writeHead(200, { "content-type": "text/html" }).end(PAGE);
    } else {
      response.writeHead(404).end();
    }
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() };
}

const PAGE = `<!doctype html><meta charset="utf-8"><title>test</title><script type="module">
  import * as client from "/client.js";
  window.client = client;
  window.errors = [];
  window.statuses = [];
  window.open_ = async (options) => {
    window.rte = await client.connect({
      ...options,
      onStatus: (status) => { window.last = status; const s = window.statuses; if (s.at(-1) !== status.state) s.push(status.state); },
      onError: (error) => window.errors.push(error),
    });
  };
  window.loaded = true;
</script>`;

/**
 * Runs a scenario: `play({ server, network, browser, page, dice, seed, note })`. Whatever it comes to, nothing is left behind.
 * `browser()` opens a fresh Chromium profile; `page(context)` opens a page in it.
 */
export async function scenario(play) {
  const seed = Number(process.env.RTE_SEED ?? Date.now() % 2 ** 31);
  const gateway = new URL(process.env.RTE_URL);
  const network = new Network(Number(gateway.port));
  await network.listen();
  const origin = await pages();
  const profiles = [];
  const contexts = [];
  const noise = [];
  const browser = async (options = {}) => {
    const profile = await mkdtemp(join(tmpdir(), "rte-browser-"));
    profiles.push(profile);
    const context = await chromium.launchPersistentContext(profile, { executablePath: process.env.RTE_CHROMIUM ?? "chromium", args: ARGUMENTS, ...options });
    contexts.push(context);
    return context;
  };
  const page = async (context, before) => {
    const opened = await context.newPage();
    opened.on("console", (message) => { if (message.type() === "error" || message.type() === "warning") noise.push(message.text()); });
    opened.on("pageerror", (error) => noise.push(String(error)));
    if (before) await opened.addInitScript(before);
    await load(opened, origin.url);
    return opened;
  };
  const note = (text) => process.stdout.write(`${text}\n`);
  const end = async (code) => {
    for (const context of contexts) await context.close().catch(() => {});
    network.close();
    origin.close();
    for (const profile of profiles) await rm(profile, { recursive: true, force: true, maxRetries: 5 }).catch(() => {});
    process.exit(code);
  };
  // The test that runs this has ended before its time; nobody reads on.
  process.stdin.on("end", () => void end(2));
  process.stdout.on("error", () => void end(2));
  let failure;
  try {
    await play({ server: new Server(), network, browser, page, dice: new Dice(seed), seed, note, origin: origin.url, noise });
  } catch (error) {
    failure = error;
    note(`FAILED: ${error.stack ?? error}`);
    for (const line of noise.slice(-20)) note(`  page: ${line}`);
  }
  await end(failure ? 1 : 0);
}

/** Opens the page's address and waits for the module. */
export async function load(page, url) {
  await page.goto(url);
  await page.waitForFunction("window.loaded", null, { timeout: PATIENCE_MS });
}

/** Waits until `test`, asked again and again, is true; a throw counts as no. */
export async function until(what, test, patience = PATIENCE_MS) {
  const end = Date.now() + patience;
  let last;
  for (;;) {
    try {
      const result = await test();
      if (result) return result;
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (Date.now() > end) throw new Error(`waited in vain: ${what}${last ? `: ${last}` : ""}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

export function assert(truth, text) {
  if (!truth) throw new Error(text);
}
