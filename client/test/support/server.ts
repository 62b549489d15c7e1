// A small server that speaks the connection's half of `rte.v1` over all three transports, and can be told to behave as
// broken networks, proxies and servers do.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { WebSocketServer } from "ws";
import type { Down } from "../../src/protocol/down.ts";
import type { Up } from "../../src/protocol/up.ts";
import type { TransportKind } from "../../src/connection/transport.ts";

/** What is wrong on the way; `silent`: opens and carries nothing. */
export type Trouble = "none" | "refused" | "hangs" | "silent";

export interface Session {
  readonly kind: TransportKind;
  readonly url: string;
  readonly received: Up[];
  ended: boolean;
  send(message: Down): void;
  /** A raw frame, or raw data of an event. */
  raw(text: string): void;
  close(code: number, reason?: string): void;
  /** Breaks without a close frame. */
  cut(): void;
}

interface Channel {
  session: Session;
  n: number;
  waiting: ServerResponse | null;
  queued: string[];
  closed: { code: number; reason: string } | null;
}

export class FakeServer {
  trouble: Record<TransportKind | "health", Trouble> = {
    websocket: "none", events: "none", poll: "none", health: "none",
  };
  heartbeatMs = 60_000;
  /** All that were made, the latest last. */
  readonly sessions: Session[] = [];
  /** "GET /events" and the like, in order. */
  readonly requests: string[] = [];
  /** Answers `hello`; default: welcome and one commit. */
  onHello: (session: Session, hello: Extract<Up, { type: "hello" }>) => void = (session) => this.welcome(session);
  /** Told of all messages but `hello`, `ping` and probes. */
  onMessage: (session: Session, message: Up) => void = () => {};
  /** The status of what is refused. */
  refusal = 403;
  /** Status of the next answers to POST /send, instead of doing anything. */
  refuseSends: number | null = null;

  private readonly http: Server = createServer((request, response) => void this.handle(request, response));
  private readonly ws = new WebSocketServer({ noServer: true, handleProtocols: () => "rte.v1" });
  private readonly channels = new Map<string, Channel>();
  private readonly held = new Set<Duplex>();
  private cursor = 0;
  private watchers: (() => void)[] = [];

