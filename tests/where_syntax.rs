//! `where` and `params` of a subscription, asked of the function that judges them: what is accepted means what it means in
//! Postgres, and whatever is not an expression over the table's columns is refused with its code.

use rte_testkit::{Cluster, Dice, Sql, expression, rounds, seed};
use serde_json::Value;

fn cluster() -> (Cluster, Sql) {
    let cluster = Cluster::builder().without_preload().conf("TimeZone", "UTC").start();
    let mut sql = cluster.sql();
    sql.run("SET client_min_messages = error; CREATE EXTENSION whagons_rte");
    (cluster, sql)
}

/// Literals for SQL and for `EXECUTE`.
fn quoted(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The expression that a condition becomes, or code and words of its refusal.
fn judged(sql: &mut Sql, condition: &str, params: &str) -> Result<String, (String, String)> {
    let call = format!("SELECT rte._check_where('t'::regclass, {}, {})", quoted(condition), quoted(params));
    match sql.simple_query(&call) {
        Ok(messages) => messages
            .into_iter()
            .find_map(|m| match m {
                postgres::SimpleQueryMessage::Row(row) => Some(Ok(row.get(0).expect("text").to_owned())),
                _ => None,
            })
            .expect("a row"),
        Err(e) => {
            let e = e.as_db_error().expect("an error of the server").clone();
            assert_eq!(e.code().code(), "22023", "{condition}: {e:?}");
            let (code, words) = e.message().split_once(": ").expect("code and words");
            Err((code.to_owned(), [words, e.hint().unwrap_or_default()].join("\n")))
        }
    }
}

/// Ids of the rows for which Postgres finds a condition true, or the SQLSTATE of the error.
fn rows(sql: &mut Sql, condition: &str, arguments: &[String]) -> Result<Vec<String>, String> {
    let statement = if arguments.is_empty() {
        format!("SELECT id FROM t WHERE {condition} ORDER BY id")
    } else {
        let prepare = format!("DEALLOCATE ALL; PREPARE p AS SELECT id FROM t WHERE {condition} ORDER BY id");
        sql.batch_execute(&prepare).map_err(|e| state(&e))?;
        format!("EXECUTE p ({})", arguments.join(", "))
    };
    let messages = sql.simple_query(&statement).map_err(|e| state(&e))?;
    Ok(messages
        .into_iter()
        .filter_map(|m| match m {
            postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).expect("id").to_owned()),
            _ => None,
        })
        .collect())
}

fn state(e: &postgres::Error) -> String {
    e.code().expect("a code").code().to_owned()
}

fn fill(sql: &mut Sql, dice: &mut Dice, count: i32) {
    sql.run(expression::MOOD);
    sql.run(&format!("CREATE TABLE t ({})", expression::definition()));
    let rows: Vec<String> = (1..=count).map(|id| expression::row(dice, id)).collect();
    sql.run(&format!("INSERT INTO t VALUES {}", rows.join(", ")));
}

