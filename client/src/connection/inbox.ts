// What a transport has received and the client has not yet taken. Messages are parsed one at a time and delivered in
// order; when that takes long the page has its turn in between, so that a burst does not freeze it. The end of the
// transport comes after all messages that came before it.

import { CLOSE } from "../protocol/close.ts";
import type { Down } from "../protocol/down.ts";
import type { Listener } from "./transport.ts";

/** How long the page waits at most, apart from one message alone. Half of a frame at 60 Hz. */
const SLICE_MS = 8;

type Entry = { text: string } | { message: unknown } | { close: number; reason: string };

export class Inbox {
  private readonly listener: Listener;
  private queue: Entry[] = [];
  private next = 0;
  private yielding = false;
  private draining = false;
  private ended = false;
  /** When delivering began, with no turn of the page since that is known of. */
  private begun = 0;
  /** When the last message was delivered. */
  private paused = 0;

  constructor(listener: Listener) {
    this.listener = listener;
  }

  /** A message's JSON. */
  text(text: string): void {
    this.push({ text });
  }

  /** A message that was parsed already, as part of something larger. */
  message(message: unknown): void {
    this.push({ message });
  }

  /** A sign of life that is no message. */
  alive(): void {
    if (!this.ended) this.listener.alive();
  }

  /** The transport has ended. What comes later is not taken any more. */
  end(close: number, reason: string): void {
    this.push({ close, reason });
    this.ended = true;
  }

  /** Nothing is delivered any more. */
  discard(): void {
    this.ended = true;
    this.queue = [];
    this.next = 0;
  }

  private push(entry: Entry): void {
    if (this.ended) return;
    this.queue.push(entry);
    if (!("close" in entry)) this.listener.alive();
    if (!this.yielding && !this.draining) this.drain();
  }

  private drain(): void {
    this.draining = true;
    let now = performance.now();
    if (now - this.paused > SLICE_MS) this.begun = now;
    while (this.next < this.queue.length) {
      if (now - this.begun > SLICE_MS) {
        this.yield();
        break;
      }
      this.deliver(this.queue[this.next++]!);
      now = performance.now();
    }
    if (this.next >= this.queue.length) {
      this.queue = [];
      this.next = 0;
    }
    this.paused = now;
    this.draining = false;
  }

  private yield(): void {
    this.yielding = true;
    afterThePage(() => {
      this.yielding = false;
      this.begun = performance.now();
      this.drain();
    });
  }

  private deliver(entry: Entry): void {
    if ("close" in entry) return this.listener.closed(entry.close, entry.reason);
    const message = "text" in entry ? parsed(entry.text) : entry.message;
    if (isMessage(message)) return this.listener.message(message);
    this.discard();
    this.listener.closed(CLOSE.internal, "something between answered with what is no message");
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Types that are unknown count: later servers may say more. */
function isMessage(value: unknown): value is Down {
  return typeof (value as Down | null | undefined)?.type === "string";
}

/** Lets the page draw and take input, without the 4 ms that a timer waits at least. */
function afterThePage(run: () => void): void {
  const { scheduler } = globalThis as { scheduler?: { yield?: () => Promise<void> } };
  if (scheduler?.yield) {
    void scheduler.yield().then(run);
  } else if (typeof MessageChannel === "function") {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      run();
    };
    port2.postMessage(0);
  } else {
    setTimeout(run);
  }
}
