//! The first hour with the extension: register, subscribe, see changes, come back, be refused rightly.

use rte_testkit::{Client, Cluster, State, assert_equal};
use serde_json::json;

#[test]
fn a_committed_change_reaches_the_client() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("orders", "id int PRIMARY KEY, item text, paid bool NOT NULL DEFAULT false");
    sql.run("INSERT INTO orders VALUES (1, 'tea')");
    let mut client = cluster.subscriber("c", &["orders"]);
    assert_eq!(client.sub("orders").value(&["1"], "item"), Some("\"tea\""));
    assert_eq!(client.sub("orders").name, "public.orders");
    let columns: Vec<_> =
        client.sub("orders").columns.iter().map(|c| (c.name.as_str(), c.type_name.as_str(), c.nullable)).collect();
    assert_eq!(columns, [("id", "int4", false), ("item", "text", true), ("paid", "bool", false)]);

    sql.run("INSERT INTO orders VALUES (2, 'coffee')");
    client.wait_for("the insert", |c| c.sub("orders").row(&["2"]).is_some());
    sql.run("UPDATE orders SET paid = true WHERE id = 1");
    client.wait_for("the update", |c| c.sub("orders").value(&["1"], "paid") == Some("true"));
    sql.run("DELETE FROM orders WHERE id = 2");
    client.wait_for("the delete", |c| c.sub("orders").row(&["2"]).is_none());
    assert_equal(&mut sql, &mut client);
    client.assert_clean();
    assert_eq!(client.copy.counts.repeated, 0, "each change came once");
}

#[test]
fn one_transaction_is_one_commit() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("a", "id int PRIMARY KEY, n int");
    sql.table("b", "id int PRIMARY KEY, n int");
    sql.run("INSERT INTO a VALUES (1, 0); INSERT INTO b VALUES (1, 0)");
    let mut client = cluster.subscriber("c", &["a", "b"]);
    for n in 1..50 {
        sql.run(&format!("BEGIN; UPDATE a SET n = {n}; UPDATE b SET n = {n}; COMMIT"));
    }
    client.wait_for("the last", |c| {
        let (a, b) = (c.sub("a").value(&["1"], "n"), c.sub("b").value(&["1"], "n"));
        assert_eq!(a, b, "both tables at one snapshot");
        a == Some("49")
    });
}

#[test]
fn a_client_that_comes_back_gets_what_it_missed_and_no_snapshot() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    sql.run("INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 100) i");
    let mut client = cluster.subscriber("c", &["t"]);
    for round in 0..5 {
        client.leave();
        sql.run(&format!(
            "UPDATE t SET v = 'round {round}' WHERE id % 5 = {round}; DELETE FROM t WHERE id = 10 + {round}"
        ));
        client.resume();
        assert_equal(&mut sql, &mut client);
    }
    client.assert_clean();
    assert_eq!(client.copy.counts.resumed, 10, "two subscriptions, five times");
}

#[test]
fn unsubscribed_is_quiet() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY");
    let mut client = cluster.subscriber("c", &["t"]);
    client.unsubscribe("t");
    client.wait_for("unsubscribed", |c| !c.copy.subscriptions.contains_key("t"));
    sql.run("INSERT INTO t VALUES (1)");
    // The strict client fails on a change of a shape that it does not hold.
    assert_equal(&mut sql, &mut client);
    client.subscribe("t", "t");
    client.wait_live();
    assert_equal(&mut sql, &mut client);
    client.unsubscribe("never");
    assert_eq!(client.wait_error("UNKNOWN_SUBSCRIPTION").id.as_deref(), Some("never"));
}

#[test]
fn equal_shapes_have_equal_names_and_equal_rows() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v int");
    sql.run("INSERT INTO t SELECT i, i FROM generate_series(1, 1000) i");
    let mut client = cluster.subscriber("c", &["t"]);
    client.subscribe("again", "public.t");
    client.subscribe("once more", "t");
    sql.run("UPDATE t SET v = v + 1");
    client.wait_live();
    assert_eq!(client.sub("t").shape, client.sub("again").shape);
    sql.run("UPDATE t SET v = v + 1 WHERE id < 10; DELETE FROM t WHERE id = 500");
    assert_equal(&mut sql, &mut client);
    client.assert_clean();
}