/// Condition, params, arguments of `EXECUTE`.
const ACCEPTED: &[(&str, &str, &[&str])] = &[
    ("true", "[]", &[]),
    ("b", "[]", &[]),
    ("'t'", "[]", &[]),
    ("NULL", "[]", &[]),
    ("NULL IS NULL AND 'x' IS NOT NULL", "[]", &[]),
    ("id = 5", "[]", &[]),
    ("t.id = 5 AND public.t.id = 5 AND \"id\" = 5", "[]", &[]),
    ("id = $1", "[5]", &["5"]),
    ("id = $1 -- a comment", "[\"5\"]", &["5"]),
    ("i8 = $1", "[\"9007199254740993\"]", &["9007199254740993"]),
    ("i8 > $1 AND i2 < $2", "[-3, 99]", &["-3", "99"]),
    ("n = $1", "[1.5]", &["1.5"]),
    ("n = $1", "[\"12345678901234567890.5\"]", &["12345678901234567890.5"]),
    ("f < $1", "[1e10]", &["1e10"]),
    ("f IN ('NaN', 'Infinity', 1.5)", "[]", &[]),
    ("i4 + 1 > -i2 * 2", "[]", &[]),
    ("i4 / nullif(i2, 0) > 1 AND i4 % 3 = 1", "[]", &[]),
    ("n2::numeric(5,1) = 1.5", "[]", &[]),
    ("round(n, 1) = 1.5 OR ceil(f) = 2 OR abs(i4) = 3 OR trunc(n) = 1 OR sign(i4) = 1", "[]", &[]),
    ("i4::int8 = id::numeric AND i4::text = '3'", "[]", &[]),
    ("s = 'a' AND c > 'A' AND v = 'abc' AND ch = 'ab'", "[]", &[]),
    ("s COLLATE \"C\" > $1", "[\"Z\"]", &["'Z'"]),
    ("s LIKE 'a%' OR s NOT LIKE $1 OR s ILIKE '%B' OR s LIKE 'a!_%' ESCAPE '!'", "[\"%b\"]", &["'%b'"]),
    ("s LIKE ANY (ARRAY['a%', '%c'])", "[]", &[]),
    ("s LIKE ANY ($1)", "[[\"a%\", \"%c\"]]", &["'{a%,%c}'"]),
    ("lower(s) = 'a' OR left(s, 1) = 'A' OR substring(s from 2 for 1) = 'b' OR position('b' in s) = 1", "[]", &[]),
    ("length(trim(s)) > 1 OR split_part(s, 'b', 1) = 'a' OR starts_with(s, 'a') OR s || c = 'aa'", "[]", &[]),
    ("s = U&'\\00e9t\\00e9' OR s = E'a_b\\\\' OR s = $q$it's$q$ OR s = 'it''s'", "[]", &[]),
    ("v::varchar(1) = 'a' OR s::char(2) = 'ab'", "[]", &[]),
    ("d = '2024-02-03' OR d < date '2024-02-09' OR d = 'infinity' OR d + 1 > '2024-02-20'", "[]", &[]),
    ("ts >= $1 AND ts < '2024-02-20 00:00'", "[\"2024-02-02T01:00:00\"]", &["'2024-02-02T01:00:00'"]),
    ("tz >= $1", "[\"2024-02-02T01:00:00+05:30\"]", &["'2024-02-02T01:00:00+05:30'"]),
    ("tz >= 'Feb 5, 2024 3:00 PM UTC'", "[]", &[]),
    ("tz + interval '1 day' > '2024-02-10Z' AND tz - $1::interval < '2024-02-20Z'", "[\"2 hours\"]", &["'2 hours'"]),
    ("tz::date = '2024-02-05' OR date(tz) > '2024-02-10' OR tz > d OR tz::timestamp = ts", "[]", &[]),
    ("date_trunc('week', tz) = '2024-02-05Z' OR date_part('hour', tz) = 3 OR extract(epoch from ts) > 0", "[]", &[]),
    ("(tz AT TIME ZONE 'Asia/Kathmandu')::date = '2024-02-05' OR tz AT TIME ZONE interval '1 hour' > ts", "[]", &[]),
    ("iv > interval '1' day OR iv = interval '1-2' year to month OR justify_days(iv) > '1 month'", "[]", &[]),
    ("(ts, ts + '1 day'::interval) OVERLAPS ('2024-02-05', timestamp '2024-02-09')", "[]", &[]),
    ("make_date(2024, 2, i2) = d OR to_timestamp(f) < tz OR age(ts, '2024-01-01') > '1 day'", "[]", &[]),
    ("u = $1", "[\"00000000-0000-4000-8000-000000000001\"]", &["'00000000-0000-4000-8000-000000000001'"]),
    ("u::text LIKE '%1'", "[]", &[]),
    ("j @> $1", "[{\"k\": 1}]", &["'{\"k\": 1}'"]),
    ("j->'a' = $1", "[\"x\"]", &["'\"x\"'"]),
    ("j->>'a' = $1 OR j #>> '{a,b}' = '1.50' OR j ? 'k' OR j ?| '{k,l}' OR j->0 IS NOT NULL", "[\"x\"]", &["'x'"]),
    ("(j->>'k')::numeric + 1 > n2 OR (j->>'k')::float8 * 1.5 > f OR s <> '' AND n * i4 > n2", "[]", &[]),
    ("j['a'] = '\"x\"' OR (j->>'k')::int > 1 OR jsonb_typeof(j) = 'array'", "[]", &[]),
    (
        "ai @> $1 OR ai && '{3,4}' OR 3 = ANY (ai) OR array_length(ai, 1) = 2 OR ai[1] = 1 OR ai[1:2] = '{1,2}'",
        "[[1, 2]]",
        &["'{1,2}'"],
    ),
    ("id = ANY ($1) AND id <> ALL ('{1,2}'::int[])", "[[1, 2, 3, null]]", &["'{1,2,3,NULL}'"]),
    (
        "at @> $1 OR at = ARRAY['a', 'b'] OR array_position(at, 'a') = 1",
        "[[\"it's\", \"a\\\"b\\\\\"]]",
        &["E'{it\\'s,\"a\\\\\"b\\\\\\\\\"}'"],
    ),
    ("m = 'ok' OR m > $1 OR m = ANY ('{sad}') OR m IN ('happy', 'sad')", "[\"ok\"]", &["'ok'"]),
    ("m = 'ok'::mood OR m = 'sad'::public.mood OR m = ANY ('{ok}'::mood[])", "[]", &[]),
    ("ip <<= '10.0.0.0/8' OR ip = $1 OR family(ip) = 6 OR masklen(ip) = 16", "[\"::1\"]", &["'::1'"]),
    ("by = $1 OR by = '\\x616263' OR length(by) = 2", "[\"AP8=\"]", &["'\\x00ff'"]),
    ("r @> 4 OR r && '[1,3)' OR lower(r) = 2 OR isempty(r) OR r = int4range(1, 6)", "[]", &[]),
    ("id BETWEEN 2 AND 5 OR id NOT BETWEEN SYMMETRIC 9 AND 2", "[]", &[]),
    ("id IN (1, 2, 3) OR s IN ('a', 'b') OR id NOT IN (4, NULL)", "[]", &[]),
    ("(id, s) > ($1, 'a') OR (id, s) IN ((1, 'a'), (2, 'b')) OR ROW(id, i4) = ROW(1, 2)", "[3]", &["3"]),
    ("s IS DISTINCT FROM 'a' AND i4 IS NOT DISTINCT FROM NULL", "[]", &[]),
    ("b IS NOT TRUE OR (i4 > 3) IS UNKNOWN", "[]", &[]),
    ("CASE WHEN i4 > 3 THEN s = 'a' WHEN b THEN true ELSE false END", "[]", &[]),
    ("CASE s WHEN 'a' THEN 1 WHEN 'b' THEN 2 ELSE 3 END = 2", "[]", &[]),
    (
        "coalesce(i4, 0) = 0 OR greatest(i4, i2, 5) = 5 OR least(d, '2024-02-05') = d OR nullif(s, '') IS NULL",
        "[]",
        &[],
    ),
    ("id OPERATOR(pg_catalog.=) 3", "[]", &[]),
    ("pg_catalog.lower(s) = 'a'", "[]", &[]),
    ("i4 & 3 = 1 OR i4 | 8 = 8 OR i4 # 1 = 2 OR i4 << 2 = 8", "[]", &[]),
    ("i4::float8::numeric > 1e2", "[]", &[]),
    ("$1::text IS NULL AND s = $2", "[null, \"a\"]", &["NULL", "'a'"]),
    ("1 / (i4 - i4) = id", "[]", &[]),
    ("d = '2024-02-01'::date + 2 OR lower('A') || 'b' = s OR id IN (1 + 1, 3)", "[]", &[]),
];

