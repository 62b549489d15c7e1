// What most people build first: a trigger that notifies, one process that listens, and a WebSocket for everybody.
// Written as well as it can be without changing what it is: the payload goes out as it came, in one frame
// that is encoded once and shared, without compression.
//
// PGHOST, PGPORT, PGUSER, PGDATABASE as usual; PORT is where it listens; CHANNEL is what it listens to.

import { createServer } from "node:http";
import pg from "pg";
import { WebSocketServer, Sender } from "ws";

const channel = process.env.CHANNEL ?? "changes";
const server = createServer((_, response) => response.end("ok\n"));
const sockets = new WebSocketServer({ server, perMessageDeflate: false });

sockets.on("connection", (socket) => {
  socket.on("message", () => {});
  socket.on("error", () => {});
});

const database = new pg.Client({ application_name: "node-notify" });
database.on("error", (error) => {
  console.error(error);
  process.exit(1);
});
database.on("notification", ({ payload }) => {
  // `Sender.frame` is what `socket.send` uses; calling it once spares Node the encoding per client.
  const frame = Buffer.concat(Sender.frame(Buffer.from(payload), { fin: true, opcode: 1, mask: false, readOnly: false }));
  for (const socket of sockets.clients) {
    if (socket.readyState === 1) socket._socket.write(frame);
  }
});
await database.connect();
await database.query(`LISTEN ${database.escapeIdentifier(channel)}`);
server.listen(Number(process.env.PORT), "127.0.0.1", 1024, () => console.log("ready"));
// Whoever started it is gone.
process.stdin.resume().on("end", () => process.exit());
