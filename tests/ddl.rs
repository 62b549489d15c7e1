//! Registration meets a schema that lives: refusals, ALTER, RENAME, DROP, dump and restore.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rte_testkit::{Client, Cluster, Sql, State, assert_equal, captures_wal, rounds, wait_until};

fn start() -> (Cluster, Sql, Client) {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0");
    sql.run("INSERT INTO t SELECT i, i::text, i FROM generate_series(1, 10) i");
    let client = cluster.subscriber("c", &["t"]);
    (cluster, sql, client)
}

#[test]
fn a_table_without_a_key_is_refused_with_a_hint() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.run("CREATE TABLE no_key (a int); CREATE UNLOGGED TABLE u (id int PRIMARY KEY); CREATE TEMP TABLE tmp (id int PRIMARY KEY)");
    sql.run("CREATE VIEW w AS SELECT 1 AS id; CREATE TABLE d (id int PRIMARY KEY DEFERRABLE)");
    let (state, text) = sql.fails("SELECT rte.register_table('no_key')");
    assert_ne!(state, "XX000", "{text}");
    assert!(text.to_lowercase().contains("primary key"), "{text}");
    for table in ["u", "tmp", "w", "d", "pg_class", "rte.tables"] {
        let (state, text) = sql.fails(&format!("SELECT rte.register_table('{table}')"));
        assert!(state != "XX000" && !text.is_empty(), "{table}: {state} {text}");
    }
    assert_eq!(sql.fails("SELECT rte.register_table('no_key', columns => '{a,b}')").0.len(), 5);
    assert_eq!(sql.number("SELECT count(*) FROM rte.tables WHERE table_name <> 'kit_barrier'"), 0);
}

#[test]
fn altered_columns_resync_and_the_copy_is_right() {
    let (_cluster, mut sql, mut client) = start();
    for (i, alter) in [
        "ADD COLUMN extra text DEFAULT 'filled'",
        "ALTER COLUMN n TYPE bigint",
        "RENAME COLUMN v TO w",
        "DROP COLUMN extra",
        "ADD COLUMN extra int",
        "ALTER COLUMN w TYPE int USING w::int",
        "ALTER COLUMN w TYPE numeric(10, 2)",
    ]
    .into_iter()
    .enumerate()
    {
        sql.run("UPDATE t SET n = n + 1");
        sql.run(&format!("ALTER TABLE t {alter}"));
        sql.run("UPDATE t SET n = n + 1; INSERT INTO t (id, n) SELECT max(id) + 1, 0 FROM t");
        assert_equal(&mut sql, &mut client);
        let all = client.sub("t").columns.len() as i64;
        let columns = sql.number(
            "SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0 AND NOT attisdropped",
        );
        assert_eq!(all, columns, "{i}: {alter}");
        assert!(client.errors.is_empty(), "{:?}", client.errors);
    }
    let reasons = &client.copy.counts.resyncs;
    assert!(!reasons.is_empty() && reasons.iter().all(|r| r == "schema_changed"), "{reasons:?}");
}

#[test]
fn altering_in_the_writers_transaction_is_exact() {
    let (_cluster, mut sql, mut client) = start();
    sql.run("BEGIN; UPDATE t SET v = v || 'a'; ALTER TABLE t ADD COLUMN x int DEFAULT 5; UPDATE t SET x = n; COMMIT");
    assert_equal(&mut sql, &mut client);
    sql.run("BEGIN; UPDATE t SET x = 0; ALTER TABLE t ALTER COLUMN x TYPE text USING 'was ' || x; UPDATE t SET v = x; COMMIT");
    assert_equal(&mut sql, &mut client);
    sql.run("BEGIN; ALTER TABLE t DROP COLUMN x; ROLLBACK; UPDATE t SET x = 'still there'");
    assert_equal(&mut sql, &mut client);
    sql.run(
        "BEGIN; UPDATE t SET n = -1 WHERE id = 3; ALTER TABLE t DROP COLUMN x; ALTER TABLE t ADD COLUMN x date; COMMIT",
    );
    assert_equal(&mut sql, &mut client);
}

#[test]
fn what_changed_while_a_client_was_away_is_not_decoded_wrongly() {
    let (_cluster, mut sql, mut client) = start();
    client.leave();
    sql.run("UPDATE t SET n = n + 1; ALTER TABLE t ALTER COLUMN n TYPE text USING 'n' || n; UPDATE t SET n = n || '!'");
    client.resume();
    assert_equal(&mut sql, &mut client);
    client.leave();
    sql.run("ALTER TABLE t DROP COLUMN v; ALTER TABLE t ADD COLUMN v text DEFAULT 'new'");
    client.resume();
    assert_equal(&mut sql, &mut client);
}

