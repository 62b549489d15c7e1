// What is asked of the server beside the connection: whether plain HTTP reaches it, and whether a WebSocket carries
// messages. Both are bounded in time and answer once, unless they are given up.

import { SUBPROTOCOL } from "./websocket.ts";
import type { Endpoints, Platform } from "./transport.ts";

/** Gives up: no answer comes any more. */
export type Abandon = () => void;
export type Answer = (ok: boolean) => void;

/** Whether /health says that the server is there and ready. */
export function checkHealth(endpoints: Endpoints, { fetch }: Platform, limitMs: number, answer: Answer): Abandon {
  const aborter = new AbortController();
  const once = onlyOnce(limitMs, answer, () => aborter.abort());
  const ask = async (): Promise<boolean> => {
    const response = await fetch(endpoints.http("/health"), { cache: "no-store", signal: aborter.signal });
    return response.ok && ((await response.json()) as { status?: unknown } | null)?.status === "ok";
  };
  ask().then(once.answer, () => once.answer(false));
  return once.abandon;
}

/**
 * Whether a WebSocket works, frames both ways included: the server says of a type that it does not know that it does
 * not, before `hello` too. Needs no token, and leaves no session.
 */
export function probeWebSocket(
  endpoints: Endpoints, { WebSocket }: Platform, limitMs: number, answer: Answer,
): Abandon {
  let close = (): void => {};
  const once = onlyOnce(limitMs, answer, () => close());
  try {
    const socket = new WebSocket(endpoints.webSocket("/ws"), [SUBPROTOCOL]);
    close = () => socket.close(1000);
    socket.onopen = () => socket.send('{"type":"probe"}');
    socket.onmessage = () => once.answer(true);
    socket.onerror = () => {};
    socket.onclose = () => once.answer(false);
  } catch {
    queueMicrotask(() => once.answer(false));
  }
  return once.abandon;
}

function onlyOnce(limitMs: number, answer: Answer, end: () => void): { answer: Answer; abandon: Abandon } {
  let open = true;
  const finish = (): boolean => {
    if (!open) return false;
    open = false;
    clearTimeout(limit);
    end();
    return true;
  };
  const limit = setTimeout(() => { if (finish()) answer(false); }, limitMs);
  return { answer: (ok) => { if (finish()) answer(ok); }, abandon: () => void finish() };
}
