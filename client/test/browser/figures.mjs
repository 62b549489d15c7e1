// What the client costs a page, beside plain Dexie that is given the same rows: not a test, a measurement.

import { readFile } from "node:fs/promises";
import { gzipSync } from "node:zlib";
import { scenario, until } from "./stage.mjs";

const ROWS = Number(process.env.RTE_ROWS ?? 100_000);
const ROUNDS = Number(process.env.RTE_ROUNDS ?? 5);
const SINGLE = 20_000;

/** In the page: how long its main thread was not to be had, at worst, since the last call. */
function meter() {
  let worst = 0;
  let last = performance.now();
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => {
    const now = performance.now();
    worst = Math.max(worst, now - last);
    last = now;
    setTimeout(() => port2.postMessage(0), 1);
  };
  port2.postMessage(0);
  window.stall = () => { const found = worst; worst = 0; last = performance.now(); return found; };
}

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
const spread = (values, digits = 0) => `${median(values).toFixed(digits)} (${Math.min(...values).toFixed(digits)}–${Math.max(...values).toFixed(digits)})`;

await scenario(async ({ server, network, browser, page, note }) => {
  await server.run(`
    CREATE TABLE wide (id int PRIMARY KEY, kind int, title text, body text, price numeric(10,2), amount int8, done bool, at timestamptz, tags text[], extra jsonb);
    INSERT INTO wide SELECT n, n % 100, 'title ' || n, repeat(chr(97 + n % 26), 60), n / 100.0, n::int8 * 1000, n % 3 = 0, now(), ARRAY['a', 'b'], '{"k": 1}' FROM generate_series(1, ${ROWS}) n;
    SELECT rte.register_table('wide')`);
  const figures = { sync: [], syncStall: [], dexie: [], dexieStall: [], ratio: [], rate: [], rateStall: [], bulk: [], index: [], scan: [], count: [] };
  const tables = { wide: { indexes: ["kind"] } };
  for (let round = 0; round < ROUNDS; round++) {
    const context = await browser();
    const tab = await page(context);
    await tab.evaluate(meter);
    const synced = await tab.evaluate(async (options) => {
      window.stall();
      const began = performance.now();
      await window.open_(options);
      await window.rte.ready();
      return [performance.now() - began, window.stall()];
    }, { url: network.url, user: "figures", tables, verifyEvery: 0 });
    // The same rows, as objects that are there already, into a table of the same shape.
    const plain = await tab.evaluate(async () => {
      const rows = await window.rte.db.table("wide").toArray();
      const db = new window.rte.db.constructor("plain");
      db.version(1).stores({ wide: "id, kind" });
      await db.open();
      window.stall();
      const began = performance.now();
      await db.transaction("rw", "wide", async () => {
        for (let at = 0; at < rows.length; at += 1000) await db.table("wide").bulkPut(rows.slice(at, at + 1000));
      });
      const took = performance.now() - began;
      const stall = window.stall();
      await db.delete();
      return [took, stall];
    });
    figures.sync.push(synced[0]); figures.syncStall.push(synced[1]);
    figures.dexie.push(plain[0]); figures.dexieStall.push(plain[1]);
    figures.ratio.push(synced[0] / plain[0]);
    const reads = await tab.evaluate(async () => {
      const time = async (work) => { const all = []; for (let i = 0; i < 15; i++) { const began = performance.now(); await work(i); all.push(performance.now() - began); } return all.sort((a, b) => a - b)[7]; };
      const { wide } = window.rte.tables;
      return [await time((i) => wide.where({ kind: i }).toArray()), await time((i) => wide.where((row) => row.kind === i).toArray()), await time((i) => wide.where({ kind: i }).count())];
    });
    figures.index.push(reads[0]); figures.scan.push(reads[1]); figures.count.push(reads[2]);
    // Live: many commits of one row, then one of many rows.
    const mark = async (sql, done) => {
      await tab.evaluate(() => window.stall());
      const began = Date.now();
      await server.run(sql);
      await until("the changes", () => tab.evaluate(done[0], done[1]));
      return (Date.now() - began) / 1000;
    };
    await server.run(`UPDATE wide SET amount = 0 WHERE id = ${ROWS}`);
    const single = await mark(`DO $$ BEGIN FOR i IN 1..${SINGLE} LOOP UPDATE wide SET amount = i WHERE id = 1 + (i * 7919) % (${ROWS} - 1); COMMIT; END LOOP; UPDATE wide SET amount = ${round + 1} WHERE id = ${ROWS}; END $$`,
      [async ([id, want]) => (await window.rte.tables.wide.get(id))?.amount === want, [ROWS, round + 1]]);
    figures.rate.push(SINGLE / single);
    figures.rateStall.push(await tab.evaluate(() => window.stall()));
    figures.bulk.push(ROWS / (await mark("UPDATE wide SET amount = amount + 1", [async ([id, want]) => (await window.rte.tables.wide.get(id))?.amount === want, [ROWS, round + 2]])));
    if (round === ROUNDS - 1) {
      const heap = async (one) => {
        const session = await context.newCDPSession(one);
        await session.send("Performance.enable");
        await session.send("HeapProfiler.collectGarbage");
        const { metrics } = await session.send("Performance.getMetrics");
        return metrics.find((metric) => metric.name === "JSHeapUsedSize").value / 2 ** 20;
      };
      const blank = await page(context);
      const follower = await page(context);
      await follower.evaluate((options) => window.open_(options), { url: network.url, user: "figures", tables });
      figures.memory = [await heap(blank), await heap(tab), await heap(follower)];
    }
    await context.close();
    await server.run("UPDATE wide SET amount = id::int8 * 1000");
    note(`round ${round}: first copy ${figures.sync.at(-1).toFixed(0)} ms, plain Dexie ${figures.dexie.at(-1).toFixed(0)} ms`);
  }
  const bytes = {};
  for (const name of ["client.js", "client-memory.js"]) bytes[name] = gzipSync(await readFile(new URL(`../../bundle/${name}`, import.meta.url)), { level: 9 }).length;
  note(`
| ${ROWS.toLocaleString("en")} rows of ten columns, ${ROUNDS} rounds | found |
|---|---:|
| first copy, from connect() to readable, ms | ${spread(figures.sync)} |
| plain Dexie: bulkPut of the same objects in batches of 1,000, one transaction, ms | ${spread(figures.dexie)} |
| ratio | ${spread(figures.ratio, 2)} |
| longest stall of the main thread in the first copy, ms | ${spread(figures.syncStall)} |
| the same in plain Dexie, ms | ${spread(figures.dexieStall)} |
| changes a second, ${SINGLE.toLocaleString("en")} commits of one row each, until the page has the last | ${spread(figures.rate)} |
| longest stall meanwhile, ms | ${spread(figures.rateStall)} |
| changes a second, one commit of all rows | ${spread(figures.bulk)} |
| a query by index, ${ROWS / 100} rows, ms | ${spread(figures.index, 1)} |
| the same count by index, ms | ${spread(figures.count, 1)} |
| the same by a function over all rows, ms | ${spread(figures.scan, 1)} |
| JavaScript heap of a page without a client, of a tab that leads, of one that follows, MB | ${figures.memory.map((value) => value.toFixed(1)).join(", ")} |
| client.js with Dexie, gzipped, bytes | ${bytes["client.js"]} |
| client-memory.js, fetched only without IndexedDB, gzipped, bytes | ${bytes["client-memory.js"]} |`);
});
