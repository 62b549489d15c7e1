// In real Chromium: a snapshot of 100,000 rows of ten columns is staged and applied beside a plain Dexie bulkPut of the
// same rows, and two tabs upgrade one database at the same time. Prints figures; exits with 1 when a promise does not
// hold.
//
//   node test/browser/store_speed.mjs [rows] [rounds]
import { build } from "esbuild";
import { createServer } from "node:http";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const ROWS = Number(process.argv[2] ?? 100_000);
const ROUNDS = Number(process.argv[3] ?? 3);
const STALL_MS = 50;
const TIMES_PLAIN = 1.5;

const root = new URL("../../", import.meta.url).pathname;
const entry = `
  export * from "./src/store/store.ts";
  export { Dexie, liveQuery } from "dexie";
  export { SetHash } from "./src/copy/hash.ts";
  export { Codec } from "./src/copy/values.ts";`;
const built = await build({
  stdin: { contents: entry, resolveDir: root, loader: "ts" }, bundle: true, format: "esm", target: "es2022", write: false,
});
const script = built.outputFiles[0].text;
const server = createServer((request, response) => {
  const js = request.url === "/store.js";
  response.writeHead(200, { "content-type": js ? "text/javascript" : "text/html" });
  response.end(js ? script : "<!doctype html><title>store</title>");
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const url = `http://127.0.0.1:${server.address().port}/`;
const profile = await mkdtemp(join(tmpdir(), "rte-store-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
  ],
});
let failed = false;
const promise = (text, holds) => {
  console.log(`${holds ? "holds" : "DOES NOT HOLD"}: ${text}`);
  failed ||= !holds;
};

/** Runs in the page: tools that the measurements share. */
function tools() {
  const columns = [
    ["id", "int8"], ["customer", "int8"], ["status", "text"], ["title", "text"], ["note", "text"], ["amount", "numeric"],
    ["weight", "float8"], ["created", "timestamptz"], ["done", "bool"], ["tags", "text[]"],
  ].map(([name, type]) => ({ name, type, nullable: name !== "id" }));
  window.layout = { table: "public.orders", key: ["id"], columns };
  window.rowOf = (i, version = 0) => [
    String(i), String((i * 7919) % 5000), ["open", "paid", "sent"][i % 3], `order number ${i}`, "a note of some length ".repeat(1 + (i % 3)),
    `${i}.50`, i / 7, `2026-02-02T23:05:06.${String(100000 + (i % 900000))}+00:00`, i % 2 === 0, ["a", `t${version}`],
  ];
  /** Time of the work, and the longest time that the main thread did not get round to a timer. */
  window.watch = async (work) => {
    performance.mark("watch");
    const tasks = [];
    const observer = new PerformanceObserver((list) => tasks.push(...list.getEntries().map((entry) => entry.duration)));
    observer.observe({ type: "longtask" });
    let last = performance.now();
    let stall = 0;
    const tick = () => {
      const now = performance.now();
      stall = Math.max(stall, now - last);
      last = now;
    };
    const timer = setInterval(tick, 5);
    const start = performance.now();
    await work();
    const ms = performance.now() - start;
    tick();
    clearInterval(timer);
    performance.mark("watched");
    await new Promise((resolve) => setTimeout(resolve, 50));
    observer.disconnect();
    return { ms: Math.round(ms), stall: Math.round(stall), longtask: Math.round(Math.max(0, ...tasks)) };
  };
  window.pause = () => new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => resolve();
    port2.postMessage(0);
  });
}

async function page() {
  const page = await context.newPage();
  page.on("console", (message) => {
    if (message.type() !== "warning" && message.type() !== "error") return;
    if (!message.text().includes("favicon")) promise(`nothing on the console: ${message.text()}`, false);
  });
  page.on("pageerror", (error) => promise(`no error in the page: ${error}`, false));
  await page.goto(url);
  await page.evaluate(tools);
  await page.evaluate(async () => { window.lib = await import("/store.js"); });
  return page;
}

/**
 * Runs a function in the page, and adds to the figures of each `watch` what no other program's work is in: the processor time
 * of the main thread's longest task.
 */
