//! A burst of changes to many clients: what each delivery costs.

use std::time::{Duration, Instant};

use rte_testkit::Cluster;
use serde_json::json;

use super::turns;
use crate::crowd::{Count, Crowd, Server};
use crate::options::Options;
use crate::peer::{NodePeer, notify_on};
use crate::report::Report;
use crate::rig::Workers;
use crate::stats::Spread;
use crate::{rig, say};

/// Deliveries of a burst, whatever the number of clients.
const DELIVERIES: u64 = 1_000_000;
const WRITERS: u64 = 4;
const ROWS: u32 = 100;
const NAMES: [&str; 2] = ["whagons_rte", "NOTIFY + Node ws"];

#[derive(Default)]
struct Found {
    per_second: Vec<f64>,
    cpu_per_million: Vec<f64>,
    bytes_per_delivery: Vec<f64>,
}

pub fn run(options: &Options, report: &mut Report) {
    say("fanout: starting the servers");
    let (ours, plain) = (rig::ours(), rig::plain());
    rig::create_feed(&mut ours.sql(), ROWS);
    ours.sql().register("feed");
    rig::create_feed(&mut plain.sql(), ROWS);
    notify_on(&mut plain.sql(), "feed");
    let peer = NodePeer::start(&plain);
    let workers = Workers::of(&ours);
    let contestants = [(&ours, ours.rte_port, Server::Ours { table: "feed" }), (&plain, peer.port, Server::Peer)];
    let cpu =
        |turn: usize| if turn == 0 { workers.cpu_seconds().0 + workers.cpu_seconds().1 } else { peer.cpu_seconds() };

    let head = ["a burst, 250 bytes a row", "clients", "deliveries/s", "CPU s per million", "bytes per delivery"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut numbers = serde_json::Map::new();
    for clients in [100, 1000] {
        let mut found: [Found; 2] = Default::default();
        for round in 0..options.rounds.min(3) {
            for turn in turns(round, contestants.len()) {
                let (cluster, port, server) = contestants[turn];
                let crowd = Crowd::join(port, clients, server, Count::Marks(false));
                let (cpu_before, bytes_before) = (cpu(turn), crowd.bytes());
                let seconds = burst(cluster, &crowd);
                let found = &mut found[turn];
                found.per_second.push(DELIVERIES as f64 / seconds);
                found.cpu_per_million.push((cpu(turn) - cpu_before) * 1e6 / DELIVERIES as f64);
                found.bytes_per_delivery.push((crowd.bytes() - bytes_before) as f64 / DELIVERIES as f64);
                say(&format!(
                    "fanout: {clients} clients, round {}, {}: {:.0} deliveries/s",
                    round + 1,
                    NAMES[turn],
                    DELIVERIES as f64 / seconds
                ));
            }
        }
        for (name, found) in NAMES.iter().zip(found) {
            let [speed, cpu, bytes] =
                [found.per_second, found.cpu_per_million, found.bytes_per_delivery].map(Spread::of);
            rows.push(vec![(*name).to_owned(), clients.to_string(), speed.text(0), cpu.text(1), bytes.text(0)]);
            numbers.insert(
                format!("{name}, {clients} clients"),
                json!({"deliveries_per_s": speed.json(), "cpu_s_per_million": cpu.json(), "bytes": bytes.json()}),
            );
        }
    }
    report.table("Fan-out", &rows);
    report.add("fanout", numbers.into());
}

/// Seconds from the first update to the last client's last change.
fn burst(cluster: &Cluster, crowd: &Crowd) -> f64 {
    let each = DELIVERIES / crowd.size / WRITERS;
    let before = crowd.count();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                let mut sql = cluster.sql();
                let update = sql.prepare("UPDATE feed SET body = $1 WHERE id = $2").expect("a statement");
                let rows = i32::try_from(u64::from(ROWS) / WRITERS).unwrap_or(1);
                for _ in 0..each {
                    // Rows of its own: writers do not wait for each other's locks.
                    let id = 1 + writer as i32 * rows + fastrand::i32(0..rows);
                    sql.execute(&update, &[&rig::body(rig::next_mark()), &id]).expect("an update");
                }
            });
        }
    });
    let goal = before + each * WRITERS * crowd.size;
    let all = crowd.wait_count(goal, Duration::from_secs(60));
    assert!(all, "{} of {goal} changes came, {} clients were closed", crowd.count(), crowd.closed());
    start.elapsed().as_secs_f64()
}
