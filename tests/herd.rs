//! Many clients that come at once: a few readings serve them all, each sees what it may, and writers go on.

use rte_testkit::{Client, Cluster, Crowd, Pace, Pgbench, Row, Signal, Sql, State, Step, Tellers, Watch};
use rte_testkit::{kill, patience, token_of, unix_now, wait_until, within};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Watches nothing.
struct Calm;

impl Watch for Calm {}

/// Whole readings of a table, as Postgres counts them: workers tell when they have nothing to do.
fn readings(sql: &mut Sql, table: &str) -> i64 {
    sql.run("SELECT pg_stat_clear_snapshot()");
    sql.number(&format!("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = '{table}'"))
}

/// Somebody with a token of his own.
fn person(cluster: &Cluster, role: &str, name: &str, tenant: &str) -> Client {
    let claims = json!({"role": role, "sub": name, "tenant": tenant, "exp": unix_now() + 3600});
    cluster.client_with(name, &token_of(&claims))
}

#[test]
fn hundreds_that_read_a_shape_anew_at_once_cost_a_few_readings() {
    const CLIENTS: u64 = 200;
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text NOT NULL");
    sql.run(
        "INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 2000) i; CREATE TABLE busy (LIKE t INCLUDING ALL)",
    );
    sql.run("VACUUM ANALYZE t");
    sql.register("busy");
    let crowd = Crowd::start(&cluster, CLIENTS, &["t", "busy"], None, || Calm);
    let before = readings(&mut sql, "t");
    // What is not read by clients goes by the index, and is not counted.
    sql.run("SET enable_seqscan = off");
    for round in 0..3 {
        // Changes before, amid and after the readings.
        sql.run(&format!(
            "UPDATE t SET v = v || 'a' WHERE id < {round}00; ALTER TABLE t ADD COLUMN c{round} int DEFAULT 1"
        ));
        for id in 0..20 {
            sql.run(&format!("UPDATE t SET v = v || 'b', c{round} = {id} WHERE id BETWEEN {id}01 AND {id}99"));
        }
        crowd.wait_commits(CLIENTS);
        let mark = sql.barrier();
        sql.run(&format!("INSERT INTO busy VALUES ({mark}, 'x')"));
    }
    let clients = crowd.finish(&mut sql);
    for client in &clients {
        assert!(client.errors.is_empty(), "{:?}", client.errors);
        assert!(client.copy.counts.resyncs.iter().all(|reason| reason == "schema_changed"), "{:?}", client.copy.counts);
    }
    let resyncs: usize = clients.iter().map(|client| client.copy.counts.resyncs.len()).sum();
    drop(clients);
    let cost = readings(&mut sql, "t") - before;
    println!("{resyncs} snapshots by {cost} readings");
    assert!(resyncs as u64 >= CLIENTS, "{resyncs}");
    assert!(cost < 40, "{cost} readings for {resyncs} snapshots");
}