async function traced(page, run, argument) {
  const session = await context.newCDPSession(page);
  const events = [];
  session.on("Tracing.dataCollected", ({ value }) => { for (const event of value) events.push(event); });
  const complete = new Promise((resolve) => session.once("Tracing.tracingComplete", resolve));
  await session.send("Tracing.start", { categories: "toplevel,blink.user_timing,disabled-by-default-devtools.timeline" });
  const figures = await page.evaluate(run, argument);
  await session.send("Tracing.end");
  await complete;
  await session.detach();
  const marks = events.filter(({ cat, name }) => cat === "blink.user_timing" && (name === "watch" || name === "watched"));
  marks.sort((a, b) => a.ts - b.ts);
  const { pid, tid } = marks[0];
  const tasks = events.filter((event) => event.pid === pid && event.tid === tid && event.tdur > 0 && /RunTask/.test(event.name));
  const list = "ms" in figures ? [figures] : Object.values(figures);
  for (const [i, figure] of list.entries()) {
    const [from, to] = [marks[2 * i].ts, marks[2 * i + 1].ts];
    const within = tasks.filter(({ ts, dur }) => ts + dur > from && ts < to).map(({ tdur }) => tdur / 1000);
    figure.task = Math.round(within.reduce((most, ms) => Math.max(most, ms), 0));
    figure.busy = Math.round(within.reduce((sum, ms) => sum + ms, 0));
  }
  return figures;
}

async function plain(page, rows) {
  return traced(page, async (rows) => {
    const { Dexie, Codec } = window.lib;
    await Dexie.delete("plain");
    const db = new Dexie("plain");
    db.version(1).stores({ orders: "id,status,[customer+id]" });
    await db.open();
    const codec = new Codec(window.layout);
    const objects = [];
    for (let i = 0; i < rows; i++) objects.push(codec.row(window.rowOf(i)));
    const figures = await window.watch(() => db.table("orders").bulkPut(objects));
    db.close();
    return figures;
  }, rows);
}

async function staged(page, rows, stageBytes) {
  return traced(page, async ({ rows, stageBytes }) => {
    const { openStore } = window.lib;
    const before = await openStore({ name: "staged" });
    await before.destroy();
    const store = await openStore({ name: "staged", stageBytes });
    if (store.kind !== "indexeddb") throw new Error("the store fell back to memory");
    await store.accede("tab");
    await store.define({ orders: { table: "orders", indexes: ["status", ["customer", "id"]] } });
    const { layout, rowOf, pause, watch } = window;
    const messages = [];
    for (let i = 0; i < rows; i += 500) messages.push(Array.from({ length: Math.min(500, rows - i) }, (_, j) => rowOf(i + j)));
    const whole = { name: "orders", layout, replace: true, changes: [] };
    const first = await watch(async () => {
      store.stage.begin("orders", layout);
      for (const message of messages) {
        store.stage.append("orders", message);
        await pause();
      }
      await store.apply([{ cursor: "1", time: "", tables: [whole], ready: ["orders", "shared"], verify: [] }]);
    });
    const count = await store.db.table("orders").count();
    if (count !== rows) throw new Error(`${count} rows instead of ${rows}`);
    const change = (n) => Array.from({ length: n }, (_, i) => ({ op: "update", key: [String(i * 3)], set: { tags: ["b"] } }));
    const apply = (cursor, changes) =>
      store.apply([{ cursor, time: "", tables: [{ name: "orders", layout, replace: false, changes }], ready: ["orders", "shared"], verify: [] }]);
    const small = await watch(async () => { for (let i = 0; i < 100; i++) await apply(`s${i}`, change(10)); });
    const large = await watch(() => apply("l", change(20_000)));
    const digest = await watch(async () => { window.digest = await store.digest("orders", 256); });
    const again = await watch(async () => {
      store.stage.begin("orders", layout);
      for (const message of messages) store.stage.append("orders", message);
      await store.apply([{ cursor: "2", time: "", tables: [whole], ready: ["orders", "shared"], verify: [] }]);
    });
    const head = await store.head();
    if (head.cursor !== "2" || !head.tables.orders.ready) throw new Error("the head is not at the commit");
    const left = await store.db.table("_rte_staging").count();
    if (left !== 0) throw new Error("staged rows are left over");
    store.close();
    return { first, "100 x 10 updates": small, "20,000 updates": large, digest, again };
  }, { rows, stageBytes });
}

/** Time to hash rows that are in memory. */
async function hashed(page, rows) {
  return page.evaluate((rows) => {
    const list = Array.from({ length: rows }, (_, i) => window.rowOf(i));
    const set = new window.lib.SetHash(256);
    const start = performance.now();
    for (const row of list) set.add(row, [row[0]]);
    return Math.round(performance.now() - start);
  }, rows);
}