#[test]
fn what_is_accepted_means_what_it_means_in_postgres() {
    let (_cluster, mut sql) = cluster();
    fill(&mut sql, &mut Dice::with_seed(7), 300);
    for (condition, params, arguments) in ACCEPTED {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let ours = match judged(&mut sql, condition, params) {
            Ok(expression) => expression,
            Err(refusal) => panic!("{condition}: {refusal:?}"),
        };
        assert_eq!(rows(&mut sql, &ours, &[]), rows(&mut sql, condition, &arguments), "{condition} became {ours}");
    }
}

/// Values that JSON would not keep, or that a parameter may have in more than one form.
#[test]
fn parameters_keep_their_values_exactly() {
    let (_cluster, mut sql) = cluster();
    fill(&mut sql, &mut Dice::with_seed(7), 1);
    let mut becomes = |condition: &str, params: &str, expected: &str| {
        assert_eq!(judged(&mut sql, condition, params).as_deref(), Ok(expected), "{condition} {params}");
    };
    becomes("i8 = $1", "[9007199254740993]", "(i8 = '9007199254740993'::bigint)");
    becomes("i8 = $1", "[\"-9223372036854775808\"]", "(i8 = '-9223372036854775808'::bigint)");
    becomes("n = $1", "[\"0.1000000000000000055511151231257827\"]", "(n = 0.1000000000000000055511151231257827)");
    becomes("n = $1", "[0.1]", "(n = 0.1)");
    becomes("s = $1", "[5]", "(s = '5'::text)");
    becomes("s = $1", "[true]", "(s = 'true'::text)");
    becomes("j = $1", "[\"5\"]", "(j = '\"5\"'::jsonb)");
    becomes("j = $1", "[[1, \"x\", null]]", "(j = '[1, \"x\", null]'::jsonb)");
    becomes("j = $1", "[null]", "NULL::boolean");
    becomes("ai = $1", "[[[1, 2], [3, 4]]]", "(ai = '{{1,2},{3,4}}'::integer[])");
    becomes("ai = $1", "[\"{1,2}\"]", "(ai = '{1,2}'::integer[])");
    becomes(
        "at = $1",
        "[[\"NULL\", null, \"\", \"a,b\", \"{\"]]",
        "(at = '{\"NULL\",NULL,\"\",\"a,b\",\"{\"}'::text[])",
    );
    becomes("by = $1", "[\"AP8=\"]", "(by = '\\x00ff'::bytea)");
    becomes("d = date '2024-02-01' + 2 AND s = lower($1)", "[\"A\"]", "((d = '2024-02-03'::date) AND (s = 'a'::text))");
    // Each use has its own type.
    becomes("i4 = $1 OR i8 = $1 OR $1 IS NULL", "[3]", "((i4 = 3) OR (i8 = '3'::bigint))");
    let mut refuses = |condition: &str, params: &str| {
        let refusal = judged(&mut sql, condition, params).expect_err(condition);
        assert_eq!(refusal.0, "INVALID_PARAMS", "{condition} {params}: {refusal:?}");
        assert!(!refusal.1.contains("secret"), "{refusal:?}");
    };
    for (condition, params) in [
        ("id = $1", "[]"),
        ("id = $2", "[1, 2]"),
        ("id = $1", "[1, 2]"),
        ("id = $0", "[1]"),
        ("id = $999999999", "[1]"),
        ("id = $1", "[\"secret\"]"),
        ("id = $1", "[1.5]"),
        ("id = $1", "[3000000000]"),
        ("id = $1", "[true]"),
        ("id = $1", "[[1]]"),
        ("id = $1", "[{\"a\": 1}]"),
        ("n = $1", "[\"1e100000\"]"),
        ("ai = $1", "[1]"),
        ("ai = $1", "[[\"secret\"]]"),
        ("by = $1", "[\"not base64!\"]"),
        ("u = $1", "[\"secret\"]"),
        ("m = $1", "[\"secret\"]"),
        ("tz > $1", "[\"now\"]"),
        ("d > $1", "[\"today\"]"),
        ("tz > $1", "[\"2024-01-01 00:00 FOO5\"]"),
        ("r = $1", "[\"[5,1)\"]"),
    ] {
        refuses(condition, params);
    }
}

