//! Where a naive cut through the log loses a change or shows one that never was: each test here fails
//! when a cursor is a sequence number, an LSN or a highest transaction id.

use rte_testkit::{Client, Cluster, Dice, Shutdown, Sql, assert_equal, rounds, seed};

const TABLE: &str = "id int PRIMARY KEY, v text";

fn holds(client: &Client, id: i64) -> bool {
    client.sub("t").row(&[&id.to_string()]).is_some()
}

#[test]
fn a_late_commit_of_an_old_transaction_arrives() {
    let cluster = Cluster::ready();
    let (mut sql, mut old) = (cluster.sql(), cluster.sql());
    sql.table("t", TABLE);
    let mut client = cluster.subscriber("c", &["t"]);
    let mut away = cluster.subscriber("away", &["t"]);
    // Its changes are the first in the log and its id is the lowest.
    old.run(
        "BEGIN; INSERT INTO t VALUES (-1, 'old'); SAVEPOINT s; INSERT INTO t VALUES (-2, 'old, below a savepoint')",
    );
    for id in 0..20 {
        sql.run(&format!("INSERT INTO t VALUES ({id}, 'young')"));
    }
    assert_equal(&mut sql, &mut client);
    assert_equal(&mut sql, &mut away);
    assert!(!holds(&client, -1));
    away.leave();
    let mut late = cluster.subscriber("joined meanwhile", &["t"]);
    old.run("COMMIT");
    client.wait_for("the late commit", |c| {
        assert_eq!(holds(c, -1), holds(c, -2), "one transaction, one commit");
        holds(c, -1)
    });
    away.resume();
    for client in [&mut client, &mut away, &mut late] {
        assert_equal(&mut sql, client);
        client.assert_clean();
    }
}

#[test]
fn a_long_transaction_delays_nobody() {
    let cluster = Cluster::ready();
    let (mut sql, mut long, mut reader) = (cluster.sql(), cluster.sql(), cluster.sql());
    sql.table("t", TABLE);
    sql.run("CREATE TABLE elsewhere (id int)");
    let mut client = cluster.subscriber("c", &["t"]);
    long.run("BEGIN; INSERT INTO elsewhere VALUES (1); INSERT INTO t VALUES (-1, 'long')");
    reader.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t");
    for id in 0..50 {
        sql.run(&format!("INSERT INTO t VALUES ({id}, 'meanwhile')"));
        client.wait_for("a commit beside the long transaction", |c| holds(c, id));
        if id % 10 == 0 {
            client.resume();
        }
    }
    assert_equal(&mut sql, &mut client);
    long.run("UPDATE t SET v = v || ', and touched' WHERE id < 10; COMMIT");
    assert_equal(&mut sql, &mut client);
    assert!(holds(&client, -1));
    client.assert_clean();
}

#[test]
fn transactions_that_overlap_in_every_order_arrive_exactly() {
    let mut dice = Dice::with_seed(seed("overlap"));
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("t", TABLE);
    let mut client = cluster.subscriber("c", &["t"]);
    let mut sessions: Vec<(Sql, bool)> = (0..8).map(|_| (cluster.sql(), false)).collect();
    let mut next = 0;
    for _ in 0..rounds(400) {
        let (session, open) = &mut sessions[dice.usize(..8)];
        match dice.u32(..10) {
            0 | 1 if *open => session.run("COMMIT"),
            2 if *open => session.run("ROLLBACK"),
            3 if *open => session.run("SAVEPOINT s"),
            4 => client.leave(),
            5 => client.resume(),
            roll => {
                if !*open {
                    session.run("BEGIN");
                }
                next += 1;
                session.run(&format!("INSERT INTO t VALUES ({next}, 'x')"));
                *open = true;
                if roll == 6 {
                    session.run("COMMIT");
                    *open = false;
                }
                continue;
            }
        }
        *open = *open && session.text("SELECT pg_current_xact_id_if_assigned() IS NOT NULL") == "t";
        if dice.u32(..8) == 0 {
            client.come_back();
            assert_equal(&mut sql, &mut client);
        }
    }
    sessions.iter_mut().for_each(|(session, _)| session.run("COMMIT"));
    client.come_back();
    assert_equal(&mut sql, &mut client);
    client.assert_clean();
}

/// Commits are acknowledged before they are written to disk, and nobody writes them soon.
fn lazy() -> rte_testkit::Builder {
    Cluster::builder().conf("synchronous_commit", "off").conf("wal_writer_delay", "10s").conf("wal_buffers", "16MB")
}

#[test]
fn what_a_client_holds_survives_a_crash() {
    let mut cluster = lazy().ready();
    cluster.sql().table("t", TABLE);
    let mut client = cluster.subscriber("c", &["t"]);
    for round in 0..rounds(5) as i64 {
        let mut sql = cluster.sql();
        sql.run(&format!("INSERT INTO t VALUES ({round}, 'asynchronous')"));
        client.wait_for("the asynchronous commit", |c| holds(c, round));
        client.leave();
        cluster.kill();
        cluster.start();
        let mut sql = cluster.sql();
        let there = sql.number(&format!("SELECT count(*) FROM t WHERE id = {round}"));
        assert_eq!(there, 1, "the client was shown row {round}, and then it had not happened");
        client.come_back();
        assert_equal(&mut sql, &mut client);
    }
    client.assert_clean();
}

