// Whether the stored copies are what the server has: each is hashed by parts, as of one and the same commit on both sides, and only
// parts that differ are fetched again. One question at a time, as the server wants it. Main thread of the leading tab.

import type { Up } from "./protocol/up.ts";
import type { ErrorMessage, Repair, Verified } from "./protocol/down.ts";
import { exact, type ValueOptions } from "./copy/values.ts";
import type { Store } from "./store/store.ts";

export interface VerifyReport {
  table: string;
  /** Rows of the copy. */
  rows: number;
  /** Into how many parts they were divided for it. */
  parts: number;
  /** Parts that differed and were fetched again. */
  repaired: number;
  /** Characters of JSON that the rows of those took. */
  bytes: number;
  /** What kept it from being done, if something did. */
  failed?: string;
}

export interface IntegrityOptions {
  store: Store;
  send: (message: Up) => void;
  /** Rows of these parts are going to come. */
  expect: (name: string, parts: number, want: number[]) => void;
  values: ValueOptions;
  everyMs: number;
  /** Tables that can be verified now. */
  tables: () => string[];
  onReport: (report: VerifyReport) => void;
}

/** The two hashes of a copy at one commit. */
interface Question {
  report: VerifyReport;
  want: number[];
  /** What is hashed, where that is not all. */
  columns?: string[];
  rounds: number;
  ours: { cursor: string; parts: [string, number][] } | null;
  theirs: Verified | null;
  resolve: (report: VerifyReport) => void;
}

/** Rows of a part, about: what is fetched for one row that differs. */
const ROWS_OF_A_PART = 64;
const MOST_PARTS = 4096;
/** A copy that still differs after so many repairs is left to the next time. */
const ROUNDS = 4;
/** The server has asked to come later. */
const LATER_MS = 1000;
const SUSPICION_MS = 60_000;

export class Integrity {
  private readonly options: IntegrityOptions;
  private readonly waiting: { name: string; resolve: (report: VerifyReport) => void }[] = [];
  private current: Question | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private later: ReturnType<typeof setTimeout> | undefined;
  private live = false;
  private readonly suspected = new Map<string, number>();

  constructor(options: IntegrityOptions) {
    this.options = options;
  }

  start(): void {
    const { everyMs } = this.options;
    if (everyMs <= 0) return;
    this.timer = setTimeout(() => {
      this.start();
      if (this.live) void this.ask(this.options.tables());
    }, everyMs * (0.5 + Math.random()));
    (this.timer as { unref?: () => void }).unref?.();
  }

  stop(): void {
    clearTimeout(this.timer);
    clearTimeout(this.later);
    this.disconnected();
  }

  connected(): void {
    this.live = true;
  }

  /** What was asked is not going to be answered. */
  disconnected(): void {
    this.live = false;
    clearTimeout(this.later);
    const { current } = this;
    this.current = null;
    current?.resolve({ ...current.report, failed: "the connection was lost" });
    for (const { name, resolve } of this.waiting.splice(0)) resolve({ ...empty(name), failed: "the connection was lost" });
  }

  /** The table is not what was asked about any more. */
  forget(name: string): void {
    if (this.current?.report.table === name) this.end(this.current, "the table is not held any more");
  }

  /** Something about a copy looks wrong: it is compared, at most once a while, since a change that came twice looks so too. */
  suspect(name: string): void {
    const now = Date.now();
    if (!this.live || now - (this.suspected.get(name) ?? -Infinity) < SUSPICION_MS) return;
    this.suspected.set(name, now);
    void this.ask([name]);
  }

  ask(names: string[]): Promise<VerifyReport[]> {
    const reports = names.map((name) => new Promise<VerifyReport>((resolve) => this.waiting.push({ name, resolve })));
    this.next();
    return Promise.all(reports);
  }

