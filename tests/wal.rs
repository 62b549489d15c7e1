//! What is captured from the WAL arrives exactly once, whatever dies in between and whatever the tables become meanwhile. The
//! ways to change a row are in `capture.rs`, which holds for both ways of capture (`RTE_CAPTURE=wal`).

use rte_testkit::{Client, Cluster, Crowd, Dice, Pgbench, Shutdown, Signal, Sql, TPCB_TABLES, Tellers, TpcbSums};
use rte_testkit::{alive, alone, assert_equal, kill, rounds, seed, wait_until};

const TABLE: &str = "id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0";

fn cluster() -> Cluster {
    Cluster::builder().captures_wal(true).ready()
}

/// A cluster with a table `t` of ten rows, captured from the WAL, and a client that holds it.
fn start() -> (Cluster, Sql, Client) {
    let cluster = cluster();
    let mut sql = cluster.sql();
    sql.table("t", TABLE);
    sql.run("INSERT INTO t SELECT i, 'v' || i, i FROM generate_series(1, 10) i");
    let client = cluster.subscriber("c", &["t"]);
    (cluster, sql, client)
}

/// Runs statements and compares; the client must get there by changes alone.
#[track_caller]
fn follows(sql: &mut Sql, client: &mut Client, statements: &str) {
    sql.run(statements);
    assert_equal(sql, client);
    client.assert_clean();
}

fn wait_for_log(sql: &mut Sql, what: &str, rows: &str) {
    let found = format!("SELECT count(*) FROM rte.change_log WHERE {rows}");
    wait_until(what, || (sql.number(&found) > 0).then_some(()));
}

/// Ends the feeder as an error of its own would.
fn end_feeder(cluster: &Cluster) {
    let feeder = cluster.worker("feeder");
    kill(feeder, Signal::TERM);
    wait_until("the feeder is gone", || (!alive(feeder)).then_some(()));
}

#[test]
fn writers_write_no_log_and_the_feeder_does_it_for_them() {
    let (_cluster, mut sql, mut client) = start();
    sql.run("BEGIN; UPDATE t SET v = 'x' WHERE id = 1");
    let xid = sql.text("SELECT pg_current_xact_id()");
    assert_eq!(sql.number("SELECT count(*) FROM rte.change_log WHERE xid = pg_current_xact_id()"), 0);
    sql.run("COMMIT");
    assert_equal(&mut sql, &mut client);
    client.assert_clean();
    wait_for_log(&mut sql, "the change in the log", &format!("xid = '{xid}' AND op = 'U'"));
    let own = "SELECT count(*) FROM rte.change_log WHERE op IN ('I', 'U', 'D') AND xmin::text = xid::text";
    assert_eq!(sql.number(own), 0, "no writer has logged its own change");
}

#[test]
fn who_comes_back_goes_on_from_the_log() {
    let (cluster, mut sql, mut client) = start();
    assert_equal(&mut sql, &mut client);
    client.leave();
    sql.run("UPDATE t SET v = 'logged' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (11, 'new')");
    wait_for_log(&mut sql, "the changes in the log", "op = 'D'");
    end_feeder(&cluster);
    // Not logged by the feeder that was there then, nor seen by the one that comes.
    sql.run("UPDATE t SET v = 'decoded later' WHERE id = 3");
    client.come_back();
    assert_equal(&mut sql, &mut client);
    client.assert_clean();
    assert!(client.copy.counts.resumed > 0, "{:?}", client.copy.counts);
}

#[test]
fn what_was_delivered_and_not_logged_yet_is_logged_after_a_crash() {
    let (mut cluster, mut sql, mut client) = start();
    for round in 0..rounds(3) {
        assert_equal(&mut sql, &mut client);
        let other = client.sub("t").rows.len();
        client.leave();
        sql.run(&format!("INSERT INTO t SELECT 100 + {round} * 10 + i, 'x' FROM generate_series(0, 9) i"));
        if round % 2 == 0 {
            kill(cluster.worker("feeder"), Signal::KILL);
            wait_until("sessions again", || cluster.try_sql("postgres").ok()?.try_run("SELECT 1").ok());
        } else {
            cluster.restart(Shutdown::Immediate);
        }
        sql = wait_until("a session", || cluster.try_sql("postgres").ok());
        client.come_back();
        assert_equal(&mut sql, &mut client);
        assert_eq!(client.sub("t").rows.len(), other + 10);
    }
    client.assert_clean();
    // Each change is in the log once, whatever was decoded twice.
    wait_until("all of it in the log", || {
        let (all, once) = (
            sql.number("SELECT count(*) FROM rte.change_log WHERE op = 'I' AND relation = 't'::regclass AND xid IN (SELECT xid FROM rte.change_log WHERE op = 'I' GROUP BY xid HAVING count(*) % 10 = 0)"),
            sql.number("SELECT count(*) FROM (SELECT DISTINCT xid, seq FROM rte.change_log WHERE op = 'I' AND relation = 't'::regclass) s"),
        );
        assert!(all <= once, "{all} rows, {once} changes");
        (all >= 10 * rounds(3) as i64).then_some(())
    });
}

