// Client and server must come to the same hashes: the vectors are tested by crates/core too.
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { canonical, murmur3, partOf, rowHash, SetHash } from "../src/copy/hash.ts";

interface Vector { row: string; canonical: string; hash: string; key: string; part_of_256: number }
const file = new URL("../../crates/core/tests/hash_vectors.json", import.meta.url);
const vectors = JSON.parse(readFileSync(file, "utf8")) as Vector[];

test("murmur3 gives the published values", () => {
  const published: [string, number, number][] = [
    ["", 0, 0], ["", 1, 0x514e28b7], ["", 0xffffffff, 0x81f16f39], ["test", 0, 0xba6bd213], ["test", 0x9747b28c, 0x704b81dc],
    ["Hello, world!", 0, 0xc0363e43], ["Hello, world!", 0x9747b28c, 0x24884cba],
    ["The quick brown fox jumps over the lazy dog", 0, 0x2e4ff723],
    ["The quick brown fox jumps over the lazy dog", 0x9747b28c, 0x2fa826cd],
    ["aaaa", 0x9747b28c, 0x5a97808a], ["aaa", 0x9747b28c, 0x283e0130], ["aa", 0x9747b28c, 0x5d211726],
    ["a", 0x9747b28c, 0x7fa09ea6], ["abcd", 0x9747b28c, 0xf0478627], ["ππππππππ", 0x9747b28c, 0xd58063c1],
  ];
  for (const [text, seed, hash] of published) expect(murmur3(text, seed), text).toBe(hash);
});

test("numbers are written as RFC 8785's appendix B has them", () => {
  const published: [bits: string, text: string][] = [
    ["0000000000000000", "0"], ["8000000000000000", "0"], ["0000000000000001", "5e-324"], ["8000000000000001", "-5e-324"],
    ["7fefffffffffffff", "1.7976931348623157e+308"], ["ffefffffffffffff", "-1.7976931348623157e+308"],
    ["4340000000000000", "9007199254740992"], ["c340000000000000", "-9007199254740992"],
    ["4430000000000000", "295147905179352830000"], ["44b52d02c7e14af5", "9.999999999999997e+22"],
    ["44b52d02c7e14af6", "1e+23"], ["44b52d02c7e14af7", "1.0000000000000001e+23"],
    ["444b1ae4d6e2ef4e", "999999999999999700000"], ["444b1ae4d6e2ef4f", "999999999999999900000"],
    ["444b1ae4d6e2ef50", "1e+21"], ["3eb0c6f7a0b5ed8c", "9.999999999999997e-7"], ["3eb0c6f7a0b5ed8d", "0.000001"],
    ["41b3de4355555553", "333333333.3333332"], ["41b3de4355555554", "333333333.33333325"],
    ["41b3de4355555555", "333333333.3333333"], ["41b3de4355555556", "333333333.3333334"],
    ["41b3de4355555557", "333333333.33333343"], ["becbf647612f3696", "-0.0000033333333333333333"],
    ["43143ff3c1cb0959", "1424953923781206.2"],
  ];
  for (const [bits, text] of published) {
    const number = new DataView(Uint8Array.from(Buffer.from(bits, "hex")).buffer).getFloat64(0);
    expect(canonical([number])).toBe(`[${text}]`);
    expect(canonical([{ number }])).toBe(`[{"number":${text}}]`);
  }
});

test.each(vectors)("row $row", ({ row, canonical: text, hash, key, part_of_256 }) => {
  expect(canonical(JSON.parse(row))).toBe(text);
  expect(rowHash(JSON.parse(row) as unknown[])).toBe(hash);
  expect(partOf(JSON.parse(key) as unknown[], 256)).toBe(part_of_256);
});

test("a set's hash is the sum of its rows', whatever their order, and parts add up to the whole", () => {
  const rows = vectors.map(({ row, key }) => ({ row: JSON.parse(row) as unknown[], key: JSON.parse(key) as unknown[] }));
  const lane = (from: number) => vectors.reduce((sum, { hash }) => (sum + parseInt(hash.slice(from, from + 8), 16)) % 2 ** 32, 0);
  const whole = [lane(0), lane(8)].map((sum) => sum.toString(16).padStart(8, "0")).join("");
  for (const [parts, order] of [[1, rows], [256, [...rows].reverse()], [3, rows]] as const) {
    const set = new SetHash(parts);
    for (const { row, key } of order) set.add(row, key);
    expect(set.hash()).toBe(whole);
    expect(set.rows).toBe(rows.length);
    expect(set.list().reduce((sum, [, count]) => sum + count, 0)).toBe(rows.length);
    expect(set.list()).toHaveLength(parts);
  }
  const set = new SetHash(256);
  for (const { row, key } of rows) set.add(row, key);
  const expected = vectors.reduce((sum, { hash, part_of_256 }) => {
    return part_of_256 === vectors[0]!.part_of_256 ? (sum + parseInt(hash.slice(0, 8), 16)) % 2 ** 32 : sum;
  }, 0);
  expect(set.list()[vectors[0]!.part_of_256]![0].slice(0, 8)).toBe(expected.toString(16).padStart(8, "0"));
});

test("long rows and short ones in turn use the same buffer without traces", () => {
  const long = ["x".repeat(100_000) + "ü"];
  const before = rowHash(["a"]);
  const hash = rowHash(long);
  expect(rowHash(["a"])).toBe(before);
  expect(rowHash(long)).toBe(hash);
});
