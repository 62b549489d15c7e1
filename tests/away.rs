//! What a client finds when it comes back after the ground has moved: a cursor is only good for what it can
//! continue exactly; everything else is a snapshot or an end, never a stale row.

use rte_testkit::{Client, Cluster, Shutdown, Signal, Sql, State, assert_equal, kill};

fn start() -> (Cluster, Sql, Client) {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0");
    sql.run("INSERT INTO t SELECT i, 'v' || i, i FROM generate_series(1, 20) i");
    let client = cluster.subscriber("c", &["t"]);
    (cluster, sql, client)
}

/// Runs statements while the client is away, and compares when it is back.
#[track_caller]
fn meanwhile(sql: &mut Sql, client: &mut Client, statements: &[&str]) {
    client.leave();
    statements.iter().for_each(|s| sql.run(s));
    client.come_back();
    assert_equal(sql, client);
    assert!(client.errors.is_empty(), "{:?}", client.errors);
}

#[test]
fn a_table_that_was_dropped_and_made_anew_is_another_table() {
    let (_cluster, mut sql, mut client) = start();
    let again = "CREATE TABLE t (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0); SELECT rte.register_table('t')";
    meanwhile(&mut sql, &mut client, &["DROP TABLE t", again, "INSERT INTO t VALUES (100, 'new')"]);
    assert_eq!(client.sub("t").rows.len(), 1);
    // All in one transaction, and with the old one still about under another name.
    meanwhile(&mut sql, &mut client, &[&format!("BEGIN; DROP TABLE t; {again}; COMMIT")]);
    assert!(client.sub("t").rows.is_empty());
    sql.run("INSERT INTO t VALUES (1, 'old')");
    assert_equal(&mut sql, &mut client);
    meanwhile(&mut sql, &mut client, &["ALTER TABLE t RENAME TO t_old", again]);
    assert!(client.sub("t").rows.is_empty());
}

#[test]
fn changes_that_were_not_captured_are_not_skipped() {
    let (_cluster, mut sql, mut client) = start();
    let unregister = "SELECT rte.unregister_table('t')";
    let register = "SELECT rte.register_table('t')";
    meanwhile(&mut sql, &mut client, &[unregister, "UPDATE t SET n = -1", register]);
    meanwhile(&mut sql, &mut client, &[&format!("BEGIN; {unregister}; UPDATE t SET n = -2; {register}; COMMIT")]);
    let disable = "ALTER TABLE t DISABLE TRIGGER ALL";
    meanwhile(&mut sql, &mut client, &[disable, "UPDATE t SET n = -3", register]);
    meanwhile(&mut sql, &mut client, &[&format!("BEGIN; {disable}; DELETE FROM t WHERE id < 5; {register}; COMMIT")]);
    let narrow = "SELECT rte.register_table('t', columns => '{v}')";
    meanwhile(&mut sql, &mut client, &[narrow, "UPDATE t SET n = -4", register]);
    // The same before the eyes of a client that stays.
    sql.run(&format!("BEGIN; {unregister}; UPDATE t SET n = -5; {register}; COMMIT"));
    assert_equal(&mut sql, &mut client);
    sql.run(&format!("BEGIN; {disable}; UPDATE t SET n = -6; {register}; COMMIT"));
    assert_equal(&mut sql, &mut client);
}

#[test]
fn a_grant_that_went_while_the_client_was_away_is_gone() {
    let (_cluster, mut sql, mut client) = start();
    meanwhile(
        &mut sql,
        &mut client,
        &["REVOKE SELECT ON t FROM web_anon; GRANT SELECT (id, v) ON t TO web_anon", "UPDATE t SET n = 7, v = 'x'"],
    );
    assert_eq!(client.sub("t").columns.len(), 2);
    client.leave();
    sql.run("REVOKE SELECT (id, v) ON t FROM web_anon; UPDATE t SET v = 'hidden'");
    client.come_back();
    let mark = sql.barrier();
    client.wait_for("the barrier without t", |c| {
        let barrier = c.sub("kit_barrier");
        c.sub("t").state == State::Ended && barrier.row(&[&mark.to_string()]).is_some()
    });
    client.wait_error("UNKNOWN_TABLE");
    assert!(client.sub("t").rows.values().all(|row| !row[1].contains("hidden")));
}