#[test]
fn a_feeder_that_ends_at_any_point_loses_nothing() {
    let _alone = alone();
    let seed = seed("a_feeder_that_ends_at_any_point");
    let mut dice = Dice::with_seed(seed);
    let cluster = cluster();
    Pgbench::prepare(&cluster);
    let crowd = Crowd::start(&cluster, 4, &TPCB_TABLES, Some(seed), TpcbSums::default);
    let tellers = Tellers::start(&cluster, 4, seed);
    for round in 0..rounds(12) {
        tellers.wait_done(dice.u64(1..400));
        let feeder = cluster.worker("feeder");
        // Some end in order, some are killed, and with them every backend.
        let signal = if round % 4 == 3 { Signal::KILL } else { Signal::TERM };
        kill(feeder, signal);
        wait_until("the feeder is gone", || (!alive(feeder)).then_some(()));
        wait_until("sessions again", || cluster.try_sql("postgres").ok());
        crowd.check();
    }
    crowd.wait_commits(20);
    tellers.stop();
    let mut sql = wait_until("sessions", || cluster.try_sql("postgres").ok());
    crowd.finish(&mut sql).iter().for_each(Client::assert_clean);
}

#[test]
fn an_asynchronous_commit_that_a_client_has_seen_survives_a_crash() {
    let settings = [("synchronous_commit", "off"), ("wal_writer_delay", "10s"), ("wal_buffers", "16MB")];
    let builder = settings.iter().fold(Cluster::builder().captures_wal(true), |b, (name, value)| b.conf(name, value));
    let mut cluster = builder.ready();
    let mut sql = cluster.sql();
    sql.table("t", TABLE);
    let mut client = cluster.subscriber("c", &["t"]);
    for round in 0..rounds(4) as i64 {
        sql.run(&format!("INSERT INTO t VALUES ({round}, 'asynchronous')"));
        client.wait_for("the row", |c| c.sub("t").row(&[&round.to_string()]).is_some());
        cluster.kill();
        cluster.start();
        sql = cluster.sql();
        assert_eq!(sql.number(&format!("SELECT count(*) FROM t WHERE id = {round}")), 1, "round {round}");
        client.come_back();
        assert_equal(&mut sql, &mut client);
    }
    client.assert_clean();
}

#[test]
fn what_was_written_before_a_table_was_altered_is_read_as_it_was() {
    let (cluster, mut sql, mut client) = start();
    let steps = [
        "ALTER TABLE t ALTER n TYPE text USING 'n' || n",
        "ALTER TABLE t DROP COLUMN v",
        "ALTER TABLE t ADD COLUMN v int[] DEFAULT '{1,2}'",
        "ALTER TABLE t ADD COLUMN w numeric NOT NULL DEFAULT 7.50, ALTER n TYPE varchar(40)",
        "ALTER TABLE t ALTER id TYPE bigint",
        "ALTER TABLE t DROP COLUMN w; ALTER TABLE t ADD COLUMN u text DEFAULT repeat('long ', 1000)",
    ];
    let writes = |n: usize| {
        let (n, from) = (n + 1, 1000 * (n + 1));
        format!(
            "INSERT INTO t (id) SELECT i FROM generate_series({from}, {from} + 50) i;
             UPDATE t SET n = n WHERE id = {n}; DELETE FROM t WHERE id = {from};
             UPDATE t SET id = id + 500 WHERE id = {from} + 1;
             BEGIN; INSERT INTO t (id) VALUES ({from} + 900); SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; COMMIT;"
        )
    };
    for stopped in [false, true] {
        let feeder = cluster.worker("feeder");
        for (n, alter) in steps.iter().enumerate().filter(|(n, _)| *n < 3 || !stopped) {
            if !stopped {
                // It finds all of it at once, with what it knew from before.
                kill(feeder, Signal::STOP);
            } else if n == 0 {
                kill(cluster.worker("launcher"), Signal::STOP);
                end_feeder(&cluster);
            }
            let base = if stopped { 20 } else { 0 };
            sql.run(&writes(base + n));
            let alter = if stopped {
                [
                    "ALTER TABLE t ADD COLUMN x text DEFAULT 'x'",
                    "ALTER TABLE t ALTER x DROP DEFAULT, ALTER x TYPE bytea USING x::bytea",
                    "ALTER TABLE t DROP COLUMN x",
                ][n]
            } else {
                alter
            };
            sql.run(alter);
            sql.run(&writes(base + n + 10).replace("n = n", "n = 'later'"));
            if !stopped {
                kill(feeder, Signal::CONT);
                assert_equal(&mut sql, &mut client);
            }
        }
        if stopped {
            kill(cluster.worker("launcher"), Signal::CONT);
            client.come_back();
            assert_equal(&mut sql, &mut client);
        } else {
            assert_eq!(cluster.worker("feeder"), feeder, "it went on");
        }
    }
    assert!(client.errors.is_empty(), "{:?}", client.errors);
}