#[test]
fn comments_grants_and_indexes_disturb_nobody() {
    let (_cluster, mut sql, mut client) = start();
    sql.run("CREATE INDEX ON t (n); COMMENT ON TABLE t IS 'x'; ANALYZE t; GRANT UPDATE ON t TO web_anon");
    sql.run("VACUUM t");
    sql.run("UPDATE t SET n = n + 1");
    assert_equal(&mut sql, &mut client);
    sql.run("CLUSTER t USING t_pkey");
    sql.run("UPDATE t SET n = n + 1");
    assert_equal(&mut sql, &mut client);
    sql.run("VACUUM FULL t");
    sql.run("REINDEX TABLE t");
    sql.run("UPDATE t SET n = n + 1; DELETE FROM t WHERE id = 1");
    assert_equal(&mut sql, &mut client);
    client.resume();
    assert_equal(&mut sql, &mut client);
    client.assert_clean();
}

#[test]
fn a_renamed_table_goes_on_under_its_new_name() {
    let (_cluster, mut sql, mut client) = start();
    sql.run("ALTER TABLE t RENAME TO renamed; UPDATE renamed SET v = 'after'");
    client.copy.subscriptions.get_mut("t").expect("t").table = "renamed".into();
    assert_equal(&mut sql, &mut client);
    assert_eq!(sql.text("SELECT table_name FROM rte.tables WHERE table_name <> 'kit_barrier'"), "renamed");
    client.subscribe("old", "t");
    client.wait_error("UNKNOWN_TABLE");
    client.copy.subscriptions.remove("old");
    sql.run("CREATE SCHEMA s; GRANT USAGE ON SCHEMA s TO web_anon; ALTER TABLE renamed SET SCHEMA s; UPDATE s.renamed SET v = 'moved'");
    client.copy.subscriptions.get_mut("t").expect("t").table = "s.renamed".into();
    assert_equal(&mut sql, &mut client);
}

#[test]
fn a_dropped_table_ends_its_subscriptions_only() {
    let (_cluster, mut sql, mut client) = start();
    sql.table("other", "id int PRIMARY KEY");
    client.subscribe("other", "other");
    client.wait_live();
    sql.run("BEGIN; INSERT INTO other VALUES (1); UPDATE t SET n = 0; DROP TABLE t; COMMIT");
    client.wait_for("the end of t", |c| c.sub("t").state == State::Ended);
    assert_eq!(client.wait_error("UNKNOWN_TABLE").id.as_deref(), Some("t"));
    client.copy.subscriptions.remove("t");
    sql.run("INSERT INTO other VALUES (2)");
    assert_equal(&mut sql, &mut client);
    assert!(client.errors.is_empty());
    assert_eq!(sql.number("SELECT count(*) FROM rte.tables WHERE table_name = 't'"), 0);
    sql.table("t", "id text PRIMARY KEY");
    sql.run("INSERT INTO t VALUES ('reborn')");
    client.subscribe("t", "t");
    client.wait_live();
    assert_equal(&mut sql, &mut client);
    client.leave();
    sql.run("DROP TABLE t; INSERT INTO other VALUES (3)");
    client.resume();
    client.wait_error("UNKNOWN_TABLE");
    client.copy.subscriptions.remove("t");
    assert_equal(&mut sql, &mut client);
}

