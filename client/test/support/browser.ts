// A browser with tabs, in Node: one IndexedDB, channels between the tabs, locks if it has them, and tabs that can die between any
// two steps. What a dead tab has begun and not finished is undone, and nothing that it does afterwards has an effect.

import { AsyncLocalStorage } from "node:async_hooks";
import { forceCloseDatabase, IDBFactory, IDBKeyRange } from "fake-indexeddb";
import { WebSocket } from "ws";
import { connect, type ConnectOptions, type Row, type Rte, type Status } from "../../src/index.ts";

const current = new AsyncLocalStorage<Tab>();

/** Channels know the tab that has made them. */
const Native = globalThis.BroadcastChannel;
class TabChannel extends Native {
  private readonly tab = current.getStore();

  constructor(name: string) {
    super(name);
    this.tab?.channels.push(this);
  }

  override postMessage(message: unknown): void {
    if (!this.tab?.dead) super.postMessage(message);
  }
}
globalThis.BroadcastChannel = TabChannel as typeof BroadcastChannel;

interface Wait { tab: Tab; name: string; grant: () => void; refuse: (error: unknown) => void }
interface Held extends Wait { release: () => void }

/** Web Locks, as far as they are used. */
class Locks {
  private readonly held = new Map<string, Held>();
  private waiting: Wait[] = [];

  of(tab: Tab): LockManager {
    return {
      request: (name: string, options: LockOptions, callback: () => unknown) => this.request(tab, name, options, callback),
      query: () => Promise.resolve({ held: [...this.held.keys()].map((name) => ({ name })), pending: [] }),
    } as unknown as LockManager;
  }

  get names(): string[] {
    return [...this.held.keys()];
  }

  died(tab: Tab): void {
    this.waiting = this.waiting.filter((wait) => wait.tab !== tab);
    for (const held of [...this.held.values()]) if (held.tab === tab) held.release();
  }

  private request(tab: Tab, name: string, { signal, steal }: LockOptions, callback: () => unknown): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const wait: Wait = { tab, name, refuse: reject, grant: () => {
        let mine = true;
        const release = (): void => {
          if (!mine) return;
          mine = false;
          if (this.held.get(name) === held) this.held.delete(name);
          const next = this.waiting.find((other) => other.name === name);
          this.waiting = this.waiting.filter((other) => other !== next);
          next?.grant();
        };
        const held: Held = { ...wait, release };
        this.held.set(name, held);
        queueMicrotask(() => {
          if (tab.dead) return release();
          Promise.resolve(callback()).finally(release).then(resolve, reject);
        });
      } };
      if (steal) {
        this.held.get(name)?.refuse(new DOMException("stolen", "AbortError"));
        return wait.grant();
      }
      signal?.addEventListener("abort", () => {
        if (!this.waiting.includes(wait)) return;
        this.waiting = this.waiting.filter((other) => other !== wait);
        reject(signal.reason as Error);
      });
      if (this.held.has(name)) this.waiting.push(wait);
      else wait.grant();
    });
  }
}

export class Browser {
  readonly factory = new IDBFactory();
  readonly locks: Locks | null;
  readonly tabs: Tab[] = [];

  constructor({ locks = true } = {}) {
    this.locks = locks ? new Locks() : null;
  }

  tab(): Tab {
    const tab = new Tab(this);
    this.tabs.push(tab);
    return tab;
  }

  async close(): Promise<void> {
    for (const tab of this.tabs) await tab.close();
  }
}

export class Tab {
  dead = false;
  /** Without a network no socket opens. */
  online = true;
  readonly channels: BroadcastChannel[] = [];
  readonly clients: Rte[] = [];
  private readonly browser: Browser;
  private readonly databases: IDBDatabase[] = [];
  private readonly sockets: WebSocket[] = [];

  constructor(browser: Browser) {
    this.browser = browser;
  }

  async connect<T extends { [Name in keyof T]: object } = Record<string, Row>>(options: ConnectOptions): Promise<Rte<T>> {
    const rte = await current.run(this, () => connect<T>({
      transports: ["websocket"], verifyEvery: 0, user: "somebody", ...options, runtime: { ...this.runtime(), ...options.runtime },
    } as ConnectOptions<keyof T & string>));
    this.clients.push(rte as unknown as Rte);
    return rte;
  }

