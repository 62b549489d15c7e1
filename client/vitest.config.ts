import { defineConfig } from "vitest/config";

// Tests wait for states; the limit is for what would wait for ever, also beside a build that takes both cores.
export default defineConfig({
  // As build.mjs does it.
  define: { __VERSION__: JSON.stringify("test") },
  test: { include: ["test/**/*.test.{ts,tsx}"], testTimeout: 60_000, hookTimeout: 60_000 },
});
