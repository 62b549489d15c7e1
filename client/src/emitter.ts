// Listeners by the name of an event. One that throws hinders nobody: the error is reported as uncaught. Pure.

export class Emitter<Events extends object> {
  private readonly listeners = new Map<keyof Events, Set<(event: never) => void>>();

  /** Returns what ends it. */
  on<K extends keyof Events>(name: K, listener: (event: Events[K]) => void): () => void {
    let all = this.listeners.get(name);
    if (!all) this.listeners.set(name, (all = new Set()));
    all.add(listener);
    return () => void all.delete(listener);
  }

  emit<K extends keyof Events>(name: K, event: Events[K]): void {
    for (const listener of [...(this.listeners.get(name) ?? [])]) {
      try {
        (listener as (event: Events[K]) => void)(event);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }

  clear(): void {
    this.listeners.clear();
  }
}
