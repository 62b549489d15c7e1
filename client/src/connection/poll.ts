// Messages by long polls, up by POST: for networks that hold back whatever is not a short answer.

import { CLOSE } from "../protocol/close.ts";
import { Inbox } from "./inbox.ts";
import type { OpenTransport } from "./transport.ts";
import { codeOfStatus, isOpened, Uplink } from "./uplink.ts";

interface Polled {
  messages: unknown[];
  close?: { code: number; reason: string };
}

export const openPoll: OpenTransport = (endpoints, platform, listener) => {
  const inbox = new Inbox(listener);
  const aborter = new AbortController();
  let uplink: Uplink | null = null;

  const end = (code: number, reason: string): void => {
    aborter.abort();
    uplink?.close();
    inbox.end(code, reason);
  };
  /** Undefined when it has ended meanwhile. */
  const ask = async (method: "GET" | "POST", query?: Record<string, string>): Promise<unknown> => {
    const { signal } = aborter;
    const response = await platform.fetch(endpoints.http("/poll", query), { method, cache: "no-store", signal });
    if (response.ok) return response.json();
    await response.body?.cancel();
    end(codeOfStatus(response.status), `status ${response.status}`);
  };
  const run = async (): Promise<void> => {
    const opened = await ask("POST");
    if (aborter.signal.aborted) return;
    if (!isOpened(opened)) return end(CLOSE.broken, "not the server's answer");
    uplink = new Uplink(endpoints, platform, opened, end);
    listener.opened();
    // Numbered, so that one whose answer was lost between is refused instead of answered with what came after.
    for (let n = 0; !aborter.signal.aborted; n += 1) {
      const polled = (await ask("GET", { connection: opened.connection, n: String(n) })) as Polled;
      if (aborter.signal.aborted) return;
      if (!Array.isArray(polled?.messages)) return end(CLOSE.broken, "not the server's answer");
      inbox.alive();
      for (const message of polled.messages) inbox.message(message);
      if (polled.close) end(polled.close.code, polled.close.reason);
    }
  };
  run().catch((error: unknown) => end(CLOSE.broken, String(error)));

  return {
    send: (message) => uplink?.send(message),
    close() {
      inbox.discard();
      aborter.abort();
      uplink?.close();
    },
  };
};
