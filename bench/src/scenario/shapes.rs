//! What a change costs among more and more distinct conditions `tenant_id = n`, each of which is somebody's.

use std::time::{Duration, Instant};

use rte_testkit::{Cluster, within};
use serde::Deserialize;
use serde_json::json;

use crate::contestant::{Contestant, label};
use crate::crowd::{Count, Crowd, Hello, Party};
use crate::load::{Load, ms};
use crate::process::cpu_seconds;
use crate::results::{Case, Found, grouped};
use crate::rig::{self, Needs};
use crate::say;

const ROWS: u64 = 100_000;
/// Rows that somebody has, however few the shapes: writers should not wait for each other.
const LEAST: u64 = 1000;
/// Conditions that a connection has at most.
const EACH: u64 = 1000;
const SETTINGS: [(&str, &str); 1] = [("rte.max_subscriptions", "1000")];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    contestants: Vec<String>,
    shapes: Vec<u64>,
    /// Changes a second.
    rate: f64,
    seconds: f64,
    /// Seconds until subscribing is given up.
    patience: u64,
    rounds: usize,
}

pub fn run(sizes: &Sizes, found: &mut Found) -> Result<(), String> {
    let needs = Needs { settings: &SETTINGS, ..Needs::default() };
    let prepare = |cluster: &Cluster| {
        cluster.sql().run(&format!(
            "CREATE TABLE shaped (id int PRIMARY KEY, tenant_id int NOT NULL, body text NOT NULL) WITH (fillfactor = 50);
             CREATE INDEX ON shaped (tenant_id);
             INSERT INTO shaped SELECT i, 0, '{}' FROM generate_series(1, {ROWS}) i",
            rig::body(0)
        ));
    };
    for contestant in Contestant::start_all(found, &sizes.contestants, needs, prepare, &["shaped"]) {
        for &shapes in &sizes.shapes {
            let case =
                Case::new(format!("{} shape{}", grouped(shapes), if shapes == 1 { "" } else { "s" }), shapes as f64);
            if let Err(why) = step(&contestant, shapes, &case, sizes, found) {
                found.note(format!("{}, {}: {why}", label(&contestant.name), case.name));
                break;
            }
        }
    }
    Ok(())
}

fn step(contestant: &Contestant, shapes: u64, case: &Case, sizes: &Sizes, found: &mut Found) -> Result<(), String> {
    let cluster = &contestant.cluster;
    let mut sql = cluster.sql();
    within(Duration::from_secs(20), || (sql.number("SELECT count(*) FROM rte.connections") == 0).then_some(()))
        .ok_or("clients from before are still there")?;
    // Every change is somebody's: what a change is encoded and sent with is the same in all cases.
    let rows = shapes.max(LEAST);
    let tenant = format!("CASE WHEN id <= {rows} THEN 1 + id % {shapes} ELSE 0 END");
    sql.run(&format!("UPDATE shaped SET tenant_id = {tenant} WHERE tenant_id <> {tenant}"));
    sql.run("VACUUM ANALYZE shaped");
    sql.run("CHECKPOINT");
    let connections = shapes.div_ceil(EACH);
    let mut party =
        Party::new(connections, Count::Marks, Hello::Each((0..connections).map(|n| hello(n, shapes)).collect()));
    party.patience = Duration::from_secs(sizes.patience);
    let start = Instant::now();
    let crowd = Crowd::join(&contestant.endpoint(), party)?;
    let live = "SELECT count(*) FROM rte.subscriptions WHERE state = 'live'";
    let patience = Duration::from_secs(sizes.patience);
    within(patience, || (sql.number(live) == shapes as i64).then_some(())).ok_or("not all become live")?;
    found.record(&contestant.name, case, "subscribed_per_s", shapes as f64 / start.elapsed().as_secs_f64());
    let (feeder, gateway) = (cluster.worker("feeder"), cluster.worker("gateway"));
    for _ in 0..sizes.rounds {
        crowd.take_delays();
        let (before, feeder_cpu, gateway_cpu) = (crowd.count(), cpu_seconds(feeder), cpu_seconds(gateway));
        let written = Load::rows("shaped", rows, 1, 2, sizes.rate).run(cluster, sizes.seconds);
        if !crowd.wait_count(before + written.changes, Duration::from_secs(10)) {
            return Err(format!("{} of {} changes came", crowd.count() - before, written.changes));
        }
        let each = |after: f64, before: f64| (after - before) * 1e6 / written.changes as f64;
        let cost = each(cpu_seconds(feeder), feeder_cpu);
        found.record(&contestant.name, case, "feeder", cost);
        found.record(&contestant.name, case, "gateway", each(cpu_seconds(gateway), gateway_cpu));
        let delays = crowd.take_delays();
        found.record(&contestant.name, case, "p50", ms(&delays, 0.5));
        found.record(&contestant.name, case, "p99", ms(&delays, 0.99));
        say(&format!("shapes: {}, {}: {cost:.1} µs a change", case.name, contestant.name));
    }
    Ok(())
}

fn hello(n: u64, shapes: u64) -> String {
    let own = (n * EACH..((n + 1) * EACH).min(shapes)).map(|tenant| {
        json!({"id": tenant.to_string(), "table": "shaped", "where": "tenant_id = $1", "params": [tenant + 1]})
    });
    json!({"type": "hello", "subscriptions": own.collect::<Vec<_>>()}).to_string()
}
