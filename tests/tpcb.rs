//! The main promise on a real load: after every commit of every client, all tables are at one snapshot.

use rte_testkit::{Cluster, Crowd, Pgbench, TPCB_TABLES, TpcbSums, seconds, seed, wait_until};

#[test]
fn the_four_sums_are_equal_after_every_commit() {
    let seed = seed("tpcb");
    let cluster = Cluster::ready();
    Pgbench::prepare(&cluster);
    let mut sql = cluster.sql();
    let crowd = Crowd::start(&cluster, 20, &TPCB_TABLES, Some(seed), TpcbSums::default);
    let mut pgbench = Pgbench::tpcb(&cluster, 8, seconds(15), seed);
    // Its own duration ends it; `finish` would wait as well, but not see a client that failed.
    while pgbench.running() {
        crowd.check();
        rte_testkit::within(std::time::Duration::from_millis(200), || (!pgbench.running()).then_some(()));
    }
    let report = pgbench.finish();
    let clients = crowd.finish(&mut sql);

    let total = |field: fn(&rte_testkit::Counts) -> u64| clients.iter().map(|c| field(&c.copy.counts)).sum::<u64>();
    let tps = report.lines().find(|l| l.starts_with("tps")).unwrap_or_default();
    println!(
        "{tps}; {} commits, {} changes, {} resumed",
        total(|c| c.commits),
        total(|c| c.changes),
        total(|c| c.resumed)
    );
    clients.iter().for_each(rte_testkit::Client::assert_clean);
    assert!(total(|c| c.resumed) > 0, "clients left and resumed");
    assert!(sql.number("SELECT count(*) FROM pgbench_history") > 0);
}

#[test]
fn a_client_that_was_away_for_the_whole_load_needs_no_snapshot() {
    let seed = seed("tpcb away");
    let cluster = Cluster::ready();
    Pgbench::prepare(&cluster);
    let mut sql = cluster.sql();
    let mut client = cluster.subscriber("away", &TPCB_TABLES);
    client.leave();
    let mut pgbench = Pgbench::tpcb(&cluster, 4, std::time::Duration::from_secs(3), seed);
    wait_until("pgbench ends", || (!pgbench.running()).then_some(()));
    pgbench.finish();
    client.come_back();
    rte_testkit::assert_equal(&mut sql, &mut client);
    client.assert_clean();
}