#[test]
fn an_id_in_use_is_refused_and_the_first_lives_on() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY");
    let mut client = cluster.subscriber("c", &["t"]);
    client.send(&json!({"type": "subscribe", "id": "t", "table": "kit_barrier"}));
    assert_eq!(client.wait_error("DUPLICATE_SUBSCRIPTION").id.as_deref(), Some("t"));
    sql.run("INSERT INTO t VALUES (1)");
    assert_equal(&mut sql, &mut client);
}

#[test]
fn a_column_subset_carries_the_key_and_nothing_else() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.run("CREATE TABLE t (secret text, id int PRIMARY KEY, a int, b int)");
    sql.run("SELECT rte.register_table('t', columns => '{id,a,b}')");
    sql.run("INSERT INTO t VALUES ('s', 1, 2, 3)");
    let mut client = cluster.subscriber("c", &["t"]);
    client.subscribe_columns("b", "t", &["b"]);
    client.wait_live();
    let names = |c: &Client, id: &str| c.sub(id).columns.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&client, "t"), ["id", "a", "b"]);
    let mut subset = names(&client, "b");
    subset.sort();
    assert_eq!(subset, ["b", "id"]);
    let before = client.copy.counts.changes;
    sql.run("UPDATE t SET secret = 'other'");
    sql.run("UPDATE t SET a = 20");
    sql.run("UPDATE t SET b = 30");
    assert_equal(&mut sql, &mut client);
    assert!(client.copy.counts.changes - before <= 4, "a, b twice, the barrier: {:?}", client.copy.counts);
    for columns in [&["secret"][..], &["nothing"], &["id", "secret"]] {
        client.subscribe_columns("refused", "t", columns);
        client.wait_error("UNKNOWN_COLUMN");
    }
}

#[test]
fn names_may_be_quoted_and_of_any_script() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    let names = ["\"Größe \"\"x\"\"\"", "\"表\"", "\"a.b\"", "\"select\"", "\"it's\"", "\"back\\slash\""];
    for name in names {
        sql.table(name, "\"Schlüssel 🔑\" int PRIMARY KEY, \"v\"\"w\" text, \"\u{1F600}\" int");
        sql.run(&format!("INSERT INTO {name} VALUES (1, 'x', 2)"));
    }
    let mut client = cluster.subscriber("c", &names);
    for name in names {
        sql.run(&format!(
            "INSERT INTO {name} VALUES (2, 'y', 3); UPDATE {name} SET \"v\"\"w\" = 'z', \"\u{1F600}\" = 4"
        ));
    }
    assert_equal(&mut sql, &mut client);
    assert_eq!(client.sub(names[0]).key, ["Schlüssel 🔑"]);
    client.resume();
    assert_equal(&mut sql, &mut client);
    client.assert_clean();
}

#[test]
fn a_table_in_another_schema_goes_by_its_full_name() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.run("CREATE SCHEMA shop; GRANT USAGE ON SCHEMA shop TO web_anon; CREATE TABLE shop.t (id int PRIMARY KEY)");
    sql.register("shop.t");
    sql.run("GRANT SELECT ON shop.t TO web_anon; INSERT INTO shop.t VALUES (1)");
    let mut client = cluster.subscriber("c", &["shop.t"]);
    sql.run("INSERT INTO shop.t VALUES (2)");
    assert_equal(&mut sql, &mut client);
    // The bare name will do while only one table has it; then it is that of the schema public.
    client.subscribe("t", "t");
    client.wait_live();
    assert_eq!(client.sub("t").name, "shop.t");
    sql.table("t", "id text PRIMARY KEY");
    assert_equal_barrier_only(&mut client, sql.barrier());
    let client = cluster.subscriber("later", &["t"]);
    assert_eq!(client.sub("t").name, "public.t");
}

