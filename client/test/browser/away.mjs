// A page that was offline for longer than the server keeps its history: readable meanwhile, then one clean replacement, for
// which only what differs is sent.

import { assert, scenario, until } from "./stage.mjs";

await scenario(async ({ server, network, browser, page, note }) => {
  const context = await browser();
  const tab = await page(context);
  const tables = { pgbench_accounts: {}, pgbench_branches: {} };
  await tab.evaluate((options) => window.open_(options), { url: network.url, user: "away", tables, verifyEvery: 0 });
  await until("live", () => tab.evaluate(() => window.last?.state === "live"));
  const whole = network.bytes;

  const totals = () => tab.evaluate(() => window.rte.tables.pgbench_accounts.toArray()
    .then((rows) => `${rows.length} ${rows.reduce((sum, row) => sum + row.abalance, 0)}`));
  /** Goes offline, has the server's side changed until the history is cut, and comes back: what the page saw, and what it took. */
  const away = async (changes, forget) => {
    network.break();
    await until("offline", () => tab.evaluate(() => window.last.state !== "live"));
    const before = await totals();
    await server.run(changes);
    await until("the history is cut", async () => {
      await server.run(forget);
      return (await server.query("SELECT count(*)::text FROM rte.sync_log WHERE operation = 'delete'"))[0] === "0";
    });
    assert((await totals()) === before, "the copy is to be read offline, as it was");
    await tab.evaluate(() => {
      window.watched?.();
      window.seen = new Set();
      window.watched = window.rte.tables.pgbench_accounts.live((table) => table.toArray(), (rows) => window.seen.add(`${rows.length} ${rows.reduce((sum, row) => sum + row.abalance, 0)}`));
      window.states = new Set();
      window.watching ??= setInterval(() => window.states.add(window.last.tables.pgbench_accounts.state), 1);
    });
    await until("the old copy is seen", () => tab.evaluate(() => window.seen.size === 1));
    network.bytes = 0;
    network.mend();
    await until("live again", () => tab.evaluate(() => window.last.state === "live" && window.last.tables.pgbench_accounts.state === "live"));
    const seen = await until("the new copy is seen", async () => { const all = await tab.evaluate(() => [...window.seen]); return all.length >= 2 && all; });
    // Nothing between the two: not an empty table, not a half one.
    assert(seen.length === 2 && seen[0] === before, `the page saw ${JSON.stringify(seen)}`);
    const [expected] = await server.query("SELECT count(*) || ' ' || sum(abalance) FROM pgbench_accounts");
    assert(seen[1] === expected, `the page came to ${seen[1]}, the server has ${expected}`);
    const took = network.bytes;
    const report = (await tab.evaluate(() => window.rte.verify())).find(({ table }) => table === "pgbench_accounts");
    assert(report.repaired === 0 && !report.failed, `the copy differs from the server's: ${JSON.stringify(report)}`);
    return took;
  };

  // One row in a hundred was changed or deleted; rows of another table use up the log, which is small here.
  const other = "DO $$ BEGIN FOR i IN 1..500 LOOP UPDATE pgbench_tellers SET filler = md5(random()::text); END LOOP; END $$";
  const little = await away(
    "UPDATE pgbench_accounts SET abalance = abalance + 7 WHERE aid % 200 = 0; DELETE FROM pgbench_accounts WHERE aid % 200 = 100; UPDATE pgbench_branches SET bbalance = 1",
    other,
  );
  note(`a first copy took ${whole} bytes; what differed of it, 1 % of the rows, ${little}`);
  assert(little < whole / 3, `${little} bytes came for 1 % of the rows, ${whole} for all`);
  const states = await tab.evaluate(() => [...window.states]);
  assert(!states.includes("syncing"), `the table was never without a copy: ${states}`);

  const much = await away(
    "UPDATE pgbench_accounts SET abalance = abalance + 1; DELETE FROM pgbench_accounts WHERE aid % 200 = 50",
    "UPDATE pgbench_accounts SET filler = md5(random()::text)",
  );
  note(`where every row differed, ${much}`);
});
