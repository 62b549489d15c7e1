//! By triggers or from the WAL: a database is switched while it is written and read, and nobody can tell.

use std::time::{Duration, Instant};

use rte_testkit::{
    Builder, Cluster, Crowd, Pgbench, Sql, State, TPCB_TABLES, Tellers, TpcbSums, assert_equal, rounds, seed,
    wait_until,
};

/// A cluster that could capture from the WAL, and does not yet.
fn logical() -> Builder {
    Cluster::builder().captures_wal(false).conf("wal_level", "logical").conf("rte.capture", "trigger")
}

fn capture(cluster: &Cluster, mode: &str) {
    cluster.conf("rte.capture", mode);
    cluster.reload();
}

/// How a table is captured; empty where it is not.
fn captured(sql: &mut Sql, table: &str) -> String {
    sql.text(&format!(
        "SELECT CASE WHEN captured THEN capture ELSE '' END FROM rte.tables WHERE relation = '{table}'::regclass"
    ))
}

#[track_caller]
fn wait_captured(sql: &mut Sql, table: &str, mode: &str) {
    wait_until(&format!("{table} is captured: {mode}"), || (captured(sql, table) == mode).then_some(()));
}

/// Switches the database, and waits until all of it is switched.
#[track_caller]
fn switch(cluster: &Cluster, sql: &mut Sql, mode: &str) {
    capture(cluster, mode);
    let all = format!("SELECT bool_and(captured AND capture = '{mode}') FROM rte.tables");
    wait_until(&format!("all tables are captured: {mode}"), || (sql.text(&all) == "t").then_some(()));
    let slots = i64::from(mode == "wal");
    wait_until("slots as needed", || (sql.number("SELECT count(*) FROM rte.slots") == slots).then_some(()));
}

#[test]
fn switching_to_and_fro_under_load_loses_nothing_and_no_client_notices() {
    let seed = seed("switch");
    let cluster = logical().ready();
    Pgbench::prepare(&cluster);
    let mut sql = cluster.sql();
    let crowd = Crowd::start(&cluster, 8, &TPCB_TABLES, Some(seed), TpcbSums::default);
    let tellers = Tellers::start(&cluster, 4, seed);
    for round in 0..rounds(6) {
        switch(&cluster, &mut sql, if round % 2 == 0 { "wal" } else { "trigger" });
        tellers.wait_done(100);
        crowd.wait_commits(20);
    }
    assert_eq!(tellers.failed(), 0, "no writer failed");
    tellers.stop();
    let clients = crowd.finish(&mut sql);
    clients.iter().for_each(rte_testkit::Client::assert_clean);
}

#[test]
fn a_feeder_that_is_killed_while_tables_are_switched_loses_nothing() {
    let seed = seed("switch and kill");
    let cluster = logical().ready();
    Pgbench::prepare(&cluster);
    let mut sql = cluster.sql();
    let crowd = Crowd::start(&cluster, 4, &TPCB_TABLES, None, TpcbSums::default);
    let tellers = Tellers::start(&cluster, 2, seed);
    for round in 0..rounds(6) {
        let mode = if round % 2 == 0 { "wal" } else { "trigger" };
        capture(&cluster, mode);
        // Amid the switching: after one table, or after another.
        let some = format!("SELECT count(*) FROM rte.tables WHERE capture = '{mode}'");
        wait_until("a table is switched", || (sql.number(&some) > round as i64 % 3).then_some(()));
        sql.run("SELECT pg_terminate_backend(pid) FROM rte.workers WHERE kind = 'feeder'");
        tellers.wait_done(50);
        switch(&cluster, &mut sql, mode);
    }
    tellers.stop();
    let clients = crowd.finish(&mut sql);
    clients.iter().for_each(rte_testkit::Client::assert_clean);
}

/// Writes to both tables for a while; tells how long the slowest statement took.
fn write_beside(writer: &mut Sql, from: u32) -> Duration {
    let (began, mut slowest, mut n) = (Instant::now(), Duration::ZERO, from);
    while began.elapsed() < Duration::from_secs(3) {
        n += 1;
        let at = Instant::now();
        writer.run(&format!("INSERT INTO held VALUES ({n}, ''); INSERT INTO free VALUES ({n}, '')"));
        slowest = slowest.max(at.elapsed());
    }
    println!("{} writes, the slowest took {slowest:?}", n - from);
    slowest
}