#[test]
fn unregistering_ends_the_subscription_and_the_capture() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY");
    sql.table("other", "id int PRIMARY KEY");
    let mut client = cluster.subscriber("c", &["t", "other"]);
    sql.run("SELECT rte.unregister_table('t')");
    client.wait_for("the end of t", |c| c.sub("t").state == State::Ended);
    assert_eq!(client.wait_error("UNKNOWN_TABLE").id.as_deref(), Some("t"));
    assert_eq!(sql.number("SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass"), 0);
    assert_eq!(sql.number("SELECT count(*) FROM rte.tables WHERE table_name = 't'"), 0);
    client.copy.subscriptions.remove("t");
    sql.run("INSERT INTO t VALUES (1); INSERT INTO other VALUES (1)");
    assert_equal(&mut sql, &mut client);
    client.subscribe("t", "t");
    client.wait_error("UNKNOWN_TABLE");
    client.copy.subscriptions.remove("t");
    sql.register("t");
    client.subscribe("t", "t");
    client.wait_live();
    assert_equal(&mut sql, &mut client);
}

#[test]
fn without_preload_the_extension_says_so_and_writes_go_on() {
    let cluster = Cluster::builder().without_preload().start();
    let output = cluster.psql("postgres", &["-v", "ON_ERROR_STOP=1"], "CREATE EXTENSION whagons_rte;");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("shared_preload_libraries") && told.contains("WARNING"), "{told}");
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v int");
    sql.run("INSERT INTO t VALUES (1, 1); UPDATE t SET v = 2; TRUNCATE t; INSERT INTO t VALUES (1, 1)");
    let mut other = cluster.sql();
    other.run("UPDATE t SET v = 3; DELETE FROM t");
}

#[test]
fn welcome_says_who_and_what() {
    let cluster = Cluster::ready();
    cluster.sql().table("t", "a int, b int, PRIMARY KEY (b, a)");
    let client = cluster.client("c");
    let welcome = client.welcome.clone().expect("welcome");
    let text = |field: &str| welcome[field].as_str().unwrap_or_default().to_owned();
    assert_eq!(text("session").len(), 36, "{welcome}");
    assert_eq!(text("role"), "web_anon");
    assert_eq!(text("tenant"), "postgres");
    assert!(text("server").starts_with("whagons_rte 0."), "{welcome}");
    assert!(welcome["heartbeat_ms"].as_u64() > Some(0), "{welcome}");
    for limit in ["max_frame_bytes", "max_subscriptions", "client_queue_bytes"] {
        assert!(welcome["limits"][limit].as_u64() > Some(0), "{limit}: {welcome}");
    }
    let tables = welcome["tables"].as_array().expect("tables");
    assert!(tables.contains(&json!({"name": "public.t", "key": ["b", "a"]})), "{welcome}");
}

#[test]
fn what_the_contract_names_and_is_not_done_yet_says_so() {
    let cluster = Cluster::ready();
    let mut client = cluster.client("c");
    for kind in [
        json!({"type": "mutate", "id": "m", "changes": []}),
        json!({"type": "publish", "channel": "c", "event": "e", "payload": 1}),
        json!({"type": "join", "channel": "c"}),
    ] {
        client.send(&kind);
        client.wait_error("NOT_SUPPORTED");
    }
    client.ping();
}

#[test]
fn nobody_is_let_in_without_an_anonymous_role() {
    let cluster = Cluster::builder().conf("rte.anon_role", "").ready();
    let mut client = Client::new(cluster.rte_port, "c");
    let closed = client.try_join().expect_err("not welcome");
    assert_eq!(closed.code, Some(4401), "{closed:?}");
    client.wait_error("UNAUTHORIZED");
}

#[test]
fn the_anonymous_role_is_never_a_superuser() {
    for role in ["postgres", "bypass", "nobody"] {
        let cluster = Cluster::builder().conf("rte.anon_role", role).ready();
        cluster.sql().run("CREATE ROLE bypass BYPASSRLS");
        let mut client = Client::new(cluster.rte_port, "c");
        let closed = client.try_join().expect_err(role);
        assert!(matches!(closed.code, Some(4401 | 4403)), "{role}: {closed:?}");
    }
}

