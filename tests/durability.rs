//! What was found by thinking of it: a feeder that starts between a commit and its flush, records that a savepoint
//! takes back, a log that moves under its reader, ids that are older than the server's start, roles that change,
//! values that cannot be shown, an extension that is made anew. Each test says what it would catch.

use rte_testkit::{Client, Cluster, Shutdown, Signal, Sql, State, assert_equal, kill, rounds, token, wait_until};
use serde_json::json;

const TABLE: &str = "id int PRIMARY KEY, v text";

fn holds(client: &Client, id: i64) -> bool {
    client.sub("t").row(&[&id.to_string()]).is_some()
}

fn feeders(sql: &mut Sql) -> i64 {
    sql.number("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'whagons_rte feeder'")
}

/// A change that a feeder finds when it starts is in no tick, so no tick flushes it: without a flush of its own, the
/// reading of the log shows what the crash then takes back.
#[test]
fn a_new_feeder_shows_nothing_that_a_crash_can_take_back() {
    let mut cluster = Cluster::builder()
        .conf("synchronous_commit", "off")
        .conf("wal_writer_delay", "10s")
        .conf("wal_buffers", "16MB")
        .ready();
    cluster.sql().table("t", TABLE);
    let mut client = cluster.subscriber("c", &["t"]);
    let mut unflushed = 0;
    for round in 0..rounds(4) as i64 {
        let mut sql = cluster.sql();
        assert_equal(&mut sql, &mut client);
        client.leave();
        // The launcher starts no other feeder until the row is there.
        let launcher = cluster.worker("launcher");
        kill(launcher, Signal::STOP);
        let feeder = cluster.worker("feeder");
        assert_eq!(sql.text(&format!("SELECT pg_terminate_backend({feeder})")), "t");
        wait_until("the feeder is gone", || (feeders(&mut sql) == 0).then_some(()));
        sql.run(&format!("INSERT INTO t VALUES ({round}, 'asynchronous')"));
        let behind = sql.text("SELECT pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()") == "t";
        kill(launcher, Signal::CONT);
        client.come_back();
        client.carry_on("the row", |c| holds(c, round));
        unflushed += i64::from(behind);
        cluster.kill();
        cluster.start();
        let mut sql = cluster.sql();
        let there = sql.number(&format!("SELECT count(*) FROM t WHERE id = {round}"));
        assert_eq!(there, 1, "the client was shown row {round}, and then it had not happened");
        client.come_back();
        assert_equal(&mut sql, &mut client);
    }
    client.assert_clean();
    assert!(unflushed > 0, "the case was not reached, so this has shown nothing");
}

/// By triggers, the record is written by the first transaction that captures something. Where that was below a savepoint which is
/// rolled back, the record went too, and a transaction that took it for written left the start without one.
#[test]
fn every_start_is_on_record_whatever_its_first_transaction_does() {
    let mut cluster = Cluster::builder().captures_wal(false).ready();
    cluster.sql().table("t", TABLE);
    let write = |id: usize| format!("INSERT INTO t VALUES ({id}, 'x')");
    let fails = |id: usize| {
        format!(
            "BEGIN INSERT INTO t VALUES ({id}, 'x'), ({id}, 'twice'); EXCEPTION WHEN unique_violation THEN NULL; END"
        )
    };
    let cases: [&dyn Fn(usize) -> String; 6] = [
        &write,
        &|n| format!("SAVEPOINT a; {}; ROLLBACK TO a; {}", write(n), write(n)),
        &|n| format!("SAVEPOINT a; SAVEPOINT b; {}; RELEASE b; ROLLBACK TO a; {}", write(n), write(n)),
        &|n| format!("SAVEPOINT a; {}; ROLLBACK TO a; SAVEPOINT b; {}; RELEASE b", write(n), write(n)),
        &|n| format!("{}; SAVEPOINT a; DELETE FROM t; ROLLBACK TO a", write(n)),
        &|n| format!("DO $$ BEGIN {}; {}; {}; END $$", fails(n), fails(n), write(n)),
    ];
    for (n, case) in cases.iter().enumerate() {
        let starts = cluster.sql().number("SELECT count(DISTINCT start) FROM rte.server_start");
        cluster.restart(Shutdown::Fast);
        let mut sql = cluster.sql();
        // One that leaves nothing at all comes before.
        sql.run(&format!("BEGIN; {}; ROLLBACK", write(n)));
        sql.run(&format!("BEGIN; {}", case(n)));
        let xid = sql.number("SELECT pg_current_xact_id()::text");
        sql.run("COMMIT");
        assert_eq!(sql.number("SELECT count(DISTINCT start) FROM rte.server_start"), starts + 1, "case {n}");
        let below = "SELECT boundary::text FROM rte.server_start ORDER BY at DESC LIMIT 1";
        assert!(sql.number(below) <= xid, "case {n}: the boundary is below all that was captured after the start");
        sql.run("UPDATE t SET v = 'y'");
        assert_eq!(sql.number("SELECT count(DISTINCT start) FROM rte.server_start"), starts + 1, "case {n}");
    }
}

