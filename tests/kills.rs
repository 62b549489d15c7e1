//! Any process may be killed at any time: every copy is equal afterwards, without a resynchronisation.

use std::time::Duration;

use rte_testkit::{Cluster, Crowd, Pgbench, Shutdown, Signal, Sql, TPCB_TABLES, Tellers, TpcbSums};
use rte_testkit::{alive, alone, kill, rounds, seed, wait_until};

/// TPC-B under load with clients that hold it.
struct Load {
    cluster: Cluster,
    crowd: Crowd,
    tellers: Tellers,
}

impl Load {
    fn start(clients: u64) -> Self {
        let seed = seed("kills");
        let cluster = Cluster::ready();
        Pgbench::prepare(&cluster);
        let crowd = Crowd::start(&cluster, clients, &TPCB_TABLES, None, TpcbSums::default);
        let tellers = Tellers::start(&cluster, 4, seed);
        let load = Self { cluster, crowd, tellers };
        load.go_on();
        load
    }

    /// Waits until writers and clients have moved.
    #[track_caller]
    fn go_on(&self) {
        self.tellers.wait_done(200);
        self.crowd.wait_commits(20);
    }

    /// Ends the load and compares. Returns the longest outage of each client.
    #[track_caller]
    fn finish(self) -> (Cluster, Vec<Duration>) {
        self.tellers.stop();
        let mut sql = wait_until("sessions", || self.cluster.try_sql("postgres").ok());
        let clients = self.crowd.finish(&mut sql);
        clients.iter().for_each(rte_testkit::Client::assert_clean);
        let outages = clients.iter().flat_map(|c| c.outages.clone()).collect();
        (self.cluster, outages)
    }
}

/// Kills the gateway again and again; nobody but its clients may notice.
fn kill_gateway(signal: Signal) {
    let _alone = alone();
    let load = Load::start(8);
    let mut session = load.cluster.sql();
    let backend = session.number("SELECT pg_backend_pid()");
    let mut feeder = load.cluster.worker("feeder");
    for _ in 0..rounds(3) {
        let gateway = load.cluster.worker("gateway");
        kill(gateway, signal);
        wait_until("a new gateway", || {
            let new = load.cluster.worker("gateway");
            (new != gateway && !alive(gateway) && load.cluster.healthy()).then_some(())
        });
        load.go_on();
        assert_eq!(std::mem::replace(&mut feeder, load.cluster.worker("feeder")), feeder, "the feeder lived on");
    }
    assert_eq!(session.number("SELECT pg_backend_pid()"), backend);
    assert_eq!(load.tellers.failed(), 0, "no writer noticed");
    let (cluster, mut outages) = load.finish();
    outages.sort();
    assert!(outages.len() >= 8, "every client lost its connection");
    let (median, longest) = (outages[outages.len() / 2], outages[outages.len() - 1]);
    println!("{} outages after {signal:?}: median {median:?}, longest {longest:?}", outages.len());
    assert!(longest < Duration::from_secs(1), "clients are back within a second: {outages:?}");
    assert!(!cluster.log().contains("terminating connection because of crash"));
}

#[test]
fn a_killed_gateway_is_noticed_by_nobody_but_its_clients() {
    kill_gateway(Signal::KILL);
}

#[test]
fn a_gateway_that_crashes_restarts_no_backend() {
    kill_gateway(Signal::SEGV);
}

/// Kills a process that Postgres answers with a restart of all backends.
fn kill_attached(signal: Signal, victim: impl Fn(&Cluster) -> Option<i32>) {
    let _alone = alone();
    let load = Load::start(6);
    for _ in 0..rounds(2) {
        let Some(pid) = victim(&load.cluster) else { continue };
        kill(pid, signal);
        wait_until("the process is gone", || (!alive(pid)).then_some(()));
        wait_until("sessions again", || load.cluster.try_sql("postgres").ok());
        load.go_on();
    }
    let (_, outages) = load.finish();
    println!("longest outage {:?}", outages.iter().max());
}

#[test]
fn a_killed_feeder_loses_nothing() {
    kill_attached(Signal::KILL, |cluster| Some(cluster.worker("feeder")));
}

#[test]
fn a_feeder_that_is_asked_to_end_comes_back() {
    kill_attached(Signal::TERM, |cluster| Some(cluster.worker("feeder")));
}

#[test]
fn a_killed_launcher_loses_nothing() {
    kill_attached(Signal::KILL, |cluster| Some(cluster.worker("launcher")));
}

#[test]
fn a_killed_query_worker_loses_nothing() {
    kill_attached(Signal::KILL, |cluster| {
        // Workers come and go with the work: a new client makes some.
        let mut probe = cluster.client("probe");
        probe.subscribe("a", "pgbench_accounts");
        let mut sql = cluster.sql();
        rte_testkit::within(Duration::from_secs(5), || {
            let pids = sql.texts("SELECT pid FROM rte.workers WHERE kind = 'query worker' AND pid IS NOT NULL");
            pids.first()?.parse().ok()
        })
    });
}

#[test]
fn a_killed_writer_loses_nothing() {
    kill_attached(Signal::KILL, |cluster| {
        let writer = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'BEGIN; UPDATE pgbench%' AND state = 'active'";
        let mut sql: Sql = cluster.sql();
        Some(wait_until("a writer at work", || sql.texts(writer).first()?.parse().ok()))
    });
}

#[test]
fn an_immediate_shutdown_loses_nothing() {
    let _alone = alone();
    let mut load = Load::start(6);
    for _ in 0..rounds(2) {
        load.cluster.restart(Shutdown::Immediate);
        load.go_on();
    }
    load.finish();
}

#[test]
fn a_killed_postmaster_loses_nothing() {
    let _alone = alone();
    let mut load = Load::start(6);
    for _ in 0..rounds(2) {
        load.cluster.kill();
        load.cluster.start();
        load.go_on();
    }
    load.finish();
}

#[test]
fn a_fast_restart_under_load_loses_nothing() {
    let _alone = alone();
    let mut load = Load::start(6);
    for _ in 0..rounds(2) {
        load.cluster.restart(Shutdown::Fast);
        load.go_on();
    }
    load.finish();
}

#[test]
fn a_stopped_gateway_never_delays_a_commit() {
    let _alone = alone();
    let load = Load::start(4);
    let gateway = load.cluster.worker("gateway");
    kill(gateway, Signal::STOP);
    load.tellers.wait_done(2000);
    kill(gateway, Signal::CONT);
    load.go_on();
    let feeder = load.cluster.worker("feeder");
    kill(feeder, Signal::STOP);
    load.tellers.wait_done(2000);
    kill(feeder, Signal::CONT);
    load.go_on();
    assert_eq!(load.tellers.failed(), 0);
    load.finish();
}
