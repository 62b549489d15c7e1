// Parses a stream of server-sent events, as HTML describes it, out of chunks that may end anywhere. Pure.

export interface ServerEvent {
  /** "message" by default. */
  event: string;
  data: string;
}

export class EventParser {
  private rest = "";
  /** How much of `rest` holds no line's end. */
  private scanned = 0;
  private event = "";
  private data: string[] = [];

  /** The events that this chunk has completed. */
  feed(chunk: string): ServerEvent[] {
    this.rest += chunk;
    const events: ServerEvent[] = [];
    let begin = 0;
    for (;;) {
      const end = this.lineEnd();
      if (end < 0) break;
      const line = this.rest.slice(begin, end);
      // A pair of characters is one end.
      begin = end + (this.rest[end] === "\r" && this.rest[end + 1] === "\n" ? 2 : 1);
      this.scanned = begin;
      if (line !== "") this.field(line);
      else this.dispatch(events);
    }
    this.rest = this.rest.slice(begin);
    this.scanned -= begin;
    return events;
  }

  /** Where the next line ends, or -1 if that has not come. A `\r` at the end of all may be half of an end. */
  private lineEnd(): number {
    for (let i = this.scanned; i < this.rest.length; i++) {
      const c = this.rest.charCodeAt(i);
      if (c === 10 || (c === 13 && i + 1 < this.rest.length)) return i;
      if (c === 13) {
        this.scanned = i;
        return -1;
      }
    }
    this.scanned = this.rest.length;
    return -1;
  }

  private field(line: string): void {
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "data") this.data.push(value);
    else if (name === "event") this.event = value;
  }

  private dispatch(events: ServerEvent[]): void {
    if (this.data.length > 0) events.push({ event: this.event || "message", data: this.data.join("\n") });
    this.data = [];
    this.event = "";
  }
}