#[test]
fn partitions_may_come_and_go_meanwhile() {
    let (_cluster, mut sql, mut client) = start();
    sql.run(
        "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200)",
    );
    sql.register("p");
    sql.run("INSERT INTO p SELECT i, 'x' FROM generate_series(50, 150) i");
    client.subscribe("p", "p");
    client.wait_live();
    meanwhile(&mut sql, &mut client, &["TRUNCATE p2"]);
    meanwhile(&mut sql, &mut client, &["ALTER TABLE p DETACH PARTITION p1", "UPDATE p1 SET v = 'alone'"]);
    meanwhile(&mut sql, &mut client, &["ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (100)"]);
    meanwhile(&mut sql, &mut client, &["DROP TABLE p1"]);
    // A partition that was filled where nobody captured it.
    meanwhile(
        &mut sql,
        &mut client,
        &[
            "BEGIN; ALTER TABLE p DETACH PARTITION p2; INSERT INTO p2 VALUES (120, 'secretly'); ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (100) TO (200); COMMIT",
        ],
    );
}

#[test]
fn types_that_change_change_the_rows() {
    let (_cluster, mut sql, mut client) = start();
    sql.run("CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TYPE pair AS (x int)");
    sql.table("m", "id int PRIMARY KEY, m mood, p pair");
    sql.run("INSERT INTO m VALUES (1, 'a', ROW(1)), (2, 'b', ROW(2))");
    client.subscribe("m", "m");
    client.wait_live();
    for alter in ["RENAME VALUE 'a' TO 'renamed'", "ADD VALUE 'c' BEFORE 'b'"] {
        sql.run(&format!("ALTER TYPE mood {alter}"));
        sql.run("UPDATE m SET m = 'b' WHERE id = 1");
        assert_equal(&mut sql, &mut client);
    }
    meanwhile(
        &mut sql,
        &mut client,
        &["ALTER TYPE mood RENAME VALUE 'b' TO 'bb'", "UPDATE m SET m = 'c' WHERE id = 2"],
    );
    meanwhile(
        &mut sql,
        &mut client,
        &["ALTER TYPE pair ADD ATTRIBUTE y text", "UPDATE m SET p = ROW(3, 'y') WHERE id = 2"],
    );
    sql.run("ALTER TYPE pair RENAME ATTRIBUTE y TO z");
    assert_equal(&mut sql, &mut client);
    sql.run("ALTER TYPE pair DROP ATTRIBUTE x");
    assert_equal(&mut sql, &mut client);
}

#[test]
fn a_table_that_becomes_unlogged_keeps_no_ghosts() {
    let (cluster, mut sql, mut client) = start();
    sql.run("ALTER TABLE t SET UNLOGGED; UPDATE t SET n = 1");
    // A crash empties it.
    let feeder = cluster.worker("feeder");
    client.leave();
    kill(feeder, Signal::KILL);
    rte_testkit::wait_until("the crash", || (!rte_testkit::alive(feeder)).then_some(()));
    let mut sql = rte_testkit::wait_until("a session", || cluster.try_sql("postgres").ok());
    assert_eq!(sql.number("SELECT count(*) FROM t"), 0);
    client.come_back();
    let mark = sql.barrier();
    client.wait_for("the barrier", |c| {
        c.sub("kit_barrier").row(&[&mark.to_string()]).is_some() && !matches!(c.sub("t").state, State::Joining(_))
    });
    let t = client.sub("t");
    assert!(
        t.state == State::Ended || (t.state == State::Live && t.rows.is_empty()),
        "{:?}, {} rows",
        t.state,
        t.rows.len()
    );
}

#[test]
fn children_by_inheritance_are_the_same_to_all() {
    let (cluster, mut sql, mut early) = start();
    sql.run("CREATE TABLE parent (id int PRIMARY KEY, v text); CREATE TABLE child () INHERITS (parent)");
    if sql.batch_execute("SELECT rte.register_table('parent')").is_err() {
        return;
    }
    early.subscribe("parent", "parent");
    early.wait_live();
    sql.run("INSERT INTO parent VALUES (1, 'parent'); INSERT INTO child VALUES (2, 'child')");
    let late = cluster.subscriber("late", &["parent"]);
    let mark = sql.barrier();
    early.wait_barrier(mark);
    assert_eq!(early.sub("parent").rows, late.sub("parent").rows, "a change and a snapshot show the same rows");
    sql.run("UPDATE parent SET v = v || '!'; TRUNCATE parent");
    let late = cluster.subscriber("later", &["parent"]);
    let mark = sql.barrier();
    early.wait_barrier(mark);
    assert_eq!(early.sub("parent").rows, late.sub("parent").rows);
}