  runtime(): NonNullable<ConnectOptions["runtime"]> {
    const tab = this;
    const { factory, locks } = this.browser;
    class Socket extends WebSocket {
      constructor(url: string, protocols: string[]) {
        super(tab.dead || !tab.online ? "ws://127.0.0.1:1" : url, protocols);
        tab.sockets.push(this);
      }
    }
    const indexedDB = new Proxy(factory, {
      get: (_, name) => name === "open" ? (...args: [string, number?]) => this.openDatabase(...args) : bound(factory, name),
    });
    return {
      WebSocket: Socket as unknown as typeof globalThis.WebSocket,
      fetch: (...args) => (tab.dead || !tab.online ? Promise.reject(new TypeError("no network")) : fetch(...args)),
      indexedDB: indexedDB as unknown as globalThis.IDBFactory,
      IDBKeyRange: IDBKeyRange as unknown as typeof globalThis.IDBKeyRange,
      locks: locks?.of(this) ?? null,
    };
  }

  /** The process is gone. */
  kill(): void {
    this.dead = true;
    for (const socket of this.sockets) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.onerror = () => {};
      socket.terminate();
    }
    for (const database of this.databases) forceCloseDatabase(database as never);
    for (const channel of this.channels) channel.close();
    this.browser.locks?.died(this);
  }

  /** The network is gone. */
  unplug(): void {
    this.online = false;
    for (const socket of this.sockets) socket.terminate();
  }

  plug(): void {
    this.online = true;
  }

  async close(): Promise<void> {
    for (const rte of this.clients.splice(0)) {
      const closing = rte.close();
      if (!this.dead) await closing;
    }
  }

  private openDatabase(name: string, version?: number): IDBOpenDBRequest {
    // The request of a dead tab is never answered.
    if (this.dead) return new EventTarget() as unknown as IDBOpenDBRequest;
    const request = this.browser.factory.open(name, version) as unknown as IDBOpenDBRequest;
    const keep = (): void => {
      this.databases.push(request.result);
      if (this.dead) forceCloseDatabase(request.result as never);
    };
    request.addEventListener("success", keep);
    request.addEventListener("upgradeneeded", keep);
    return request;
  }
}

function bound(target: object, name: string | symbol): unknown {
  const value = Reflect.get(target, name) as unknown;
  return typeof value === "function" ? (value as (...args: unknown[]) => unknown).bind(target) : value;
}

/** Resolves as soon as `holds` does; it is looked at with each event of the client, and a few times each second for what has none. */
export function until(rte: Pick<Rte, "on">, holds: () => boolean | Promise<boolean>, what = "what is waited for", ms = 15_000): Promise<void> {
  return new Promise((resolve, reject) => {
    let over = false;
    const stops: (() => void)[] = [];
    const end = (then: () => void): void => {
      over = true;
      for (const stop of stops) stop();
      clearInterval(timer);
      clearTimeout(limit);
      then();
    };
    const look = async (): Promise<void> => {
      try {
        if (!over && (await holds()) && !over) end(resolve);
      } catch (error) {
        if (!over) end(() => reject(error as Error));
      }
    };
    const timer = setInterval(() => void look(), 50);
    const limit = setTimeout(() => end(() => reject(new Error(`never came: ${what}`))), ms);
    for (const event of ["status", "change", "error"] as const) stops.push(rte.on(event, () => void look()));
    void look();
  });
}

export function live(rte: Pick<Rte, "on" | "status">): Promise<void> {
  return until(rte, () => rte.status.state === "live", "live");
}

/** What was shown, in order. */
export function states() {
  const seen: Status[] = [];
  let watchers: ((status: Status) => void)[] = [];
  return {
    seen,
    onStatus: (status: Status): void => {
      seen.push(status);
      for (const watcher of watchers) watcher(status);
    },
    /** Each state once, in order. */
    names: (): string[] => seen.map(({ state }) => state).filter((state, i, all) => state !== all[i - 1]),
    until: (holds: (status: Status) => boolean): Promise<void> => new Promise((resolve) => {
      const look = (status: Status): void => {
        if (!holds(status)) return;
        watchers = watchers.filter((watcher) => watcher !== look);
        resolve();
      };
      watchers.push(look);
    }),
  };
}
