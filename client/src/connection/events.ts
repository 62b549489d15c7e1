// Messages as server-sent events, up by POST. Read by fetch, not by EventSource: that one comes back by itself, at its
// own times and without a cursor, and does not tell why it could not.

import { CLOSE } from "../protocol/close.ts";
import { Inbox } from "./inbox.ts";
import { EventParser, type ServerEvent } from "./sse.ts";
import type { OpenTransport } from "./transport.ts";
import { codeOfStatus, isOpened, Uplink } from "./uplink.ts";

export const openEvents: OpenTransport = (endpoints, platform, listener) => {
  const inbox = new Inbox(listener);
  const aborter = new AbortController();
  const parser = new EventParser();
  let uplink: Uplink | null = null;

  const end = (code: number, reason: string): void => {
    aborter.abort();
    uplink?.close();
    inbox.end(code, reason);
  };
  const take = ({ event, data }: ServerEvent): void => {
    if (event === "message") return inbox.text(data);
    if (event === "close") {
      const { code, reason } = JSON.parse(data) as { code?: number; reason?: string };
      return end(code ?? CLOSE.broken, reason ?? "");
    }
    if (event !== "open" || uplink) return;
    const opened: unknown = JSON.parse(data);
    if (!isOpened(opened)) throw new SyntaxError("not the server's answer");
    uplink = new Uplink(endpoints, platform, opened, end);
    listener.opened();
  };
  const read = async (): Promise<void> => {
    const response = await platform.fetch(endpoints.http("/events"), {
      headers: { accept: "text/event-stream" },
      cache: "no-store",
      signal: aborter.signal,
    });
    if (!response.ok || !response.body) {
      return end(response.ok ? CLOSE.broken : codeOfStatus(response.status), `status ${response.status}`);
    }
    const decoder = new TextDecoder();
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (aborter.signal.aborted) return;
      if (done) return end(CLOSE.broken, "");
      inbox.alive();
      for (const event of parser.feed(decoder.decode(value, { stream: true }))) take(event);
    }
  };
  read().catch((error: unknown) => end(CLOSE.broken, String(error)));

  return {
    send: (message) => uplink?.send(message),
    close() {
      inbox.discard();
      aborter.abort();
      uplink?.close();
    },
  };
};
