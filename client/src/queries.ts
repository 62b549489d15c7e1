// Queries that go on: each is asked again whenever what it has read changes, also by other tabs, and begun anew when the
// store under it is another one. Built on Dexie's liveQuery. Any tab.

import { liveQuery, type Subscription } from "dexie";

interface Live {
  until: () => Promise<void> | undefined;
  query: () => Promise<unknown>;
  callback: (result: never) => void;
  onError: ((error: unknown) => void) | undefined;
  running: Subscription | null;
  /** Counts beginnings: what an earlier one still brings is not told. */
  turn: number;
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
    const live: Live = { until, query, callback, onError, running: null, turn: 0, ended: false };
    this.all.add(live);
    this.begin(live);
    return () => this.end(live);
  }

  /** Asks all anew, of the store and the copies that there are now. */
  restart(): void {
    for (const live of this.all) this.begin(live);
  }

  end(live?: Live): void {
    for (const one of live ? [live] : [...this.all]) {
      one.ended = true;
      one.running?.unsubscribe();
      this.all.delete(one);
    }
  }

  private begin(live: Live): void {
    const turn = ++live.turn;
    live.running?.unsubscribe();
    live.running = null;
    const current = (): boolean => !live.ended && live.turn === turn;
    const failed = (error: unknown): void => {
      if (current()) (live.onError ?? this.report)(error);
    };
    void Promise.resolve(live.until()).then(() => {
      if (!current()) return;
      // Dexie follows a query through its awaits only where the function that it is given is an async one.
      live.running = liveQuery(async () => live.query()).subscribe({
        next: (result) => {
          if (current()) live.callback(result as never);
        },
        error: failed,
      });
    }, failed);
  }
}
