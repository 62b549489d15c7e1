//! Rule 6 of the contract: how each type of value looks, the same in a snapshot and in a change, whatever
//! the settings of the session that wrote it.

use rte_testkit::{Client, Cluster, Shutdown, Sql, assert_equal, canonical};

const TYPES: &str = r#"
    CREATE TYPE mood AS ENUM ('happy', 'it''s "ok"', 'größer');
    CREATE DOMAIN big AS int8 CHECK (value > 0);
    CREATE DOMAIN bigger AS big;
    CREATE DOMAIN raw AS bytea;
    CREATE DOMAIN bigs AS int8[];
    CREATE TYPE pair AS (a int8, b text);
    CREATE TYPE nest AS (p pair, n numeric, l int8[], ok bool, raw bytea, j jsonb);
    CREATE DOMAIN pair_domain AS pair;
"#;

/// Type, SQL literal, the JSON that it must be.
const CASES: &[(&str, &str, &str)] = &[
    ("bool", "true", "true"),
    ("int2", "-32768", "-32768"),
    ("int4", "2147483647", "2147483647"),
    ("int8", "9223372036854775807", r#""9223372036854775807""#),
    ("int8", "-9007199254740993", r#""-9007199254740993""#),
    ("int8", "1", r#""1""#),
    ("oid", "4294967295", r#""4294967295""#),
    (
        "numeric",
        "123456789012345678901234567890.123456789012345678901234567890",
        r#""123456789012345678901234567890.123456789012345678901234567890""#,
    ),
    ("numeric", "'NaN'", r#""NaN""#),
    ("numeric", "'-Infinity'", r#""-Infinity""#),
    ("numeric(10,2)", "1.5", r#""1.50""#),
    ("numeric", "1e-20", r#""0.00000000000000000001""#),
    ("float4", "0.1", "0.1"),
    ("float4", "3.4028235e38", "3.4028235e+38"),
    ("float8", "0.1", "0.1"),
    ("float8", "1::float8/3", "0.3333333333333333"),
    ("float8", "1e300", "1e+300"),
    ("float8", "5e-324", "5e-324"),
    ("float8", "9007199254740993", "9007199254740992"),
    ("float8", "'-0'", "-0"),
    ("float8", "'NaN'", r#""NaN""#),
    ("float8", "'Infinity'", r#""Infinity""#),
    ("float4", "'-Infinity'", r#""-Infinity""#),
    ("money", "'12.34'", r#""$12.34""#),
    (
        "text",
        r#"E'quote " backslash \\ slash / tab \t line \n \r \x01\x1f\x7f'"#,
        r#""quote \" backslash \\ slash / tab \t line \n \r \u0001\u001f\u007f""#,
    ),
    ("text", r"U&'\+01F600 \00E9 \2028 \FFFD'", "\"\u{1F600} é \u{2028} \u{FFFD}\""),
    ("text", "''", r#""""#),
    ("text", "'NULL'", r#""NULL""#),
    ("text", "'</script><!--'", r#""</script><!--""#),
    ("varchar(5)", "'ab'", r#""ab""#),
    ("char(5)", "'ab'", r#""ab   ""#),
    ("name", "'n'", r#""n""#),
    ("\"char\"", "'c'", r#""c""#),
    ("bytea", r"'\x00ff10'", r#""AP8Q""#),
    ("bytea", "''", r#""""#),
    (
        "bytea",
        r"decode(repeat('00', 60), 'hex')",
        r#""AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA""#,
    ),
    ("raw", r"'\xff'", r#""/w==""#),
    ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", r#""a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11""#),
    ("date", "'2024-02-29'", r#""2024-02-29""#),
    ("date", "'infinity'", r#""infinity""#),
    ("date", "'0044-03-15 BC'", r#""0044-03-15 BC""#),
    ("time", "'23:59:59.123456'", r#""23:59:59.123456""#),
    ("timetz", "'12:00:00+05:30'", r#""12:00:00+05:30""#),
    ("timestamp", "'2024-02-29 12:34:56.789'", r#""2024-02-29T12:34:56.789""#),
    ("timestamp", "'-infinity'", r#""-infinity""#),
    ("timestamptz", "'2024-02-29 12:34:56.789+05:45'", r#""2024-02-29T06:49:56.789+00:00""#),
    ("timestamptz", "'1901-01-01 00:00:00 America/St_Johns'", r#""1901-01-01T03:30:52+00:00""#),
    ("timestamptz", "'infinity'", r#""infinity""#),
    ("timestamptz", "'0044-03-15 12:00:00+00 BC'", r#""0044-03-15T12:00:00+00:00 BC""#),
    ("interval", "'1 year 2 mons -3 days 04:05:06.789'", r#""1 year 2 mons -3 days +04:05:06.789""#),
    ("interval", "'-1 days'", r#""-1 days""#),
    ("json", r#"'{"a": 1.0, "a" : 1e400, "b":[ ], "é":"\u00e9"}'"#, r#"{"a":1.0,"a":1e400,"b":[],"é":"é"}"#),
    ("json", "'123456789012345678901234567890'", "123456789012345678901234567890"),
    ("json", "'null'", "null"),
    ("jsonb", r#"'{"b": 1, "a": 0.10, "b": 2}'"#, r#"{"a":0.10,"b":2}"#),
    ("jsonb", r#"'"x\ty"'"#, r#""x\ty""#),
    ("jsonpath", "'$.a[*]'", r#""$.\"a\"[*]""#),
    ("int8[]", "'{1,NULL,9007199254740993}'", r#"["1",null,"9007199254740993"]"#),
    ("int8[]", "'{{1,2},{3,4}}'", r#"[["1","2"],["3","4"]]"#),
    ("int4[]", "'[2:3]={1,2}'", "[1,2]"),
    ("int4[]", "'{}'", "[]"),
    ("numeric[]", "'{1.50,NaN,NULL}'", r#"["1.50","NaN",null]"#),
    ("float8[]", "'{1.5,NaN,Infinity}'", r#"[1.5,"NaN","Infinity"]"#),
    ("text[]", r#"'{a,NULL,"NULL","x,y","q\""}'"#, r#"["a",null,"NULL","x,y","q\""]"#),
    ("bytea[]", r#"'{"\\x00ff",NULL}'"#, r#"["AP8=",null]"#),
    ("timestamptz[]", "'{2024-01-01 00:00:00+02}'", r#"["2023-12-31T22:00:00+00:00"]"#),
    ("json[]", r#"ARRAY['{"a": 1}'::json]"#, r#"[{"a":1}]"#),
    ("mood[]", "ARRAY['happy'::mood, NULL]", r#"["happy",null]"#),
    ("bool[]", "'{t,f}'", "[true,false]"),
    ("big[]", "'{5}'", r#"["5"]"#),
    ("pair[]", r#"ARRAY[ROW(1, 'x')::pair, NULL]"#, r#"[{"a":"1","b":"x"},null]"#),
    ("mood", r#"'it''s "ok"'"#, r#""it's \"ok\"""#),
    ("mood", "'größer'", r#""größer""#),
    ("big", "9007199254740993", r#""9007199254740993""#),
    ("bigger", "7", r#""7""#),
    ("bigs", "'{7,NULL}'", r#"["7",null]"#),
    ("pair", "ROW(9007199254740993, 'x\"')", r#"{"a":"9007199254740993","b":"x\""}"#),
    ("pair_domain", "ROW(1, NULL)", r#"{"a":"1","b":null}"#),
    (
        "nest",
        r#"ROW(ROW(1, NULL)::pair, 1.5, '{1,NULL}', true, '\xff', '{"k": [1]}')"#,
        r#"{"p":{"a":"1","b":null},"n":"1.5","l":["1",null],"ok":true,"raw":"/w==","j":{"k":[1]}}"#,
    ),
    ("int4range", "'[1,5)'", r#""[1,5)""#),
    ("int8range", "'[1,9007199254740993)'", r#""[1,9007199254740993)""#),
    ("numrange", "'(,1.50]'", r#""(,1.50]""#),
    ("numrange", "'empty'", r#""empty""#),
    ("daterange", "'[2024-01-01,2024-02-01)'", r#""[2024-01-01,2024-02-01)""#),
    ("tstzrange", "'[2024-01-01 00:00:00+02,)'", r#""[\"2023-12-31 22:00:00+00\",)""#),
    ("int8multirange", "'{[1,2), [5,7)}'", r#""{[1,2),[5,7)}""#),
    ("inet", "'10.0.0.1/8'", r#""10.0.0.1/8""#),
    ("cidr", "'2001:db8::/32'", r#""2001:db8::/32""#),
    ("macaddr", "'08:00:2B:01:02:03'", r#""08:00:2b:01:02:03""#),
    ("macaddr8", "'08:00:2b:01:02:03:04:05'", r#""08:00:2b:01:02:03:04:05""#),
    ("point", "'(0.1,2)'", r#""(0.1,2)""#),
    ("circle", "'<(0.1,2),0.3>'", r#""<(0.1,2),0.3>""#),
    ("polygon", "'((0,0),(0.1,1),(1,0))'", r#""((0,0),(0.1,1),(1,0))""#),
    ("bit(4)", "B'1010'", r#""1010""#),
    ("varbit", "B'101'", r#""101""#),
    ("tsvector", "'a:1 b:2A'", r#""'a':1 'b':2A""#),
    ("tsquery", "'a & !b'", r#""'a' & !'b'""#),
    ("pg_lsn", "'16/B374D848'", r#""16/B374D848""#),
    ("xid8", "'18446744073709551615'", r#""18446744073709551615""#),
    ("regclass", "'pg_catalog.pg_class'", r#""pg_class""#),
    ("regtype", "'int8'", r#""bigint""#),
];

const ODD_SESSION: &str = "SET timezone = 'Asia/Kathmandu'; SET datestyle = 'SQL, DMY'; SET intervalstyle = 'iso_8601';
    SET bytea_output = 'escape'; SET extra_float_digits = -15; SET xmlbinary = 'hex'; SET quote_all_identifiers = on;
    SET standard_conforming_strings = on; SET search_path = public, pg_catalog";

fn table(cluster: &Cluster) -> Sql {
    let mut sql = cluster.sql();
    sql.run(TYPES);
    let columns: Vec<String> = CASES.iter().enumerate().map(|(i, (kind, ..))| format!("c{i} {kind}")).collect();
    sql.table("v", &format!("id int PRIMARY KEY, {}", columns.join(", ")));
    sql
}

fn insert(sql: &mut Sql, id: i32) {
    let values: Vec<&str> = CASES.iter().map(|(_, value, _)| *value).collect();
    sql.run(&format!("INSERT INTO v VALUES ({id}, {})", values.join(", ")));
}

fn wrong(client: &Client, id: i32, how: &str) -> Vec<String> {
    let row = client.sub("v").row(&[&id.to_string()]).expect("the row");
    let check = |(i, (kind, value, json)): (usize, &(&str, &str, &str))| {
        let held = &row[client.sub("v").at(&format!("c{i}"))];
        (*held != canonical(json)).then(|| format!("{how}: {kind} {value}: {held}, not {json}"))
    };
    CASES.iter().enumerate().filter_map(check).collect()
}

fn every_way(cluster: &Cluster, sql: &mut Sql) {
    insert(sql, 1);
    let mut client = cluster.subscriber("c", &["v"]);
    let mut bad = wrong(&client, 1, "snapshot");
    let mut odd = cluster.sql();
    odd.run(ODD_SESSION);
    insert(&mut odd, 2);
    odd.run("INSERT INTO v (id) VALUES (3)");
    let set: Vec<String> = CASES.iter().enumerate().map(|(i, (_, value, _))| format!("c{i} = {value}")).collect();
    odd.run(&format!("UPDATE v SET {} WHERE id = 3", set.join(", ")));
    let mark = odd.barrier();
    client.wait_barrier(mark);
    bad.extend(wrong(&client, 2, "insert"));
    bad.extend(wrong(&client, 3, "update"));
    let again = cluster.subscriber("again", &["v"]);
    bad.extend(wrong(&again, 2, "snapshot of what an odd session wrote"));
    assert!(bad.is_empty(), "{} wrong values:\n{}", bad.len(), bad.join("\n"));
    client.assert_clean();
}

#[test]
fn every_type_looks_the_same_in_snapshot_and_change() {
    let cluster = Cluster::ready();
    let mut sql = table(&cluster);
    every_way(&cluster, &mut sql);
}

#[test]
fn settings_of_database_and_role_do_not_matter() {
    let mut cluster = Cluster::builder().conf("timezone", "Pacific/Marquesas").conf("datestyle", "German").ready();
    let mut sql = table(&cluster);
    for (name, value) in [
        ("timezone", "America/St_Johns"),
        ("datestyle", "SQL, DMY"),
        ("intervalstyle", "sql_standard"),
        ("bytea_output", "escape"),
        ("extra_float_digits", "-10"),
        ("array_nulls", "off"),
        ("search_path", "nowhere"),
        ("default_transaction_isolation", "serializable"),
    ] {
        sql.run(&format!("ALTER DATABASE postgres SET {name} = '{value}'"));
        sql.run(&format!("ALTER ROLE web_anon SET {name} = '{value}'"));
    }
    drop(sql);
    cluster.restart(Shutdown::Fast);
    cluster.wait_healthy();
    let mut sql = cluster.sql();
    sql.run("SET search_path = public; SET array_nulls = on");
    every_way_with_path(&cluster, &mut sql);
}

/// The odd session of `every_way` sets its own path; `array_nulls` only matters to the writing of literals.
fn every_way_with_path(cluster: &Cluster, sql: &mut Sql) {
    sql.run("ALTER DATABASE postgres RESET array_nulls");
    every_way(cluster, sql);
}

#[test]
fn null_is_null_in_every_column() {
    let cluster = Cluster::ready();
    let mut sql = table(&cluster);
    sql.run("INSERT INTO v (id) VALUES (1)");
    insert(&mut sql, 2);
    let mut client = cluster.subscriber("c", &["v"]);
    sql.run("INSERT INTO v (id) VALUES (3)");
    let set: Vec<String> = (0..CASES.len()).map(|i| format!("c{i} = NULL")).collect();
    sql.run(&format!("UPDATE v SET {} WHERE id = 2", set.join(", ")));
    let mark = sql.barrier();
    client.wait_barrier(mark);
    for id in ["1", "2", "3"] {
        let row = client.sub("v").row(&[id]).expect("the row");
        assert!(row[1..].iter().all(|v| &**v == "null"), "{id}: {row:?}");
    }
}

#[test]
fn columns_have_the_short_names_of_their_types() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.run(TYPES);
    let types =
        ["int8", "timestamptz", "text[]", "numeric", "varchar", "bool", "float8", "mood", "timetz", "int4range"];
    let columns: Vec<String> = types.iter().enumerate().map(|(i, kind)| format!("c{i} {kind}")).collect();
    sql.table("n", &format!("id int PRIMARY KEY, {}", columns.join(", ")));
    let client = cluster.subscriber("c", &["n"]);
    let names: Vec<&str> =
        client.sub("n").columns[1..].iter().map(|c| c.type_name.trim_start_matches("public.")).collect();
    assert_eq!(names, types);
}

#[test]
fn keys_may_be_of_any_type() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.run(TYPES);
    let keys = [
        ("int8", "9007199254740993", "9007199254740992"),
        ("numeric", "1.5", "1.25"),
        ("text", "'a\"\\\\é😀'", "''"),
        ("bytea", r"'\x00ff'", r"'\x'"),
        ("timestamptz", "'2024-01-01 00:00+02'", "'infinity'"),
        ("date", "'2024-01-01'", "'-infinity'"),
        ("float8", "0.1", "'NaN'"),
        ("bool", "true", "false"),
        ("mood", "'happy'", "'größer'"),
        ("big", "5", "6"),
        ("int4[]", "'{1,NULL}'", "'{}'"),
        ("int4range", "'[1,2)'", "'empty'"),
        ("jsonb", r#"'{"a": 1}'"#, "'[]'"),
        ("pair", "ROW(1, 'x')", "ROW(2, NULL)"),
        ("char(5)", "'ab'", "'c'"),
        ("inet", "'10.0.0.1'", "'::1'"),
        ("interval", "'1 day'", "'1 mon'"),
    ];
    let mut client = cluster.subscriber("c", &[]);
    for (i, (kind, ..)) in keys.iter().enumerate() {
        sql.table(&format!("k{i}"), &format!("id {kind} PRIMARY KEY, v int"));
        client.subscribe(&format!("k{i}"), &format!("k{i}"));
    }
    client.wait_live();
    let mut odd = cluster.sql();
    odd.run(ODD_SESSION);
    for (i, (kind, one, two)) in keys.iter().enumerate() {
        sql.run(&format!("INSERT INTO k{i} VALUES ({one}, 1), ({two}, 1)"));
        odd.run(&format!("UPDATE k{i} SET v = 2 WHERE id = {one}::{kind}; DELETE FROM k{i} WHERE id = {two}::{kind}"));
    }
    assert_equal_keys(&mut sql, &mut client, keys.len());
    assert_eq!(client.copy.counts.repeated, 0, "keys of changes are the keys of rows");
    client.resume();
    client.wait_live();
    for (i, (kind, one, two)) in keys.iter().enumerate() {
        odd.run(&format!("UPDATE k{i} SET id = {two} WHERE id = {one}::{kind}"));
    }
    assert_equal_keys(&mut sql, &mut client, keys.len());
    client.assert_clean();
}

#[track_caller]
fn assert_equal_keys(sql: &mut Sql, client: &mut Client, tables: usize) {
    let mark = sql.barrier();
    client.wait_barrier(mark);
    for i in 0..tables {
        let s = client.sub(&format!("k{i}"));
        assert_eq!(s.rows.len() as i64, sql.number(&format!("SELECT count(*) FROM k{i}")), "k{i}");
        assert!(s.rows.values().all(|row| &*row[1] == "2"), "k{i}: {:?}", s.rows);
    }
}

#[test]
fn equal_keys_that_look_different_are_one_row() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("n", "id numeric PRIMARY KEY, v int");
    sql.table("f", "id float8 PRIMARY KEY, v int");
    // Not every build of Postgres knows collations in which different texts are equal.
    let anycase = "CREATE COLLATION anycase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    let collation = if sql.batch_execute(anycase).is_ok() { "anycase" } else { "\"C\"" };
    sql.table("s", &format!("id text COLLATE {collation} PRIMARY KEY, v int"));
    sql.run("INSERT INTO n VALUES (1.5, 1); INSERT INTO f VALUES (0, 1); INSERT INTO s VALUES ('Key', 1)");
    let mut client = cluster.subscriber("c", &["n", "f", "s"]);
    sql.run("UPDATE n SET id = 1.500; UPDATE f SET id = '-0'; UPDATE s SET id = 'KEY'");
    assert_equal(&mut sql, &mut client);
    sql.run("UPDATE n SET v = 2; UPDATE f SET v = 2; UPDATE s SET v = 2");
    assert_equal(&mut sql, &mut client);
    sql.run(
        "INSERT INTO n VALUES (1.50, 9) ON CONFLICT (id) DO UPDATE SET id = excluded.id; DELETE FROM f; DELETE FROM s",
    );
    assert_equal(&mut sql, &mut client);
    client.assert_clean();
}
