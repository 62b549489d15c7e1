//! Transactions that change very much: their table is read anew, everything else goes on, and memory stays bounded.

use rte_testkit::{Cluster, Shutdown, Sql, assert_equal, wait_until};

/// A large and a small table of equal columns.
fn tables(sql: &mut Sql, rows: u32) {
    for (table, rows) in [("large", rows), ("small", 10)] {
        sql.table(table, "id int PRIMARY KEY, v text NOT NULL, n int NOT NULL");
        sql.run(&format!("INSERT INTO {table} SELECT i, repeat('x', 40), i % 10 FROM generate_series(1, {rows}) i"));
    }
}

/// Largest memory that a process has had of its own, in bytes.
fn peak(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status of a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") << 10
}

#[test]
fn a_transaction_that_is_too_large_costs_the_copies_of_its_table_and_nothing_else() {
    let cluster = Cluster::builder().conf("rte.max_tick_size", "1MB").ready();
    let mut sql = cluster.sql();
    tables(&mut sql, 20_000);
    let mut client = cluster.subscriber("c", &["large", "small"]);
    client.subscribe_where("part", "large", None, "n = 3", &[]);
    client.wait_live();
    sql.run(
        "BEGIN; UPDATE small SET n = -1 WHERE id = 1; UPDATE large SET n = n + 1; UPDATE large SET v = 'y' WHERE id < 5;
         UPDATE small SET n = -2 WHERE id = 2; DELETE FROM large WHERE id > 19990; COMMIT",
    );
    assert_equal_but(&mut sql, &mut client, "part");
    assert_eq!(client.sub("part").rows.len() as i64, sql.number("SELECT count(*) FROM large WHERE n = 3"));
    assert_eq!(client.copy.counts.resyncs, ["too_many_changes"; 2], "each subscription of the table, once");
    assert_eq!(client.sub("small").value(&["2"], "n"), Some("-2"));
    // And from there on by changes.
    sql.run("UPDATE large SET n = 3 WHERE id < 100; INSERT INTO large VALUES (-1, 'new', 3)");
    assert_equal_but(&mut sql, &mut client, "part");
    assert_eq!(client.sub("part").rows.len() as i64, sql.number("SELECT count(*) FROM large WHERE n = 3"));
    assert_eq!(client.copy.counts.resyncs.len(), 2);
    assert!(client.errors.is_empty(), "{:?}", client.errors);
}

#[test]
fn who_comes_back_over_a_transaction_that_is_too_large_reads_its_table_anew_and_goes_on_with_others() {
    let cluster = Cluster::builder().conf("rte.max_tick_size", "1MB").conf("rte.max_catch_up_size", "1MB").ready();
    let mut sql = cluster.sql();
    tables(&mut sql, 20_000);
    let mut watching = cluster.subscriber("watching", &["small"]);
    // By the feeder's memory, then by the log.
    for from_log in [false, true] {
        let mut away = cluster.subscriber("away", &["large", "small"]);
        away.leave();
        sql.run("BEGIN; UPDATE large SET n = n + 1; UPDATE small SET n = n + 1; COMMIT; UPDATE small SET n = n + 1");
        assert_equal(&mut sql, &mut watching);
        if from_log {
            let feeder = cluster.worker("feeder");
            rte_testkit::kill(feeder, rte_testkit::Signal::TERM);
            wait_until("another feeder", || (cluster.worker("feeder") != feeder && cluster.healthy()).then_some(()));
        }
        away.come_back();
        assert_equal(&mut sql, &mut away);
        assert_eq!(away.copy.counts.resyncs, ["cursor_expired"], "from the log: {from_log}");
        assert_eq!((away.copy.counts.refused_resumes, away.copy.counts.resumed), (1, 2), "from the log: {from_log}");
        if from_log {
            watching.come_back();
        }
    }
    assert!(watching.copy.counts.resyncs.is_empty());
}

#[test]
fn tables_that_are_truncated_partitioned_or_asked_of_postgres_stay_exact() {
    let cluster = Cluster::builder().conf("rte.max_tick_size", "256kB").ready();
    let mut sql = cluster.sql();
    tables(&mut sql, 5_000);
    sql.run(
        "CREATE TABLE parted (id int, n int NOT NULL, PRIMARY KEY (id, n)) PARTITION BY LIST (n);
         CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
         CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);",
    );
    sql.register("parted");
    // Whether somebody sees a row of `asked` depends on the large table: the feeder asks Postgres.
    sql.run(
        "CREATE TABLE asked (id int PRIMARY KEY, v text); ALTER TABLE asked ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON asked USING (EXISTS (SELECT FROM large l WHERE l.id = asked.id AND l.n > 4));
         INSERT INTO asked SELECT i, 'v' FROM generate_series(1, 50) i",
    );
    sql.register("asked");
    let mut client = cluster.subscriber("c", &["large", "parted", "asked"]);
    let seen = |sql: &mut Sql| sql.number("SELECT count(*) FROM asked a JOIN large l ON l.id = a.id AND l.n > 4");
    let rounds = [
        "BEGIN; TRUNCATE large; INSERT INTO large SELECT i, 'x', i % 7 FROM generate_series(1, 5000) i; COMMIT",
        "BEGIN; UPDATE large SET n = n + 2; TRUNCATE large; INSERT INTO large SELECT i, 'y', i % 9 FROM generate_series(1, 3) i; COMMIT",
        "INSERT INTO parted SELECT i, 1 + i % 2 FROM generate_series(1, 5000) i",
        "BEGIN; UPDATE parted SET n = 3 - n; TRUNCATE parted_1; INSERT INTO parted VALUES (-1, 1); COMMIT",
        "BEGIN; INSERT INTO large SELECT i, 'z', i % 9 FROM generate_series(4, 5000) i; DELETE FROM large WHERE id < 20; COMMIT",
        "BEGIN; ALTER TABLE large ADD COLUMN extra int DEFAULT 7; UPDATE large SET extra = id; COMMIT",
    ];
    for statements in rounds {
        sql.run(statements);
        assert_equal_but(&mut sql, &mut client, "asked");
        let expected = seen(&mut sql);
        client.wait_for("what is asked to follow", |c| c.sub("asked").rows.len() as i64 == expected);
    }
    let resyncs = &client.copy.counts.resyncs;
    assert!(resyncs.iter().filter(|reason| *reason == "too_many_changes").count() >= 4, "{resyncs:?}");
    assert!(client.errors.is_empty(), "{:?}", client.errors);
}

