// A column is added, renamed and dropped while five clients are live: no reload, no lost row.

import { assert, scenario, until } from "./stage.mjs";

await scenario(async ({ server, network, browser, page, note }) => {
  await server.run("CREATE TABLE items (id int PRIMARY KEY, name text); INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, 500) n; SELECT rte.register_table('items'); CREATE TABLE still (id int PRIMARY KEY); INSERT INTO still VALUES (1); SELECT rte.register_table('still')");
  const tabs = [];
  // Two profiles, so that there are several leaders too.
  for (const count of [3, 2]) {
    const context = await browser();
    for (let i = 0; i < count; i++) tabs.push(await page(context));
  }
  for (const tab of tabs) {
    await tab.evaluate(async (options) => {
      await window.open_(options);
      window.rows = [];
      window.least = Infinity;
      window.rte.tables.items.live((table) => table.toArray(), (rows) => { window.rows = rows; window.least = Math.min(window.least, rows.length); });
      window.marked = true;
    }, { url: network.url, user: "schema", tables: { items: { indexes: ["name"] }, still: {} } });
  }
  const all = async (what, test, argument) => { for (const tab of tabs) await until(what, () => tab.evaluate(test, argument)); };
  await all("the rows", () => window.rows.length === 500);
  const steps = [
    ["ALTER TABLE items ADD COLUMN price numeric(10,2) DEFAULT 9.50", () => window.rows.length === 500 && window.rows.every((row) => row.price === "9.50")],
    ["UPDATE items SET price = id WHERE id <= 10", () => window.rows.filter((row) => row.price !== "9.50").length === 10],
    ["ALTER TABLE items RENAME COLUMN name TO title", () => window.rows.every((row) => "title" in row && !("name" in row))],
    ["INSERT INTO items VALUES (501, 'new', 1)", () => window.rows.length === 501],
    ["ALTER TABLE items DROP COLUMN price", () => window.rows.length === 501 && window.rows.every((row) => !("price" in row))],
    ["ALTER TABLE items ALTER COLUMN id TYPE bigint", () => window.rows.length === 501 && window.rows.every((row) => typeof row.id === "number")],
    ["DELETE FROM items WHERE id > 490", () => window.rows.length === 490],
  ];
  for (const [sql, test] of steps) {
    await server.run(sql);
    await all(sql, test);
  }
  await all("live, and never without rows", () => window.marked && window.last.state === "live" && window.least >= 490);
  const copies = await Promise.all(tabs.map((tab) => tab.evaluate(async () => JSON.stringify((await window.rte.db.table("items").toArray()).map((row) => [String(row.id), row.title])))));
  const expected = JSON.stringify((await server.rows("items", ["id", "title"])).sort((a, b) => Number(a[0]) - Number(b[0])));
  for (const copy of copies) assert(copy === expected, `a copy differs: ${copy.slice(0, 200)}`);
  note(`${steps.length} steps, ${tabs.length} clients`);
});
