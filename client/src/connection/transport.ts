// What a connection needs of a way to carry messages. There are three: a WebSocket, server-sent events with POST, and
// long polls with POST. All carry the same messages.

import type { Down } from "../protocol/down.ts";
import type { Up } from "../protocol/up.ts";

export type TransportKind = "websocket" | "events" | "poll";

/** What a transport tells. Nothing is told before it was returned, or after it was closed. */
export interface Listener {
  /** Messages may be sent. Once. */
  opened(): void;
  /** Something came, a message or a sign of life. */
  alive(): void;
  message(message: Down): void;
  /** It has ended by itself, after all messages that had come. Once, the last. */
  closed(code: number, reason: string): void;
}

export interface Transport {
  /** After `opened`. In order; what cannot be sent ends the transport. */
  send(message: Up): void;
  close(code: number): void;
}

/** The parts of the platform that transports are made of; tests and servers bring their own. */
export interface Platform {
  WebSocket: new (url: string, protocols: string[]) => Socket;
  fetch: typeof fetch;
}

/** The part of a WebSocket that is used. */
export interface Socket {
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

export type OpenTransport = (endpoints: Endpoints, platform: Platform, listener: Listener) => Transport;

/** Addresses under the one that was given, which may have a path and a query of its own. */
export class Endpoints {
  private readonly base: URL;

  /** `url` as in "https://db.example:8082", "wss://db.example/live" or, in a page, "/live". */
  constructor(url: string) {
    this.base = new URL(url, (globalThis as { location?: { href: string } }).location?.href);
    this.base.protocol = this.base.protocol.replace(/^ws/, "http");
    if (!/^https?:$/.test(this.base.protocol)) throw new TypeError(`not an address of http, https, ws or wss: ${url}`);
    this.base.hash = "";
  }

  http(path: string, query: Record<string, string> = {}): string {
    const url = new URL(this.base);
    url.pathname = url.pathname.replace(/\/*$/, path);
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    return url.href;
  }

  webSocket(path: string): string {
    return this.http(path).replace(/^http/, "ws");
  }
}