  async listen(): Promise<string> {
    this.http.on("upgrade", (request, socket, head) => this.upgrade(request, socket, head));
    await new Promise<void>((done) => this.http.listen(0, "127.0.0.1", done));
    return `http://127.0.0.1:${(this.http.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    for (const socket of this.held) socket.destroy();
    for (const client of this.ws.clients) client.terminate();
    this.http.closeAllConnections();
    await new Promise((done) => this.http.close(done));
  }

  welcome(session: Session, more: Partial<Extract<Down, { type: "welcome" }>> = {}): void {
    session.send({
      type: "welcome", session: "s", tenant: "t", role: "r", server: "fake", heartbeat_ms: this.heartbeatMs, ...more,
    });
    this.commit(session);
  }

  commit(session: Session): void {
    session.send({ type: "commit", cursor: `c${++this.cursor}`, time: new Date().toISOString() });
  }

  /** Resolves as soon as `holds` does; it is looked at whenever something has happened here. */
  until(holds: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      const look = (): void => {
        if (!holds()) return;
        this.watchers = this.watchers.filter((watcher) => watcher !== look);
        resolve();
      };
      this.watchers.push(look);
      look();
    });
  }

  get open(): Session[] {
    return this.sessions.filter((session) => !session.ended);
  }

  /** Polls that wait for messages. */
  get polling(): number {
    return [...this.channels.values()].filter((channel) => channel.waiting !== null && !channel.session.ended).length;
  }

  private happened(): void {
    for (const watcher of [...this.watchers]) watcher();
  }

  private took(session: Session, message: Up | { type: string }): void {
    session.received.push(message as Up);
    if (message.type === "hello") this.onHello(session, message as Extract<Up, { type: "hello" }>);
    else if (message.type === "ping") session.send({ type: "pong" });
    else if (message.type === "probe") session.send({ type: "error", code: "UNKNOWN_TYPE", message: "unknown type" });
    else this.onMessage(session, message as Up);
    this.happened();
  }

  private begin(session: Session): void {
    this.sessions.push(session);
    this.happened();
  }

  private upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    this.requests.push("WS /ws");
    this.happened();
    socket.on("error", () => {});
    if (this.trouble.websocket === "refused") {
      return void socket.end("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
    }
    if (this.trouble.websocket === "hangs") return void this.held.add(socket);
    this.ws.handleUpgrade(request, socket, head, (client) => {
      const session: Session = {
        kind: "websocket", url: request.url ?? "", received: [], ended: false,
        send: (message) => session.raw(JSON.stringify(message)),
        raw: (text) => client.send(text),
        close: (code, reason) => client.close(code, reason),
        cut: () => client.terminate(),
      };
      client.on("close", () => {
        session.ended = true;
        this.happened();
      });
      this.begin(session);
      if (this.trouble.websocket === "silent") return;
      client.on("message", (data) => this.took(session, JSON.parse(String(data)) as Up));
    });
  }

  private async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "/", "http://fake");
    this.requests.push(`${request.method} ${url.pathname}`);
    this.happened();
    const channel = this.channels.get(url.searchParams.get("connection") ?? "");
    switch (`${request.method} ${url.pathname}`) {
      case "GET /health": return this.health(response);
      case "GET /events": return this.events(request, response);
      case "POST /poll": return this.openPoll(request, response);
      case "GET /poll": return channel ? this.poll(channel, response) : void response.writeHead(404).end();
      case "POST /send": return channel ? this.send(channel, request, response) : void response.writeHead(404).end();
      default: response.writeHead(404).end();
    }
  }

  private health(response: ServerResponse): void {
    if (this.trouble.health === "hangs") return void this.held.add(response.socket!);
    const ok = this.trouble.health === "none";
    response.writeHead(ok ? 200 : 503).end(JSON.stringify({ status: ok ? "ok" : "starting" }));
  }

  private channel(
    kind: TransportKind, request: IncomingMessage, deliver: (channel: Channel, text: string) => void,
  ): Channel {
    const session: Session = {
      kind, url: request.url ?? "", received: [], ended: false,
      send: (message) => session.raw(JSON.stringify(message)),
      raw: (text) => deliver(channel, text),
      close: () => {},
      cut: () => {},
    };
    const channel: Channel = { session, n: 0, waiting: null, queued: [], closed: null };
    this.channels.set(`${this.channels.size}${"0".repeat(31)}`, channel);
    return channel;
  }

  private opened(channel: Channel): string {
    const id = [...this.channels].find(([, other]) => other === channel)![0];
    return JSON.stringify({ connection: id, heartbeat_ms: this.heartbeatMs });
  }

  private events(request: IncomingMessage, response: ServerResponse): void {
    if (this.trouble.events === "refused") return void response.writeHead(this.refusal).end();
    if (this.trouble.events === "hangs") return void this.held.add(response.socket!);
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.flushHeaders();
    // A proxy that buffers: the head goes through, the body never does.
    if (this.trouble.events === "silent") return;
    const channel = this.channel("events", request, (_, text) => {
      response.write(text.split("\n").map((line) => `data: ${line}\n`).join("") + "\n");
    });
    const { session } = channel;
    session.close = (code, reason = "") => response.end(`event: close\ndata: ${JSON.stringify({ code, reason })}\n\n`);
    session.cut = () => response.destroy();
    response.on("close", () => {
      session.ended = true;
      this.happened();
    });
    this.begin(session);
    response.write(`event: open\ndata: ${this.opened(channel)}\n\n:\n\n`);
  }

  private openPoll(request: IncomingMessage, response: ServerResponse): void {
    if (this.trouble.poll === "refused") return void response.writeHead(this.refusal).end();
    if (this.trouble.poll === "hangs") return void this.held.add(response.socket!);
    const channel = this.channel("poll", request, (to, text) => {
      to.queued.push(text);
      this.flushPoll(to);
    });
    channel.session.close = (code, reason = "") => {
      channel.closed = { code, reason };
      this.flushPoll(channel);
    };
    channel.session.cut = () => channel.waiting?.destroy();
    this.begin(channel.session);
    response.writeHead(200).end(this.opened(channel));
  }

  private poll(channel: Channel, response: ServerResponse): void {
    channel.waiting = response;
    response.on("close", () => {
      if (channel.waiting === response) {
        channel.session.ended = true;
        this.happened();
      }
    });
    this.flushPoll(channel);
    this.happened();
  }

  private flushPoll(channel: Channel): void {
    const { waiting, queued, closed } = channel;
    if (!waiting || (queued.length === 0 && !closed)) return;
    channel.waiting = null;
    channel.queued = [];
    const close = closed ? `,"close":${JSON.stringify(closed)}` : "";
    waiting.writeHead(200).end(`{"messages":[${queued.join(",")}]${close}}`);
  }

  private async send(channel: Channel, request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = "";
    for await (const chunk of request) body += String(chunk);
    if (this.refuseSends !== null) return void response.writeHead(this.refuseSends).end();
    const n = Number(new URL(request.url!, "http://fake").searchParams.get("n"));
    if (n !== channel.n) return void response.writeHead(n === channel.n - 1 ? 204 : 409).end();
    channel.n += 1;
    response.writeHead(204).end();
    for (const line of body.split("\n")) this.took(channel.session, JSON.parse(line) as Up);
  }
}
