// A connection under test, what it has told, and a way to wait for any of it.

import { WebSocket } from "ws";
import {
  type CloseInfo, Connection, type ConnectionOptions, type Status, type TransportKind,
} from "../../src/connection/driver.ts";
import type { Timing } from "../../src/connection/timing.ts";
import type { Down, Welcome } from "../../src/protocol/down.ts";

/** Short enough for tests, and apart enough to be told from each other. */
export const QUICK: Partial<Timing> = {
  token: 200, open: 200, welcome: 200, spread: 5, first: 5, last: 40, firstBusy: 5, offline: 50, grace: 100, probe: 100,
};

/** A connection, and what it has told. */
export class Client {
  readonly connection: Connection;
  readonly log: string[] = [];
  readonly messages: Down[] = [];
  readonly closed: CloseInfo[] = [];
  readonly welcomes: Welcome[] = [];
  statuses: Status[] = [];
  private watchers: (() => void)[] = [];

  constructor(url: string, options: Partial<ConnectionOptions> = {}) {
    this.connection = new Connection({
      url,
      WebSocket,
      timing: QUICK,
      hello: () => ({ subscriptions: [] }),
      onMessage: (message) => this.told(`message ${message.type}`, () => this.messages.push(message)),
      onOpen: (welcome) => this.told("open", () => this.welcomes.push(welcome)),
      onClose: (info) => this.told(`close ${info.closeCode}`, () => this.closed.push(info)),
      onStatus: (status) => this.told(`status ${status.state}`, () => this.statuses.push(status)),
      ...options,
    });
  }

  start(): this {
    this.connection.start();
    return this;
  }

  get status(): Status {
    return this.connection.status;
  }

  /** Resolves as soon as `holds` does; it is looked at whenever something was told. */
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

  live(transport?: TransportKind): Promise<void> {
    return this.until(() => this.status.state === "live" && (!transport || this.status.transport === transport));
  }

  private told(what: string, keep: () => void): void {
    this.log.push(what);
    keep();
    for (const watcher of [...this.watchers]) watcher();
  }
}
