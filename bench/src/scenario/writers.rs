//! What capture costs those who write: pgbench at full speed, with and without us.

use std::time::{Duration, Instant};

use rte_testkit::Cluster;
use serde_json::json;

use super::turns;
use crate::crowd::{Count, Crowd, Server};
use crate::options::Options;
use crate::peer::{NodePeer, notify_on};
use crate::report::Report;
use crate::stats::Spread;
use crate::{process, rig, say};

const SCRIPT: &str = "\\set aid random(1, 100000)
\\set delta random(1, 5000)
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
";
/// Least part of the bare speed that capture may leave.
const GOAL: f64 = 0.85;

struct Contestant<'a> {
    name: &'static str,
    cluster: &'a Cluster,
    /// Delivers for the contestant, beside its server.
    peer: Option<&'a NodePeer>,
    /// A client that watches.
    crowd: Option<Crowd>,
    tps: Vec<f64>,
    /// Seconds after the last commit until the client had everything.
    behind: Vec<f64>,
    /// Microseconds of processor time of all the server's processes, per transaction.
    cpu: Vec<f64>,
}

pub fn run(options: &Options, report: &mut Report) {
    say("writers: starting the servers");
    // A feeder goes on for a minute after its last client, so the one without has a server of its own.
    let (watched, unwatched, bare, notified) = (rig::ours(), rig::ours(), rig::plain(), rig::plain());
    for cluster in [&watched, &unwatched, &bare, &notified] {
        let output = cluster.tool("pgbench").args(["-i", "-q", "-s", "1", "postgres"]).output().expect("pgbench");
        assert!(output.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&output.stderr));
    }
    watched.sql().register("pgbench_accounts");
    unwatched.sql().register("pgbench_accounts");
    notify_on(&mut notified.sql(), "pgbench_accounts");
    let peer = NodePeer::start(&notified);

    let table = Server::Ours { table: "pgbench_accounts" };
    let of = |name, cluster, peer, crowd| Contestant {
        name,
        cluster,
        peer,
        crowd,
        tps: Vec::new(),
        behind: Vec::new(),
        cpu: Vec::new(),
    };
    let mut contestants = [
        of("bare", &bare, None, None),
        of("whagons_rte, no client", &unwatched, None, None),
        of("whagons_rte, one client", &watched, None, Some(Crowd::join(watched.rte_port, 1, table, Count::Changes))),
        of(
            "NOTIFY trigger + Node ws, one client",
            &notified,
            Some(&peer),
            Some(Crowd::join(peer.port, 1, Server::Peer, Count::Frames)),
        ),
    ];

    let mut rows = vec![
        [
            "single-row updates",
            "clients",
            "TPS",
            "part of bare",
            "server's CPU µs per update",
            "client behind at the end, s",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let mut numbers = serde_json::Map::new();
    for clients in [8, 32] {
        for round in 0..options.rounds {
            for turn in turns(round, contestants.len()) {
                let contestant = &mut contestants[turn];
                contestant.round(clients, options.seconds);
                say(&format!(
                    "writers: {clients} clients, round {}, {}: {:.0} TPS, {:.0} µs",
                    round + 1,
                    contestant.name,
                    contestant.tps[round],
                    contestant.cpu[round]
                ));
            }
        }
        let bare = contestants[0].tps.clone();
        for contestant in &mut contestants {
            let tps = Spread::of(contestant.tps.iter().copied());
            // Of the same round: what slows the machine for a while slows both.
            let ratio = Spread::of(contestant.tps.iter().zip(&bare).map(|(mine, bare)| mine / bare));
            let behind = Spread::of(contestant.behind.iter().copied());
            let cpu = Spread::of(contestant.cpu.iter().copied());
            let watched = contestant.crowd.is_some();
            rows.push(vec![
                contestant.name.into(),
                clients.to_string(),
                tps.text(0),
                ratio.text(2),
                cpu.text(0),
                if watched { behind.text(2) } else { "–".into() },
            ]);
            let mut found = json!({"tps": tps.json(), "ratio": ratio.json(), "cpu_us": cpu.json()});
            if watched {
                found["behind_s"] = behind.json();
            }
            numbers.insert(format!("{}, {clients} clients", contestant.name), found);
            if contestant.name.starts_with("whagons") {
                let name = format!("{}: at least {GOAL} of bare at {clients} writers", contestant.name);
                report.goal(name, ratio.median >= GOAL, ratio.text(2));
            }
            contestant.tps.clear();
            contestant.behind.clear();
            contestant.cpu.clear();
        }
    }
    report.table("Writers", &rows);
    report.add("writers", numbers.into());
}

impl Contestant<'_> {
    fn round(&mut self, clients: u32, seconds: u64) {
        self.cluster.sql().run("VACUUM pgbench_accounts");
        self.cluster.sql().run("CHECKPOINT");
        let before = self.crowd.as_ref().map_or(0, Crowd::count);
        let script = self.cluster.dir().join("update.sql");
        std::fs::write(&script, SCRIPT).expect("a script");
        let cpu_before = self.cpu_seconds();
        let mut pgbench = self.cluster.tool("pgbench");
        pgbench.args(["-n", "-M", "prepared", "-c", &clients.to_string(), "-j", "2", "-T", &seconds.to_string(), "-f"]);
        let output = pgbench.arg(&script).arg("postgres").output().expect("pgbench");
        let ended = Instant::now();
        let text = String::from_utf8_lossy(&output.stdout);
        let number = |after: &str| -> f64 {
            let found = text.lines().find_map(|l| l.strip_prefix(after)?.split([' ', '/']).next()?.parse().ok());
            found.unwrap_or_else(|| panic!("pgbench: {text}{}", String::from_utf8_lossy(&output.stderr)))
        };
        self.tps.push(number("tps = "));
        let transactions = number("number of transactions actually processed: ");
        if let Some(crowd) = &self.crowd {
            let goal = before + transactions as u64;
            let all = crowd.wait_count(goal, Duration::from_secs(120));
            assert!(all, "{}: {} of {goal} changes came", self.name, crowd.count());
            self.behind.push(ended.elapsed().as_secs_f64());
        }
        self.cpu.push((self.cpu_seconds() - cpu_before) * 1e6 / transactions);
    }

    /// Of all processes of the server, those that have ended included.
    fn cpu_seconds(&self) -> f64 {
        let running: f64 = self.cluster.processes().into_iter().map(process::cpu_seconds).sum();
        let peer = self.peer.map_or(0.0, NodePeer::node_cpu_seconds);
        running + peer + process::reaped_cpu_seconds(self.cluster.postmaster())
    }
}
