// What the tabs of one store say to each other. The leader holds the connection; the others say which live tables they
// want and hear how it goes. Whoever joins late asks. Any tab; needs BroadcastChannel, and without it a tab is alone.

import type { Definition } from "../copy/layout.ts";
import type { ErrorInfo } from "../errors.ts";
import type { ChangeEvent, Status } from "../status.ts";

export type TabMessage =
  /** From the leader at its accession, and to whoever asks. */
  | { type: "leading"; tab: string; epoch: number }
  /** Is there a leader? It answers with `leading` and `status`. */
  | { type: "who"; tab: string }
  /** The live tables that a tab wants. */
  | { type: "want"; tab: string; tables: Record<string, Definition> }
  | { type: "unwant"; tab: string; names: string[] }
  | { type: "status"; tab: string; status: Status }
  | { type: "change"; tab: string; event: ChangeEvent }
  | { type: "error"; tab: string; error: ErrorInfo }
  /** The store's object stores have changed. */
  | { type: "layout"; tab: string }
  | { type: "resign"; tab: string }
  /** Connect at once. */
  | { type: "reconnect"; tab: string }
  /** The store is going to be deleted: the user has logged out. */
  | { type: "clear"; tab: string };

export interface Channel {
  send(message: TabMessage): void;
  close(): void;
}

export function openChannel(name: string, onMessage: (message: TabMessage) => void): Channel {
  if (typeof BroadcastChannel === "undefined") return { send: () => {}, close: () => {} };
  let channel: BroadcastChannel | null = new BroadcastChannel(name);
  channel.onmessage = (event: MessageEvent<TabMessage>) => {
    if (channel) onMessage(event.data);
  };
  // In Node it would keep a program alive.
  (channel as { unref?: () => void }).unref?.();
  return {
    send: (message) => {
      // A row that cannot be cloned cannot have come from the store, so nothing is expected to throw here.
      channel?.postMessage(message);
    },
    close: () => {
      channel?.close();
      channel = null;
    },
  };
}
