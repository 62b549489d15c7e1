// Who leads: at most one tab of a store holds the connection. With Web Locks the browser decides, and notices when a
// leader dies; without them tabs ask each other, and one that hears no answer takes over.
//
// Only liveness rests on this. That two leaders never both write is the store's fence (its epoch). Any tab.

import type { Channel, TabMessage } from "./channel.ts";

/** How long a leader may take to answer before it counts as dead, ms: long where the browser says who is, short where it does not. */
const ANSWER_MS = { locks: 4000, none: 1000 };
/** How often a follower asks, ms. */
const ASK_MS = 10_000;

export interface ElectionOptions {
  name: string;
  tab: string;
  channel: Channel;
  locks?: LockManager | undefined;
  /** Called when this tab leads; what it returns is called when it no longer does. */
  lead: () => () => void;
  random?: () => number;
}

export class Election {
  private readonly options: ElectionOptions;
  private readonly locks: LockManager | undefined;
  private end: (() => void) | null = null;
  private release: (() => void) | null = null;
  private waiting: AbortController | null = null;
  private running = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private unanswered: ReturnType<typeof setTimeout> | undefined;

  constructor(options: ElectionOptions) {
    this.options = options;
    this.locks = "locks" in options ? options.locks : globalThis.navigator?.locks;
  }

  get leads(): boolean {
    return this.end !== null;
  }

  start(): void {
    if (this.running) return;
    this.running = true;
    if (this.locks) this.queue(false);
    // Without locks an answer is awaited first; with them the question finds a leader that hangs.
    this.ask(this.locks ? ASK_MS : 0);
  }

  /** Lets another lead; `start` applies again. */
  stop(): void {
    this.running = false;
    clearTimeout(this.timer);
    clearTimeout(this.unanswered);
    this.waiting?.abort();
    this.waiting = null;
    this.resign();
  }

  /** Another tab has taken over, or the store has said so. */
  deposed(): void {
    this.resign();
    if (!this.running) return;
    if (this.locks) this.queue(false);
    this.ask(ASK_MS);
  }

  heard(message: TabMessage): void {
    if (message.type === "leading") {
      clearTimeout(this.unanswered);
      this.unanswered = undefined;
    } else if (message.type === "resign" && this.running && !this.leads && !this.locks) {
      this.ask(0);
    }
  }

  /** Asks at once whether there is still a leader: to be called when the tab becomes visible. */
  check(): void {
    if (this.running && !this.leads) this.ask(0);
  }

  private ask(delay: number): void {
    clearTimeout(this.timer);
    const jitter = (this.options.random ?? Math.random)();
    this.timer = setTimeout(() => {
      if (!this.running || this.leads) return;
      this.options.channel.send({ type: "who", tab: this.options.tab });
      this.unanswered ??= setTimeout(() => this.nobody(), (this.locks ? ANSWER_MS.locks : ANSWER_MS.none) * (0.7 + 0.6 * jitter));
      this.ask(ASK_MS * (0.7 + 0.6 * jitter));
    }, delay);
  }

  private nobody(): void {
    this.unanswered = undefined;
    if (!this.running || this.leads) return;
    if (this.locks) void this.stealIfHeld();
    else this.lead();
  }

  /** A leader that does not answer but holds the lock hangs. Where nobody holds it, it is about to be ours. */
  private async stealIfHeld(): Promise<void> {
    const { held } = await this.locks!.query();
    if (!this.running || this.leads || !held?.some((lock) => lock.name === this.options.name)) return;
    this.waiting?.abort();
    this.queue(true);
  }

  private queue(steal: boolean): void {
    const waiting = steal ? null : new AbortController();
    this.waiting = waiting;
    this.locks!
      .request(this.options.name, steal ? { steal: true } : { signal: waiting!.signal }, () => {
        if (!this.running || (waiting && this.waiting !== waiting)) return undefined;
        this.waiting = null;
        return new Promise<void>((resolve) => {
          this.release = resolve;
          this.lead();
        });
      })
      .catch(() => {
        // Given up by us, or stolen by a tab that found us hanging.
        if (this.release && this.running && !waiting?.signal.aborted) {
          this.release = null;
          this.deposed();
        }
      });
  }

  private lead(): void {
    if (this.end) return;
    clearTimeout(this.timer);
    clearTimeout(this.unanswered);
    this.unanswered = undefined;
    this.end = this.options.lead();
  }

  private resign(): void {
    const end = this.end;
    this.end = null;
    if (end) {
      end();
      this.options.channel.send({ type: "resign", tab: this.options.tab });
    }
    this.release?.();
    this.release = null;
  }
}