#[test]
fn a_policy_decides_which_rows_are_there() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v int");
    sql.run("ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (id > 1)");
    sql.run("INSERT INTO t SELECT n, n FROM generate_series(1, 3) n");
    let mut client = cluster.subscriber("c", &["t"]);
    let rows = |client: &Client| client.sub("t").rows.len();
    assert_eq!(rows(&client), 2);
    sql.run("UPDATE t SET v = 5; INSERT INTO t VALUES (0, 0), (7, 7); UPDATE t SET id = -7 WHERE id = 7; DELETE FROM t WHERE id = 1");
    let mark = sql.barrier();
    client.wait_barrier(mark);
    assert_eq!(rows(&client), 2);
    sql.run("ALTER TABLE t DISABLE ROW LEVEL SECURITY");
    client.wait_for("every row", |c| rows(c) == 4);
    sql.run("ALTER TABLE t ENABLE ROW LEVEL SECURITY; DROP POLICY p ON t");
    client.wait_for("no row", |c| rows(c) == 0 && c.sub("t").state == State::Live);
}

fn assert_equal_barrier_only(client: &mut Client, mark: i32) {
    client.copy.subscriptions.retain(|_, s| s.state != State::Ended);
    client.wait_barrier(mark);
}

#[test]
fn a_table_that_is_not_granted_does_not_exist() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("hidden", "id int PRIMARY KEY");
    sql.table("part", "id int PRIMARY KEY, open int, closed int");
    sql.table("revoked", "id int PRIMARY KEY");
    sql.run("REVOKE SELECT ON hidden, part FROM web_anon; GRANT SELECT (id, open) ON part TO web_anon");
    sql.run("CREATE TABLE unregistered (id int PRIMARY KEY)");
    let mut client = cluster.subscriber("c", &["part", "revoked"]);
    let mut answers = Vec::new();
    for table in ["hidden", "unregistered", "missing", "pg_class", "rte.tables", "rte.change_log"] {
        client.subscribe("x", table);
        let error = client.wait_error("UNKNOWN_TABLE");
        answers.push(error.message.replace(table, "…"));
    }
    client.copy.subscriptions.remove("x");
    answers.dedup();
    assert_eq!(answers.len(), 1, "an answer does not tell a hidden table from a missing one");
    let columns: Vec<_> = client.sub("part").columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(columns, ["id", "open"]);
    client.subscribe_columns("y", "part", &["closed"]);
    client.wait_error("UNKNOWN_COLUMN");
    client.copy.subscriptions.remove("y");
    sql.run("INSERT INTO part VALUES (1, 2, 3)");
    assert_equal(&mut sql, &mut client);
    sql.run("REVOKE SELECT ON revoked FROM web_anon");
    client.wait_for("the end of a subscription whose grant is gone", |c| c.sub("revoked").state == State::Ended);
}

#[test]
fn the_views_show_what_is_connected() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY");
    let mut client = cluster.subscriber("browser 7", &["t"]);
    let kinds = sql.texts("SELECT DISTINCT kind::text FROM rte.workers ORDER BY 1");
    for kind in ["feeder", "gateway", "launcher"] {
        assert!(kinds.iter().any(|k| k == kind), "{kinds:?}");
    }
    assert_eq!(sql.number("SELECT count(*) FROM rte.connections"), 1);
    assert_eq!(sql.number("SELECT count(*) FROM rte.subscriptions"), 2);
    sql.run("SET application_name = 'x'; INSERT INTO t VALUES (7); DELETE FROM t");
    assert_equal(&mut sql, &mut client);
    let log = sql.texts(
        "SELECT operation || ' ' || key::text || ' ' || role FROM rte.sync_log
         WHERE relation = 't'::regclass AND operation IN ('insert', 'delete') ORDER BY at, xid, operation DESC",
    );
    assert_eq!(log.len(), 2, "{log:?}");
    assert!(log[0].starts_with("insert") && log[0].contains('7') && log[0].ends_with("postgres"), "{log:?}");
    client.leave();
    rte_testkit::wait_until("the view forgets a closed connection", || {
        (sql.number("SELECT count(*) FROM rte.connections") == 0).then_some(())
    });
}