/// Blocks are announced and read later. VACUUM FULL takes its place in the queue while the writer is at work, so it
/// comes between the two, and the rows lie elsewhere: in a file whose first blocks were those of aborted rows.
#[test]
fn a_rewritten_log_loses_nothing() {
    let cluster =
        Cluster::builder().captures_wal(false).conf("rte.max_log_size", "8MB").conf("autovacuum", "off").ready();
    let (mut sql, mut writer) = (cluster.sql(), cluster.sql());
    sql.table("t", TABLE);
    let mut client = cluster.subscriber("c", &["t"]);
    let mut rewritten = std::collections::BTreeSet::new();
    let mut round = 0;
    while rewritten.len() < 6 {
        round += 1;
        assert!(round < 60, "only {rewritten:?} were ever written to");
        // Fills a segment, and some of the next, with what the rewrite leaves out.
        sql.run("BEGIN; INSERT INTO t SELECT -i, repeat('x', 100) FROM generate_series(1, 6000) i; ROLLBACK");
        assert_equal(&mut sql, &mut client);
        writer.run(&format!("BEGIN; INSERT INTO t VALUES ({round}, 'moves')"));
        let segment = writer.text(
            "SELECT tableoid::regclass::text FROM rte.change_log WHERE xid = pg_current_xact_id() ORDER BY seq DESC LIMIT 1",
        );
        // A prepared transaction is announced now and read much later; another at its commit.
        let prepared = round % 2 == 0;
        if prepared {
            writer.run("PREPARE TRANSACTION 'p'");
            assert_equal(&mut sql, &mut client);
        }
        std::thread::scope(|scope| {
            let mut vacuum = cluster.sql();
            let command = format!("VACUUM FULL {segment}");
            scope.spawn(move || vacuum.run(&command));
            let queued = format!(
                "SELECT count(*) FROM pg_locks WHERE relation = '{segment}'::regclass AND mode = 'AccessExclusiveLock' AND NOT granted"
            );
            wait_until("VACUUM FULL is queued", || (sql.number(&queued) == 1).then_some(()));
            writer.run(if prepared { "COMMIT PREPARED 'p'" } else { "COMMIT" });
        });
        assert_equal(&mut sql, &mut client);
        assert!(holds(&client, round));
        rewritten.insert(segment);
    }
    for segment in 0..8 {
        sql.run(&format!("VACUUM FULL rte.change_log_{segment}"));
        sql.run(&format!("UPDATE t SET v = 'after {segment}'"));
        assert_equal(&mut sql, &mut client);
    }
    client.resume();
    assert_equal(&mut sql, &mut client);
    client.assert_clean();
}