const WHERE: &str = "INVALID_WHERE";
const COLUMN: &str = "UNKNOWN_COLUMN";

/// Condition and the code of its refusal.
const ATTACKS: &[(&str, &str)] = &[
    // Out of the expression.
    ("", WHERE),
    ("   ", WHERE),
    ("-- nothing", WHERE),
    ("true) OR (true", WHERE),
    ("true; DROP TABLE t", WHERE),
    ("true;", WHERE),
    ("1 INTO x", WHERE),
    ("true FROM t", WHERE),
    ("true AS x", WHERE),
    ("b x", WHERE),
    ("b, b", WHERE),
    ("b WHERE true", WHERE),
    ("DISTINCT b", WHERE),
    ("DISTINCT ON (b) b", WHERE),
    ("b GROUP BY b", WHERE),
    ("b HAVING true", WHERE),
    ("b WINDOW w AS ()", WHERE),
    ("b ORDER BY 1", WHERE),
    ("b LIMIT 1", WHERE),
    ("b OFFSET 1", WHERE),
    ("b FETCH FIRST ROW ONLY", WHERE),
    ("b FOR UPDATE", WHERE),
    ("b UNION SELECT true", WHERE),
    ("SELECT true", WHERE),
    ("VALUES (true)", WHERE),
    ("WITH x AS (SELECT 1) SELECT true", WHERE),
    ("'unbalanced", WHERE),
    ("\"unbalanced", WHERE),
    ("$$unbalanced", WHERE),
    ("(true", WHERE),
    ("true)", WHERE),
    ("/* open", WHERE),
    ("E'\\'; DROP TABLE t; --", WHERE),
    ("U&'\\D800'", WHERE),
    ("E'\\xff' = s", WHERE),
    ("E'\\000' = s", WHERE),
    // Sub-selects.
    ("id = (SELECT 1)", WHERE),
    ("EXISTS (SELECT FROM t)", WHERE),
    ("id IN (SELECT id FROM t)", WHERE),
    ("id = ANY (SELECT id FROM t)", WHERE),
    ("ai = ARRAY(SELECT 1)", WHERE),
    ("id = (VALUES (1))", WHERE),
    ("(SELECT count(*) FROM secret) > 0", WHERE),
    // Functions that do something, or read what is not in the row.
    ("pg_sleep(10) IS NULL", WHERE),
    ("pg_catalog.pg_sleep(10) IS NULL", WHERE),
    ("pg_read_file('/etc/passwd') IS NULL", WHERE),
    ("pg_ls_dir('.') IS NULL", WHERE),
    ("lo_import('/etc/passwd') = 1", WHERE),
    ("lo_get(1) IS NULL", WHERE),
    ("set_config('role', 'postgres', false) = ''", WHERE),
    ("current_setting('port') = '1'", WHERE),
    ("version() LIKE 'P%'", WHERE),
    ("query_to_xml('select 1', true, true, '') IS NULL", WHERE),
    ("pg_terminate_backend(1)", WHERE),
    ("pg_advisory_lock(1) IS NULL", WHERE),
    ("nextval('s') = 1", WHERE),
    ("has_table_privilege('t', 'select')", WHERE),
    ("dblink('host=x', 'select 1') IS NULL", WHERE),
    ("pg_get_viewdef(1) = ''", WHERE),
    ("obj_description(1) = ''", WHERE),
    ("to_regclass('secret') IS NULL", WHERE),
    ("convert_from(by, 'utf8') = ''", WHERE),
    ("inet_server_port() = 1", WHERE),
    ("random() > 0.5", WHERE),
    ("gen_random_uuid() = u", WHERE),
    ("txid_current() = 1", WHERE),
    // The clock and the user.
    ("now() > tz", WHERE),
    ("clock_timestamp() > tz", WHERE),
    ("CURRENT_TIMESTAMP > tz", WHERE),
    ("CURRENT_DATE = d", WHERE),
    ("LOCALTIME > '12:00'", WHERE),
    ("CURRENT_USER = s", WHERE),
    ("USER = s", WHERE),
    ("CURRENT_ROLE = s", WHERE),
    ("CURRENT_SCHEMA = s", WHERE),
    ("CURRENT_CATALOG = s", WHERE),
    ("tz > 'now'", WHERE),
    ("tz > 'NoW'", WHERE),
    ("d = 'today'", WHERE),
    ("d = date 'tomorrow'", WHERE),
    ("d = 'yesterday'::date", WHERE),
    ("date('today') = d", WHERE),
    ("d = ANY ('{today}')", WHERE),
    ("tz <@ '[now,)'::tstzrange", WHERE),
    ("s::timestamptz > tz", WHERE),
    ("s::date = d", WHERE),
    ("age(tz) > '1 day'", WHERE),
    ("tz::text = 'x'", WHERE),
    ("to_char(tz, 'YYYY') = '2024'", WHERE),
    // Users' functions, operators, types and casts.
    ("leak(s)", WHERE),
    ("public.leak(s)", WHERE),
    ("no_such_function(s)", WHERE),
    ("public.no_such_function(s)", WHERE),
    ("lower_leak(s) = ''", WHERE),
    ("id OPERATOR(public.=) 1", WHERE),
    ("id OPERATOR(public.@@@) 1", WHERE),
    ("id @@@ 1", WHERE),
    ("s::leaky IS NULL", WHERE),
    ("s::public.leaky IS NULL", WHERE),
    ("'x'::leaky IS NULL", WHERE),
    ("s = 'x'::no_such_type", WHERE),
    ("'(1,2)'::pair IS NULL", WHERE),
    ("'x' COLLATE public.odd = s", WHERE),
    ("s COLLATE no_such_collation = 'x'", WHERE),
    ("p = '(1,2)'", WHERE),
    ("(p).a = 1", WHERE),
    ("x = 'x'", WHERE),
    ("lr && '[1,2]'", WHERE),
    // Types that look things up, or are no data types.
    ("'t'::regclass IS NULL", WHERE),
    ("'pg_sleep'::regproc IS NULL", WHERE),
    ("'postgres'::regrole IS NULL", WHERE),
    ("s::regclass IS NULL", WHERE),
    ("id::regclass = 't'", WHERE),
    ("'x'::xml IS NULL", WHERE),
    ("'1'::money = '1'", WHERE),
    ("'$.a'::jsonpath IS NULL", WHERE),
    ("'a'::tsquery IS NULL", WHERE),
    ("'x'::cstring = s", WHERE),
    ("'x'::anyelement = s", WHERE),
    ("'(1)'::record IS NULL", WHERE),
    ("'{t}'::regclass[] IS NULL", WHERE),
    ("s::t.s%TYPE = ''", WHERE),
    ("'x'::pg_toast.x IS NULL", WHERE),
    // Rows and columns that are not the client's.
    ("t IS NOT NULL", COLUMN),
    ("t.* IS NOT NULL", COLUMN),
    ("t = t", COLUMN),
    ("public.t IS NULL", COLUMN),
    ("*", COLUMN),
    ("ctid = '(0,1)'", COLUMN),
    ("t.ctid = '(0,1)'", COLUMN),
    ("xmin = 1", COLUMN),
    ("tableoid = 1", COLUMN),
    ("hidden = 1", COLUMN),
    ("no_such_column = 1", COLUMN),
    ("secret.id = 1", COLUMN),
    ("public.secret.id = 1", COLUMN),
    ("postgres.public.t.id = 1", COLUMN),
    ("other.t.id = 1", COLUMN),
    ("ID = 1 AND \"ID\" = 1", COLUMN),
    ("row_to_json(t) IS NULL", WHERE),
    ("ROW(id, s) IS NOT NULL", WHERE),
    ("(id, s) IS NULL", WHERE),
    ("ROW(t.*) = ROW(1)", COLUMN),
    ("ROW(id) = '(1)'", WHERE),
    ("(ROW(id, s)).f1 = 1", WHERE),
    ("(id).x = 1", WHERE),
    ("DEFAULT = id", WHERE),
    // Kinds of calls.
    ("count(*) > 1", WHERE),
    ("max(id) > 1", WHERE),
    ("lower(DISTINCT s) = ''", WHERE),
    ("lower(s ORDER BY s) = ''", WHERE),
    ("lower(s) FILTER (WHERE true) = ''", WHERE),
    ("lower(s) OVER () = ''", WHERE),
    ("row_number() OVER () = 1", WHERE),
    ("percentile_disc(0.5) WITHIN GROUP (ORDER BY id) = 1", WHERE),
    ("lower(VARIADIC at) = ''", WHERE),
    ("make_date(year => 2024, month => 1, day => 1) = d", WHERE),
    ("generate_series(1, 3) = 1", WHERE),
    ("unnest(ai) = 1", WHERE),
    ("GROUPING(id) = 1", WHERE),
    ("id IS DOCUMENT", WHERE),
    ("XMLELEMENT(name x) IS NULL", WHERE),
    ("COLLATION FOR (s) = ''", WHERE),
    ("TREAT(s AS int) = 1", WHERE),
    ("CURRENT OF x", WHERE),
    // Time or memory beyond what goes in.
    ("s ~ '(a*)*b'", WHERE),
    ("s !~* 'x'", WHERE),
    ("s SIMILAR TO '(a*)*'", WHERE),
    ("substring(s from '(a*)*b') = ''", WHERE),
    ("substring(s similar 'a' escape '#') = ''", WHERE),
    ("substring(s, 'a', '#') = ''", WHERE),
    ("regexp_replace(s, 'a', 'b') = ''", WHERE),
    ("repeat('x', 1000000000) = s", WHERE),
    ("lpad(s, 1000000000) = s", WHERE),
    ("replace(s, 'a', s) = s", WHERE),
    ("format('%1000000000s', s) = s", WHERE),
    ("encode(by, 'hex') = s", WHERE),
    ("s::bytea::text = s", WHERE),
    ("by::text = s", WHERE),
    ("s::char(10485760) = s", WHERE),
    ("B'1'::bit(80000000) = B'1'", WHERE),
    ("n ^ 100000 > 1", WHERE),
    ("power(n, 100000) > 1", WHERE),
    ("exp(n) > 1", WHERE),
    ("factorial(100000) > 1", WHERE),
    ("n > 1e100000", WHERE),
    ("n > '1e100000'", WHERE),
    ("n = ANY ('{1e100000}')", WHERE),
    ("j > '{\"a\": 1e100000}'", WHERE),
    ("('1e65000'::text::numeric + 1) * ('1e65000'::text::numeric + 1) > n", WHERE),
    ("(s::numeric + 1) * 2 > n", WHERE),
    ("mod(s::jsonb::numeric + 1, n) > n", WHERE),
    ("((j->'k')::numeric + 1) / 3 > n", WHERE),
    ("(at::numeric[])[1] * n > 1", WHERE),
    ("j @@ '$.a == 1'", WHERE),
    ("jsonb_path_exists(j, '$.**')", WHERE),
    ("to_tsvector(s) @@ to_tsquery('a')", WHERE),
    ("array_fill(1, ARRAY[1000000000]) = ai", WHERE),
    ("s LIKE like_escape(like_escape(s, ''), '')", WHERE),
    ("tz AT TIME ZONE s > ts", WHERE),
    ("tz AT TIME ZONE 'FOO5BAR' > ts", WHERE),
    ("tz AT TIME ZONE '../../x' > ts", WHERE),
    ("tz > '2024-01-01 00:00 FOO5'", WHERE),
    ("s LIKE ANY (at)", WHERE),
    // Errors that do not depend on the row.
    ("1/0 = id", WHERE),
    ("id = 1 OR 1/0 = 1", WHERE),
    ("s = 'x'::text COLLATE \"C\" AND 'a' < 'b' AND j->>'a' = ('{\"a\": 1}'::jsonb)[0]::int / 0", WHERE),
    ("i2 = 99999::int2", WHERE),
    // No condition at all.
    ("id", WHERE),
    ("s", WHERE),
    ("id = s", WHERE),
    ("id + s = 1", WHERE),
    ("m = 1", WHERE),
    ("m = 'no such label'", WHERE),
    ("id = 'x'", WHERE),
    ("lower(id) = ''", WHERE),
    ("id AND true", WHERE),
    ("NOT id", WHERE),
];

