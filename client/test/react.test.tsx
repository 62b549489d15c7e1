// The hooks in a document, also under StrictMode, which begins each effect twice.

import { Window } from "happy-dom";
import { StrictMode, type ReactNode } from "react";
import type { Root } from "react-dom/client";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { ConnectOptions, Rte } from "../src/index.ts";
import { RteProvider, useConnect, useLiveQuery, useRte, useStatus } from "../src/react.ts";
import { Browser, live, until } from "./support/browser.ts";
import { Database } from "./support/database.ts";

const page = new Window();
for (const [name, value] of Object.entries({ window: page, document: page.document, navigator: page.navigator })) {
  Object.defineProperty(globalThis, name, { value, configurable: true });
}
const { createRoot } = await import("react-dom/client");

interface Order { id: number; customer: number; item: string }

let db: Database;
let browser: Browser;
let roots: Root[];

beforeEach(async () => {
  db = await new Database().listen();
  db.create("orders", "id int4, customer int4, item text", [[1, 7, "tea"], [2, 8, "salt"], [3, 7, "rice"]]);
  browser = new Browser();
  roots = [];
});

afterEach(async () => {
  for (const root of roots) root.unmount();
  await browser.close();
  await db.close();
});

function mount(content: ReactNode): { root: Root; text: () => string } {
  const element = document.createElement("div");
  const root = createRoot(element);
  roots.push(root);
  root.render(content);
  return { root, text: () => element.textContent ?? "" };
}

async function open(): Promise<Rte> {
  const rte = await browser.tab().connect({ url: db.url, tables: { orders: { indexes: ["customer"] } } });
  await live(rte);
  return rte;
}

const inside = (rte: Rte) => rte as unknown as { queries: { all: Set<unknown> }; emitter: { listeners: Map<string, Set<unknown>> } };

/** Each text that was rendered, once, in order. */
const rendered: string[] = [];
function Orders({ customer }: { customer: number }): ReactNode {
  const { data, loading } = useLiveQuery((rte) => rte.table<Order>("orders").where({ customer }).sortBy("id"), [customer]);
  const text = data === undefined ? "nothing" : data.map(({ item }) => item).join();
  if (rendered.at(-1) !== text) rendered.push(text);
  return <p>{text}{loading ? " …" : ""}</p>;
}

test.each([["", false], [" under StrictMode", true]])("a live query shows rows and follows commits%s, and leaves nothing when it is gone", async (_, strict) => {
  const rte = await open();
  rendered.length = 0;
  const content = <RteProvider rte={rte}><Orders customer={7} /></RteProvider>;
  const { root, text } = mount(strict ? <StrictMode>{content}</StrictMode> : content);
  await until(rte, () => text() === "tea,rice", "rows");
  db.commit((tx) => tx.put("orders", 4, 7, "oil"));
  await until(rte, () => text() === "tea,rice,oil", "the commit");
  expect(rendered).toEqual(["nothing", "tea,rice", "tea,rice,oil"]);
  expect(inside(rte).queries.all.size).toBe(1);
  root.unmount();
  await until(rte, () => inside(rte).queries.all.size === 0, "no query");
});

test("when what is asked for changes, the old rows stay until the new ones come", async () => {
  const rte = await open();
  rendered.length = 0;
  const shows = (customer: number) => <StrictMode><RteProvider rte={rte}><Orders customer={customer} /></RteProvider></StrictMode>;
  const { root, text } = mount(shows(7));
  await until(rte, () => text() === "tea,rice", "rows");
  root.render(shows(8));
  await until(rte, () => text() === "salt", "other rows");
  expect(rendered).toEqual(["nothing", "tea,rice", "salt"]);
});

