// Logical decoding with wal2json, and a SockJS server in Node that tells every client: no trigger, but a slot.
// Written as well as it can be without changing what it is: a change is turned into JSON once, and SockJS sends it to
// every connection.
//
// PGHOST, PGPORT, PGUSER, PGDATABASE as usual; PORT is where it listens; TABLE is what it follows; SLOT is the name of its
// slot, which exists.

import { createServer } from "node:http";
import { LogicalReplicationService, Wal2JsonPlugin } from "pg-logical-replication";
import sockjs from "sockjs";

const connections = new Set();
// Left to itself it acknowledges every transaction, which costs Node and the server a message each.
const replication = new LogicalReplicationService(
  { application_name: "wal2json-sockjs" },
  { acknowledge: { auto: false, timeoutSeconds: 0 } },
);
setInterval(() => replication.acknowledge(replication.lastLsn()), 1000);
const fail = (error) => {
  console.error(error);
  process.exit(1);
};
replication.on("error", fail);
replication.on("data", (_, { change }) => {
  for (const { kind, columnnames, columnvalues } of change ?? []) {
    if (kind !== "insert" && kind !== "update") continue;
    const row = {};
    for (let n = 0; n < columnnames.length; n++) row[columnnames[n]] = columnvalues[n];
    const text = JSON.stringify(row);
    for (const connection of connections) connection.write(text);
  }
});
const plugin = new Wal2JsonPlugin({ addTables: `public.${process.env.TABLE}` });
replication.subscribe(plugin, process.env.SLOT).catch(fail);

const server = createServer((_, response) => response.end("ok\n"));
const sockets = sockjs.createServer({ log: () => {}, heartbeat_delay: 25_000 });
sockets.on("connection", (connection) => {
  connections.add(connection);
  connection.on("close", () => connections.delete(connection));
});
sockets.installHandlers(server, { prefix: "/changes" });
replication.once("start", () => {
  server.listen(Number(process.env.PORT), "127.0.0.1", 1024, () => console.log("ready"));
});
// Whoever started it is gone.
process.stdin.resume().on("end", () => process.exit());
