// Hashes by which server and client find out whether they hold the same rows: the canonical form of a value (RFC 8785,
// of what JSON.parse gives), two lanes of MurmurHash3_x86_32 over it, and sums of them over a set, by parts.
//
// Invariant: equals what crates/core computes for the same rows in any order (vectors:
// crates/core/tests/hash_vectors.json). Pure; any thread.

const SEEDS = [0x9747b28c, 0x85ebca6b] as const;

const encoder = new TextEncoder();
let words = new Int32Array(1024);
let bytes = new Uint8Array(words.buffer);

/** Canonical JSON: members by UTF-16 code units, numbers and strings as JSON.stringify writes them. */
export function canonical(value: unknown): string {
  if (native(value)) return JSON.stringify(value) ?? "null";
  if (Array.isArray(value)) return "[" + value.map(canonical).join(",") + "]";
  const object = value as Record<string, unknown>;
  const members = Object.keys(object).sort().map((name) => JSON.stringify(name) + ":" + canonical(object[name]));
  return "{" + members.join(",") + "}";
}

/** Whether JSON.stringify's own order is the canonical one: there is no object in it. */
function native(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return true;
  return Array.isArray(value) && value.every(native);
}

/** MurmurHash3_x86_32 of a text's UTF-8, unsigned. */
export function murmur3(text: string, seed: number): number {
  return mix(encode(text), seed);
}

/** The part of `parts` that a row belongs to, by its key as the wire has it. */
export function partOf(key: unknown[], parts: number): number {
  return parts === 1 ? 0 : murmur3(canonical(key), 0) % parts;
}

/** Sixteen hexadecimal digits. */
export function rowHash(row: unknown[]): string {
  const length = encode(canonical(row));
  return hex(mix(length, SEEDS[0])) + hex(mix(length, SEEDS[1]));
}

/** The hash of a set of rows, whole and by parts. */
export class SetHash {
  readonly parts: number;
  rows = 0;
  private readonly sums: Uint32Array;
  private readonly counts: number[];

  constructor(parts = 1) {
    this.parts = parts;
    this.sums = new Uint32Array(2 * parts);
    this.counts = new Array<number>(parts).fill(0);
  }

  /** Row and key as the wire has them. */
  add(row: unknown[], key: unknown[]): void {
    const part = partOf(key, this.parts);
    const length = encode(canonical(row));
    this.sums[2 * part]! += mix(length, SEEDS[0]);
    this.sums[2 * part + 1]! += mix(length, SEEDS[1]);
    this.counts[part]! += 1;
    this.rows += 1;
  }

  /** Of all rows, sixteen hexadecimal digits. */
  hash(): string {
    let one = 0;
    let two = 0;
    for (let i = 0; i < this.sums.length; i += 2) {
      one = (one + this.sums[i]!) >>> 0;
      two = (two + this.sums[i + 1]!) >>> 0;
    }
    return hex(one) + hex(two);
  }

  /** Hash and number of rows of each part. */
  list(): [hash: string, rows: number][] {
    return this.counts.map((rows, part) => [hex(this.sums[2 * part]!) + hex(this.sums[2 * part + 1]!), rows]);
  }
}

function encode(text: string): number {
  if (bytes.length < 3 * text.length + 4) {
    words = new Int32Array(Math.ceil((3 * text.length + 4) / 4) * 2);
    bytes = new Uint8Array(words.buffer);
  }
  return encoder.encodeInto(text, bytes).written;
}

/**
 * Of the first `length` bytes. Words are read as the machine has them: everything that runs a browser is little-endian.
 */
function mix(length: number, seed: number): number {
  const blocks = length >>> 2;
  let h = seed | 0;
  for (let i = 0; i < blocks; i++) {
    let k = Math.imul(words[i]!, 0xcc9e2d51);
    k = (k << 15) | (k >>> 17);
    h ^= Math.imul(k, 0x1b873593);
    h = (h << 13) | (h >>> 19);
    h = (Math.imul(h, 5) + 0xe6546b64) | 0;
  }
  const rest = length & 3;
  if (rest > 0) {
    let k = 0;
    for (let i = rest - 1; i >= 0; i--) k = (k << 8) | bytes[4 * blocks + i]!;
    k = Math.imul(k, 0xcc9e2d51);
    k = (k << 15) | (k >>> 17);
    h ^= Math.imul(k, 0x1b873593);
  }
  h ^= length;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

function hex(lane: number): string {
  return lane.toString(16).padStart(8, "0");
}
