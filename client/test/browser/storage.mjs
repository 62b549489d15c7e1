// Without IndexedDB, with a full disk, with a store that is taken away, with two versions of the application.

import { assert, scenario, until } from "./stage.mjs";

await scenario(async ({ server, network, browser, page, note }) => {
  await server.run("CREATE TABLE goods (id int PRIMARY KEY, name text, kind text); INSERT INTO goods SELECT n, repeat('x', 200), CASE n % 2 WHEN 0 THEN 'a' ELSE 'b' END FROM generate_series(1, 20000) n; SELECT rte.register_table('goods')");
  const options = { url: network.url, user: "storage", tables: { goods: { indexes: ["kind"] } }, verifyEvery: 0 };
  const live = (tab) => until("live", () => tab.evaluate(() => window.last?.state === "live"));
  const count = (tab) => tab.evaluate(() => window.rte.tables.goods.where({ kind: "a" }).count());
  const all = async (tab) => { await live(tab); assert((await count(tab)) === 10000, "10,000 of a kind"); };
  let expected = 20000;
  const change = async (tab) => {
    expected++;
    await server.run(`INSERT INTO goods VALUES (${expected}, 'new', 'c')`);
    await until("a change", async () => (await tab.evaluate(() => window.rte.tables.goods.count())) === expected);
  };

  // No IndexedDB, as in some private modes: missing, and there but refusing.
  for (const deny of [
    () => Object.defineProperty(globalThis, "indexedDB", { value: undefined }),
    () => { IDBFactory.prototype.open = () => { throw new DOMException("denied", "SecurityError"); }; },
    () => {
      IDBFactory.prototype.open = () => {
        const request = new EventTarget();
        request.error = new DOMException("denied", "InvalidStateError");
        setTimeout(() => { const event = new Event("error"); request.onerror?.(event); request.dispatchEvent(event); });
        return request;
      };
    },
  ]) {
    const context = await browser();
    const tab = await page(context, deny);
    await tab.evaluate((given) => window.open_(given), options);
    await all(tab);
    assert((await tab.evaluate(() => window.last.storage)) === "memory", "in memory");
    await change(tab);
    await context.close();
  }

  // The disk is full while a copy is written.
  const context = await browser();
  let tab = await page(context);
  const session = await context.newCDPSession(tab);
  const origin = new URL(tab.url()).origin;
  await session.send("Storage.overrideQuotaForOrigin", { origin, quotaSize: 1_000_000 });
  await tab.evaluate((given) => window.open_(given), options);
  await all(tab);
  const full = await tab.evaluate(() => ({ storage: window.last.storage, codes: window.errors.map((error) => error.code) }));
  assert(full.storage === "memory" && full.codes.includes("STORAGE_FULL"), `with a full disk: ${JSON.stringify(full)}`);
  await change(tab);
  await session.send("Storage.overrideQuotaForOrigin", { origin });
  await tab.close();

  // The browser takes the store away under a live page.
  tab = await page(context);
  await tab.evaluate((given) => window.open_(given), options);
  await all(tab);
  assert((await tab.evaluate(() => window.last.storage)) === "indexeddb", "stored again");
  const eviction = await context.newCDPSession(tab);
  await eviction.send("Storage.clearDataForOrigin", { origin, storageTypes: "indexeddb" });
  await change(tab);
  await all(tab);

  // Two versions of the application: what they ask for under one name differs, and so do the indexes.
  const older = tab;
  const newer = await page(context);
  await newer.evaluate((given) => window.open_(given), { ...options, tables: { goods: { where: "kind <> 'b'", indexes: ["name"] } } });
  await until("the newer one's rows", async () => (await newer.evaluate(() => window.rte.tables.goods.where({ kind: "b" }).count())) === 0);
  await until("the older one sees them too", async () => (await older.evaluate(() => window.rte.tables.goods.where({ kind: "b" }).count())) === 0);
  await live(older);
  await live(newer);
  note("no IndexedDB (three ways), full, evicted, two versions");
});
