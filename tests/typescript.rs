//! `rte.typescript_types()` writes what TypeScript takes, for all that tables may be named and hold, and for nothing that
//! the caller may not read.

use std::path::{Path, PathBuf};
use std::process::Command;

use rte_testkit::{Cluster, Sql};

const TABLES: &str = r#"
    CREATE TYPE mood AS ENUM ('glad', 'sad "ly"', 'it''s');
    CREATE TYPE price AS (amount numeric(12,2), "in currency" text, at float8, mood mood);
    CREATE DOMAIN positive AS int8 CHECK (VALUE > 0);
    CREATE DOMAIN moods AS mood[];
    CREATE TABLE orders (
        id int8 PRIMARY KEY, n int4 NOT NULL, b bool, f float8, big numeric NOT NULL, raw bytea, at timestamptz NOT NULL,
        mood mood NOT NULL, price price, xs int8[], j jsonb, r int4range, u uuid, d positive, ms moods);
    COMMENT ON TABLE orders IS 'What was ordered.';
    COMMENT ON COLUMN orders.n IS E'How many.\nNot */ none.';
    CREATE TABLE "Order Items" (id int4, "line no" int8, "select" text, "Äpfel" text, PRIMARY KEY (id, "line no"));
    CREATE TABLE order_items (id float8 PRIMARY KEY);
    CREATE TABLE "2nd" (id uuid PRIMARY KEY);
    CREATE TABLE "日本" (id text PRIMARY KEY);
    CREATE TABLE "date" (id date PRIMARY KEY);
    CREATE SCHEMA sales;
    CREATE TABLE sales.orders (id int4 PRIMARY KEY);
    CREATE TABLE sales.leads (id int4 PRIMARY KEY, secret text);
    CREATE TABLE hidden (id int4 PRIMARY KEY);
"#;

fn scene() -> (Cluster, Sql) {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.run(TABLES);
    for table in [
        "orders",
        "\"Order Items\"",
        "order_items",
        "\"2nd\"",
        "\"日本\"",
        "\"date\"",
        "sales.orders",
        "sales.leads",
        "hidden",
    ] {
        sql.run(&format!("SELECT rte.register_table('{table}')"));
    }
    (cluster, sql)
}

fn client() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../client")
}

/// Compiles a file, strictly; gives what the compiler says. Nothing where it is not installed.
fn compile(dir: &Path, name: &str, code: &str) -> Option<String> {
    let tsc = client().join("node_modules/.bin/tsc");
    if !tsc.exists() {
        println!("not compiled: {} is not installed", tsc.display());
        return None;
    }
    let file = dir.join(name);
    std::fs::write(&file, code).expect("file");
    let options = ["--noEmit", "--strict", "--target", "es2022", "--ignoreConfig", "--types", ""];
    let output = Command::new(tsc).current_dir(dir).args(options).arg(&file).output().expect("tsc");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Uses the types as an application does.
const USE: &str = r#"
const order: Orders = {
  id: 1, n: 2, b: null, f: NaN, big: "1.50", raw: new Uint8Array(), at: "2026-01-01T00:00:00+00:00", mood: "sad \"ly\"",
  price: { amount: "1.50", "in currency": "EUR", at: "NaN", mood: "it's" }, xs: [1, null], j: { any: 1 }, r: "[1,5)", u: null,
  d: "7", ms: ["glad", null],
};
const item: Tables["Order Items"] = { id: 1, "line no": 2, select: null, "Äpfel": "x" };
const names: (keyof Tables)[] = ["orders", "sales.orders", "leads", "2nd", "日本", "date", "order_items"];
const other: OrderItems_2 = { id: "Infinity" };
// @ts-expect-error a label that the enum has not
order.mood = "angry";
// @ts-expect-error not null
order.n = null;
// @ts-expect-error no such column
item.nothing;
export { order, names, other };
"#;

#[test]
fn the_types_compile_and_are_as_strict_as_the_tables() {
    let (cluster, mut sql) = scene();
    let types = sql.text("SELECT rte.typescript_types()");
    println!("{types}");
    for line in [
        "/** What was ordered. */\nexport interface Orders {\n  id: number;\n",
        "  /**\n   * How many.\n   * Not *\\/ none.\n   */\n  n: number;\n",
        "  mood: \"glad\" | \"sad \\\"ly\\\"\" | \"it's\";\n",
        "  xs: (number | null)[] | null;\n",
        "  j: unknown;\n",
        "  d: string | null;\n",
        "  \"line no\": number;\n",
        "  \"sales.orders\": Orders_2;\n",
    ] {
        assert!(types.contains(line), "{line}\n{types}");
    }
    if let Some(said) = compile(cluster.dir(), "types.ts", &format!("{types}{USE}")) {
        assert_eq!(said, "", "tsc");
    }
    let big = sql.text("SELECT rte.typescript_types(int8 => 'bigint', dates => true)");
    for line in ["  id: number;\n", "  xs: (bigint | null)[] | null;\n", "  at: Date | string;\n"] {
        assert!(big.contains(line), "{line}\n{big}");
    }
    if let Some(said) = compile(cluster.dir(), "big.ts", &big) {
        assert_eq!(said, "", "tsc");
    }
    assert_eq!(sql.fails("SELECT rte.typescript_types('float')").0, "22023");
    assert_eq!(sql.fails("SELECT rte.typescript_types(NULL)").0, "22023");
}

#[test]
fn only_what_the_caller_may_read_is_written() {
    let (_cluster, mut sql) = scene();
    sql.run(
        "REVOKE ALL ON ALL TABLES IN SCHEMA public, sales FROM PUBLIC; CREATE ROLE reader; GRANT pg_monitor TO reader;
         GRANT SELECT ON orders TO reader; GRANT SELECT (id) ON sales.leads TO reader; GRANT SELECT ON sales.orders TO reader;
         GRANT USAGE ON SCHEMA sales TO reader; CREATE ROLE anybody; SET ROLE reader",
    );
    let types = sql.text("SELECT rte.typescript_types()");
    assert!(types.contains("interface Orders {") && types.contains("interface Leads {\n  id: number;\n}"), "{types}");
    assert!(!types.contains("secret") && !types.contains("hidden") && !types.contains("2nd"), "{types}");
    sql.run("RESET ROLE; REVOKE USAGE ON SCHEMA sales FROM reader; SET ROLE reader");
    assert!(!sql.text("SELECT rte.typescript_types()").contains("Leads"));
    sql.run("SET ROLE anybody");
    assert_eq!(sql.fails("SELECT rte.typescript_types()").0, "42501");
}
