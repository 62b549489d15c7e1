// Builds the package: `dist/` for npm (Dexie stays an import), `bundle/` for the gateway (one module, Dexie in it).
import { build } from "esbuild";
import { rm, readFile, writeFile, mkdir } from "node:fs/promises";
import { gzipSync } from "node:zlib";

const { version } = JSON.parse(await readFile(new URL("package.json", import.meta.url), "utf8"));
const shared = {
  absWorkingDir: import.meta.dirname,
  bundle: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
  define: { __VERSION__: JSON.stringify(version) },
};

await rm(new URL("dist", import.meta.url), { recursive: true, force: true });
await build({
  ...shared,
  entryPoints: { index: "src/index.ts", react: "src/react.ts", tanstack: "src/tanstack.ts" },
  outdir: "dist",
  splitting: true,
  chunkNames: "[name]-[hash]",
  external: ["dexie", "react", "@tanstack/db"],
  sourcemap: true,
});

// The fallback without IndexedDB is a module of its own: who needs it fetches it, nobody else pays for it.
const memory = await build({ ...shared, entryPoints: ["src/store/fake.ts"], minify: true, write: false });
const client = await build({
  ...shared,
  entryPoints: ["src/index.ts"],
  minify: true,
  write: false,
  plugins: [{
    name: "the fallback stays outside",
    setup: (b) => b.onResolve({ filter: /\/fake\.ts$/ }, () => ({ path: "./client-memory.js", external: true })),
  }],
});
await mkdir(new URL("bundle", import.meta.url), { recursive: true });
for (const [name, built] of [["client.js", client], ["client-memory.js", memory]]) {
  const banner = `// whagons-rte ${version}, MIT. With ${name === "client.js" ? "Dexie" : "fake-indexeddb"}, Apache-2.0.\n`;
  const text = banner + built.outputFiles[0].text;
  await writeFile(new URL(`bundle/${name}`, import.meta.url), text);
  console.log(`bundle/${name}: ${text.length} bytes, ${gzipSync(text, { level: 9 }).length} gzipped`);
}