#[test]
fn a_server_that_was_set_back_to_a_copy_does_not_know_later_cursors() {
    let (mut cluster, _, mut client) = start();
    client.leave();
    cluster.stop(Shutdown::Fast);
    let (data, copy) = (cluster.data(), cluster.dir().join("copy"));
    let cp = |from: &std::path::Path, to: &std::path::Path| {
        assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp").success());
    };
    cp(&data, &copy);
    cluster.start();
    client.come_back();
    let mut sql = cluster.sql();
    for id in 100..150 {
        sql.run(&format!("INSERT INTO t VALUES ({id}, 'taken back')"));
    }
    assert_equal(&mut sql, &mut client);
    drop(sql);
    client.leave();
    cluster.stop(Shutdown::Fast);
    std::fs::remove_dir_all(&data).expect("the old data");
    cp(&copy, &data);
    cluster.start();
    let mut sql = cluster.sql();
    for id in 200..210 {
        sql.run(&format!("INSERT INTO t VALUES ({id}, 'by new owners of the same transaction ids')"));
    }
    client.come_back();
    client.carry_on("live", |c| c.copy.all_live());
    let mark = sql.number("INSERT INTO kit_barrier OVERRIDING SYSTEM VALUE VALUES (1000) RETURNING id") as i32;
    client.wait_barrier(mark);
    assert_equal(&mut sql, &mut client);
}

#[test]
fn a_locked_table_holds_up_nobody_else() {
    let (cluster, mut sql, mut client) = start();
    sql.table("other", "id int PRIMARY KEY");
    client.subscribe("other", "other");
    client.wait_live();
    let mut locker = cluster.sql();
    locker.run("BEGIN; UPDATE t SET n = 5; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; ALTER TABLE t ADD COLUMN x int");
    for id in 0..5 {
        sql.run(&format!("INSERT INTO other VALUES ({id})"));
        client.wait_for("a change beside the lock", |c| c.sub("other").row(&[&id.to_string()]).is_some());
    }
    // Somebody waits for the snapshot of the locked table; others join and resume all the same.
    let mut waiting: Vec<Client> = (0..4).map(|n| cluster.client(&format!("waiting {n}"))).collect();
    waiting.iter_mut().for_each(|w| w.subscribe("t", "t"));
    client.resume();
    sql.run("INSERT INTO other VALUES (10)");
    client.wait_for("a change after resuming", |c| c.sub("other").row(&["10"]).is_some());
    let _ = cluster.subscriber("joining", &["other"]);
    locker.run("COMMIT");
    assert_equal(&mut sql, &mut client);
    waiting.iter_mut().for_each(|w| w.carry_on("the snapshot", |c| c.copy.all_live()));
}

#[test]
fn hostile_settings_do_not_stop_the_workers() {
    let (mut cluster, mut sql, mut client) = start();
    for (name, value) in [
        ("statement_timeout", "500ms"),
        ("lock_timeout", "1ms"),
        ("idle_in_transaction_session_timeout", "1ms"),
        ("default_transaction_read_only", "on"),
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_deferrable", "on"),
        ("row_security", "off"),
        ("search_path", "nowhere"),
        ("work_mem", "64kB"),
        ("session_replication_role", "replica"),
    ] {
        sql.run(&format!("ALTER DATABASE postgres SET {name} = '{value}'"));
    }
    client.leave();
    sql.run("SET statement_timeout = 0; INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1000, 50000) i");
    drop(sql);
    cluster.restart(Shutdown::Fast);
    let reset = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0;
         SET search_path = public; SET default_transaction_read_only = off";
    let mut sql = cluster.sql();
    sql.run(reset);
    client.come_back();
    sql.run("UPDATE t SET n = 9 WHERE id < 10");
    assert_equal(&mut sql, &mut client);
    let mut fresh = cluster.subscriber("fresh", &["t"]);
    assert_equal(&mut sql, &mut fresh);
}
