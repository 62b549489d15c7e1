// A network that lets no WebSocket through, and then no stream either: the client goes on by events and by polls, with the same
// exactness, and comes back to WebSockets when they pass again.

import { assert, Dice, scenario, until } from "./stage.mjs";

const NAMES = ["pgbench_accounts", "pgbench_branches", "pgbench_history", "pgbench_tellers"];

async function sums() {
  const names = ["pgbench_accounts", "pgbench_branches", "pgbench_history", "pgbench_tellers"];
  const columns = ["abalance", "bbalance", "delta", "tbalance"];
  const all = await window.rte.read(names, () => Promise.all(names.map((name) => window.rte.db.table(name).toArray())));
  return all.map((rows, at) => rows.reduce((sum, row) => sum + row[columns[at]], 0));
}

await scenario(async ({ server, network, browser, page, note, seed, noise }) => {
  const dice = new Dice(seed);
  const context = await browser();
  const webSocket = (head) => /upgrade: websocket/i.test(head);
  const stream = (head) => head.startsWith("GET /events");
  await server.load(true);
  for (const [transport, refuse] of [["events", webSocket], ["poll", (head) => webSocket(head) || stream(head)]]) {
    network.refuse = refuse;
    const tab = await page(context);
    const options = { url: network.url, user: transport, tables: Object.fromEntries(NAMES.map((name) => [name, {}])), verifyEvery: 0 };
    await tab.evaluate((given) => window.open_(given), options);
    const live = () => until(`live by ${transport}`, () => tab.evaluate((wanted) => window.last.state === "live" && window.last.transport === wanted, transport));
    await live();
    const history = () => tab.evaluate(() => window.rte.tables.pgbench_history.count());
    let checks = 0;
    for (let round = 0; round < 8; round++) {
      const before = await history();
      await until("changes come", async () => (await history()) > before);
      const found = await tab.evaluate(sums);
      assert(new Set(found).size === 1, `${transport}: the sums are ${found}`);
      checks++;
      if (dice.below(2) === 0) network.drop();
      if (round === 4) await server.kill("gateway");
      if (round === 6) { network.break(); await until("not live", () => tab.evaluate(() => window.last.state !== "live")); network.mend(); }
    }
    await live();
    await server.load(false);
    const total = Number((await server.query("SELECT count(*)::text FROM pgbench_history"))[0]);
    await until("everything", async () => (await history()) === total);
    assert(new Set(await tab.evaluate(sums)).size === 1, "equal in the end");
    assert((await tab.evaluate(() => window.statuses.includes("refused"))) === false, "never refused");
    note(`${transport}: ${checks} checks, ${total} transactions`);
    await tab.close();
    await server.load(true);
  }
  void noise;
});
