// Two users at one browser: neither ever sees the other's rows, also offline; logging out deletes the store, in all tabs.

import { assert, scenario, until } from "./stage.mjs";

await scenario(async ({ server, network, browser, page, note }) => {
  await server.run(`
    CREATE ROLE member; GRANT member TO authenticator;
    CREATE TABLE letters (id int PRIMARY KEY, owner text NOT NULL, body text);
    INSERT INTO letters SELECT n, CASE WHEN n % 2 = 0 THEN 'ann' ELSE 'bob' END, 'letter ' || n FROM generate_series(1, 100) n;
    ALTER TABLE letters ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON letters TO member USING (owner = current_setting('request.jwt.claims', true)::json->>'sub');
    GRANT SELECT ON letters TO member;
    SELECT rte.register_table('letters')`);
  const exp = Math.floor(Date.now() / 1000) + 3600;
  const token = Object.fromEntries(await Promise.all(["ann", "bob"].map(async (sub) => [sub, await server.token({ sub, role: "member", exp })])));
  const context = await browser();
  const log = async (tab, sub, by) => tab.evaluate(async ([options, name]) => {
    window.shown = new Set();
    const signal = AbortSignal.timeout(5000);
    await window.open_({ ...options, signal });
    window.rte.tables.letters.live((table) => table.toArray(), (rows) => { for (const row of rows) window.shown.add(row.owner); window.rows = rows.length; });
    void name;
  }, [{ url: network.url, tables: { letters: {} }, ...(by === "token" ? { token: token[sub] } : { user: sub, token: token[sub] }) }, sub]);
  for (const by of ["token", "user"]) {
    const tab = await page(context);
    for (const sub of ["ann", "bob", "ann"]) {
      await log(tab, sub, by);
      await until(`${sub}'s letters`, () => tab.evaluate(() => window.rows === 50 && window.last.state === "live"));
      const shown = await tab.evaluate(() => [...window.shown]);
      assert(shown.length === 1 && shown[0] === sub, `${sub} was shown letters of ${shown}`);
      await tab.evaluate(() => window.rte.close());
    }
    // Without a network each still has the own ones only.
    network.break();
    await log(tab, "bob", by);
    await until("bob's letters, offline", () => tab.evaluate(() => window.rows === 50));
    assert((await tab.evaluate(() => [...window.shown])).join() === "bob", "bob offline");
    network.mend();
    await tab.close();
  }
  // Logging out, with a second tab open.
  const [tab, other] = [await page(context), await page(context)];
  for (const one of [tab, other]) await log(one, "ann", "token");
  await tab.evaluate(() => window.rte.clear());
  await until("the other tab is stopped", () => other.evaluate(() => window.last.state === "stopped"));
  const left = await tab.evaluate(async () => (await indexedDB.databases()).map((database) => database.name).filter((name) => name.includes("ann") && name.includes("t%3A")));
  assert(left.length === 0, `left: ${left}`);
  // What is told of the server when the token is no good.
  const refused = await other.evaluate((options) => window.open_(options).then(() => "let in", (error) => error.code), { url: network.url, tables: { letters: {} }, user: "eve", token: "no.such.token" });
  assert(refused === "UNAUTHORIZED", `with a bad token: ${refused}`);
  const unknown = await other.evaluate((options) => window.open_(options).then(() => "let in", (error) => error.code), { url: network.url, tables: { secrets: {} }, token: token.ann });
  assert(unknown === "UNKNOWN_TABLE", `an unknown table: ${unknown}`);
  note("two users, by token and by name");
});