#[test]
fn people_of_equal_rights_share_a_reading_and_nobody_sees_what_is_anothers() {
    const PEOPLE: usize = 60;
    let cluster = Cluster::builder().tokens().ready();
    let mut sql = cluster.sql();
    sql.run(
        "CREATE ROLE member; CREATE ROLE guest; GRANT member, guest TO authenticator;
         CREATE TABLE t (id int PRIMARY KEY, tenant text NOT NULL, open bool NOT NULL);
         INSERT INTO t SELECT i, 't' || i % 3, i % 5 = 0 FROM generate_series(1, 3000) i;
         GRANT SELECT ON t TO member, guest; ALTER TABLE t ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON t TO member USING (tenant = (current_setting('request.jwt.claims')::json ->> 'tenant'));
         CREATE POLICY open ON t TO guest USING (open)",
    );
    sql.register("t");
    let before = readings(&mut sql, "t");
    // While it is locked nobody gets his snapshot, and all wait for it together.
    let mut locker = cluster.sql();
    locker.run("BEGIN; LOCK TABLE t");
    let mut people: Vec<(Client, i64)> = (0..PEOPLE)
        .map(|n| {
            let (role, count) = if n % 4 == 3 { ("guest", 600) } else { ("member", 1000) };
            let mut client = person(&cluster, role, &format!("person {n}"), &format!("t{}", n % 3));
            client.subscribe("t", "t");
            (client, count)
        })
        .collect();
    for (client, _) in &mut people {
        client.wait_for("its subscription", |c| c.sub("t").state == State::Joining(false));
    }
    locker.run("COMMIT");
    for (n, (client, count)) in people.iter_mut().enumerate() {
        client.wait_live();
        let sub = client.sub("t");
        assert_eq!(sub.rows.len() as i64, *count, "{}", client.options.name);
        let (tenant, open) = (sub.at("tenant"), sub.at("open"));
        let own = format!("\"t{}\"", n % 3);
        let mine = |row: &Row| if n % 4 == 3 { &*row[open] == "true" } else { *row[tenant] == *own };
        assert!(sub.rows.values().all(mine), "{}", client.options.name);
        assert!(client.errors.is_empty() && client.copy.counts.resyncs.is_empty());
    }
    drop(people);
    let mut cost = 0;
    within(Duration::from_secs(3), || {
        cost = readings(&mut sql, "t") - before;
        (cost >= 4).then_some(())
    });
    println!("{PEOPLE} people of four shapes, by {cost} readings");
    assert!((4..30).contains(&cost), "{cost} readings for {PEOPLE} people");
}

#[test]
fn who_lost_a_right_before_the_reading_gets_nothing_of_it_whoever_else_waits() {
    // Who shares is judged by the worker: the feeder, which would end the subscription, does not run meanwhile.
    for loser_first in [true, false] {
        let cluster = Cluster::builder().tokens().conf("rte.query_workers", "1").ready();
        let mut sql = cluster.sql();
        sql.run(
            "CREATE ROLE keeper; CREATE ROLE loser; GRANT keeper, loser TO authenticator;
             CREATE TABLE t (id int PRIMARY KEY, v text NOT NULL); INSERT INTO t VALUES (1, 'plain');
             ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM web_anon; REVOKE ALL ON t FROM PUBLIC, web_anon;
             GRANT SELECT ON t TO keeper, loser",
        );
        sql.register("t");
        let mut first = person(&cluster, "keeper", "first", "x");
        first.subscribe("t", "t");
        first.wait_live();
        let (feeder, worker) = (cluster.worker("feeder"), cluster.worker("query worker"));
        kill(worker, Signal::STOP);
        // One is in the hands of the worker, others wait behind it.
        first.unsubscribe("t");
        first.wait_for("its end", |c| !c.copy.subscriptions.contains_key("t"));
        let roles = if loser_first { ["keeper", "loser", "keeper"] } else { ["keeper", "keeper", "loser"] };
        let mut people = roles.map(|role| {
            let mut client = person(&cluster, role, role, "x");
            client.subscribe("t", "t");
            client.wait_for("its subscription", |c| c.sub("t").state == State::Joining(false));
            client
        });
        kill(feeder, Signal::STOP);
        sql.run("REVOKE SELECT ON t FROM loser; INSERT INTO t VALUES (2, 'secret')");
        kill(worker, Signal::CONT);
        let other = if loser_first { 2 } else { 1 };
        wait_until("the rows for the other", || {
            let _ = people[other].step(Duration::from_millis(20));
            (people[other].copy.counts.snapshot_rows == 2).then_some(())
        });
        kill(feeder, Signal::CONT);
        people[other].wait_live();
        let loser = &mut people[if loser_first { 1 } else { 2 }];
        loser.wait_for("its end", |c| !c.errors.is_empty());
        assert_eq!(loser.copy.counts.snapshot_rows, 0, "{:?}", loser.copy.counts);
        assert!(loser.copy.subscriptions.get("t").is_none_or(|s| s.rows.is_empty()));
        assert_eq!(people[other].sub("t").rows.len(), 2);
    }
}

