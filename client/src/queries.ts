// Queries that go on: each is asked again whenever what it has read changes, also by other tabs, and begun anew when the
// store under it is another one. Built on Dexie's liveQuery. Any tab.

import { liveQuery, type Subscription } from "dexie";

interface Live {
  query: () => Promise<unknown>;
  callback: (result: never) => void;
  onError: ((error: unknown) => void) | undefined;
  running: Subscription | null;
  ended: boolean;
}

export class Queries {
  private readonly all = new Set<Live>();
  private readonly report: (error: unknown) => void;

  constructor(report: (error: unknown) => void) {
    this.report = report;
  }

  /** `until` is awaited first: what a query awaits besides the store would hide its reads from Dexie. */
  add<R>(
    until: () => Promise<void> | undefined,
    query: () => Promise<R>,
    callback: (result: R) => void,
    onError?: (error: unknown) => void,
  ): () => void {
    const live: Live = { query, callback, onError, running: null, ended: false };
    this.all.add(live);
    const failed = (error: unknown) => {
      if (!live.ended) (onError ?? this.report)(error);
    };
    void Promise.resolve(until()).then(() => this.run(live), failed);
    return () => this.end(live);
  }

  /** Asks all anew, of the store that there is now. */
  restart(): void {
    for (const live of this.all) if (live.running) this.run(live);
  }

  end(live?: Live): void {
    for (const one of live ? [live] : [...this.all]) {
      one.ended = true;
      one.running?.unsubscribe();
      this.all.delete(one);
    }
  }

  private run(live: Live): void {
    if (live.ended) return;
    live.running?.unsubscribe();
    // Dexie follows a query through its awaits only where the function that it is given is an async one.
    live.running = liveQuery(async () => live.query()).subscribe({
      next: (result) => {
        if (!live.ended) live.callback(result as never);
      },
      error: (error: unknown) => {
        if (!live.ended) (live.onError ?? this.report)(error);
      },
    });
  }
}
