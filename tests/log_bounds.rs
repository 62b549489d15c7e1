//! The change log: bounded in size and age, silent when nothing happens, and honest to those whom it forgot.

use rte_testkit::{Cluster, Sql, assert_equal, captures_wal, patience, seconds, wait_until};

/// Bytes of all relations of the schema `rte`.
fn log_size(sql: &mut Sql) -> i64 {
    sql.number(
        "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
         WHERE relnamespace = 'rte'::regnamespace AND relkind IN ('r', 'm')",
    )
}

fn wal(sql: &mut Sql) -> String {
    sql.text("SELECT pg_current_wal_insert_lsn()::text")
}

#[test]
fn the_log_stays_within_its_bound_under_load() {
    let cluster = Cluster::builder().conf("rte.max_log_size", "64MB").ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    sql.run("INSERT INTO t SELECT i, '' FROM generate_series(1, 1000) i");
    let mut client = cluster.subscriber("c", &["t"]);
    let mut away = cluster.subscriber("away", &["t"]);
    away.leave();
    let end = std::time::Instant::now() + seconds(10);
    let (mut round, mut highest) = (0, 0);
    while std::time::Instant::now() < end || round < 60 {
        round += 1;
        sql.run(&format!("UPDATE t SET v = repeat(md5('{round}' || id), 60)"));
        while matches!(client.step(std::time::Duration::from_millis(1)), rte_testkit::Step::Frame(_)) {}
        highest = highest.max(log_size(&mut sql));
        if captures_wal() && round % 4 == 0 {
            // Triggers hold the writer up enough for the client to follow; the WAL does not.
            let mark = sql.barrier();
            client.wait_barrier(mark);
        }
    }
    println!("{round} rounds of 2 MB; the log was {} MB at most", highest >> 20);
    assert!(highest < 80 << 20, "{highest} bytes for a bound of 64 MB");
    wait_until("the log is cut to its bound", || (log_size(&mut sql) <= 68 << 20).then_some(()));
    assert_equal(&mut sql, &mut client);
    client.assert_clean();

    // Who was away for longer than the log reaches is told so, once, and is right afterwards.
    away.come_back();
    away.wait_live();
    assert_equal(&mut sql, &mut away);
    let expired = away.copy.counts.resyncs.iter().filter(|r| *r == "cursor_expired").count();
    assert!(expired > 0 || away.copy.counts.refused_resumes > 0, "{:?}", away.copy.counts);
    let counts = away.copy.counts.clone();
    away.resume();
    assert_equal(&mut sql, &mut away);
    assert_eq!(away.copy.counts.resyncs, counts.resyncs, "once");
    assert_eq!(away.copy.counts.refused_resumes, counts.refused_resumes, "once");
}

#[test]
fn large_rows_count_towards_the_bound() {
    let cluster = Cluster::builder().conf("rte.max_log_size", "16MB").ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    sql.run(
        "ALTER TABLE t ALTER COLUMN v SET STORAGE EXTERNAL; INSERT INTO t SELECT i, '' FROM generate_series(1, 10) i",
    );
    let mut highest = 0;
    for round in 0..100 {
        sql.run(&format!("UPDATE t SET v = repeat(md5('{round}' || id), 3200)"));
        highest = highest.max(log_size(&mut sql));
    }
    println!("100 MB in rows of 100 kB; the log was {} MB at most", highest >> 20);
    wait_until("the log is cut to its bound", || (log_size(&mut sql) <= 24 << 20).then_some(()));
}

#[test]
fn a_long_transaction_keeps_its_changes_through_a_rotation() {
    let cluster = Cluster::builder().conf("rte.max_log_size", "8MB").ready();
    let (mut sql, mut long) = (cluster.sql(), cluster.sql());
    sql.table("t", "id int PRIMARY KEY, v text");
    sql.run("INSERT INTO t SELECT i, '' FROM generate_series(1, 500) i");
    let mut client = cluster.subscriber("c", &["t"]);
    long.run("BEGIN; INSERT INTO t VALUES (-1, 'written before the log was cut many times')");
    for round in 0..40 {
        sql.run(&format!("UPDATE t SET v = repeat(md5('{round}' || id), 40) WHERE id > 0"));
    }
    // Past its size the log forgets, so a resynchronisation is right here; a missing row is not.
    client.come_back();
    client.carry_on("live", |c| c.copy.all_live());
    assert_equal(&mut sql, &mut client);
    long.run("COMMIT");
    assert_equal(&mut sql, &mut client);
    assert!(client.sub("t").row(&["-1"]).is_some());
}

