// What is stored of each type, and that it comes back as it came.
import { expect, test } from "vitest";
import type { Layout } from "../src/copy/layout.ts";
import { Codec, exact, keyPath, keyText, type ValueOptions } from "../src/copy/values.ts";

function layoutOf(types: string[], key = 0): Layout {
  const columns = types.map((type, i) => ({ name: `c${i}`, type, nullable: true }));
  return { table: "public.t", key: columns.slice(0, key).map(({ name }) => name), columns };
}

/** What a value of a type is stored as, after checking that it comes back. */
function stored(type: string, value: unknown, options: ValueOptions = {}, back = value): unknown {
  const codec = new Codec(layoutOf(["int4", type], 1), options);
  const row = codec.row([1, value]);
  expect(codec.wireRow(structuredClone(row))).toEqual([1, back]);
  expect(codec.set({ c1: value, unknown: 1 })).toEqual({ c1: row["c1"] });
  return row["c1"];
}

test("int8 is a number where that is exact, else BigInt, or what the option says", () => {
  expect(stored("int8", "9007199254740991")).toBe(9007199254740991);
  expect(stored("int8", "-9007199254740991")).toBe(-9007199254740991);
  expect(stored("int8", "9007199254740992")).toBe(9007199254740992n);
  expect(stored("int8", "-9223372036854775808")).toBe(-9223372036854775808n);
  expect(stored("int8", "5", { int8: "bigint" })).toBe(5n);
  expect(stored("int8", "5", { int8: "string" })).toBe("5");
  expect(stored("int8", null)).toBe(null);
  expect(stored("int8[]", ["1", null, "9007199254740993"])).toEqual([1, null, 9007199254740993n]);
  expect(stored("int8[]", [["1", "2"], ["3", "4"]], { int8: "bigint" })).toEqual([[1n, 2n], [3n, 4n]]);
});

test("floats that JSON has no number for are numbers", () => {
  expect(stored("float8", "NaN")).toBe(NaN);
  expect(stored("float8", "Infinity")).toBe(Infinity);
  expect(stored("float4", "-Infinity")).toBe(-Infinity);
  expect(stored("float8", 5e-324)).toBe(5e-324);
  expect(stored("float8[]", [0.1, "NaN", null])).toEqual([0.1, NaN, null]);
});

test("bytea is bytes", () => {
  expect(stored("bytea", "3q2+7w==")).toEqual(Uint8Array.of(0xde, 0xad, 0xbe, 0xef));
  expect(stored("bytea", "")).toEqual(new Uint8Array());
  expect(stored("bytea[]", ["AA==", null])).toEqual([Uint8Array.of(0), null]);
  const long = Buffer.alloc(100_000, 7).toString("base64");
  expect((stored("bytea", long) as Uint8Array).length).toBe(100_000);
});

test("times are text, or dates where the option asks for them and a date can say it", () => {
  const text = "2026-02-02T23:05:06.123456+00:00";
  expect(stored("timestamptz", text)).toBe(text);
  const dates = { dates: true };
  expect(stored("timestamptz", text, dates, "2026-02-02T23:05:06.123+00:00")).toEqual(new Date("2026-02-02T23:05:06.123Z"));
  expect(stored("timestamptz", "2026-02-02T23:05:06.5+00:00", dates)).toEqual(new Date("2026-02-02T23:05:06.500Z"));
  expect(stored("timestamptz", "2026-02-02T20:00:00+00:00", dates)).toEqual(new Date("2026-02-02T20:00:00Z"));
  expect(stored("timestamp", "2026-02-03T04:05:06.7", dates)).toEqual(new Date("2026-02-03T04:05:06.700Z"));
  for (const odd of ["infinity", "-infinity", "0044-03-15T12:00:00 BC", "10000-01-01T00:00:00+00:00"]) {
    expect(stored("timestamptz", odd, dates)).toBe(odd);
  }
  expect(stored("timestamp[]", ["2026-02-03T04:05:06", "infinity", null], dates))
    .toEqual([new Date("2026-02-03T04:05:06Z"), "infinity", null]);
  expect(stored("date", "2026-02-03", dates)).toBe("2026-02-03");
});