#[test]
fn whatever_is_not_an_expression_over_the_columns_is_refused() {
    let (_cluster, mut sql) = cluster();
    fill(&mut sql, &mut Dice::with_seed(7), 3);
    sql.run(
        "CREATE TYPE pair AS (a int, b int);
         CREATE FUNCTION leak(text) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'leaked'; END $$;
         CREATE FUNCTION lower_leak(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1';
         CREATE FUNCTION lower(int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'leaked'; END $$;
         CREATE FUNCTION same(int, int) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'leaked'; END $$;
         CREATE OPERATOR public.= (LEFTARG = int, RIGHTARG = int, FUNCTION = same);
         CREATE OPERATOR public.@@@ (LEFTARG = int, RIGHTARG = int, FUNCTION = same);
         CREATE DOMAIN leaky AS text CHECK (leak(value));
         CREATE COLLATION odd FROM \"C\";
         CREATE FUNCTION text_of_mood(mood) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'leaked'; END $$;
         CREATE CAST (mood AS int) WITH FUNCTION text_of_mood(mood) AS IMPLICIT;
         CREATE OPERATOR CLASS odd_ops FOR TYPE int USING btree AS
             OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint4cmp(int, int);
         CREATE TYPE leaky_range AS RANGE (subtype = int, subtype_opclass = odd_ops);
         CREATE TABLE secret (id int);
         CREATE SCHEMA other;
         CREATE TABLE other.t (id int);
         ALTER TABLE t ADD p pair, ADD x xml, ADD lr leaky_range",
    );
    let mut accepted = Vec::new();
    for (condition, code) in ATTACKS {
        match judged(&mut sql, condition, "[]") {
            Ok(expression) => accepted.push(format!("{condition} became {expression}")),
            Err((said, words)) if said != *code => accepted.push(format!("{condition}: {said}: {words}")),
            Err((_, words)) => assert!(!words.contains("leaked"), "{condition}: {words}"),
        }
    }
    assert!(accepted.is_empty(), "{}", accepted.join("\n"));
}

/// What exists and may not be used is refused in the same words as what does not exist.
#[test]
fn refusals_tell_nothing_of_what_exists() {
    let (_cluster, mut sql) = cluster();
    fill(&mut sql, &mut Dice::with_seed(7), 1);
    let pairs = [
        ("CREATE FUNCTION aaaaa(int) RETURNS bool LANGUAGE sql AS 'SELECT true'", "aaaaa(id)", "bbbbb(id)"),
        ("", "public.aaaaa(id)", "public.bbbbb(id)"),
        ("", "public.aaaaa(id)", "nosuch.bbbbb(id)"),
        ("CREATE TYPE aaaa1 AS ENUM ('x')", "s = 'x'::aaaa1", "s = 'x'::bbbb1"),
        ("", "s = 'x'::public.aaaa1", "s = 'x'::nosuch.bbbb1"),
        ("CREATE DOMAIN aaaa2 AS text", "s::aaaa2 = ''", "s::bbbb2 = ''"),
        ("CREATE OPERATOR public.@@@@ (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq)", "id @@@@ 1", "id @@@# 1"),
        ("CREATE TABLE aaaa3 (id int)", "aaaa3.id = 1", "bbbb3.id = 1"),
        ("CREATE COLLATION pg_catalog.aaaa4 FROM \"C\"", "s COLLATE aaaa4 = ''", "s COLLATE bbbb4 = ''"),
        ("", "xmin = 1", "xmix = 1"),
        ("", "lower(id) = ''", "lower(i4) = ''"),
        (
            "CREATE FUNCTION pg_catalog.lower(int) RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
            "lower(id) = ''",
            "length(id) = 1",
        ),
    ];
    let letters = |text: &str| text.replace("public", "nosuch").replace("xmin", "xmix").replace(['a', 'b'], "_");
    for (prepare, there, not_there) in pairs {
        if !prepare.is_empty() {
            sql.run(prepare);
        }
        let (one, other) = (judged(&mut sql, there, "[]"), judged(&mut sql, not_there, "[]"));
        let (one, other) = (one.expect_err(there), other.expect_err(not_there));
        assert_eq!(one.0, other.0, "{there}");
        if !there.starts_with("lower") {
            assert_eq!(letters(&one.1).replace('@', "#"), letters(&other.1).replace('@', "#"), "{there}");
        }
    }
}

#[test]
fn size_and_depth_are_bounded() {
    let (_cluster, mut sql) = cluster();
    fill(&mut sql, &mut Dice::with_seed(7), 1);
    let nested = |open: &str, inside: &str, close: &str, n: usize| open.repeat(n) + inside + &close.repeat(n);
    let chain = |operator: &str, n: usize| vec!["s"; n].join(operator) + " = ''";
    for (what, condition) in [
        ("a megabyte of text", format!("s = '{}'", "x".repeat(1 << 20))),
        ("a hundred thousand parentheses", nested("(", "true", ")", 100_000)),
        ("thirty thousand parentheses", nested("(", "true", ")", 30_000)),
        ("negations", "NOT ".repeat(16_000) + "true"),
        ("minus signs", format!("{}1 = 1", "- ".repeat(30_000))),
        ("calls", nested("abs(", "id", ")", 10_000) + " = 1"),
        ("casts", format!("id{} = 1", "::int".repeat(10_000))),
        ("subscripts", format!("ai{} = 1", "[1]".repeat(20_000))),
        ("arrays", nested("ARRAY[", "1", "]", 5000) + " = ai"),
        ("cases", nested("CASE WHEN true THEN ", "true", " END", 2000)),
        ("a chain of additions", vec!["1"; 20_000].join("+") + " = 1"),
        ("a chain of concatenations", chain("||", 100)),
        ("many patterns", vec!["s LIKE '%a%'"; 50].join(" OR ")),
        ("many products", vec!["n * n > 1"; 50].join(" OR ")),
        ("a pattern for each of an array", format!("s LIKE ANY ('{{{}}}')", vec!["a"; 1000].join(","))),
        ("a long pattern", format!("s LIKE '{}'", "%a".repeat(10_000))),
        ("a long pattern on a long constant", format!("lower('{}') LIKE '{}b'", "a".repeat(30_000), "%a".repeat(5000))),
        ("a list", format!("id IN ({})", vec!["1"; 30_000].join(","))),
        ("nested BETWEEN", nested("(", "id", " BETWEEN 1 AND 2)::int", 40) + " = 1"),
        ("nested BETWEEN SYMMETRIC", nested("(", "id", " BETWEEN SYMMETRIC 1 AND 2)::int", 40) + " = 1"),
        ("nested IN", nested("(", "id", " IN (i2, i4, i8))::int", 40) + " = 1"),
        ("a number", format!("n = {}", "9".repeat(60_000))),
        ("a number as text", format!("n = '{}'", "9".repeat(60_000))),
    ] {
        let refusal = judged(&mut sql, &condition, "[]").expect_err(what);
        assert_eq!(refusal.0, "INVALID_WHERE", "{what}: {refusal:?}");
        assert!(refusal.1.len() < 500, "{what}: {refusal:?}");
    }
    let long = judged(&mut sql, "s = $1", &format!("[\"{}\"]", "x".repeat(1 << 20))).expect_err("long params");
    assert_eq!(long.0, "INVALID_PARAMS");
    for (what, condition) in [
        ("AND is flat", vec!["id = 1"; 1500].join(" AND ")),
        ("a long list", format!("id IN ({})", (0..5000).map(|n| n.to_string()).collect::<Vec<_>>().join(","))),
        ("some depth", nested("(", "true", " AND b)", 60)),
        ("a long text", format!("s = '{}'", "x".repeat(60_000))),
    ] {
        assert!(judged(&mut sql, &condition, "[]").is_ok(), "{what}");
    }
}

/// An error costs nothing of the transaction that it comes up in, and no setting stays changed.
#[test]
fn a_refusal_leaves_the_session_as_it_was() {
    let (_cluster, mut sql) = cluster();
    fill(&mut sql, &mut Dice::with_seed(7), 1);
    sql.run(
        "CREATE FUNCTION verdict(condition text) RETURNS text LANGUAGE plpgsql AS $$
         BEGIN PERFORM rte._check_where('t'::regclass, condition); RETURN 'accepted';
         EXCEPTION WHEN invalid_parameter_value THEN RETURN 'refused'; END $$;
         SET search_path = public, pg_catalog; SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Kathmandu';
         SET standard_conforming_strings = off; SET escape_string_warning = off; BEGIN",
    );
    for condition in ["id = 1", "id = 'x'", "syntax error", "d = '2024-02-31'", "d = '2024-02-20'", "s = 'a\\'"] {
        let expected = if condition.contains("= 1") || condition.contains("20'") || condition.contains('\\') {
            "accepted"
        } else {
            "refused"
        };
        assert_eq!(sql.text(&format!("SELECT verdict({})", quoted(condition))), expected, "{condition}");
        let settings = sql.text(
            "SELECT current_setting('search_path') || current_setting('DateStyle') || current_setting('TimeZone')
                    || current_setting('standard_conforming_strings')",
        );
        assert_eq!(settings, "public, pg_catalogSQL, DMYAsia/Kathmanduoff", "{condition}");
    }
    sql.run("COMMIT");
}

/// Random conditions mean the same, as far as Postgres can say it of the expression that they become.
#[test]
fn random_conditions_mean_what_they_mean_in_postgres() {
    let (_cluster, mut sql) = cluster();
    let mut dice = Dice::with_seed(seed("random_conditions"));
    fill(&mut sql, &mut dice, 200);
    let (mut accepted, mut failed, mut held, count) = (0, 0, 0, rounds(1500));
    for _ in 0..count {
        let condition = expression::condition(&mut dice);
        let params = Value::Array(condition.params.clone()).to_string();
        let theirs = rows(&mut sql, &condition.text, &condition.arguments);
        match judged(&mut sql, &condition.text, &params) {
            Ok(ours) => {
                accepted += 1;
                let rows = rows(&mut sql, &ours, &[]);
                assert_eq!(rows, theirs, "{condition:?} became {ours}");
                failed += usize::from(rows.is_err());
                held += usize::from(rows.is_ok_and(|rows| !rows.is_empty() && rows.len() < 200));
            }
            // What Postgres refuses may be refused, and what reads the clock must be.
            Err(refusal) => assert!(
                theirs.is_err() || condition.text.contains("now()"),
                "{condition:?} gave {refusal:?}, and Postgres takes it"
            ),
        }
    }
    println!("of {count} conditions {accepted} were accepted, {failed} raised an error, {held} held for some rows");
    assert!(accepted * 100 >= count * 95, "{accepted} of {count} were accepted");
    assert!(failed * 100 <= accepted * 2, "{failed} of {accepted} raised an error");
    assert!(held * 2 >= accepted, "{held} of {accepted} held for some rows only");
}
