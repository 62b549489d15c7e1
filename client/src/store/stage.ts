// Rows of snapshots that wait for their commit: in memory up to a bound, beyond it in the store `_rte_staging`.
//
// Decides nothing about copies: `apply` reads a stage and ends it. What another leader left is void and removed at
// accession. Invariant: memory that is not being written out stays under the bound. Main thread of the leading tab.

import type { Dexie, Table } from "dexie";
import type { StageSink } from "../copy/assembler.ts";
import type { Layout } from "../copy/layout.ts";
import { Deposed } from "./errors.ts";
import { HEAD, readHead, STAGING } from "./head.ts";

/** Estimated bytes of staged rows that are kept in memory. */
export const STAGE_BYTES = 64 << 20;
/** Estimated bytes of parts that one transaction writes out. */
const WRITE_BYTES = 1 << 20;

export interface Stage {
  number: number;
  layout: Layout;
  /** What the definition was when it began. */
  identity: string | undefined;
  parts: { rows: unknown[][] | null; bytes: number }[];
}

interface Fence { epoch: number; leader: string }

export class Staging implements StageSink {
  private readonly stages = new Map<string, Stage>();
  private readonly bound: number;
  private readonly db: () => Promise<Dexie>;
  private readonly fence: () => Fence;
  private readonly identity: (name: string) => string | undefined;
  private held = 0;
  private next = 0;
  private writing: Promise<void> | null = null;
  private failure: unknown = null;

  constructor(
    db: () => Promise<Dexie>,
    fence: () => Fence,
    identity: (name: string) => string | undefined,
    bound = STAGE_BYTES,
  ) {
    this.db = db;
    this.fence = fence;
    this.identity = identity;
    this.bound = bound;
  }

  begin(name: string, layout: Layout): void {
    this.drop(name);
    this.stages.set(name, { number: this.next++, layout, identity: this.identity(name), parts: [] });
  }

  append(name: string, rows: unknown[][]): void {
    const stage = this.stages.get(name);
    if (!stage || rows.length === 0) return;
    const bytes = weigh(rows);
    stage.parts.push({ rows, bytes });
    this.held += bytes;
    if (this.held > this.bound) this.writing ??= this.write().finally(() => (this.writing = null));
  }

  drop(name: string): void {
    const stage = this.stages.get(name);
    if (!stage) return;
    this.stages.delete(name);
    for (const part of stage.parts) if (part.rows) this.held -= part.bytes;
    // Left-overs are harmless, and removed at the next accession if not now.
    if (stage.parts.some(({ rows }) => rows === null)) void this.clear(stage).catch(() => {});
  }

  get(name: string): Stage | undefined {
    return this.stages.get(name);
  }

  /** Names of snapshots that are not complete, or not used yet. */
  open(): string[] {
    return [...this.stages.keys()];
  }

  /** Resolves when nothing is being written; throws once what kept rows from being written, which stay in memory. */
  async settled(): Promise<void> {
    while (this.writing) await this.writing;
    if (this.failure !== null) {
      const failure = this.failure;
      this.failure = null;
      throw failure;
    }
  }

  /** Rows of a part. Inside a transaction over `_rte_staging` if the stage is `spilled`. */
  async part(stage: Stage, part: number, staging: Table | null): Promise<unknown[][]> {
    const rows = stage.parts[part]!.rows ?? ((await staging?.get(this.key(stage, part))) as unknown[][] | undefined);
    if (!rows) throw new Deposed("staged rows were removed");
    return rows;
  }

  spilled(stage: Stage): boolean {
    return stage.parts.some(({ rows }) => rows === null);
  }

  /** What has been written out of a stage: keys of `_rte_staging`. */
  keys(stage: Stage): number[][] {
    return stage.parts.flatMap(({ rows }, part) => (rows === null ? [this.key(stage, part)] : []));
  }

  /** The stage is used up; its records were removed with the transaction that used them. */
  used(name: string, stage: Stage): void {
    if (this.stages.get(name) !== stage) return;
    this.stages.delete(name);
    for (const part of stage.parts) if (part.rows) this.held -= part.bytes;
  }

  private key(stage: Stage, part: number): number[] {
    return [this.fence().epoch, stage.number, part];
  }

  private async clear(stage: Stage): Promise<void> {
    const db = await this.db();
    await db.table(STAGING).bulkDelete(this.keys(stage));
  }

  /** Writes out the oldest parts until half of the bound is free. */
  private async write(): Promise<void> {
    try {
      while (this.held > this.bound / 2) {
        const batch = this.oldest();
        if (batch.length === 0) return;
        const db = await this.db();
        const { epoch, leader } = this.fence();
        await db.transaction("rw", [HEAD, STAGING], async () => {
          const head = await readHead(db.table(HEAD));
          if (head.epoch !== epoch || head.leader !== leader) throw new Deposed("another tab leads");
          await db.table(STAGING).bulkPut(batch.map(({ rows }) => rows), batch.map(({ key }) => key) as never);
        });
        for (const { stage, part, name } of batch) {
          if (this.stages.get(name) !== stage) continue;
          this.held -= stage.parts[part]!.bytes;
          stage.parts[part]!.rows = null;
        }
      }
    } catch (error) {
      this.failure = error;
    }
  }

  private oldest(): { name: string; stage: Stage; part: number; key: number[]; rows: unknown[][] }[] {
    const batch = [];
    let bytes = 0;
    for (const [name, stage] of this.stages) {
      for (const [part, { rows, bytes: size }] of stage.parts.entries()) {
        if (!rows) continue;
        batch.push({ name, stage, part, key: this.key(stage, part), rows });
        bytes += size;
        if (bytes >= WRITE_BYTES) return batch;
      }
    }
    return batch;
  }
}

/** About the bytes that rows take in memory. */
function weigh(rows: unknown[][]): number {
  let bytes = 0;
  for (const row of rows) {
    bytes += 32 + 8 * row.length;
    for (const value of row) {
      if (typeof value === "string") bytes += 16 + value.length;
      else if (typeof value === "object" && value !== null) bytes += 2 * JSON.stringify(value).length;
    }
  }
  return bytes;
}
