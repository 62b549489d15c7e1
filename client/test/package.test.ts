// The package as it is published: what is in it, that it works where only Dexie is installed, and what its types allow.

import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";

const run = promisify(execFile);
const client = new URL("..", import.meta.url).pathname;
const SOURCES = ["src", "build.mjs", "package.json", "tsconfig.json", "tsconfig.build.json", "README.md", "LICENSE"];
/** What the bundle may weigh, compressed. */
const BUDGET = 62_000;

let place: string;
/** A project with the package and Dexie, and nothing else. */
let project: string;
let files: string[];

// Built and packed beside the sources, so that other tests do not meet half a build.
beforeAll(async () => {
  place = await mkdtemp(join(tmpdir(), "whagons-rte-"));
  for (const name of SOURCES) await cp(join(client, name), join(place, name), { recursive: true });
  await symlink(join(client, "node_modules"), join(place, "node_modules"));
  const { stdout } = await run("npm", ["pack", "--json", "--foreground-scripts=false"], { cwd: place });
  const [packed] = JSON.parse(stdout.slice(stdout.indexOf("[\n"))) as [{ filename: string; files: { path: string }[] }];
  files = packed.files.map(({ path }) => path).sort();
  project = join(place, "project");
  await mkdir(join(project, "node_modules/whagons-rte"), { recursive: true });
  await run("tar", ["xzf", join(place, packed.filename), "-C", join(project, "node_modules/whagons-rte"), "--strip-components=1"]);
  await cp(join(client, "node_modules/dexie"), join(project, "node_modules/dexie"), { recursive: true });
  await writeFile(join(project, "package.json"), '{"type":"module"}');
});

afterAll(() => rm(place, { recursive: true, force: true }));

async function manifest(): Promise<Record<string, Record<string, unknown>>> {
  return JSON.parse(await readFile(join(project, "node_modules/whagons-rte/package.json"), "utf8")) as never;
}

test("the package holds the built modules, their types, the README and the license, and nothing else", () => {
  const other = files.filter((path) => !/^dist\/.*\.d\.ts$/.test(path)).map((path) => path.replace(/-[A-Z0-9]{8}\./, "-*."));
  expect(other).toEqual([
    "LICENSE", "README.md", "dist/chunk-*.js", "dist/chunk-*.js.map", "dist/fake-*.js", "dist/fake-*.js.map", "dist/index.js", "dist/index.js.map",
    "dist/react.js", "dist/react.js.map", "dist/tanstack.js", "dist/tanstack.js.map", "package.json",
  ]);
  expect(files).toEqual(expect.arrayContaining(["dist/index.d.ts", "dist/react.d.ts", "dist/tanstack.d.ts"]));
});

test("Dexie is the only dependency; React and TanStack DB are optional", async () => {
  const { dependencies, peerDependencies, peerDependenciesMeta } = await manifest();
  expect(Object.keys(dependencies!)).toEqual(["dexie"]);
  expect(Object.keys(peerDependenciesMeta!)).toEqual(Object.keys(peerDependencies!));
  expect(Object.values(peerDependenciesMeta!)).toEqual(Object.keys(peerDependencies!).map(() => ({ optional: true })));
});

test("it can be imported in Node where only Dexie is installed, and tells its version", async () => {
  const program = 'const m = await import("whagons-rte"); console.log(m.version, typeof m.connect, typeof m.RteError)';
  const { stdout } = await run(process.execPath, ["--input-type=module", "-e", program], { cwd: project });
  expect(stdout).toBe(`${String((await manifest())["version"])} function function\n`);
});

test("without IndexedDB the packed client loads its fallback, and says what is missing without an address", async () => {
  const program = `
    const { connect } = await import("whagons-rte");
    await connect({ tables: {} }).catch((error) => console.log(error.code));
    const rte = await connect({ url: "http://127.0.0.1:1", tables: {}, transports: ["poll"] });
    console.log(rte.status.storage);
    await rte.close();`;
  const { stdout } = await run(process.execPath, ["--input-type=module", "-e", program], { cwd: project });
  expect(stdout).toBe("NO_URL\nmemory\n");
});

const TABLES = `
interface Tables {
  orders: { id: number; customer: number | null; item: string };
  users: { id: number; name: string };
}`;

const GOOD = `
import { connect, RteError, type Rte, type Status } from "whagons-rte";
${TABLES}
export const rte: Rte<Tables> = await connect<Tables>({
  url: "https://db.example.org", token: async (reason) => reason, tables: { orders: { indexes: ["customer", ["customer", "item"]] }, users: {} },
});
export const item: string | undefined = (await rte.tables.orders.get(42))?.item;
export const sorted: { customer: number | null }[] = await rte.tables.orders.where({ customer: null }).filter((row) => row.id > 1).limit(3).sortBy("item");
export const names: string[] = await rte.read(["users"], async () => (await rte.tables.users.toArray()).map((user) => user.name));
export const stop: () => void = rte.tables.users.live((users) => users.where((user) => user.name !== "").count(), (count: number) => count.toFixed());
rte.on("status", (status: Status) => status.tables["orders"]?.total?.toFixed());
rte.on("change", ({ changes }) => changes.map((change) => (change.op === "delete" ? change.key : change.row["item"])));
export const added = (await rte.subscribe<{ id: number; at: Date }>("events", { where: "id > $1", params: [1] })).get(1).then((event) => event?.at.getTime());
export const free = (await connect({ url: "https://db.example.org", tables: { anything: {} } })).table("anything").get([1, "a"]);
export const code = (error: unknown): string | undefined => (error instanceof RteError ? error.code : undefined);
`;

