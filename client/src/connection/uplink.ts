// The way up of the transports that only carry messages down: POST /send, one at a time, numbered, so that they are
// executed once and in order. Nothing is sent twice: a request that fails ends the connection, and the cursor of the
// next one cures what was lost.

import { CLOSE } from "../protocol/close.ts";
import type { Up } from "../protocol/up.ts";
import type { Endpoints, Platform } from "./transport.ts";

/** Characters in one request, apart from one message alone. */
const BATCH = 65_536;

/** What the server says to a transport that has opened. */
export interface Opened {
  connection: string;
  heartbeat_ms: number;
}

export function isOpened(value: unknown): value is Opened {
  const { connection, heartbeat_ms } = (value ?? {}) as Partial<Opened>;
  return typeof connection === "string" && typeof heartbeat_ms === "number";
}

export class Uplink {
  private readonly lines: string[] = [];
  private readonly aborter = new AbortController();
  private sent = 0;
  private busy = false;
  private idle: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly endpoints: Endpoints,
    private readonly platform: Platform,
    private readonly opened: Opened,
    private readonly fail: (code: number, reason: string) => void,
  ) {
    this.rest();
  }

  send(message: Up): void {
    // JSON.stringify writes no raw newline.
    this.lines.push(JSON.stringify(message));
    void this.flush();
  }

  close(): void {
    clearTimeout(this.idle);
    this.aborter.abort();
  }

  private async flush(): Promise<void> {
    if (this.busy || this.aborter.signal.aborted) return;
    this.busy = true;
    clearTimeout(this.idle);
    try {
      while (this.lines.length > 0) await this.post(this.batch());
    } catch {
      if (!this.aborter.signal.aborted) this.fail(CLOSE.broken, "a request to the server failed");
      return;
    }
    this.busy = false;
    if (!this.aborter.signal.aborted) this.rest();
  }

  private batch(): string {
    let count = 1;
    let length = this.lines[0]!.length;
    while (count < this.lines.length && (length += this.lines[count]!.length + 1) <= BATCH) count += 1;
    return this.lines.splice(0, count).join("\n");
  }

  private async post(body: string): Promise<void> {
    const url = this.endpoints.http("/send", { connection: this.opened.connection, n: String(this.sent) });
    this.sent += 1;
    const response = await this.platform.fetch(url, {
      method: "POST",
      body,
      headers: { "content-type": "text/plain" },
      signal: this.aborter.signal,
    });
    await response.body?.cancel();
    if (response.ok) return;
    this.lines.length = 0;
    this.fail(codeOfStatus(response.status), `the server refused a message with status ${response.status}`);
    this.close();
  }

  /** The server takes a client for gone that says nothing for two heartbeats. */
  private rest(): void {
    this.idle = setTimeout(() => this.send({ type: "ping" }), this.opened.heartbeat_ms / 2);
  }
}

/** The close code that means what a status of HTTP does; where it may be something between that answered: broken. */
export function codeOfStatus(status: number): number {
  switch (status) {
    case 413: return CLOSE.tooLarge;
    case 429: return CLOSE.tooMany;
    case 503: return CLOSE.tryAgainLater;
    default: return CLOSE.broken;
  }
}