#[test]
fn dropping_the_extension_cleans_up() {
    let (cluster, mut sql, mut client) = start();
    sql.run("DROP EXTENSION whagons_rte CASCADE");
    assert_eq!(sql.number("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"), 0);
    assert_eq!(sql.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'rte'"), 0);
    sql.run("UPDATE t SET n = 0; INSERT INTO t VALUES (100); TRUNCATE t");
    // The client is told one way or the other: closed, or its subscriptions ended.
    let end = std::time::Instant::now() + rte_testkit::patience();
    while client.closed.is_none() && client.copy.subscriptions.values().any(|s| s.state != State::Ended) {
        client.step(std::time::Duration::from_millis(100));
        assert!(std::time::Instant::now() < end, "the client was not told");
    }
    sql.run("CREATE EXTENSION whagons_rte; SELECT rte.register_table('t'), rte.register_table('kit_barrier')");
    wait_until("a client is welcome again", || Client::new(cluster.rte_port, "probe").try_join().ok());
    let mut again = cluster.subscriber("again", &["t"]);
    sql.run("INSERT INTO t VALUES (1)");
    assert_equal(&mut sql, &mut again);
}

#[test]
fn a_disabled_trigger_is_not_taken_for_silence() {
    let (_cluster, mut sql, mut client) = start();
    sql.run("ALTER TABLE t DISABLE TRIGGER ALL; UPDATE t SET n = -1");
    if captures_wal() {
        // It was disabled before, and the WAL is not silent.
        assert_equal(&mut sql, &mut client);
        return;
    }
    client.wait_for("the end of a subscription that cannot be followed", |c| c.sub("t").state == State::Ended);
    client.wait_error("CAPTURE_DISABLED");
    assert_eq!(sql.text("SELECT captured FROM rte.tables WHERE table_name = 't'"), "f");
    sql.register("t");
    client.subscribe("t", "t");
    client.wait_live();
    sql.run("UPDATE t SET n = -2");
    assert_equal(&mut sql, &mut client);
}

#[test]
fn registering_twice_changes_the_columns() {
    let (_cluster, mut sql, mut client) = start();
    sql.run("SELECT rte.register_table('t', columns => '{id,n}')");
    assert_equal(&mut sql, &mut client);
    assert_eq!(client.sub("t").columns.len(), 2);
    sql.run("UPDATE t SET v = 'unseen', n = 3");
    assert_equal(&mut sql, &mut client);
    sql.register("t");
    sql.run("UPDATE t SET v = 'seen'");
    assert_equal(&mut sql, &mut client);
    assert_eq!(client.sub("t").columns.len(), 3);
}

#[test]
fn dump_and_restore_keep_registrations() {
    let (cluster, mut sql, mut client) = start();
    sql.table("\"Odd name\"", "id int PRIMARY KEY, a int, b int");
    sql.run("SELECT rte.register_table('\"Odd name\"', columns => '{id,b}')");
    let dump = cluster.tool("pg_dump").arg("postgres").output().expect("pg_dump");
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    // The landlord database takes the place of the old one: dropped, created, restored.
    client.leave();
    sql.run("CREATE DATABASE copy TEMPLATE template0");
    let script = String::from_utf8(dump.stdout).expect("utf-8");
    let restore = cluster.psql("copy", &["-v", "ON_ERROR_STOP=1", "-o", "/dev/null"], &script);
    assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
    let mut copy = cluster.sql_in("copy");
    // Without a slot, the WAL does not capture until a feeder sees to that.
    let tables = "SELECT relation::regclass::text || ' ' || columns::text || (captured OR capture = 'wal')
                  FROM rte.tables ORDER BY 1";
    assert_eq!(copy.texts(tables), sql.texts(tables));
    copy.run("UPDATE t SET n = 77; INSERT INTO \"Odd name\" VALUES (1, 2, 3)");
    cluster.conf("rte.landlord_database", "copy");
    let mut cluster = cluster;
    drop((sql, copy));
    cluster.restart(rte_testkit::Shutdown::Fast);
    cluster.wait_healthy();
    // A cursor of another database is not valid here: the copy is made anew.
    client.join();
    let mut copy = cluster.sql_in("copy");
    client.wait_live();
    assert!(client.copy.counts.refused_resumes > 0);
    copy.run("UPDATE t SET n = 78");
    assert_equal(&mut copy, &mut client);
    copy.wait_captured();
    assert_eq!(copy.text("SELECT bool_and(captured) FROM rte.tables"), "t");
}

#[test]
fn a_grant_that_goes_ends_the_subscription_every_time() {
    let (_cluster, mut sql, mut client) = start();
    for round in 0..rounds(30) {
        sql.run("REVOKE SELECT ON t FROM web_anon");
        client.wait_for("the end of a subscription whose grant is gone", |c| c.sub("t").state == State::Ended);
        client.wait_error("UNKNOWN_TABLE");
        sql.run(&format!("UPDATE t SET n = {round}"));
        sql.run("GRANT SELECT ON t TO web_anon");
        client.subscribe("t", "t");
        // A grant may take a tick to be known.
        wait_until("the subscription", || {
            client.step(Duration::from_millis(20));
            if client.sub("t").state == State::Ended {
                client.errors.clear();
                client.subscribe("t", "t");
            }
            (client.sub("t").state == State::Live).then_some(())
        });
        client.errors.clear();
    }
    assert_equal(&mut sql, &mut client);
}

#[test]
fn definitions_that_change_under_load_are_followed_exactly() {
    let (cluster, mut sql, mut client) = start();
    let mut second = cluster.subscriber("second", &["t"]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let (mut session, stop) = (cluster.sql(), &stop);
            scope.spawn(move || {
                for round in 0.. {
                    // Some of it fails while the column has another type; the rest is what counts.
                    let _ = session.batch_execute(&format!("UPDATE t SET n = {round} WHERE id % 3 = {writer}"));
                    let _ =
                        session.batch_execute(&format!("UPDATE t SET v = 'w{writer} {round}' WHERE id % 3 = {writer}"));
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                }
            });
        }
        for round in 0..rounds(20) {
            for alter in [
                "ADD COLUMN a int DEFAULT 5",
                "ALTER COLUMN n TYPE bigint",
                "RENAME COLUMN a TO b",
                "ALTER COLUMN b TYPE text USING 'b' || b",
                "ALTER COLUMN n TYPE int",
                "DROP COLUMN b",
            ] {
                sql.run(&format!("ALTER TABLE t {alter}"));
                sql.run(&format!("UPDATE t SET v = 'main {round}' WHERE id = 1"));
                let mark = sql.barrier();
                client.carry_on("the barrier", |c| c.at_barrier(mark));
                second.step(Duration::from_millis(1));
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    second.come_back();
    for client in [&mut client, &mut second] {
        let mark = sql.barrier();
        client.carry_on("the barrier", |c| c.at_barrier(mark));
        assert_equal(&mut sql, client);
        assert!(client.errors.is_empty(), "{:?}", client.errors);
    }
    let lost = cluster.log().lines().filter(|l| l.contains("feeder") && l.contains("ERROR")).count();
    assert_eq!(lost, 0, "a schema change costs no feeder");
}
