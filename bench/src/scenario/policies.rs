//! What row-level security costs: deliveries with and without a policy, a change among many predicates, and policies
//! that have to be asked of the database.

use std::time::{Duration, Instant};

use rte_testkit::{Cluster, Sql, token_of, unix_now, wait_until};
use serde_json::json;

use super::turns;
use crate::crowd::{Count, Crowd, Server};
use crate::options::Options;
use crate::report::Report;
use crate::rig::{self, Workers};
use crate::say;
use crate::stats::Spread;

/// Deliveries of a burst, whatever the number of clients.
const DELIVERIES: u64 = 4_000_000;
const WRITERS: u64 = 4;
const ROWS: u64 = 100;
/// Changes whose cost is measured, among predicates.
const CHANGES: u64 = 20_000;
/// Subscriptions of a connection.
const EACH: usize = 100;

pub fn run(options: &Options, report: &mut Report) {
    say("policies: starting the server");
    let cluster = rig::with_tokens();
    let mut sql = cluster.sql();
    prepare(&mut sql);
    deliveries(&cluster, options, report);
    predicates(&cluster, report);
    asked(&cluster, report);
}

/// Three tables alike: without a policy, with one that folds, with one that has to be asked.
fn prepare(sql: &mut Sql) {
    sql.run("CREATE ROLE member; GRANT member TO authenticator");
    sql.run("CREATE TABLE membership (uid text, tenant_id int, PRIMARY KEY (uid, tenant_id)); GRANT SELECT ON membership TO member");
    sql.run("INSERT INTO membership SELECT 'u' || n, 1 FROM generate_series(0, 99) n");
    for table in ["plain", "folded", "asked"] {
        sql.run(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, tenant_id int NOT NULL, body text NOT NULL) WITH (fillfactor = 50);
             INSERT INTO {table} SELECT i, 1, '{}' FROM generate_series(1, {ROWS}) i;
             GRANT SELECT ON {table} TO member",
            rig::body(0)
        ));
    }
    sql.run(
        "ALTER TABLE folded ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON folded USING (tenant_id = (current_setting('request.jwt.claims')::json ->> 'tenant')::int);
         ALTER TABLE asked ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON asked USING (tenant_id IN (SELECT m.tenant_id FROM membership m
             WHERE m.uid = current_setting('request.jwt.claims')::json ->> 'sub'))",
    );
    for table in ["plain", "folded", "asked"] {
        sql.run(&format!("SELECT rte.register_table('{table}')"));
    }
}

fn hello(user: usize, subscriptions: &serde_json::Value) -> String {
    let claims = json!({"role": "member", "tenant": 1, "sub": format!("u{user}"), "exp": unix_now() + 3600});
    json!({"type": "hello", "token": token_of(&claims), "subscriptions": subscriptions}).to_string()
}