const WRONG: [string, string][] = [
  ["a column in where", 'rte.tables.orders.where({ custmer: 7 })'],
  ["the type of a column in where", 'rte.tables.orders.where({ customer: "7" })'],
  ["a column in sortBy", 'rte.tables.orders.where({}).sortBy("name")'],
  ["a column in a function", "rte.tables.orders.where((row) => row.name === 1)"],
  ["a column of a row", "(await rte.tables.users.get(1))?.item"],
  ["a table", "rte.tables.people"],
  ["an event", 'rte.on("changes", () => {})'],
  ["an option", 'connect<Tables>({ urls: "", tables: { orders: {}, users: {} } })'],
  ["a table that is not in the types", "connect<Tables>({ tables: { orders: {}, users: {}, people: {} } })"],
  ["a table that the types have and connect leaves out", "connect<Tables>({ tables: { orders: {} } })"],
];

async function check(name: string, program: string, module: string, resolution: string): Promise<string[]> {
  const config = {
    compilerOptions: {
      target: "es2022", lib: ["es2023", "dom", "dom.iterable"], module, moduleResolution: resolution, strict: true, noEmit: true, skipLibCheck: false,
      types: [], jsx: "react-jsx", noUncheckedIndexedAccess: true,
    },
    files: [`${name}.tsx`],
  };
  await writeFile(join(project, `${name}.tsx`), program);
  await writeFile(join(project, `${name}.json`), JSON.stringify(config));
  return run(join(client, "node_modules/.bin/tsc"), ["-p", `${name}.json`, "--pretty", "false"], { cwd: project }).then(
    () => [],
    (error: { stdout: string }) => error.stdout.trim().split("\n"),
  );
}

test.each([["esnext", "bundler"], ["node16", "node16"], ["nodenext", "nodenext"]])("its types are found with module %s and resolution %s", async (module, resolution) => {
  expect(await check(`good-${module}`, GOOD, module, resolution)).toEqual([]);
});

test("what does not exist does not compile", async () => {
  const lines = WRONG.map(([, expression], i) => `export const w${i} = async () => ${expression};`);
  const program = `import { connect, type Rte } from "whagons-rte";${TABLES.replaceAll("\n", " ")} declare const rte: Rte<Tables>;\n${lines.join("\n")}`;
  const errors = await check("wrong", program, "esnext", "bundler");
  const places = new Set(errors.map((error) => Number(/\((\d+),/.exec(error)?.[1]) - 2));
  expect(WRONG.filter((_, i) => !places.has(i)).map(([what]) => what)).toEqual([]);
});

test("the adapters' types are found where React and TanStack DB are installed", async () => {
  await mkdir(join(project, "node_modules/@types"), { recursive: true });
  for (const name of ["@types/react", "@tanstack"]) await symlink(join(client, "node_modules", name), join(project, "node_modules", name));
  const program = `
import type { ReactNode } from "react";
import { createCollection } from "@tanstack/db";
import type { Rte } from "whagons-rte";
import { RteProvider, useConnect, useLiveQuery, useStatus } from "whagons-rte/react";
import { rteCollectionOptions } from "whagons-rte/tanstack";
${TABLES}
export function Orders({ customer }: { customer: number }): ReactNode {
  const { data = [] } = useLiveQuery((rte: Rte<Tables>) => rte.tables.orders.where({ customer }).toArray(), [customer]);
  return <p>{useStatus().state}{data.map((row) => row.item)}</p>;
}
export function App(): ReactNode {
  const { rte } = useConnect({ tables: { orders: {} } });
  return rte && <RteProvider rte={rte}><Orders customer={7} /></RteProvider>;
}
export const collection = (rte: Rte<Tables>) => createCollection(rteCollectionOptions<Tables["orders"]>({ rte, table: "orders" })).get(1)?.item;
`;
  const errors = await check("adapters", program.replace("skipLibCheck", ""), "esnext", "bundler");
  // What other packages' own types say of each other is not ours.
  expect(errors.filter((error) => /^(adapters|node_modules\/whagons)/.test(error))).toEqual([]);
});

test("the bundle that the gateway serves stays within its budget", async () => {
  const bytes = gzipSync(await readFile(join(client, "bundle/client.js")), { level: 9 }).length;
  expect(bytes).toBeLessThan(BUDGET);
});

test("the bundle needs nothing but the page's globals until memory is needed", async () => {
  const text = await readFile(join(client, "bundle/client.js"), "utf8");
  expect([...text.matchAll(/\bimport\((["'`])(.*?)\1\)/g)].map(([, , name]) => name)).toEqual(["./client-memory.js"]);
  expect(text).not.toMatch(/^import\b/m);
});