/// Follows a part of the accounts until it is told to stop; counts itself whenever it is live again.
fn follow(mut client: Client, live: &AtomicU64, stop: &AtomicBool) -> Client {
    client.come_back();
    client.carry_on("live", |c| c.copy.all_live());
    live.fetch_add(1, Ordering::SeqCst);
    while !stop.load(Ordering::SeqCst) {
        if let Step::Closed(_) = client.step(Duration::from_millis(50)) {
            client.come_back();
            client.carry_on("live again", |c| c.copy.all_live());
            live.fetch_add(1, Ordering::SeqCst);
        }
    }
    client
}

/// Kills the gateway while writers press and all clients are there; `RTE_HERD` is how many, for a measurement.
#[test]
fn all_are_back_without_loss_after_the_gateway_was_killed_under_load() {
    let count: u64 = std::env::var("RTE_HERD").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let cluster = Cluster::builder().conf("rte.max_connections_per_address", "100000").ready();
    Pgbench::prepare(&cluster);
    let mut sql = cluster.sql();
    let (live, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let shapes = [1, 2_001, 4_001, 6_001, 8_001];
    let clients: Vec<_> = (0..count)
        .map(|n| {
            let mut client = Client::new(cluster.rte_port, &format!("client {n}"));
            client.copy.ask("kit_barrier", "kit_barrier", None);
            client.copy.ask("part", "pgbench_accounts", None);
            let from = shapes[n as usize % shapes.len()];
            let condition = (format!("aid BETWEEN {from} AND {}", from + 1_999), Vec::new());
            client.copy.subscriptions.get_mut("part").expect("asked for").condition = Some(condition);
            let (live, stop) = (Arc::clone(&live), Arc::clone(&stop));
            std::thread::spawn(move || follow(client, &live, &stop))
        })
        .collect();
    let within_patience = |what: &str, goal: u64| {
        let came = within(patience() * 4, || (live.load(Ordering::SeqCst) >= goal).then_some(()));
        assert!(came.is_some(), "{what}: {} of {goal}", live.load(Ordering::SeqCst));
    };
    let began = Instant::now();
    within_patience("all live", count);
    println!("{count} clients of 5 shapes of 2,000 rows live in {:?}", began.elapsed());
    let tellers = Tellers::among(&cluster, 4, 1, Pace { accounts: 10_000, pause: Duration::ZERO });
    tellers.wait_done(200);
    let (before, began) = (tellers.done(), Instant::now());
    tellers.wait_done(1_000);
    let calm = (tellers.done() - before) as f64 / began.elapsed().as_secs_f64();
    let (before, began) = (tellers.done(), Instant::now());
    kill(cluster.worker("gateway"), Signal::KILL);
    within_patience("all live again", 2 * count);
    let took = began.elapsed();
    let storm = (tellers.done() - before) as f64 / took.as_secs_f64();
    println!("all back in {took:?}; writers: {calm:.0} a second before, {storm:.0} meanwhile");
    assert_eq!(tellers.failed(), 0, "writers do not notice");
    tellers.stop();
    let mark = sql.barrier();
    stop.store(true, Ordering::SeqCst);
    for (n, client) in clients.into_iter().enumerate() {
        let mut client = client.join().expect("a client");
        if n < 10 || count <= 100 {
            client.carry_on("the barrier", |c| c.at_barrier(mark));
            let from = shapes[n % shapes.len()];
            let sums = format!(
                "SELECT coalesce(sum(abalance), 0)::bigint FROM pgbench_accounts WHERE aid BETWEEN {from} AND {}",
                from + 1_999
            );
            let part = client.sub("part");
            let at = part.at("abalance");
            let held: i64 = part.rows.values().map(|row| row[at].parse::<i64>().expect("a number")).sum();
            assert_eq!((part.rows.len(), held), (2_000, sql.number(&sums)), "{}", client.options.name);
        }
        assert!(client.errors.is_empty(), "{:?}", client.errors);
        assert_eq!(client.copy.counts.resyncs.len(), 0, "{:?}", client.copy.counts);
        assert!(client.copy.counts.resumed >= 2, "{:?}", client.copy.counts);
    }
}