#[test]
fn what_a_crash_takes_back_was_never_shown() {
    let mut dice = Dice::with_seed(seed("crash"));
    let mut cluster = lazy().ready();
    cluster.sql().table("t", TABLE);
    let mut client = cluster.subscriber("c", &["t"]);
    let mut id = 0;
    for _ in 0..rounds(5) {
        let mut sql = cluster.sql();
        for _ in 0..dice.u32(1..200) {
            id += 1;
            sql.run(&format!("INSERT INTO t VALUES ({id}, 'x'); UPDATE t SET v = 'last {id}' WHERE id = 1"));
            client.step(std::time::Duration::from_micros(100));
        }
        cluster.kill();
        // What is in the socket's buffer still counts as shown.
        while !matches!(client.step(std::time::Duration::from_millis(100)), rte_testkit::Step::Closed(_)) {}
        cluster.start();
        client.come_back();
        let mut sql = cluster.sql();
        let shown: Vec<String> = client.sub("t").rows.keys().map(|k| k.trim_matches(['[', ']']).to_owned()).collect();
        for row in shown {
            assert_eq!(sql.number(&format!("SELECT count(*) FROM t WHERE id = {row}")), 1, "row {row} un-happened");
        }
        assert_equal(&mut sql, &mut client);
    }
    client.assert_clean();
}

#[test]
fn the_new_owner_of_a_transaction_id_is_not_taken_for_seen() {
    let mut cluster = lazy().conf("rte.heartbeat_interval", "1s").conf("autovacuum", "off").ready();
    let mut sql = cluster.sql();
    sql.table("t", TABLE);
    let mut client = cluster.subscriber("c", &["t"]);
    let mut reused = 0;
    for round in 0..rounds(3) as i64 {
        let mut sql = cluster.sql();
        sql.run(&format!("INSERT INTO t VALUES ({round}, 'flushed')"));
        assert_equal(&mut sql, &mut client);
        // Ids are given out and aborted; nothing of it is flushed.
        let mut highest = 0;
        for _ in 0..20 {
            sql.run("BEGIN; INSERT INTO t VALUES (-1, 'aborted')");
            highest = sql.number("SELECT pg_current_xact_id()::text");
            sql.run("ROLLBACK");
        }
        // The cursor moves past them.
        let commits = client.copy.counts.commits;
        client.wait_for("three heartbeats", |c| c.copy.counts.commits >= commits + 3);
        client.leave();
        cluster.kill();
        cluster.start();
        let mut sql = cluster.sql();
        let mut first = 0;
        for id in 0..30 {
            let id = (round + 1) * 1000 + id;
            sql.run(&format!("BEGIN; INSERT INTO t VALUES ({id}, 'new owner')"));
            let xid = sql.number("SELECT pg_current_xact_id()::text");
            first = if first == 0 { xid } else { first };
            sql.run("COMMIT");
        }
        reused += (highest - first + 1).max(0);
        client.come_back();
        assert_equal(&mut sql, &mut client);
    }
    println!("{reused} transaction ids were given out twice");
    client.assert_clean();
    // Who reads the WAL flushes more of it than writers who log for themselves, so ids are seldom lost there.
    assert!(reused > 0 || rte_testkit::captures_wal(), "the case was not reached, so this has shown nothing");
}

#[test]
fn a_join_under_load_is_exact() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("t", TABLE);
    sql.run("INSERT INTO t SELECT i, 'start' FROM generate_series(1, 20000) i");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..3_u64 {
            let (mut session, mut dice, stop) = (cluster.sql(), Dice::with_seed(seed("join") + writer), &stop);
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    let (a, b) = (dice.u32(1..=20_000), dice.u32(1..100));
                    session.run(&format!(
                        "BEGIN; DELETE FROM t WHERE id = {a}; INSERT INTO t VALUES ({a}, 'w{writer} {b}'); COMMIT;
                         UPDATE t SET v = v || '.' WHERE id = {b} AND length(v) < 100"
                    ));
                }
            });
        }
        let clients: Vec<Client> = (0..rounds(6)).map(|n| cluster.subscriber(&format!("c{n}"), &["t"])).collect();
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        clients
    })
    .into_iter()
    .for_each(|mut client| {
        assert_equal(&mut sql, &mut client);
        assert_eq!(client.sub("t").rows.len(), 20_000);
    });
}

#[test]
fn a_clean_restart_keeps_every_cursor() {
    let mut cluster = Cluster::ready();
    cluster.sql().table("t", TABLE);
    let mut client = cluster.subscriber("c", &["t"]);
    for (n, how) in [Shutdown::Fast, Shutdown::Smart, Shutdown::Immediate].into_iter().enumerate() {
        cluster.sql().run(&format!("INSERT INTO t VALUES ({n}, 'before')"));
        cluster.restart(how);
        cluster.sql().run(&format!("UPDATE t SET v = 'after {n}'"));
        client.come_back();
        client.carry_on("live", |c| c.copy.all_live());
        assert_equal(&mut cluster.sql(), &mut client);
    }
    client.assert_clean();
}
