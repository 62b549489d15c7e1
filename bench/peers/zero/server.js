// Starts zero-cache, and is the service that it asks what a query means: the whole table, for everybody.
// zero-cache wants Node 22, which comes as a package.
//
// UPSTREAM is the database as it wants it, PORT is where it listens, PLACE is an empty directory for its replica, TABLE is
// what it serves.

import { spawn } from "node:child_process";
import { createServer, get } from "node:http";

const { UPSTREAM, PORT, PLACE, TABLE } = process.env;

const queries = createServer((request, response) => {
  let body = "";
  request.on("data", (piece) => (body += piece));
  request.on("end", () => {
    const ast = { table: TABLE, orderBy: [["id", "asc"]] };
    const [, asked] = JSON.parse(body);
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify(["transformed", asked.map(({ id, name }) => ({ id, name, ast }))]));
  });
});

queries.listen(0, "127.0.0.1", () => {
  const cache = spawn(process.execPath, ["node_modules/@rocicorp/zero/out/zero/src/cli.js"], {
    stdio: ["ignore", "ignore", "inherit"],
    env: {
      ...process.env,
      DO_NOT_TRACK: "1",
      ZERO_ADMIN_PASSWORD: "loopback-only",
      ZERO_ENABLE_TELEMETRY: "false",
      ZERO_LOG_LEVEL: "error",
      ZERO_NUM_SYNC_WORKERS: "1",
      ZERO_PORT: PORT,
      ZERO_QUERY_URL: `http://127.0.0.1:${queries.address().port}/`,
      ZERO_REPLICA_FILE: `${PLACE}/replica.db`,
      ZERO_UPSTREAM_DB: UPSTREAM,
    },
  });
  let over = false;
  const end = () => {
    if (!over) cache.kill("SIGTERM");
    over = true;
  };
  cache.on("exit", (code) => process.exit(code ?? 1));
  // Whoever started it is gone.
  process.stdin.resume().on("end", end);
  process.on("SIGTERM", end);
  const ask = () =>
    get(`http://127.0.0.1:${PORT}/`, (response) => {
      response.resume();
      if (response.statusCode === 200) console.log("ready");
      else setTimeout(ask, 200);
    }).on("error", () => setTimeout(ask, 200));
  ask();
});