/// Definitions that change all the time under writers, and beside them sessions that fill everybody's caches.
#[test]
fn changes_are_read_by_the_definition_of_their_moment() {
    let _alone = alone();
    let seed = seed("changes_are_read_by_the_definition");
    let cluster = cluster();
    let mut sql = cluster.sql();
    sql.run(
        "CREATE TABLE p (id int, part int, a text, b int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 (b int, gone text, part int NOT NULL, id int NOT NULL, a text);
         ALTER TABLE p2 DROP COLUMN gone; ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2)",
    );
    sql.register("p");
    sql.table("t", TABLE);
    let crowd = Crowd::start(&cluster, 2, &["t", "p"], None, TpcbSums::default);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (door, stop) = (cluster.door(), &stop);
            scope.spawn(move || {
                let mut dice = Dice::with_seed(seed ^ writer);
                let mut sql = door.knock("postgres").expect("a session");
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    let (id, part) = (dice.u32(1..200), dice.u32(1..3));
                    let wide = "x".repeat(dice.usize(0..4000));
                    let statements = [
                        format!("INSERT INTO t (id, v) VALUES ({id}, '{wide}') ON CONFLICT (id) DO UPDATE SET n = t.n + 1"),
                        format!("INSERT INTO p (id, part, a) VALUES ({id}, {part}, '{wide}') ON CONFLICT (id, part) DO UPDATE SET b = 1"),
                        format!("UPDATE p SET part = 3 - part WHERE id = {id} AND NOT EXISTS (SELECT FROM p o WHERE o.id = {id} AND o.part <> p.part)"),
                        format!("DELETE FROM p WHERE id = {id}; DELETE FROM t WHERE id = {id}"),
                        "CREATE TEMP TABLE IF NOT EXISTS mine (x int); DROP TABLE mine".to_owned(),
                    ];
                    let _ = sql.try_run(&statements[dice.usize(..statements.len())]);
                }
            });
        }
        let mut dice = Dice::with_seed(seed);
        for round in 0..rounds(40) {
            let alter = [
                format!("ALTER TABLE t ADD COLUMN c{round} int DEFAULT {round}"),
                format!("ALTER TABLE p ADD COLUMN c{round} text DEFAULT 'd'"),
                "ALTER TABLE t ALTER n TYPE bigint".to_owned(),
                "ALTER TABLE t ALTER n TYPE int".to_owned(),
                "ALTER TABLE p ALTER b TYPE text".to_owned(),
                "ALTER TABLE p ALTER b TYPE int USING b::int".to_owned(),
                format!(
                    "CREATE TABLE q{round} (LIKE p); ALTER TABLE p ATTACH PARTITION q{round} FOR VALUES IN ({}); ALTER TABLE p DETACH PARTITION q{round}",
                    round + 10
                ),
                "VACUUM FULL t".to_owned(),
            ];
            let _ = sql.try_run(&alter[dice.usize(..alter.len())]);
            crowd.check();
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    crowd.finish(&mut sql);
    assert!(!cluster.log().contains("terminated by signal"), "{}", cluster.log());
}