#[test]
fn a_long_transaction_delays_the_switch_of_its_table_only_and_no_writer() {
    let cluster = logical().ready();
    let (mut sql, mut long, mut writer, mut pin) = (cluster.sql(), cluster.sql(), cluster.sql(), cluster.sql());
    for table in ["held", "free", "pinned"] {
        sql.table(table, "id int PRIMARY KEY, v text");
    }
    let mut client = cluster.subscriber("c", &["held", "free", "pinned"]);
    switch(&cluster, &mut sql, "wal");
    // Keeps the slot, which would be made anew only once transactions have ended that began before.
    pin.run("BEGIN; INSERT INTO pinned VALUES (1, 'from the WAL')");
    for (round, mode, old) in [(1, "trigger", "wal"), (2, "wal", "trigger")] {
        long.run(&format!("BEGIN; INSERT INTO held VALUES ({round}, 'captured: {old}')"));
        capture(&cluster, mode);
        wait_captured(&mut sql, "free", mode);
        let slowest = write_beside(&mut writer, round * 1_000_000);
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
        assert_eq!(captured(&mut sql, "held"), old, "its table waits");
        // One transaction, whose changes of one table come from the WAL and those of the other from triggers.
        long.run(&format!(
            "UPDATE held SET v = 'again' WHERE id = {round}; INSERT INTO free VALUES ({round}, ''); COMMIT"
        ));
        wait_captured(&mut sql, "held", mode);
        assert_equal(&mut sql, &mut client);
    }
    pin.run("COMMIT");
    switch(&cluster, &mut sql, "trigger");
    assert_equal(&mut sql, &mut client);
    client.assert_clean();
}

/// Replica identities of all tables in public, by name.
fn identities(sql: &mut Sql) -> String {
    sql.text(
        "SELECT string_agg(relname || ' ' || relreplident::text, ', ' ORDER BY relname) FROM pg_class
         WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relname <> 'kit_barrier'",
    )
}