test("everything else is stored as it comes", () => {
  for (const [type, value] of [
    ["bool", true], ["int4", -5], ["numeric", "12345678901234567890.00100"], ["text", "a\"b"], ["uuid", "0011"],
    ["jsonb", { a: [1, null], z: "1" }], ["json", [["1"]]], ["public.mood", "fine"], ["text[]", ["a", null]],
    ["public.price", { amount: "12.50", currency: "EUR" }], ["int4range", "[1,5)"],
  ] as const) expect(stored(type, value)).toEqual(value);
});

test("a key is what IndexedDB takes, and comes back as it came", () => {
  const key = (types: string[], values: unknown[], options: ValueOptions = {}) => {
    const codec = new Codec(layoutOf([...types, "text"], types.length), options);
    const row = [...values, "x"];
    const found = codec.storedKey(values);
    expect(codec.keyOf(row)).toEqual(values);
    expect(codec.wireKeyOf(found)).toEqual(values);
    expect(codec.wireKey(codec.row(row))).toEqual(values);
    const path = keyPath(codec.layout);
    if (path !== null) expect(types.length === 1 ? codec.row(row)["c0"] : types.map((_, i) => codec.row(row)[`c${i}`])).toEqual(found);
    return found;
  };
  expect(key(["int8"], ["5"])).toBe(5);
  expect(key(["int8"], ["9007199254740993"])).toBe("9007199254740993");
  expect(key(["int8"], ["5"], { int8: "bigint" })).toBe(5);
  expect(key(["int8"], ["5"], { int8: "string" })).toBe("5");
  expect(key(["int8", "text"], ["5", "a"])).toEqual([5, "a"]);
  expect(key(["timestamptz"], ["2026-02-02T23:05:06.123456+00:00"], { dates: true })).toBe("2026-02-02T23:05:06.123456+00:00");
  expect(key(["float8"], ["NaN"])).toBe("NaN");
  expect(key(["bytea"], ["3q2+7w=="])).toEqual(Uint8Array.of(0xde, 0xad, 0xbe, 0xef));
  expect(key(["bool"], [true])).toBe("[true]");
  expect(key(["int8", "bool"], ["9007199254740993", false])).toBe('["9007199254740993",false]');
  expect(key(["jsonb"], [{ b: 1, a: 2 }])).toBe('[{"a":2,"b":1}]');
  expect(key(["text[]"], [["a", null]])).toBe('[["a",null]]');
  expect(key(["public.mood"], ["fine"])).toBe('["fine"]');
});

test("a key is inside the rows only where IndexedDB can find it there", () => {
  expect(keyPath(layoutOf(["int4", "text"], 1))).toBe("c0");
  expect(keyPath(layoutOf(["int4", "text"], 2))).toEqual(["c0", "c1"]);
  expect(keyPath(layoutOf(["bool"], 1))).toBe(null);
  const odd: Layout = { table: "t", key: ["a.b"], columns: [{ name: "a.b", type: "int4", nullable: false }] };
  expect(keyPath(odd)).toBe(null);
  expect(keyText(layoutOf(["int4"], 1))).not.toBe(keyText(layoutOf(["int8"], 1)));
  expect(keyText(layoutOf(["int4", "text"], 1))).toBe(keyText(layoutOf(["int4", "int8", "bool"], 1)));
});

test("columns that lose digits are told, so that they are not hashed", () => {
  const layout = layoutOf(["timestamptz", "int8", "timestamp", "timestamptz[]", "date"], 1);
  expect(exact(layout)).toEqual(["c0", "c1", "c2", "c3", "c4"]);
  expect(exact(layout, { dates: true })).toEqual(["c0", "c1", "c4"]);
});

test("a column may have any name", () => {
  const columns = ["__proto__", "constructor", "a b", ""].map((name) => ({ name, type: "int8", nullable: true }));
  const codec = new Codec({ table: "t", key: ["a b"], columns });
  const row = structuredClone(codec.row(["1", "2", "3", null]));
  expect(Object.entries(row)).toEqual([["__proto__", 1], ["constructor", 2], ["a b", 3], ["", null]]);
  expect(codec.wireRow(row)).toEqual(["1", "2", "3", null]);
});

test("a patch leaves the message's row as it was", () => {
  const codec = new Codec(layoutOf(["int4", "text"], 1));
  const row = [1, "a"];
  expect(codec.patched(row, { c1: "b", unknown: 2 })).toEqual([1, "b"]);
  expect(row).toEqual([1, "a"]);
});
