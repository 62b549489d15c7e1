// Three tabs, one connection; the leader is closed, frozen, hangs, and the others go on. With Web Locks and without.

import { assert, scenario, until } from "./stage.mjs";

const connections = (server) => server.query("SELECT count(*)::text FROM rte.connections").then(([n]) => Number(n));

async function act({ server, network, browser, page, note, origin }, locks) {
  const context = await browser();
  const tabs = [];
  const open = async () => {
    const tab = await page(context, locks ? undefined : () => Object.defineProperty(Navigator.prototype, "locks", { value: undefined }));
    await tab.evaluate(async (options) => {
      await window.open_(options);
      window.rte.tables.notes.live((table) => table.toArray(), (rows) => (window.rows = rows.map((row) => row.id)));
    }, { url: network.url, user: `tabs ${locks}`, tables: { notes: {} } });
    tabs.push(tab);
    return tab;
  };
  for (let i = 0; i < 3; i++) await open();
  let id = locks ? 0 : 100;
  const all = async (what) => {
    await server.run(`INSERT INTO notes VALUES (${++id}, 'x')`);
    for (const tab of tabs) await until(`${what}: the row in each tab`, () => tab.evaluate((wanted) => window.rows?.includes(wanted), id));
    for (const tab of tabs) await until(`${what}: live`, () => tab.evaluate(() => window.last.state === "live"));
  };
  const leader = async () => {
    const leads = await Promise.all(tabs.map((tab) => tab.evaluate(() => window.last.leader)));
    return leads.filter(Boolean).length === 1 ? tabs[leads.indexOf(true)] : null;
  };
  await all("at first");
  await until("one connection", async () => (await connections(server)) === 1);
  await until("one leader", leader);

  // Closed.
  let first = await leader();
  tabs.splice(tabs.indexOf(first), 1);
  await first.close();
  await all("the leader was closed");
  await until("one leader after a close", leader);

  // Frozen by the browser: it says so beforehand. (Chromium does not freeze pages that a debugger looks at.)
  await open();
  first = await until("a leader", leader);
  await first.evaluate(() => document.dispatchEvent(new Event("freeze")));
  tabs.splice(tabs.indexOf(first), 1);
  await all("the leader was frozen");
  await until("one leader beside a frozen one", leader);
  await first.evaluate(() => document.dispatchEvent(new Event("resume")));
  tabs.push(first);
  await all("the frozen one is back");
  await until("still one leader", leader);

  // Hangs: its main thread does nothing else for a while, and then believes that it leads.
  first = await until("a leader", leader);
  tabs.splice(tabs.indexOf(first), 1);
  const hang = first.evaluate(() => { const end = Date.now() + 12_000; while (Date.now() < end); });
  for (const tab of tabs) await tab.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
  await all("the leader hangs");
  await hang;
  tabs.push(first);
  await all("the one that hung is back");
  await until("one leader in the end", leader);
  await until("one connection in the end", async () => (await connections(server)) === 1);

  // All die at once and one comes back.
  for (const tab of tabs.splice(0)) await tab.close();
  await open();
  await all("after all were closed");
  const [copy, count] = [await tabs[0].evaluate(() => window.rte.tables.notes.count()), Number((await server.query("SELECT count(*)::text FROM notes"))[0])];
  assert(copy === count, `${copy} rows for ${count}`);
  await tabs[0].close();
  await until("nobody is connected", async () => (await connections(server)) === 0);
  note(`${locks ? "with" : "without"} Web Locks: closed, frozen, hung, all gone`);
  void origin;
}

await scenario(async (stage) => {
  await stage.server.run("CREATE TABLE notes (id int PRIMARY KEY, body text); SELECT rte.register_table('notes')");
  await act(stage, true);
  await act(stage, false);
});