  /** The copy right after a commit that the server has hashed too: to be called before the next one is applied. */
  async compare(name: string, cursor: string): Promise<void> {
    const { current } = this;
    if (current?.report.table !== name) return;
    const { parts } = current.report;
    const digest = await this.options.store.digest(name, parts);
    if (this.current !== current || !digest) return;
    current.report.rows = digest.rows;
    current.ours = { cursor, parts: digest.parts };
    this.judge();
  }

  verified(message: Verified): void {
    if (this.current?.report.table !== message.id) return;
    this.current.theirs = message;
    this.judge();
  }

  repairing(message: Repair): void {
    if (this.current?.report.table === message.id) this.current.report.bytes += JSON.stringify(message.rows).length;
  }

  /** Whether an error was an answer to a question of ours. */
  failed(message: ErrorMessage): boolean {
    const { current } = this;
    if (!current || current.report.table !== message.id) return false;
    if (message.code === "NOT_READY" && current.rounds < ROUNDS) {
      current.rounds++;
      this.later = setTimeout(() => this.current === current && this.send(current), LATER_MS);
      return true;
    }
    if (!["NOT_READY", "UNKNOWN_SUBSCRIPTION", "NOT_SUPPORTED", "VERIFY_FAILED", "TOO_MANY_REQUESTS"].includes(message.code)) return false;
    this.end(current, message.message);
    return true;
  }

  private next(): void {
    if (this.current) return;
    const first = this.waiting.shift();
    if (!first) return;
    if (!this.live || !this.options.tables().includes(first.name)) {
      first.resolve({ ...empty(first.name), failed: "the table is not live" });
      return this.next();
    }
    const current: Question = { report: empty(first.name), want: [], rounds: 0, ours: null, theirs: null, resolve: first.resolve };
    this.current = current;
    void this.prepare(current).catch((error: unknown) => this.end(current, String(error)));
  }

  private async prepare(question: Question): Promise<void> {
    const { store, values } = this.options;
    const { table } = question.report;
    const rows = await store.db.table(table).count();
    const layout = (await store.head()).tables[table]?.layout;
    if (this.current !== question || !layout) return;
    const columns = exact(layout, values);
    if (columns.length < layout.columns.length) question.columns = columns;
    question.report.parts = Math.min(Math.max(1, Math.ceil(rows / ROWS_OF_A_PART)), MOST_PARTS);
    this.send(question);
  }

  private send(question: Question): void {
    const { table, parts } = question.report;
    question.ours = null;
    question.theirs = null;
    if (question.want.length > 0) this.options.expect(table, parts, question.want);
    const { columns } = question;
    this.options.send({
      type: "verify",
      id: table,
      parts,
      ...(columns && { columns }),
      ...(question.want.length > 0 && { want: question.want }),
    });
  }

  /** Once both are known: equal, or the parts that are not are asked for, until they are. */
  private judge(): void {
    const question = this.current;
    if (!question?.ours || !question.theirs) return;
    const theirs = question.theirs.parts ?? [[question.theirs.hash, question.theirs.rows] as [string, number]];
    const ours = question.ours.parts;
    if (question.ours.cursor !== question.theirs.cursor) return this.end(question, "the hashes are of different commits");
    const differ = ours.flatMap(([hash, rows], part) => (theirs[part]?.[0] === hash && theirs[part]?.[1] === rows ? [] : [part]));
    // What was just asked for comes into the copy with the next commit, so this comparison was still without it.
    if (differ.length === 0) return this.end(question);
    if (++question.rounds > ROUNDS) return this.end(question, "the copy still differs after it was repaired");
    if (question.want.length === 0) {
      question.report.repaired += differ.length;
      question.want = differ;
    } else {
      question.want = [];
    }
    this.send(question);
  }

  private end(question: Question, failed?: string): void {
    if (this.current !== question) return;
    this.current = null;
    const report = failed === undefined ? question.report : { ...question.report, failed };
    question.resolve(report);
    this.options.onReport(report);
    this.next();
  }
}

function empty(table: string): VerifyReport {
  return { table, rows: 0, parts: 1, repaired: 0, bytes: 0 };
}