#[test]
fn one_transaction_may_be_captured_in_both_ways() {
    let (cluster, mut sql, mut client) = start();
    let mode = |sql: &mut Sql, table: &str| {
        sql.text(&format!("SELECT capture FROM rte.tables WHERE relation = '{table}'::regclass"))
    };
    // The feeder cannot switch u before somebody has it.
    let feeder = cluster.worker("feeder");
    kill(feeder, Signal::STOP);
    sql.run(&format!("CREATE TABLE u ({TABLE}); INSERT INTO u SELECT i, 'v', i FROM generate_series(1, 10) i"));
    sql.run("SELECT rte.register_table('u')");
    let mut long = cluster.sql();
    long.run("BEGIN; UPDATE u SET v = 'by trigger' WHERE id = 1");
    kill(feeder, Signal::CONT);
    client.subscribe("u", "u");
    client.wait_live();
    assert_eq!([mode(&mut sql, "t"), mode(&mut sql, "u")], ["wal", "trigger"]);
    long.run("UPDATE t SET v = 'from the WAL' WHERE id = 1; INSERT INTO u VALUES (20, 'by trigger')");
    long.run("UPDATE t SET n = 100 WHERE id = 2; UPDATE u SET n = 100 WHERE id = 2");
    let commits = client.copy.counts.commits;
    long.run("COMMIT");
    client.wait_for("both", |c| {
        let (t, u) = (c.sub("t").value(&["2"], "n"), c.sub("u").value(&["2"], "n"));
        assert_eq!(t, u, "both in one commit");
        c.copy.counts.commits > commits && t == Some("100")
    });
    assert_equal(&mut sql, &mut client);
    wait_until("u is captured from the WAL", || (mode(&mut sql, "u") == "wal").then_some(()));
    follows(&mut sql, &mut client, "UPDATE u SET v = 'from the WAL'; UPDATE t SET v = v || '!'");
    let twice = "SELECT count(*) FROM (SELECT FROM rte.change_log WHERE op IN ('I', 'U', 'D') GROUP BY xid, relation, new_row HAVING count(*) > 1) d";
    wait_for_log(
        &mut sql,
        "the last change in the log",
        "op = 'U' AND relation = 'u'::regclass AND xmin::text <> xid::text",
    );
    assert_eq!(sql.number(twice), 0, "no change is in the log twice");
}

#[test]
fn old_rows_that_are_not_complete_are_not_guessed() {
    let (_cluster, mut sql, mut client) = start();
    sql.run("BEGIN; ALTER TABLE t REPLICA IDENTITY DEFAULT; UPDATE t SET id = id + 100, v = 'moved' WHERE id < 4; DELETE FROM t WHERE id = 5; COMMIT");
    assert_equal(&mut sql, &mut client);
    sql.run("UPDATE t SET v = 'again'");
    assert_equal(&mut sql, &mut client);
    assert!(client.errors.is_empty(), "{:?}", client.errors);
}

#[test]
fn a_transaction_that_does_not_fit_the_decoders_memory_arrives_whole() {
    let cluster = Cluster::builder().captures_wal(true).conf("logical_decoding_work_mem", "64kB").ready();
    let mut sql = cluster.sql();
    sql.table("t", TABLE);
    let mut client = cluster.subscriber("c", &["t"]);
    follows(
        &mut sql,
        &mut client,
        "BEGIN; INSERT INTO t SELECT i, repeat(md5(i::text), 100) FROM generate_series(1, 2000) i;
         SAVEPOINT a; DELETE FROM t WHERE id > 1000; ROLLBACK TO a;
         SAVEPOINT b; UPDATE t SET n = n + 1; RELEASE b;
         UPDATE t SET v = 'short' WHERE id % 3 = 0; DELETE FROM t WHERE id % 7 = 0; COMMIT",
    );
}

#[test]
fn the_slot_of_an_idle_database_lets_go_of_what_others_write() {
    let cluster = Cluster::builder().captures_wal(true).conf("rte.poll_interval", "100ms").ready();
    let mut sql = cluster.sql();
    sql.table("t", TABLE);
    sql.run("CREATE TABLE other (id int)");
    for round in 0..3 {
        sql.run(&format!("INSERT INTO other SELECT {round} FROM generate_series(1, 20000)"));
        let position = sql.text("SELECT pg_current_wal_flush_lsn()");
        let told = format!(
            "SELECT confirmed_flush_lsn >= '{position}' FROM pg_replication_slots WHERE plugin = 'whagons_rte'"
        );
        wait_until("the slot is told", || (sql.text(&told) == "t").then_some(()));
    }
    assert_eq!(
        sql.number("SELECT count(*) FROM rte.change_log WHERE relation <> 't'::regclass AND op IN ('I', 'U')"),
        0
    );
}