/// A cursor from before a start is clamped to its boundary. With the prepared transaction's id as the boundary, the
/// update of the younger transaction counts as missed and that of the older, which came after it, as seen.
#[test]
fn a_prepared_transaction_does_not_turn_back_a_row() {
    let mut cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("t", TABLE);
    sql.run("INSERT INTO t VALUES (1, 'first')");
    let mut client = cluster.subscriber("c", &["t"]);
    let mut away = cluster.subscriber("away", &["t"]);
    for (n, how) in [Shutdown::Fast, Shutdown::Immediate].into_iter().enumerate() {
        let mut sql = cluster.sql();
        let (mut old, mut prepared) = (cluster.sql(), cluster.sql());
        old.run("BEGIN");
        let low = old.number("SELECT pg_current_xact_id()::text");
        prepared.run(&format!("BEGIN; INSERT INTO t VALUES ({}, 'prepared')", 100 + n));
        let between = prepared.number("SELECT pg_current_xact_id()::text");
        prepared.run("PREPARE TRANSACTION 'p'");
        sql.run(&format!("BEGIN; UPDATE t SET v = 'young {n}' WHERE id = 1"));
        let high = sql.number("SELECT pg_current_xact_id()::text");
        sql.run("COMMIT");
        old.run(&format!("UPDATE t SET v = 'old, and later {n}' WHERE id = 1; COMMIT"));
        assert!(low < between && between < high);
        assert_equal(&mut sql, &mut client);
        assert_equal(&mut sql, &mut away);
        client.leave();
        away.leave();
        drop((sql, old, prepared));
        cluster.restart(how);
        let mut sql = cluster.sql();
        sql.run(&format!("INSERT INTO t VALUES ({}, 'the first after the start')", 200 + n));
        client.come_back();
        assert_equal(&mut sql, &mut client);
        assert!(!holds(&client, 100 + n as i64));
        sql.run("COMMIT PREPARED 'p'");
        away.come_back();
        for client in [&mut client, &mut away] {
            assert_equal(&mut sql, client);
            assert!(holds(client, 100 + n as i64));
        }
    }
    client.assert_clean();
    away.assert_clean();
}

/// Heartbeats are rare here, so what is noticed is noticed by the poll; and there is one query worker for all.
fn polling() -> (Cluster, Sql) {
    let cluster = Cluster::builder()
        .conf("rte.poll_interval", "100ms")
        .conf("rte.heartbeat_interval", "600s")
        .conf("rte.query_workers", "1")
        .ready();
    let mut sql = cluster.sql();
    sql.run("CREATE ROLE readers NOLOGIN; CREATE ROLE web_other NOLOGIN; GRANT SELECT ON kit_barrier TO web_other");
    for (table, role) in [("t", "readers"), ("mine", "web_anon"), ("theirs", "web_other")] {
        sql.table(table, TABLE);
        sql.run(&format!("REVOKE SELECT ON {table} FROM web_anon; GRANT SELECT ON {table} TO {role}"));
        sql.run(&format!("INSERT INTO {table} VALUES (1, 'of {role}')"));
    }
    sql.run("GRANT readers TO web_anon");
    (cluster, sql)
}

/// Changes of roles leave no marker in the log: nobody looked again.
#[test]
fn a_right_that_comes_through_a_group_ends_with_the_membership() {
    let (cluster, mut sql) = polling();
    let mut client = cluster.subscriber("c", &["t", "mine"]);
    sql.run("REVOKE readers FROM web_anon");
    client.wait_for("the end of t", |c| c.sub("t").state == State::Ended);
    client.wait_error("UNKNOWN_TABLE");
    sql.run("UPDATE t SET v = 'hidden'; UPDATE mine SET v = 'seen'");
    let mark = sql.barrier();
    client.wait_for("the barrier", |c| c.sub("kit_barrier").row(&[&mark.to_string()]).is_some());
    assert_eq!(client.sub("mine").value(&["1"], "v"), Some("\"seen\""));
    assert_eq!(client.sub("t").value(&["1"], "v"), Some("\"of readers\""));
    // And comes with it.
    sql.run("GRANT readers TO web_anon");
    wait_until("t may be read again", || {
        client.subscribe("t", "t");
        client.wait_for("an answer", |c| !matches!(c.sub("t").state, State::Asked(_)));
        (client.sub("t").state != State::Ended).then_some(())
    });
    assert_equal(&mut sql, &mut client);
    // Grants of its own, all at once.
    sql.run("DROP OWNED BY web_anon");
    client.wait_for("the end of mine", |c| c.sub("mine").state == State::Ended);
    client.wait_for("the end of the barrier", |c| c.sub("kit_barrier").state == State::Ended);
    sql.run("UPDATE mine SET v = 'hidden'");
    let mut late = cluster.client("late");
    late.subscribe("mine", "mine");
    late.wait_error("UNKNOWN_TABLE");
    late.subscribe("t", "t");
    late.wait_for("t", |c| c.sub("t").state == State::Live);
    client.ping();
    assert_eq!(client.sub("mine").value(&["1"], "v"), Some("\"seen\""));
}