async function twoTabs() {
  const [one, two] = [await page(), await page()];
  const open = (page, tab) => page.evaluate(async (tab) => {
    window.store = await window.lib.openStore({ name: "tabs" });
    window.seen = [];
    window.lib.liveQuery(async () => {
      const there = window.store.db.tables.some(({ name }) => name === "shared");
      return there ? window.store.db.table("shared").count() : 0;
    }).subscribe({ next: (rows) => window.seen.push(rows), error: (error) => window.seen.push(String(error)) });
    window.tab = tab;
  }, tab);
  await Promise.all([open(one, "one"), open(two, "two")]);
  await one.evaluate(async () => {
    await window.store.accede("one");
    await window.store.define({ shared: { table: "orders" } });
    window.store.stage.begin("shared", window.layout);
    window.store.stage.append("shared", [window.rowOf(1), window.rowOf(2)]);
    const table = { name: "shared", layout: window.layout, replace: true, changes: [] };
    await window.store.apply([{ cursor: "1", time: "", tables: [table], ready: ["orders", "shared"], verify: [] }]);
  });
  // Both change the indexes of one table again and again, while the leader goes on applying.
  const upgrades = (page) => page.evaluate(async () => {
    for (let i = 0; i < 10; i++) await window.store.define({ shared: { table: "orders", indexes: [i % 2 ? "status" : "customer", window.tab === "one" ? "amount" : "title"] } });
  });
  const applies = one.evaluate(async () => {
    for (let i = 3; i < 103; i++) {
      const table = { name: "shared", layout: window.layout, replace: false, changes: [{ op: "insert", row: window.rowOf(i) }] };
      const { skipped } = await window.store.apply([{ cursor: String(i), time: "", tables: [table], ready: ["orders", "shared"], verify: [] }]);
      if (skipped.length > 0) throw new Error("skipped");
    }
  });
  await Promise.all([upgrades(one), upgrades(two), applies]);
  for (const tab of [one, two]) {
    const state = await tab.evaluate(async () => {
      const head = await window.store.head();
      const wanted = head.tables.shared.definition.indexes.slice().sort();
      const table = window.store.db.table("shared");
      return {
        cursor: head.cursor, rows: await table.count(), ready: head.tables.shared.ready,
        indexes: JSON.stringify(table.schema.indexes.map(({ name }) => name).sort()) === JSON.stringify(wanted),
        found: await table.where(wanted[0]).above("").count() + await table.where(wanted[0]).below(Infinity).count(),
      };
    });
    const right = state.cursor === "102" && state.rows === 102 && state.ready && state.indexes && state.found === 102;
    promise(`two tabs that upgrade at once agree, and lose nothing ${JSON.stringify(state)}`, right);
    await tab.waitForFunction(() => window.seen.at(-1) === 102, undefined, { timeout: 10_000 }).then(
      () => promise("a live query went on over all upgrades", true),
      async () => promise(`a live query went on over all upgrades: ${await tab.evaluate(() => window.seen.join())}`, false),
    );
  }
  await one.close();
  await two.close();
}

try {
  await twoTabs();
  const tab = await page();
  const best = { plain: Infinity, memory: Infinity, stall: Infinity };
  for (let round = 0; round < ROUNDS; round++) {
    const bare = await plain(tab, ROWS);
    const memory = await staged(tab, ROWS);
    const spilled = await staged(tab, ROWS, 4 << 20);
    console.log(`round ${round + 1}, ${ROWS} rows: plain Dexie bulkPut ${JSON.stringify(bare)}`);
    console.log("  staged in memory ", JSON.stringify(memory));
    console.log("  staged on disk   ", JSON.stringify(spilled));
    best.plain = Math.min(best.plain, bare.ms);
    best.memory = Math.min(best.memory, memory.first.ms);
    const stalls = [memory, spilled].flatMap((figures) => Object.values(figures)).map(({ task }) => task);
    best.stall = Math.min(best.stall, Math.max(...stalls));
  }
  promise(`no task of the main thread takes ${STALL_MS} ms of the processor (${best.stall})`, best.stall < STALL_MS);
  promise(`a snapshot takes at most ${TIMES_PLAIN} of plain (${(best.memory / best.plain).toFixed(2)})`, best.memory <= TIMES_PLAIN * best.plain);
  const hash = await hashed(tab, ROWS);
  promise(`${ROWS} rows are hashed in ${hash} ms, under 2 s`, hash < 2000);
} finally {
  await context.close();
  server.close();
  await rm(profile, { recursive: true, force: true });
}
process.exitCode = failed ? 1 : 0;
