// TPC-B in the stored copy: the four sums, read in one transaction at random moments, are equal in every tab, while tabs are
// reloaded, crashed, taken offline, and the gateway and the server die. In the end every row is equal.

import { assert, load, PATIENCE_MS, scenario, until } from "./stage.mjs";

const TABLES = ["pgbench_accounts", "pgbench_branches", "pgbench_history", "pgbench_tellers"];
const ROUNDS = Number(process.env.RTE_ROUNDS ?? 24);
const TABS = 3;

/** Runs in the page: the sums of one transaction, or null where the tables are not all there yet. */
async function sums() {
  const { rte } = window;
  const names = ["pgbench_accounts", "pgbench_branches", "pgbench_history", "pgbench_tellers"];
  const columns = ["abalance", "bbalance", "delta", "tbalance"];
  if (!rte || !names.every((name) => rte.db.tables.some((table) => table.name === name))) return null;
  return rte.db.transaction("r", names, async () => {
    const all = await Promise.all(names.map((name) => rte.db.table(name).toArray()));
    const sums = all.map((rows, at) => rows.reduce((sum, row) => sum + row[columns[at]], 0));
    return { sums, rows: all.reduce((sum, rows) => sum + rows.length, 0) };
  });
}

await scenario(async ({ server, network, browser, page, dice, note, origin }) => {
  const context = await browser();
  const options = { url: network.url, user: "exact", tables: Object.fromEntries(TABLES.map((name) => [name, {}])), verifyEvery: 0 };
  const open = async (tab) => { await tab.evaluate((given) => { void window.open_(given).catch((e) => window.errors.push({ code: "CONNECT", message: String(e) })); }, options); };
  const tabs = [];
  const fresh = async (place) => { tabs[place] = await page(context); await open(tabs[place]); };
  for (let place = 0; place < TABS; place++) await fresh(place);
  const live = (tab) => until("a tab is live", () => tab.evaluate(() => window.last?.state === "live"));
  for (const tab of tabs) await live(tab);
  await server.load(true);
  const seen = { checks: 0, actions: {} };
  const check = async (tab) => {
    const found = await tab.evaluate(sums);
    if (!found) return;
    seen.checks++;
    assert(new Set(found.sums).size === 1, `the sums are ${found.sums} over ${found.rows} rows`);
  };
  const actions = {
    reload: async (tab) => { await load(tab, origin); await open(tab); },
    close: async (tab) => { const place = tabs.indexOf(tab); await tab.close(); await fresh(place); },
    crash: async (tab) => {
      const place = tabs.indexOf(tab);
      const session = await context.newCDPSession(tab);
      // It never answers.
      session.send("Page.crash").catch(() => {});
      await new Promise((done) => tab.once("crash", done));
      await tab.close();
      await fresh(place);
    },
    offline: async () => { network.break(); await context.setOffline(true); await check(dice.pick(tabs)); await context.setOffline(false); network.mend(); },
    drop: async () => network.drop(),
    gateway: async () => server.kill("gateway"),
    feeder: async () => server.kill("feeder"),
    restart: async () => server.restart(dice.pick(["fast", "immediate"])),
    nothing: async () => {},
  };
  const names = Object.keys(actions);
  for (let round = 0; round < ROUNDS; round++) {
    const name = round < names.length ? names[round] : dice.pick(names);
    seen.actions[name] = (seen.actions[name] ?? 0) + 1;
    const began = Date.now();
    await actions[name](dice.pick(tabs));
    const acted = Date.now();
    for (let i = 0; i < 3; i++) await check(dice.pick(tabs));
    if (process.env.RTE_VERBOSE) note(`round ${round}: ${name} ${acted - began} ms, checks ${Date.now() - acted} ms`);
    // The load and the tabs have to go on, or nothing would be tested.
    if (dice.below(3) === 0) { const tab = dice.pick(tabs); await live(tab); await check(tab); }
  }
  for (const tab of tabs) await live(tab);
  await server.load(false);
  const marks = await server.query("SELECT sum(abalance)::text || ' ' || (SELECT count(*) FROM pgbench_history) FROM pgbench_accounts");
  const [sum, history] = marks[0].split(" ").map(Number);
  for (const tab of tabs) {
    await until("the copy has everything", async () => {
      const found = await tab.evaluate(sums);
      return found?.sums[0] === sum && (await tab.evaluate(() => window.rte.db.table("pgbench_history").count())) === history;
    }, PATIENCE_MS);
    await check(tab);
  }
  for (const name of TABLES) {
    const columns = await tabs[0].evaluate(async (table) => (await window.rte.table(table).layout()).columns.map((column) => column.name), name);
    const expected = (await server.rows(name, columns)).map((row) => JSON.stringify(row)).sort();
    const text = await tabs[0].evaluate(async ([table, order]) => {
      const int8 = new Set((await window.rte.table(table).layout()).columns.filter((c) => c.type === "int8").map((c) => c.name));
      return (await window.rte.db.table(table).toArray()).map((row) => JSON.stringify(order.map((column) => (int8.has(column) ? String(row[column]) : row[column]))));
    }, [name, columns]);
    text.sort();
    assert(text.length === expected.length, `${name}: ${text.length} rows for ${expected.length}`);
    const wrong = text.findIndex((row, at) => row !== expected[at]);
    assert(wrong === -1, `${name}: ${text[wrong]} for ${expected[wrong]}`);
  }
  assert(seen.checks > ROUNDS, `only ${seen.checks} checks`);
  note(`${seen.checks} checks in one transaction, ${history} transactions of TPC-B, ${JSON.stringify(seen.actions)}`);
});