test("when the client changes, no row of the old one is shown with the new one", async () => {
  const rte = await open();
  const other = await browser.tab().connect({ url: db.url, user: "other", tables: { orders: {} } });
  rendered.length = 0;
  const shows = (client: Rte) => <RteProvider rte={client}><Orders customer={7} /></RteProvider>;
  const { root, text } = mount(shows(rte));
  await until(rte, () => text() === "tea,rice", "rows");
  root.render(shows(other));
  await until(rte, () => text() === "tea,rice" && rendered.length > 2, "rows of the other");
  expect(rendered).toEqual(["nothing", "tea,rice", "nothing", "tea,rice"]);
});

test("a query that fails is shown as its error, and its data stays", async () => {
  const rte = await open();
  let fails = false;
  function Count(): ReactNode {
    const { data, error } = useLiveQuery(async (client) => {
      const count = await client.table("orders").count();
      if (fails) throw new Error("broken");
      return count;
    }, []);
    return <p>{data} {error instanceof Error ? error.message : ""}</p>;
  }
  const { text } = mount(<RteProvider rte={rte}><Count /></RteProvider>);
  await until(rte, () => text() === "3 ", "a count");
  fails = true;
  db.commit((tx) => tx.put("orders", 4, 7, "oil"));
  await until(rte, () => text() === "3 broken", "the error");
});

test("the status is shown as it changes, and no listener is left", async () => {
  const rte = await open();
  const before = inside(rte).emitter.listeners.get("status")?.size ?? 0;
  const Badge = (): ReactNode => <p>{useStatus().state}</p>;
  const { root, text } = mount(<StrictMode><RteProvider rte={rte}><Badge /></RteProvider></StrictMode>);
  await until(rte, () => text() === "live", "live");
  db.tenants = [];
  for (const session of db.open()) session.close(1012);
  await until(rte, () => text() === "refused", "refused");
  root.unmount();
  await new Promise((go) => setTimeout(go));
  await until(rte, () => (inside(rte).emitter.listeners.get("status")?.size ?? 0) === before + 1, "no listener but this wait's own");
});

test("useConnect connects while it is mounted, once under StrictMode, and closes behind itself", async () => {
  const tab = browser.tab();
  const given: (Rte | null)[] = [];
  const options = { url: db.url, user: "somebody", tables: { orders: {} }, transports: ["websocket"], runtime: tab.runtime() } as unknown as ConnectOptions;
  const Count = (): ReactNode => <p>{useLiveQuery((client) => client.table("orders").count(), []).data} {useRte().status.storage}</p>;
  function App(): ReactNode {
    const { rte, error } = useConnect(options);
    given.push(rte);
    return rte ? <RteProvider rte={rte}><Count /></RteProvider> : <p>{error ? String(error) : "…"}</p>;
  }
  const { root, text } = mount(<StrictMode><App /></StrictMode>);
  await db.server.until(() => db.open().length === 1);
  const watch = { on: () => () => {} };
  await until(watch, () => text() === "3 indexeddb", "the count");
  expect(new Set(given.filter((rte) => rte !== null)).size).toBe(1);
  expect(db.open().length).toBe(1);
  root.unmount();
  await db.server.until(() => db.server.open.length === 0);
  await until(watch, () => given.at(-1)!.status.state === "stopped", "stopped");
});

test("useConnect gives the reason why it cannot", async () => {
  const options = { url: db.url, user: "x", tables: { nothing: {} }, transports: ["websocket"], runtime: browser.tab().runtime() } as unknown as ConnectOptions;
  const App = (): ReactNode => <p>{String((useConnect(options).error as { code?: string } | undefined)?.code)}</p>;
  const { text } = mount(<StrictMode><App /></StrictMode>);
  await until({ on: () => () => {} }, () => text() === "UNKNOWN_TABLE", "the code");
});

test("hooks without a provider say what is missing", () => {
  const errors: unknown[] = [];
  const Lost = (): ReactNode => <p>{useStatus().state}</p>;
  const root = createRoot(document.createElement("div"), { onUncaughtError: (error) => errors.push(error) });
  roots.push(root);
  root.render(<Lost />);
  return until({ on: () => () => {} }, () => errors.length > 0 && /RteProvider/.test(String(errors[0])), "the error");
});