#[test]
fn rotation_waits_for_nobody_and_nobody_for_it() {
    let cluster = Cluster::builder().conf("rte.max_log_size", "8MB").conf("lock_timeout", "5s").ready();
    let (mut sql, mut reader) = (cluster.sql(), cluster.sql());
    sql.table("t", "id int PRIMARY KEY, v text");
    sql.run("INSERT INTO t SELECT i, '' FROM generate_series(1, 500) i");
    let mut client = cluster.subscriber("c", &["t"]);
    // A dump or a curious administrator holds a lock on the log for as long as it likes.
    reader.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM rte.sync_log");
    for round in 0..30 {
        sql.run(&format!("UPDATE t SET v = repeat(md5('{round}' || id), 40)"));
        let mark = sql.barrier();
        client.wait_barrier(mark);
    }
    reader.run("COMMIT");
    assert_equal(&mut sql, &mut client);
    wait_until("the log is cut in the end", || (log_size(&mut sql) < 24 << 20).then_some(()));
}

#[test]
fn an_idle_system_grows_by_nothing() {
    let cluster = Cluster::builder().conf("autovacuum", "off").conf("rte.heartbeat_interval", "300ms").ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    sql.run("INSERT INTO t VALUES (1, 'a')");
    let mut client = cluster.subscriber("c", &["t"]);
    sql.run("UPDATE t SET v = 'b'");
    assert_equal(&mut sql, &mut client);
    sql.run("CHECKPOINT");
    // The background writer logs the running transactions once after the last change; then all is quiet.
    let quiet_since = |sql: &mut Sql, commits: u64, client: &mut rte_testkit::Client| {
        let before = (wal(sql), log_size(sql), sql.text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text"));
        let goal = client.copy.counts.commits + commits;
        client.wait_for("heartbeats", |c| c.copy.counts.commits >= goal);
        before == (wal(sql), log_size(sql), sql.text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text"))
    };
    let end = std::time::Instant::now() + patience() * 2;
    // Fifteen seconds of heartbeats in which neither WAL, log nor transaction ids move.
    while !quiet_since(&mut sql, 50, &mut client) {
        assert!(std::time::Instant::now() < end, "an idle system writes");
    }
    client.assert_clean();
}

#[test]
fn without_a_client_the_log_is_cut_all_the_same() {
    let cluster = Cluster::builder().conf("rte.max_log_size", "8MB").ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    sql.run("INSERT INTO t SELECT i, '' FROM generate_series(1, 500) i");
    for round in 0..40 {
        sql.run(&format!("UPDATE t SET v = repeat(md5('{round}' || id), 40)"));
    }
    wait_until("the log is cut", || (log_size(&mut sql) < 20 << 20).then_some(()));
}

#[test]
fn a_reading_from_the_log_equals_a_reading_from_memory() {
    let cluster = Cluster::builder().conf("rte.history_size", "64kB").ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    sql.run("INSERT INTO t SELECT i, '' FROM generate_series(1, 200) i");
    let mut clients: Vec<_> = (0..4).map(|n| cluster.subscriber(&format!("c{n}"), &["t"])).collect();
    for round in 0..40 {
        let client = &mut clients[round % 4];
        client.leave();
        sql.run(&format!(
            "BEGIN; UPDATE t SET v = repeat('{round} ', id % 50) WHERE id % 7 = {round} % 7; SAVEPOINT s;
             DELETE FROM t WHERE id = {round} + 1; ROLLBACK TO s; INSERT INTO t VALUES ({round} + 1000, 'new'); COMMIT"
        ));
        if round % 3 == 0 {
            let client = &mut clients[(round + 2) % 4];
            client.come_back();
            assert_equal(&mut sql, client);
        }
    }
    for mut client in clients {
        client.come_back();
        assert_equal(&mut sql, &mut client);
        client.assert_clean();
    }
}

#[test]
fn too_much_to_catch_up_is_a_snapshot() {
    let cluster = Cluster::builder().conf("rte.max_catch_up_size", "128kB").ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    let mut client = cluster.subscriber("c", &["t"]);
    client.leave();
    sql.run("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 2000) i");
    client.come_back();
    client.wait_live();
    assert_equal(&mut sql, &mut client);
    let counts = &client.copy.counts;
    assert!(counts.refused_resumes + counts.resyncs.len() as u64 > 0, "{counts:?}");
}
