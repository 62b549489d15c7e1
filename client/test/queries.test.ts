// Live queries over the store: whatever way a query is written, it is asked again when what it has read changes.
import { Dexie, type Table } from "dexie";
import { IDBFactory, IDBKeyRange } from "fake-indexeddb";
import { beforeAll, expect, test, vi } from "vitest";
import { Queries } from "../src/queries.ts";
import { LiveTable, type TableHost } from "../src/table.ts";

interface Task {
  id: number;
  board: number;
}

// Without an IndexedDB to be seen, Dexie takes the page for one that is rendered on a server.
beforeAll(() => { Object.assign(Dexie.dependencies, { indexedDB: new IDBFactory(), IDBKeyRange }); });

async function tasks(): Promise<{ db: Dexie; table: LiveTable<Task> }> {
  const db = new Dexie("queries", { indexedDB: new IDBFactory(), IDBKeyRange, cache: "disabled" });
  db.version(1).stores({ tasks: "id, board" });
  await db.table("tasks").bulkPut([{ id: 1, board: 1 }, { id: 2, board: 2 }]);
  const queries = new Queries((error) => { throw error; });
  const host: TableHost = {
    copied: () => undefined,
    dexie: (name) => db.table(name) as Table<unknown, unknown>,
    layout: () => Promise.resolve(undefined),
    typeOf: () => undefined,
    storedKeyOf: () => undefined,
    storedKey: (_, key) => key,
    live: (query, callback, onError) => queries.add(() => undefined, query, callback, onError),
  };
  return { db, table: new LiveTable<Task>(host, "tasks") };
}

const ways: [string, (table: LiveTable<Task>) => Promise<unknown>][] = [
  ["rows by an index", (table) => table.where({ board: 1 }).toArray()],
  ["rows by an index, in an async function", async (table) => await table.where({ board: 1 }).toArray()],
  ["rows by a function", (table) => table.where((row) => row.board === 1).toArray()],
  ["a count by an index", (table) => table.where({ board: 1 }).count()],
  ["the first by an index", (table) => table.where({ board: 1 }).filter((row) => row.id > 1).first()],
  ["rows in an order", (table) => table.where({ board: 1 }).sortBy("id")],
  ["one row after another", async (table) => [await table.get(1), await table.get(3)]],
];

test.each(ways)("%s are asked for again", async (_, query) => {
  const { db, table } = await tasks();
  const seen = vi.fn();
  const stop = table.live(query, seen);
  await vi.waitFor(() => expect(seen).toHaveBeenCalledTimes(1));
  await db.table("tasks").put({ id: 3, board: 1 });
  await vi.waitFor(() => expect(seen).toHaveBeenCalledTimes(2));
  expect(seen.mock.lastCall![0]).toEqual(await query(table));
  stop();
  db.close();
});
