//! A tenant without clients costs no process, and loses nothing by that. Any process may be killed.

use super::{client, database, roomy, wait_state};
use rte_testkit::{Signal, alive, assert_equal, kill, wait_until, within};
use std::time::Duration;

#[test]
fn a_tenant_without_clients_has_no_feeder_and_is_back_for_the_next_client() {
    let cluster = roomy().conf("rte.feeder_idle_timeout", "1s").ready();
    let mut landlord = cluster.sql();
    let mut sql = database(&cluster, "a");
    landlord.run("SELECT rte.register_tenant('a')");
    let mut client = client(&cluster, "a");
    for n in 1..4 {
        wait_state(&mut landlord, "a", "serving");
        client.leave();
        wait_state(&mut landlord, "a", "ready");
        let workers = "SELECT count(*) FROM rte.workers WHERE database = 'a'";
        wait_until("no process is left", || (landlord.number(workers) == 0).then_some(()));
        sql.run(&format!("INSERT INTO t VALUES ({n}, 'while it slept')"));
        client.come_back();
        assert_equal(&mut sql, &mut client);
    }
    client.assert_clean();
    // The landlord's own stays.
    assert_eq!(landlord.number("SELECT count(*) FROM rte.workers WHERE kind = 'feeder'"), 2);
}

#[test]
fn the_log_of_a_sleeping_tenant_stays_bounded_and_whole() {
    let cluster = roomy().conf("rte.max_log_size", "8MB").conf("rte.feeder_idle_timeout", "1s").ready();
    let mut landlord = cluster.sql();
    let mut sql = database(&cluster, "a");
    landlord.run("SELECT rte.register_tenant('a')");
    wait_state(&mut landlord, "a", "ready");
    let visited = "SELECT count(*) FROM rte.workers WHERE database = 'a'";
    wait_until("the first visit is over", || (landlord.number(visited) == 0).then_some(()));
    let size = "SELECT sum(pg_total_relation_size(i.inhrelid)) FROM pg_inherits i
                WHERE i.inhparent = 'rte.change_log'::regclass";
    for n in 0..40 {
        // Some 400 kB, at about a megabyte a second: a segment a second, of which a few are kept empty.
        sql.run(&format!("INSERT INTO t SELECT {n} * 1000 + i, repeat('x', 300) FROM generate_series(1, 1000) i"));
        within(Duration::from_millis(350), || None::<()>);
        let size = sql.number(size);
        assert!(size < 12 << 20, "{size} bytes");
    }
    assert_eq!(sql.number("SELECT count(*) FROM rte.sync_log WHERE operation = 'gap'"), 0);
    wait_until("it sleeps again", || (landlord.number(visited) == 0).then_some(()));
}

/// Kills a feeder with clients in both databases.
fn kill_feeder(of: &str) {
    let cluster = roomy().ready();
    let mut landlord = cluster.sql();
    landlord.table("t", "id int PRIMARY KEY, v text");
    let mut sql = database(&cluster, "a");
    landlord.run("SELECT rte.register_tenant('a')");
    let mut tenant = client(&cluster, "a");
    let mut own = cluster.subscriber("own", &["t"]);
    for n in 1..3 {
        let query = format!("SELECT pid FROM rte.workers WHERE kind = 'feeder' AND database = '{of}'");
        let pid = wait_until("a feeder", || cluster.try_sql("postgres").ok()?.texts(&query).pop()?.parse().ok());
        kill(pid, Signal::KILL);
        wait_until("it is gone", || (!alive(pid)).then_some(()));
        (landlord, sql) =
            wait_until("sessions", || Some((cluster.try_sql("postgres").ok()?, cluster.try_sql("a").ok()?)));
        for sql in [&mut landlord, &mut sql] {
            sql.run(&format!("INSERT INTO t VALUES ({n}, 'after')"));
        }
        tenant.carry_on("the tenant's row", |c| c.copy.all_live() && c.sub("t").row(&[&n.to_string()]).is_some());
        own.carry_on("the landlord's row", |c| c.copy.all_live() && c.sub("t").row(&[&n.to_string()]).is_some());
    }
    assert_equal(&mut sql, &mut tenant);
    assert_equal(&mut landlord, &mut own);
    tenant.assert_clean();
    own.assert_clean();
}

#[test]
fn clients_resume_after_the_landlords_feeder_was_killed() {
    kill_feeder("postgres");
}

#[test]
fn clients_resume_after_a_tenants_feeder_was_killed() {
    kill_feeder("a");
}

#[test]
fn a_feeder_of_the_landlord_that_is_asked_to_end_takes_no_tenant_with_it() {
    let cluster = roomy().ready();
    let mut landlord = cluster.sql();
    let mut sql = database(&cluster, "a");
    landlord.run("SELECT rte.register_tenant('a')");
    let mut tenant = client(&cluster, "a");
    let feeder = "SELECT pid FROM rte.workers WHERE kind = 'feeder' AND database = 'postgres'";
    let pid: i32 = landlord.number(feeder) as i32;
    kill(pid, Signal::TERM);
    wait_until("another one", || landlord.texts(feeder).pop().filter(|new| *new != pid.to_string()));
    cluster.wait_healthy();
    landlord.run("SELECT rte.register_tenant('b')");
    wait_state(&mut landlord, "b", "database missing");
    sql.run("INSERT INTO t VALUES (1, 'x')");
    assert_equal(&mut sql, &mut tenant);
    assert!(tenant.outages.is_empty(), "its connection was not touched");
}
