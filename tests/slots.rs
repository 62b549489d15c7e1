//! The slot that the WAL is read from: bounded whoever is connected, given up in order or without, and never silently.

use rte_testkit::{Builder, Client, Cluster, Shutdown, Sql, State, assert_equal, wait_until};

/// A cluster that captures from the WAL, and holds back little of it.
fn wal() -> Builder {
    Cluster::builder().captures_wal(true).conf("rte.max_slot_lag", "64MB").conf("min_wal_size", "32MB")
}

fn slots(sql: &mut Sql) -> i64 {
    sql.number("SELECT count(*) FROM pg_replication_slots")
}

fn capture(sql: &mut Sql, table: &str) -> String {
    sql.text(&format!("SELECT capture FROM rte.tables WHERE relation = '{table}'::regclass"))
}

/// Writes about this much WAL that is nobody's.
fn fill(sql: &mut Sql, megabytes: u32) {
    sql.run("CREATE TABLE IF NOT EXISTS filler (v text)");
    for _ in 0..megabytes {
        // As fast as a server with that bound should write.
        sql.run(
            "INSERT INTO filler SELECT repeat(md5(i::text), 30) FROM generate_series(1, 1000) i; TRUNCATE filler;
             SELECT pg_sleep(0.03)",
        );
    }
}

#[track_caller]
fn wait_log(cluster: &Cluster, words: &str) {
    wait_until(&format!("the log says: {words}"), || cluster.log().contains(words).then_some(()));
}

#[test]
fn a_slot_past_its_bound_is_dropped_and_who_missed_changes_resynchronises() {
    let cluster = wal().ready();
    let (mut sql, mut long) = (cluster.sql(), cluster.sql());
    sql.table("held", "id int PRIMARY KEY, v text");
    sql.table("free", "id int PRIMARY KEY, v text");
    let mut client = cluster.subscriber("c", &["held", "free"]);
    let mut away = cluster.subscriber("away", &["held", "free"]);
    away.leave();
    let first = sql.text("SELECT pg_walfile_name(restart_lsn) FROM pg_replication_slots");
    // What the slot holds back is what this transaction may yet need, and its table cannot be switched.
    long.run("BEGIN; INSERT INTO held VALUES (1, 'in a transaction that nobody ends')");
    let mut write = |what: &str, found: &dyn Fn(&mut Sql) -> bool| {
        wait_until(what, || {
            fill(&mut sql, 1);
            sql.run("INSERT INTO free SELECT coalesce(max(id), 0) + 1, 'meanwhile' FROM free");
            found(&mut sql).then_some(())
        });
    };
    write("what can be switched is", &|sql| capture(sql, "free") == "trigger");
    write("the slot is dropped", &|sql| slots(sql) == 0);
    wait_log(&cluster, "is lost (it holds back");
    assert_eq!(capture(&mut sql, "held"), "wal");
    client.wait_for("the end of what nobody captures", |c| c.sub("held").state == State::Ended);
    client.wait_error("CAPTURE_DISABLED");
    client.copy.subscriptions.remove("held");
    // What could be switched in time has lost nothing.
    assert_equal(&mut sql, &mut client);
    client.assert_clean();
    sql.run("CHECKPOINT");
    assert_eq!(
        sql.number(&format!("SELECT count(*) FROM pg_ls_waldir() WHERE name <= '{first}'")),
        0,
        "the WAL is removed"
    );

    long.run("INSERT INTO held VALUES (2, 'captured by nobody'); COMMIT");
    wait_until("triggers capture it", || (capture(&mut sql, "held") == "trigger").then_some(()));
    client.subscribe("held", "held");
    client.wait_live();
    sql.run("INSERT INTO held VALUES (3, 'by trigger')");
    assert_equal(&mut sql, &mut client);
    away.come_back();
    assert_equal(&mut sql, &mut away);
    assert_eq!(away.copy.counts.snapshot_rows, 3, "of the one table: {:?}", away.copy.counts);
}

/// Takes the slot away from the feeder.
#[track_caller]
fn steal_slot(cluster: &Cluster) {
    wait_until("the slot is gone", || {
        let mut sql = cluster.try_sql("postgres").ok()?;
        let _ = sql.batch_execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots;
             SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'whagons_rte%'",
        );
        (slots(&mut sql) == 0).then_some(())
    });
}