/// A burst to many clients, with and without a policy that folds.
fn deliveries(cluster: &Cluster, options: &Options, report: &mut Report) {
    let head = ["a burst, 250 bytes a row, 500 clients", "deliveries/s", "feeder and gateway, CPU s per million"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let names = ["plain", "folded"];
    let workers = Workers::of(cluster);
    let cpu = || workers.cpu_seconds().0 + workers.cpu_seconds().1;
    let mut found: [(Vec<f64>, Vec<f64>); 2] = Default::default();
    for round in 0..options.rounds {
        for turn in turns(round, names.len()) {
            let table = names[turn];
            let each = |n: usize| hello(n, &json!([{"id": "1", "table": table}]));
            let crowd = Crowd::join(cluster.rte_port, 500, Server::Each { hello: &each }, Count::Marks(false));
            let (before, cpu_before) = (crowd.count(), cpu());
            let start = Instant::now();
            let updates = DELIVERIES / crowd.size;
            write(cluster, table, updates);
            let goal = before + updates * crowd.size;
            assert!(crowd.wait_count(goal, Duration::from_secs(60)), "{} of {goal} changes came", crowd.count());
            let speed = DELIVERIES as f64 / start.elapsed().as_secs_f64();
            say(&format!("policies: {table}, round {}: {speed:.0} deliveries/s", round + 1));
            found[turn].0.push(speed);
            found[turn].1.push((cpu() - cpu_before) * 1e6 / DELIVERIES as f64);
        }
    }
    let ratio =
        |plain: &[f64], folded: &[f64]| Spread::of(folded.iter().zip(plain).map(|(folded, plain)| folded / plain));
    let ratios = [ratio(&found[0].0, &found[1].0), ratio(&found[0].1, &found[1].1)];
    let mut numbers = serde_json::Map::new();
    for (name, found) in ["without a policy", "with a policy that folds"].iter().zip(found) {
        let (speed, cpu) = (Spread::of(found.0), Spread::of(found.1));
        rows.push(vec![(*name).to_owned(), speed.text(0), cpu.text(2)]);
        numbers.insert((*name).to_owned(), json!({"deliveries_per_s": speed.json(), "cpu_s_per_million": cpu.json()}));
    }
    rows.push(vec!["ratio".to_owned(), ratios[0].text(2), ratios[1].text(2)]);
    numbers.insert("ratio".to_owned(), json!({"deliveries": ratios[0].json(), "cpu": ratios[1].json()}));
    report.table("Deliveries with row-level security", &rows);
    report.add("policies_deliveries", numbers.into());
}

/// The feeder's work for a change, among more and more predicates `tenant_id = n`.
fn predicates(cluster: &Cluster, report: &mut Report) {
    let mut sql = cluster.sql();
    let head = ["predicates tenant_id = n", "feeder, µs of CPU a change", "subscribing, a second"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut numbers = serde_json::Map::new();
    for shapes in [1, 10, 100, 1_000, 10_000_usize] {
        let connections = shapes.div_ceil(EACH);
        // The clients from before are gone for the server too.
        wait_until("nobody is there", || (sql.number("SELECT count(*) FROM rte.connections") == 0).then_some(()));
        let each = |n: usize| {
            let own = (n * EACH..((n + 1) * EACH).min(shapes)).map(|tenant| {
                json!({"id": tenant.to_string(), "table": "plain", "where": "tenant_id = $1", "params": [tenant + 1]})
            });
            hello(n, &own.collect())
        };
        let began = Instant::now();
        let crowd =
            Crowd::join(cluster.rte_port, connections as u64, Server::Each { hello: &each }, Count::Marks(false));
        wait_until("all are live", || {
            let live = sql.number("SELECT count(*) FROM rte.subscriptions WHERE state = 'live'");
            (live == shapes as i64).then_some(())
        });
        let per_second = shapes as f64 / began.elapsed().as_secs_f64();
        let cost = cost(cluster, "plain", &crowd, CHANGES);
        say(&format!("policies: {shapes} predicates: {cost:.1} µs a change"));
        rows.push(vec![shapes.to_string(), format!("{cost:.1}"), format!("{per_second:.0}")]);
        numbers.insert(shapes.to_string(), json!(cost));
    }
    report.table("A change among predicates", &rows);
    report.add("policies_predicates", numbers.into());
}

/// The feeder's work for a change where the policies have to be asked for each of some identities.
fn asked(cluster: &Cluster, report: &mut Report) {
    let head = ["identities whose policies are asked", "feeder, µs of CPU a change"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut numbers = serde_json::Map::new();
    for clients in [1, 10, 50_u64] {
        let each = |n: usize| hello(n, &json!([{"id": "1", "table": "asked"}]));
        let crowd = Crowd::join(cluster.rte_port, clients, Server::Each { hello: &each }, Count::Marks(false));
        let cost = cost(cluster, "asked", &crowd, CHANGES / 10);
        say(&format!("policies: {clients} identities asked: {cost:.0} µs a change"));
        rows.push(vec![clients.to_string(), format!("{cost:.0}")]);
        numbers.insert(clients.to_string(), json!(cost));
    }
    report.table("Policies that have to be asked", &rows);
    report.add("policies_asked", numbers.into());
}

/// Microseconds of the feeder's CPU for a change; every change is seen by one client at least.
fn cost(cluster: &Cluster, table: &str, crowd: &Crowd, changes: u64) -> f64 {
    let workers = Workers::of(cluster);
    let (_, before) = workers.cpu_seconds();
    let count = crowd.count();
    write(cluster, table, changes);
    // Asked rows come as they are at the end of a tick, so several changes of a row may come as one.
    let last = rte_testkit::within(Duration::from_secs(30), || {
        let seen = crowd.count();
        std::thread::sleep(Duration::from_millis(200));
        (seen > count && crowd.count() == seen).then_some(())
    });
    assert!(last.is_some(), "the changes do not come to an end");
    let (_, after) = workers.cpu_seconds();
    (after - before) * 1e6 / changes as f64
}

fn write(cluster: &Cluster, table: &str, updates: u64) {
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                let mut sql = cluster.sql();
                let update = format!("UPDATE {table} SET body = $1 WHERE id = $2");
                let update = sql.prepare(&update).expect("a statement");
                let rows = (ROWS / WRITERS) as i32;
                for _ in 0..updates / WRITERS {
                    // Rows of its own: writers do not wait for each other's locks.
                    let id = 1 + writer as i32 * rows + fastrand::i32(0..rows);
                    sql.execute(&update, &[&rig::body(rig::next_mark()), &id]).expect("an update");
                }
            });
        }
    });
}