#[test]
fn a_role_that_may_not_be_a_clients_any_more_ends_its_sessions() {
    let (cluster, mut sql) = polling();
    let bad = ["SUPERUSER", "BYPASSRLS", "RENAME TO somebody"];
    let good = ["NOSUPERUSER", "NOBYPASSRLS", "RENAME TO web_anon"];
    for (bad, good) in bad.iter().zip(good) {
        let mut client = cluster.subscriber(bad, &["mine"]);
        sql.run(&format!("ALTER ROLE web_anon {bad}"));
        assert_eq!(client.wait_closed().code, Some(4403), "{bad}");
        assert_eq!(client.try_join().expect_err(bad).code, Some(4403), "{bad}");
        let name = if bad.starts_with("RENAME") { "somebody" } else { "web_anon" };
        sql.run(&format!("ALTER ROLE {name} {good}"));
        client.come_back();
        client.carry_on("live again", |c| c.copy.all_live());
        assert_equal(&mut sql, &mut client);
    }
    let mut client = cluster.subscriber("no role", &["mine"]);
    cluster.conf("rte.anon_role", "");
    cluster.reload();
    assert_eq!(client.wait_closed().code, Some(4401));
}

/// The one query worker, which reads for all roles in turn, must leave nothing of the one to the other.
#[test]
fn one_query_worker_reads_for_each_role_what_is_its_own() {
    let cluster = Cluster::builder().tokens().conf("rte.query_workers", "1").ready();
    let mut sql = cluster.sql();
    sql.run("CREATE ROLE web_other; GRANT web_other TO authenticator; GRANT SELECT ON kit_barrier TO web_other");
    for (table, role) in [("mine", "web_anon"), ("theirs", "web_other")] {
        sql.table(table, TABLE);
        sql.run(&format!("REVOKE SELECT ON {table} FROM web_anon; GRANT SELECT ON {table} TO {role}"));
        sql.run(&format!("INSERT INTO {table} VALUES (1, 'of {role}')"));
    }
    let reader = "SELECT pid::text FROM rte.workers WHERE kind = 'query worker' AND pid IS NOT NULL";
    let mut pids = std::collections::BTreeSet::new();
    for round in 0..rounds(6) {
        let (role, own, foreign) =
            if round % 2 == 0 { ("web_other", "theirs", "mine") } else { ("web_anon", "mine", "theirs") };
        let mut client = cluster.client_with(role, &token(role));
        assert_eq!(client.welcome.as_ref().map(|w| &w["role"]), Some(&json!(role)), "{:?}", client.welcome);
        client.subscribe(foreign, foreign);
        client.wait_error("UNKNOWN_TABLE");
        client.copy.subscriptions.remove(foreign);
        client.subscribe_barrier();
        client.subscribe(own, own);
        client.wait_live();
        assert_equal(&mut sql, &mut client);
        assert_eq!(client.sub(own).value(&["1"], "v"), Some(&*format!("\"of {role}\"")));
        assert_eq!(client.errors.len(), 0, "{:?}", client.errors);
        pids.extend(sql.texts(reader));
    }
    assert_eq!(pids.len(), 1, "one worker has read for both: {pids:?}");
}