#[test]
fn replica_identities_are_given_back() {
    let cluster = logical().ready();
    let mut sql = cluster.sql();
    sql.run(
        "CREATE TABLE by_default (id int PRIMARY KEY, v int);
         CREATE TABLE by_index (id int NOT NULL UNIQUE, v int); ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_id_key;
         CREATE TABLE nothing (id int PRIMARY KEY, v int); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
         CREATE TABLE whole (id int PRIMARY KEY, v int); ALTER TABLE whole REPLICA IDENTITY FULL;
         CREATE TABLE parts (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
         CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
         CREATE TABLE part_2 PARTITION OF parts FOR VALUES FROM (100) TO (200); ALTER TABLE part_2 REPLICA IDENTITY NOTHING",
    );
    let tables = ["by_default", "by_index", "nothing", "whole", "parts"];
    tables.iter().for_each(|t| sql.register(t));
    let before = identities(&mut sql);
    let mut client = cluster.subscriber("c", &tables);
    switch(&cluster, &mut sql, "wal");
    assert_eq!(identities(&mut sql), "by_default f, by_index f, nothing f, part_1 f, part_2 f, parts d, whole f");
    for table in tables {
        sql.run(&format!(
            "INSERT INTO {table} VALUES (1, 1), (101, 1); UPDATE {table} SET v = 2; DELETE FROM {table} WHERE id = 1"
        ));
    }
    assert_equal(&mut sql, &mut client);
    assert_eq!(sql.text("SELECT key_columns FROM rte.tables WHERE table_name = 'by_index'"), "{id}");
    switch(&cluster, &mut sql, "trigger");
    assert_eq!(identities(&mut sql), before);
    client.assert_clean();

    // What is set meanwhile is what it will be, and it is FULL for as long as that is needed.
    switch(&cluster, &mut sql, "wal");
    sql.run("ALTER TABLE by_default REPLICA IDENTITY NOTHING");
    sql.run("ALTER TABLE nothing REPLICA IDENTITY USING INDEX nothing_pkey");
    sql.run("UPDATE by_default SET v = 3; UPDATE nothing SET v = 3; DELETE FROM nothing");
    assert_eq!(identities(&mut sql), "by_default f, by_index f, nothing f, part_1 f, part_2 f, parts d, whole f");
    assert_equal(&mut sql, &mut client);
    // A partition that leaves, a table that is registered no more.
    sql.run("ALTER TABLE parts DETACH PARTITION part_2; SELECT rte.unregister_table('by_index')");
    assert_eq!(identities(&mut sql), "by_default f, by_index i, nothing f, part_1 f, part_2 n, parts d, whole f");
    sql.run("DROP TABLE part_2; DROP EXTENSION whagons_rte CASCADE");
    assert_eq!(identities(&mut sql), "by_default n, by_index i, nothing i, part_1 d, parts d, whole f");
    wait_until("the slot goes too", || (sql.number("SELECT count(*) FROM pg_replication_slots") == 0).then_some(()));
}

#[test]
fn partitions_come_and_go_while_the_wal_is_read() {
    let cluster = Cluster::builder().captures_wal(true).ready();
    let mut sql = cluster.sql();
    sql.run("CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)");
    sql.run("CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (100)");
    sql.register("parts");
    sql.run("INSERT INTO parts SELECT i, 'x' FROM generate_series(1, 20) i");
    let mut client = cluster.subscriber("c", &["parts"]);
    sql.run(
        "BEGIN; CREATE TABLE part_2 PARTITION OF parts FOR VALUES FROM (100) TO (200);
         INSERT INTO parts VALUES (100, 'into a new one'); UPDATE parts SET id = 101 WHERE id = 1; COMMIT",
    );
    assert_equal(&mut sql, &mut client);
    sql.run(
        "CREATE TABLE part_3 (v text, gone int, id int PRIMARY KEY); ALTER TABLE part_3 DROP COLUMN gone;
         INSERT INTO part_3 VALUES ('was there', 250);
         ALTER TABLE parts ATTACH PARTITION part_3 FOR VALUES FROM (200) TO (300);
         UPDATE parts SET v = 'all' WHERE id % 2 = 0; UPDATE parts SET id = 260 WHERE id = 2",
    );
    assert_equal(&mut sql, &mut client);
    sql.run("TRUNCATE part_2; INSERT INTO parts VALUES (102, 'after')");
    assert_equal(&mut sql, &mut client);
    sql.run(
        "ALTER TABLE parts DETACH PARTITION part_3; UPDATE part_3 SET v = 'nobody sees this';
         DELETE FROM parts WHERE id = 3",
    );
    assert_equal(&mut sql, &mut client);
    assert_eq!(captured(&mut sql, "parts"), "wal");
    assert!(client.errors.is_empty(), "{:?}", client.errors);
}

#[test]
fn capture_triggers_that_somebody_disables_or_enables_change_nothing() {
    let cluster = Cluster::builder().captures_wal(true).ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    let mut client = cluster.subscriber("c", &["t"]);
    sql.run(
        "BEGIN; ALTER TABLE t DISABLE TRIGGER ALL; INSERT INTO t SELECT i, '' FROM generate_series(1, 100) i; COMMIT",
    );
    assert_equal(&mut sql, &mut client);
    sql.run(
        "BEGIN; UPDATE t SET v = 'by WAL'; ALTER TABLE t ENABLE TRIGGER ALL; UPDATE t SET v = 'still'; TRUNCATE t; COMMIT",
    );
    sql.run(
        "ALTER TABLE t ENABLE ALWAYS TRIGGER \"!rte_capture\"; INSERT INTO t VALUES (1, 'x'); UPDATE t SET v = 'y'",
    );
    assert_equal(&mut sql, &mut client);
    let by_trigger = "SELECT count(*) FROM rte.sync_log
                      WHERE relation = 't'::regclass AND operation = 'update' AND role IS NOT NULL";
    assert_eq!(sql.number(by_trigger), 0);
    assert_eq!(captured(&mut sql, "t"), "wal");
    // Registering again is by triggers for a moment, in the same transaction.
    sql.run("BEGIN; UPDATE t SET v = 'a'; SELECT rte.register_table('t'); UPDATE t SET v = v || 'b'; COMMIT");
    assert_equal(&mut sql, &mut client);
    wait_captured(&mut sql, "t", "wal");
    sql.run("UPDATE t SET v = 'c'");
    assert_equal(&mut sql, &mut client);
    assert!(client.errors.is_empty(), "{:?}", client.errors);
}

#[test]
fn a_table_that_is_not_in_the_wal_is_served_again_once_it_is() {
    let cluster = Cluster::builder().captures_wal(true).ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    sql.table("other", "id int PRIMARY KEY");
    let mut client = cluster.subscriber("c", &["t", "other"]);
    sql.run("ALTER TABLE t SET UNLOGGED; INSERT INTO t VALUES (1, 'a crash takes it')");
    client.wait_for("the end of t", |c| c.sub("t").state == State::Ended);
    client.wait_error("CAPTURE_DISABLED");
    assert_eq!(captured(&mut sql, "t"), "");
    wait_until("triggers are on again", || {
        (sql.text("SELECT capture FROM rte.tables WHERE relation = 't'::regclass") == "trigger").then_some(())
    });
    sql.run("ALTER TABLE t SET LOGGED; INSERT INTO t VALUES (2, 'b'); INSERT INTO other VALUES (1)");
    client.subscribe_again("t");
    client.wait_live();
    wait_captured(&mut sql, "t", "wal");
    sql.run("INSERT INTO t VALUES (3, 'c')");
    assert_equal(&mut sql, &mut client);
    assert_eq!(captured(&mut sql, "other"), "wal");
}
