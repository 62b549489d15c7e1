//! From a commit to the clients, at a light rate: what a person at a screen waits for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rte_testkit::Cluster;
use serde_json::json;

use super::turns;
use crate::crowd::{Count, Crowd, Server};
use crate::options::Options;
use crate::peer::{NodePeer, notify_on};
use crate::report::Report;
use crate::stats::{Spread, quantile};
use crate::{rig, say};

/// Updates per second.
const RATE: f64 = 100.0;
const ROWS: u32 = 100;
const NAMES: [&str; 2] = ["whagons_rte", "NOTIFY + Node ws"];

/// Milliseconds, sorted.
#[derive(Default)]
struct Times {
    since_acknowledged: Vec<f64>,
    since_sent: Vec<f64>,
}

pub fn run(options: &Options, report: &mut Report) {
    say("latency: starting the servers");
    let (ours, plain) = (rig::ours(), rig::plain());
    rig::create_feed(&mut ours.sql(), ROWS);
    ours.sql().register("feed");
    rig::create_feed(&mut plain.sql(), ROWS);
    notify_on(&mut plain.sql(), "feed");
    let peer = NodePeer::start(&plain);
    let contestants = [(&ours, ours.rte_port, Server::Ours { table: "feed" }), (&plain, peer.port, Server::Peer)];

    let head = "commit → client, ms,p50,p99,max,from before the commit: p50,p99";
    let mut table = vec![head.split(',').map(str::to_owned).collect::<Vec<_>>()];
    table[0].splice(0..2, ["commit → client, ms".to_owned()]);
    let mut numbers = serde_json::Map::new();
    for clients in [1, 100] {
        let mut rounds = [Vec::new(), Vec::new()];
        for round in 0..options.rounds {
            for turn in turns(round, contestants.len()) {
                let (cluster, port, server) = contestants[turn];
                let crowd = Crowd::join(port, clients, server, Count::Marks(true));
                let times = stretch(cluster, &crowd, options.seconds);
                say(&format!(
                    "latency: {clients} clients, round {}, {}: p50 {:.3} p99 {:.3} ms",
                    round + 1,
                    NAMES[turn],
                    quantile(&times.since_acknowledged, 0.5),
                    quantile(&times.since_acknowledged, 0.99)
                ));
                rounds[turn].push(times);
            }
        }
        let mut medians = [[0.0; 2]; 2];
        for (turn, times) in rounds.iter().enumerate() {
            let over = |part: f64| Spread::of(times.iter().map(|t| quantile(&t.since_acknowledged, part)));
            let before = |part: f64| Spread::of(times.iter().map(|t| quantile(&t.since_sent, part)));
            medians[turn] = [over(0.5).median, over(0.99).median];
            let name = format!("{}, {clients} client{}", NAMES[turn], if clients == 1 { "" } else { "s" });
            table.push(vec![
                name.clone(),
                over(0.5).text(3),
                over(0.99).text(2),
                format!("{:.1}", over(1.0).max),
                before(0.5).text(2),
                before(0.99).text(2),
            ]);
            numbers.insert(
                name,
                json!({
                    "unit": "ms", "rate": RATE,
                    "acknowledged": {"p50": over(0.5).json(), "p99": over(0.99).json(), "max": over(1.0).max},
                    "sent": {"p50": before(0.5).json(), "p99": before(0.99).json(), "max": before(1.0).max},
                }),
            );
        }
        for (n, what) in ["p50", "p99"].iter().enumerate() {
            let [mine, theirs] = [medians[0][n], medians[1][n]];
            report.goal(
                format!("latency {what}, {clients} client(s): not above the Node peer"),
                mine <= theirs,
                format!("{mine:.3} against {theirs:.3} ms"),
            );
        }
    }
    report.table("Latency", &table);
    report.add("latency", numbers.into());
}

/// Updates at the rate for a while, and the times until each client had each.
fn stretch(cluster: &Cluster, crowd: &Crowd, seconds: u64) -> Times {
    let mut sql = cluster.sql();
    let update = sql.prepare("UPDATE feed SET body = $1 WHERE id = $2").expect("a statement");
    let mut moments = HashMap::new();
    let start = Instant::now();
    let mut next = start;
    while start.elapsed() < Duration::from_secs(seconds) {
        // Uneven, so as not to beat in time with anything.
        next += Duration::from_secs_f64((0.5 + fastrand::f64()) / RATE);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let number = rig::next_mark();
        let sent = Instant::now();
        sql.execute(&update, &[&rig::body(number), &fastrand::i32(1..=ROWS as i32)]).expect("an update");
        moments.insert(number, (sent, Instant::now()));
    }
    let goal = moments.len() as u64 * crowd.size;
    assert!(crowd.wait_count(goal, Duration::from_secs(10)), "{} of {goal} changes came", crowd.count());
    let mut times = Times::default();
    for (mark, at) in crowd.take_arrivals() {
        let (sent, acknowledged) = moments[&mark];
        // A client may have it before the writer knows.
        let since =
            |then: Instant| 1e3 * if at >= then { (at - then).as_secs_f64() } else { -(then - at).as_secs_f64() };
        times.since_acknowledged.push(since(acknowledged));
        times.since_sent.push(since(sent));
    }
    times.since_acknowledged.sort_by(f64::total_cmp);
    times.since_sent.sort_by(f64::total_cmp);
    times
}