/// A table whose enum can be shown except for one label: the cast to json raises.
fn unshowable() -> (Cluster, Sql) {
    let cluster = Cluster::builder().conf("rte.poll_interval", "100ms").ready();
    let mut sql = cluster.sql();
    sql.run(
        "CREATE TYPE mood AS ENUM ('fine', 'bad');
         CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql AS $$ BEGIN
             IF $1 = 'bad' THEN RAISE EXCEPTION 'not to be shown'; END IF;
             RETURN to_json($1::text);
         END $$;
         CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood)",
    );
    sql.table("t", TABLE);
    sql.table("m", "id int PRIMARY KEY, m mood");
    sql.run("INSERT INTO t VALUES (1, 'a'); INSERT INTO m VALUES (1, 'fine')");
    (cluster, sql)
}

/// Without a guard the error ends the feeder, which meets the same change again after each start.
#[test]
fn a_change_that_cannot_be_shown_costs_its_table_only() {
    let (cluster, mut sql) = unshowable();
    let mut client = cluster.subscriber("c", &["t", "m"]);
    let mut away = cluster.subscriber("away", &["t", "m"]);
    away.leave();
    let feeder = cluster.worker("feeder");
    sql.run("INSERT INTO m VALUES (2, 'fine'), (3, 'bad'); INSERT INTO t VALUES (2, 'goes on')");
    for client in [&mut client, &mut away] {
        client.carry_on("the end of m", |c| c.sub("m").state == State::Ended);
        sql.run("UPDATE t SET v = v || '!'");
        let mark = sql.barrier();
        client.carry_on("the barrier", |c| c.sub("kit_barrier").row(&[&mark.to_string()]).is_some());
        assert_eq!(client.sub("t").state, State::Live);
        assert!(rte_testkit::difference(&mut sql, client.sub("t")).is_none());
    }
    let log = cluster.log();
    assert!(log.contains("cannot be encoded: not to be shown"), "the log says so");
    assert_eq!(log.matches("stops serving table").count(), 1, "and once");
    assert_eq!(cluster.worker("feeder"), feeder, "the feeder lived on");
    sql.run("UPDATE m SET m = 'fine' WHERE id = 3; SELECT rte.register_table('m')");
    for client in [&mut client, &mut away] {
        wait_until("m is served again", || {
            client.subscribe("m", "m");
            client.wait_for("an answer", |c| matches!(c.sub("m").state, State::Ended | State::Live));
            (client.sub("m").state == State::Live).then_some(())
        });
        sql.run("UPDATE m SET id = id + 10");
        assert_equal(&mut sql, client);
    }
}

/// The same in a snapshot: it is read for all tables of a client at once.
#[test]
fn a_row_that_cannot_be_shown_costs_its_tables_snapshot_only() {
    let (cluster, mut sql) = unshowable();
    let mut client = cluster.subscriber("c", &["t", "m"]);
    client.leave();
    // Nobody holds m when the row comes, so it is not met as a change: who joins after has been told after.
    wait_until("nobody is connected", || (sql.number("SELECT count(*) FROM rte.connections") == 0).then_some(()));
    let _other = cluster.subscriber("other", &["t"]);
    sql.run("INSERT INTO m VALUES (3, 'bad'); INSERT INTO t VALUES (2, 'goes on')");
    // All of it anew.
    client.copy.cursor = Some("nonsense".into());
    client.come_back();
    client.carry_on("the end of m", |c| c.sub("m").state == State::Ended);
    let mark = sql.barrier();
    client.carry_on("the barrier", |c| c.sub("kit_barrier").row(&[&mark.to_string()]).is_some());
    assert_eq!(client.sub("t").state, State::Live, "{:?}", client.errors);
    assert!(rte_testkit::difference(&mut sql, client.sub("t")).is_none());
}

