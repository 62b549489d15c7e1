// When the browser is about to freeze a page, or puts it away for the back button: such a page must not lead. Any tab; outside
// of browsers nothing happens.

export interface LifecycleEvents {
  freeze: () => void;
  thaw: () => void;
  visible: () => void;
}

export class Lifecycle {
  private readonly end = new AbortController();
  private readonly events: LifecycleEvents;

  constructor(events: LifecycleEvents) {
    this.events = events;
  }

  start(): void {
    const { document, window } = globalThis as { document?: Document; window?: Window };
    if (!document?.addEventListener || !window?.addEventListener) return;
    const options = { signal: this.end.signal, capture: true };
    document.addEventListener("freeze", this.events.freeze, options);
    document.addEventListener("resume", this.events.thaw, options);
    window.addEventListener("pagehide", (event) => event.persisted && this.events.freeze(), options);
    window.addEventListener("pageshow", (event) => event.persisted && this.events.thaw(), options);
    const visible = () => document.visibilityState === "visible" && this.events.visible();
    document.addEventListener("visibilitychange", visible, options);
  }

  stop(): void {
    this.end.abort();
  }
}