/// Waits until the client has this row of `t`, which it cannot have had from a change.
#[track_caller]
fn resynchronised(sql: &mut Sql, client: &mut Client, key: &str) {
    client.carry_on("live again", |c| c.copy.all_live() && c.sub("t").row(&[key]).is_some());
    assert_equal(sql, client);
    let counts = &client.copy.counts;
    assert!(counts.refused_resumes + counts.resyncs.len() as u64 > 0, "{counts:?}");
}

#[test]
fn a_slot_that_somebody_drops_costs_a_snapshot_and_is_made_anew() {
    let cluster = wal().ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    let mut client = cluster.subscriber("c", &["t"]);
    let mut away = cluster.subscriber("away", &["t"]);
    sql.run("INSERT INTO t VALUES (1, 'a')");
    assert_equal(&mut sql, &mut client);
    away.leave();
    steal_slot(&cluster);
    sql.run("INSERT INTO t VALUES (2, 'b')");
    resynchronised(&mut sql, &mut client, "2");
    wait_log(&cluster, "clients resynchronise, and triggers capture changes");
    wait_until("a new slot", || (slots(&mut sql) == 1).then_some(()));
    wait_until("the WAL again", || (capture(&mut sql, "t") == "wal").then_some(()));
    let resyncs = client.copy.counts.resyncs.len();
    sql.run("INSERT INTO t VALUES (3, 'c')");
    assert_equal(&mut sql, &mut client);
    assert_eq!(client.copy.counts.resyncs.len(), resyncs, "once");
    away.come_back();
    resynchronised(&mut sql, &mut away, "3");
}

#[test]
fn a_backup_without_its_slot_comes_up_and_serves() {
    let mut cluster = wal().ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    sql.run("INSERT INTO t VALUES (1, 'a')");
    let mut client = cluster.subscriber("c", &["t"]);
    client.leave();
    drop(sql);
    cluster.stop(Shutdown::Fast);
    for entry in std::fs::read_dir(cluster.data().join("pg_replslot")).expect("slots") {
        std::fs::remove_dir_all(entry.expect("slot").path()).expect("slot");
    }
    // And one that could not have a slot any more.
    cluster.conf("wal_level", "replica");
    cluster.start();
    cluster.wait_healthy();
    let mut sql = cluster.sql();
    wait_until("triggers", || (capture(&mut sql, "t") == "trigger").then_some(()));
    sql.run("INSERT INTO t VALUES (2, 'b')");
    client.come_back();
    resynchronised(&mut sql, &mut client, "2");
    wait_log(&cluster, "wal_level is not logical");
}

#[test]
fn without_what_the_wal_needs_triggers_serve_and_the_log_says_so() {
    let cluster = wal().conf("wal_level", "replica").ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    let mut client = cluster.subscriber("c", &["t"]);
    sql.run("INSERT INTO t VALUES (1, 'a')");
    assert_equal(&mut sql, &mut client);
    assert_eq!(capture(&mut sql, "t"), "trigger");
    wait_log(&cluster, "are captured by triggers: wal_level is not logical");
    wait_log(&cluster, "Set wal_level = logical");
    client.assert_clean();
}

#[test]
fn a_server_that_is_switched_off_starts_with_less_wal() {
    let mut cluster = wal().ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    let mut client = cluster.subscriber("c", &["t"]);
    cluster.conf("rte.capture", "trigger");
    cluster.reload();
    wait_until("no slot is left", || (slots(&mut sql) == 0).then_some(()));
    assert_eq!(capture(&mut sql, "t"), "trigger");
    drop(sql);
    cluster.conf("wal_level", "replica");
    cluster.restart(Shutdown::Fast);
    cluster.wait_healthy();
    let mut sql = cluster.sql();
    sql.run("INSERT INTO t VALUES (1, 'a')");
    client.come_back();
    assert_equal(&mut sql, &mut client);
    client.assert_clean();
}

#[test]
fn dropping_the_extension_takes_the_slot_with_it_and_leaves_tables_as_they_were() {
    let cluster = wal().ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    assert_eq!(sql.text("SELECT relreplident FROM pg_class WHERE relname = 't'"), "f");
    sql.run("DROP EXTENSION whagons_rte");
    assert_eq!(sql.text("SELECT relreplident FROM pg_class WHERE relname = 't'"), "d");
    wait_until("the slot goes", || (slots(&mut sql) == 0).then_some(()));
    sql.run("CREATE EXTENSION whagons_rte");
    ["t", "kit_barrier"].iter().for_each(|t| sql.register(t));
    let mut client = cluster.subscriber("c", &["t"]);
    sql.run("INSERT INTO t VALUES (1, 'a')");
    assert_equal(&mut sql, &mut client);
    client.assert_clean();
}

