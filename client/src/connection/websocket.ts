// Messages over a WebSocket, a text frame each.

import { CLOSE } from "../protocol/close.ts";
import { Inbox } from "./inbox.ts";
import type { OpenTransport, Socket } from "./transport.ts";

export const SUBPROTOCOL = "rte.v1";

export const openWebSocket: OpenTransport = (endpoints, { WebSocket }, listener) => {
  const inbox = new Inbox(listener);
  let socket: Socket | null = null;
  let closed = false;
  try {
    socket = new WebSocket(endpoints.webSocket("/ws"), [SUBPROTOCOL]);
  } catch (error) {
    // Such as a page's policy that does not allow it; told later, as any failure.
    queueMicrotask(() => inbox.end(CLOSE.broken, String(error)));
  }
  if (socket) {
    socket.onopen = () => { if (!closed) listener.opened(); };
    socket.onmessage = (event: MessageEvent) => inbox.text(String(event.data));
    // What there is to know comes with `close`.
    socket.onerror = () => {};
    socket.onclose = (event: CloseEvent) => inbox.end(event.code, event.reason);
  }
  return {
    send: (message) => socket?.send(JSON.stringify(message)),
    close(code) {
      closed = true;
      inbox.discard();
      socket?.close(code);
    },
  };
};