/// All but one, which is of a part of its table.
fn assert_equal_but(sql: &mut Sql, client: &mut rte_testkit::Client, id: &str) {
    let mark = sql.barrier();
    client.wait_barrier(mark);
    for subscription in client.copy.subscriptions.values().filter(|s| s.id != id) {
        assert_eq!(rte_testkit::difference(sql, subscription), None);
    }
}

#[test]
fn the_memory_of_a_feeder_does_not_grow_with_a_transaction() {
    // Shared memory counts as a process' own where it looks at it.
    let builder = Cluster::builder().conf("rte.max_tick_size", "4MB").conf("rte.history_size", "4MB");
    // So does what is decoded of the WAL and does not fit there yet.
    let cluster = builder.conf("shared_buffers", "2MB").conf("logical_decoding_work_mem", "4MB").ready();
    let mut sql = cluster.sql();
    tables(&mut sql, 200_000);
    let mut client = cluster.subscriber("c", &["small"]);
    let mut other = cluster.subscriber("d", &[]);
    other.subscribe_where("few", "large", None, "id < 100", &[]);
    other.wait_live();
    let before = peak(cluster.worker("feeder"));
    for _ in 0..3 {
        sql.run("BEGIN; UPDATE large SET n = n + 1; UPDATE small SET n = n + 1; COMMIT");
        assert_equal(&mut sql, &mut client);
    }
    let grown = peak(cluster.worker("feeder")) - before;
    println!("3 transactions of 200,000 rows: {} kB more", grown >> 10);
    // The images alone of one are some 40 MB.
    assert!(grown < 24 << 20, "{grown} bytes");
    assert!(client.copy.counts.resyncs.is_empty());
    other.wait_for("the few that are wanted", |c| {
        c.copy.counts.resyncs.len() == 3 && c.copy.all_live() && c.sub("few").rows.len() == 99
    });
}

#[test]
fn a_transaction_that_is_larger_than_the_whole_log_commits_and_clients_read_anew() {
    // Captured from the WAL, it need not fit the log to be delivered.
    let cluster = Cluster::builder().captures_wal(false).conf("rte.max_log_size", "8MB").ready();
    let mut sql = cluster.sql();
    tables(&mut sql, 60_000);
    let mut client = cluster.subscriber("c", &["large", "small"]);
    sql.run("BEGIN; UPDATE large SET n = n + 1; UPDATE large SET n = n + 1; UPDATE small SET n = 0; COMMIT");
    assert_equal(&mut sql, &mut client);
    assert!(client.copy.counts.resyncs.iter().any(|reason| reason == "cursor_expired"), "{:?}", client.copy.counts);
    assert!(client.errors.is_empty(), "{:?}", client.errors);
    // What comes after is captured again, without anybody's help.
    client.copy.counts.resyncs.clear();
    wait_until("the log has room again", || {
        sql.run("UPDATE small SET n = n + 1");
        assert_equal(&mut sql, &mut client);
        std::mem::take(&mut client.copy.counts.resyncs).is_empty().then_some(())
    });
}

#[test]
fn what_was_too_large_is_so_for_a_server_that_starts_anew() {
    let mut cluster = Cluster::builder().conf("rte.max_tick_size", "256kB").ready();
    let mut sql = cluster.sql();
    tables(&mut sql, 5_000);
    let mut client = cluster.subscriber("c", &["large", "small"]);
    client.leave();
    sql.run("UPDATE large SET n = n + 1; UPDATE small SET n = n + 1");
    drop(sql);
    cluster.restart(Shutdown::Fast);
    let mut sql = cluster.sql();
    cluster.wait_healthy();
    client.come_back();
    assert_equal(&mut sql, &mut client);
    // The log has all of it, and it is less than a catch-up may be; a feeder that writes the log keeps what a tick may hold.
    assert_eq!(client.copy.counts.refused_resumes, u64::from(rte_testkit::captures_wal()));
}