/// A tenant's database, captured from the WAL, with a client of it.
fn tenant(cluster: &Cluster, name: &str) -> (Sql, Client) {
    let mut landlord = cluster.sql();
    landlord.run(&format!("CREATE DATABASE {name}"));
    let mut sql = cluster.sql_in(name);
    sql.prepare_database();
    sql.table("t", "id int PRIMARY KEY, v text");
    landlord.run(&format!("SELECT rte.register_tenant('{name}')"));
    let mut client = Client::new(cluster.rte_port, name);
    client.options.tenant = Some(name.to_owned());
    client.come_back();
    client.errors.clear();
    client.subscribe_barrier();
    client.subscribe("t", "t");
    client.carry_on("the tenant's rows", |c| c.copy.all_live());
    client.outages.clear();
    (sql, client)
}

fn roomy() -> Builder {
    wal().conf("max_worker_processes", "40").conf("rte.feeder_idle_timeout", "1s")
}

fn feeders(landlord: &mut Sql, tenant: &str) -> i64 {
    landlord.number(&format!("SELECT count(*) FROM rte.workers WHERE kind = 'feeder' AND database = '{tenant}'"))
}

#[test]
fn the_slot_of_a_tenant_that_sleeps_is_read_by_a_visit_and_nothing_is_lost() {
    let cluster = roomy().ready();
    let mut landlord = cluster.sql();
    let (mut sql, mut client) = tenant(&cluster, "a");
    sql.wait_captured();
    client.leave();
    wait_until("the tenant sleeps", || (feeders(&mut landlord, "a") == 0).then_some(()));
    // Half of what they may be, past which that of the tenant is visited.
    let small = "SELECT bool_and(lag_bytes < 32 * 1024 * 1024) FROM rte.slots";
    for n in 0..3 {
        sql.run(&format!("INSERT INTO t VALUES ({n}, 'while it sleeps')"));
        fill(&mut landlord, 40);
        wait_until("visits have read the WAL", || (landlord.text(small) == "t").then_some(()));
    }
    assert_eq!(landlord.number("SELECT count(*) FROM rte.slots"), 2);
    client.come_back();
    assert_equal(&mut sql, &mut client);
    client.assert_clean();
}

#[test]
fn the_slot_of_a_database_that_cannot_be_visited_is_dropped() {
    let cluster = roomy().ready();
    let mut landlord = cluster.sql();
    let (mut sql, mut client) = tenant(&cluster, "a");
    sql.wait_captured();
    client.leave();
    wait_until("the tenant sleeps", || (feeders(&mut landlord, "a") == 0).then_some(()));
    sql.run("INSERT INTO t VALUES (1, 'while it sleeps')");
    landlord.run("ALTER DATABASE a ALLOW_CONNECTIONS false");
    wait_until("its slot is dropped", || {
        fill(&mut landlord, 4);
        (landlord.number("SELECT count(*) FROM rte.slots WHERE database = 'a'") == 0).then_some(())
    });
    wait_log(&cluster, "was dropped: ");
    landlord.run("ALTER DATABASE a ALLOW_CONNECTIONS true");
    client.come_back();
    resynchronised(&mut sql, &mut client, "1");
}

#[test]
fn a_tenant_that_is_no_more_can_be_dropped_with_its_slot() {
    let cluster = roomy().ready();
    let mut landlord = cluster.sql();
    let (mut sql, client) = tenant(&cluster, "a");
    sql.wait_captured();
    drop((sql, client));
    landlord.run("SELECT rte.unregister_tenant('a')");
    wait_until("its feeder leaves", || (feeders(&mut landlord, "a") == 0).then_some(()));
    wait_until("the database can be dropped", || landlord.batch_execute("DROP DATABASE a").ok());
    assert_eq!(landlord.number("SELECT count(*) FROM pg_replication_slots"), 1);
}

#[test]
fn a_tenant_that_finds_no_slot_is_captured_by_triggers_and_the_log_says_so() {
    let cluster = roomy().conf("max_replication_slots", "1").ready();
    let (mut sql, mut client) = tenant(&cluster, "a");
    sql.run("INSERT INTO t VALUES (1, 'a')");
    assert_equal(&mut sql, &mut client);
    assert_eq!(capture(&mut sql, "t"), "trigger");
    wait_log(&cluster, "the server has no replication slot left for it");
    wait_log(&cluster, "Raise max_replication_slots");
    assert_eq!(capture(&mut cluster.sql(), "kit_barrier"), "wal");
    client.assert_clean();
}