#[test]
fn too_much_in_the_log_is_a_snapshot_and_once() {
    let cluster = Cluster::builder().conf("rte.max_catch_up_size", "128kB").ready();
    let mut sql = cluster.sql();
    sql.table("t", TABLE);
    let mut client = cluster.subscriber("c", &["t"]);
    for (rows, resumes) in [(10, true), (2000, false), (10, true)] {
        client.leave();
        let refused = client.copy.counts.refused_resumes;
        let feeder = cluster.worker("feeder");
        sql.run(&format!("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, {rows}) i"));
        // A feeder that was not there has it from the log.
        sql.run(&format!("SELECT pg_terminate_backend({feeder})"));
        wait_until("another feeder", || (cluster.worker("feeder") != feeder).then_some(()));
        sql.run("UPDATE t SET v = 'y' WHERE id % 3 = 0; DELETE FROM t WHERE id % 5 = 0");
        client.come_back();
        client.carry_on("live", |c| c.copy.all_live());
        assert_equal(&mut sql, &mut client);
        assert_eq!(client.copy.counts.refused_resumes == refused, resumes, "{rows} rows: {:?}", client.copy.counts);
        sql.run("DELETE FROM t");
        assert_equal(&mut sql, &mut client);
    }
    assert!(client.errors.is_empty(), "{:?}", client.errors);
}

/// The new extension has another key and a log that begins anew. A feeder that asks only whether there is an extension
/// of that name goes on with the old key, and fails on tables that are gone.
#[test]
fn a_cursor_ends_with_the_extension_that_made_it() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("t", TABLE);
    sql.run("INSERT INTO t VALUES (1, 'a')");
    let again = "CREATE EXTENSION whagons_rte; SELECT rte.register_table('t'), rte.register_table('kit_barrier')";
    let change = "UPDATE t SET v = v || ', while nobody looked'";
    let mut client = cluster.subscriber("c", &["t"]);
    let mut away = cluster.subscriber("away", &["t"]);
    let feeder = cluster.worker("feeder");
    for (n, how) in ["unseen", "one transaction", "two steps"].into_iter().enumerate() {
        away.leave();
        let in_one = format!("BEGIN; DROP EXTENSION whagons_rte; {change}; {again}; COMMIT");
        match how {
            "unseen" => {
                // Stopped between two ticks, or its locks would hold up the DROP.
                let busy = format!("SELECT count(*) FROM pg_locks WHERE pid = {feeder}");
                wait_until("the feeder rests", || {
                    kill(feeder, Signal::STOP);
                    let rests = sql.number(&busy) == 0;
                    if !rests {
                        kill(feeder, Signal::CONT);
                    }
                    rests.then_some(())
                });
                sql.run(&in_one);
                kill(feeder, Signal::CONT);
                client.wait_closed();
            }
            "one transaction" => sql.run(&in_one),
            _ => {
                let dropped = |log: &str| log.matches("the extension was dropped").count();
                let before = dropped(&cluster.log());
                sql.run("DROP EXTENSION whagons_rte");
                wait_until("the feeder has noticed", || (dropped(&cluster.log()) > before).then_some(()));
                client.wait_closed();
                sql.run(change);
                sql.run(again);
            }
        }
        away.come_back();
        away.wait_error("INVALID_CURSOR");
        sql.run(&format!("INSERT INTO t VALUES ({}, 'after')", n + 10));
        let mark = sql.barrier();
        for client in [&mut client, &mut away] {
            client.carry_on("the barrier", |c| c.at_barrier(mark));
            assert_equal(&mut sql, client);
        }
        if how == "unseen" {
            assert_eq!(cluster.worker("feeder"), feeder, "the feeder has followed");
        }
    }
    for client in [&mut client, &mut away] {
        let counts = client.copy.counts.clone();
        client.resume();
        sql.run("UPDATE t SET v = 'last'");
        assert_equal(&mut sql, client);
        assert_eq!(client.copy.counts.refused_resumes, counts.refused_resumes, "its own cursor is good");
    }
}
