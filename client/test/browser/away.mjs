// A page that was offline for longer than the server keeps its history: readable meanwhile, then one clean replacement.

import { assert, scenario, until } from "./stage.mjs";

await scenario(async ({ server, network, browser, page, note }) => {
  const context = await browser();
  const tab = await page(context);
  const tables = { pgbench_accounts: {}, pgbench_branches: {} };
  await tab.evaluate((options) => window.open_(options), { url: network.url, user: "away", tables, verifyEvery: 0 });
  await until("live", () => tab.evaluate(() => window.last?.state === "live"));
  network.break();
  await until("offline", () => tab.evaluate(() => window.last.state !== "live"));
  // Until the log, which is small here, has no more room for what was missed first.
  await server.run("UPDATE pgbench_accounts SET abalance = abalance + 1; UPDATE pgbench_branches SET bbalance = bbalance + 10000");
  await server.run("DELETE FROM pgbench_accounts WHERE aid % 100 = 0");
  await until("the history is cut", async () => {
    await server.run("UPDATE pgbench_accounts SET filler = md5(random()::text)");
    return (await server.query("SELECT count(*)::text FROM rte.sync_log WHERE operation = 'delete'"))[0] === "0";
  });
  const before = await tab.evaluate(() => window.rte.tables.pgbench_accounts.count());
  assert(before === 10000, `${before} rows are to be read offline`);
  await tab.evaluate(() => {
    window.seen = new Set();
    window.rte.tables.pgbench_accounts.live((table) => table.toArray(), (rows) => window.seen.add(`${rows.length} ${rows.reduce((sum, row) => sum + row.abalance, 0)}`));
  });
  network.bytes = 0;
  network.mend();
  await until("live again", () => tab.evaluate(() => window.last.state === "live"));
  await until("the new copy", async () => (await tab.evaluate(() => window.rte.tables.pgbench_accounts.count())) === 9900);
  const seen = await until("seen", async () => { const all = await tab.evaluate(() => [...window.seen]); return all.length >= 2 && all; });
  // Nothing between the two: not an empty table, not a half one.
  assert(seen.length === 2 && seen[0] === "10000 0" && seen[1] === "9900 9900", `the page saw ${JSON.stringify(seen)}`);
  note(`replaced in one step, ${network.bytes} bytes for 9,901 rows`);
});