#[test]
fn a_start_of_the_server_is_on_record_before_anything_is_captured_after_it() {
    let (mut cluster, _sql, mut client) = start();
    for how in [Shutdown::Fast, Shutdown::Immediate] {
        cluster.restart(how);
        let mut sql = cluster.sql();
        sql.run("UPDATE t SET n = n + 1 WHERE id = 1");
        let xid = sql.text("SELECT xmin FROM t WHERE id = 1");
        client.come_back();
        assert_equal(&mut sql, &mut client);
        client.assert_clean();
        let recorded = format!(
            "SELECT count(*) FROM rte.server_start WHERE boundary::text::int8 <= {xid} AND lsn > (SELECT coalesce(max(lsn), '0/0') FROM rte.server_start s WHERE start < server_start.start)
             AND start = (SELECT max(start) FROM rte.server_start)"
        );
        assert_eq!(sql.number(&recorded), 1, "after {how:?}");
    }
}

/// Time that a process has spent on a processor, in hundredths of a second.
fn spent(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    [fields[11], fields[12]].iter().map(|field| field.parse::<u64>().expect("a number")).sum()
}

#[test]
fn a_feeder_with_nothing_to_decode_rests() {
    let cluster = Cluster::builder().captures_wal(true).conf("rte.heartbeat_interval", "2s").ready();
    let mut sql = cluster.sql();
    sql.table("t", TABLE);
    let mut client = cluster.subscriber("c", &["t"]);
    follows(&mut sql, &mut client, "INSERT INTO t VALUES (1)");
    wait_for_log(&mut sql, "the change in the log", "op = 'I'");
    let feeder = cluster.worker("feeder");
    let (before, commits) = (spent(feeder), client.copy.counts.commits);
    client.wait_for("heartbeats", |c| c.copy.counts.commits >= commits + 4);
    // Four seconds.
    assert!(spent(feeder) - before < 100, "{} hundredths of a second", spent(feeder) - before);
}

#[test]
fn who_subscribes_to_a_table_that_was_just_analyzed_is_not_taken_for_somebody_whose_rights_changed() {
    let (_cluster, mut sql, mut client) = start();
    for number in 0..10 {
        let table = format!("u{number}");
        sql.table(&table, TABLE);
        sql.run(&format!("INSERT INTO {table} VALUES (1, 'v')"));
        // The feeder hears of this in the tick that answers, and drops what it knew of the table before it decodes.
        sql.run(&format!("ANALYZE {table}"));
        client.subscribe(&table, &table);
        client.wait_live();
    }
    // Everybody's rights are looked at again.
    sql.run("CREATE ROLE newcomer");
    follows(&mut sql, &mut client, "UPDATE t SET n = n + 1");
    sql.run("DROP ROLE newcomer");
}

#[test]
fn who_locks_the_log_holds_up_no_delivery_and_loses_nothing() {
    let (cluster, mut sql, mut client) = start();
    assert_equal(&mut sql, &mut client);
    let mut other = cluster.sql();
    other.run("BEGIN; LOCK TABLE rte.wal_position IN SHARE MODE");
    for round in 0..3 {
        follows(&mut sql, &mut client, &format!("UPDATE t SET n = {round} WHERE id = 1"));
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'rte.wal_position'::regclass";
        wait_until("the feeder wants the lock", || (sql.number(waits) > 0).then_some(()));
        follows(&mut sql, &mut client, &format!("INSERT INTO t VALUES (100 + {round}, 'while it waits')"));
    }
    client.leave();
    other.run("COMMIT");
    let logged = "SELECT count(*) FROM rte.sync_log WHERE operation = 'insert' AND key::text ~ '10[0-2]'";
    wait_until("what was delivered meanwhile is in the log", || (sql.number(logged) == 3).then_some(()));
    end_feeder(&cluster);
    client.come_back();
    follows(&mut sql, &mut client, "UPDATE t SET n = 7 WHERE id = 1");
}
