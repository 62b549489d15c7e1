//! What being captured costs those who write: pgbench at full speed, with us, with others, and with nobody.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rte_testkit::Cluster;
use serde::Deserialize;

use super::turns;
use crate::contestant::label;
use crate::crowd::{Count, Crowd, Endpoint, Hello, Party, Speech};
use crate::peer::{Peer, log_on, notify_on};
use crate::process::{cpu_seconds, server_cpu_seconds};
use crate::results::{Case, Found};
use crate::rig::{self, Capture, Needs};
use crate::say;

const TABLES: [&str; 4] = ["pgbench_accounts", "pgbench_tellers", "pgbench_branches", "pgbench_history"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    contestants: Vec<String>,
    workloads: Vec<Workload>,
    clients: Vec<u32>,
    /// Of pgbench's tables: 100,000 accounts each.
    scale: u64,
    seconds: u64,
    rounds: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Workload {
    /// One `UPDATE` of one account a transaction.
    Update,
    /// pgbench's own: three updates, an insert and a question a transaction.
    Tpcb,
}

struct Contestant {
    name: String,
    /// Ends before the server does.
    crowd: Option<Crowd>,
    peer: Option<Peer>,
    reader: Option<SlotReader>,
    cluster: Cluster,
}

/// Reads a slot and throws away what it says.
struct SlotReader(Child);

impl Drop for SlotReader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn run(sizes: &Sizes, found: &mut Found) -> Result<(), String> {
    let mut contestants = Vec::new();
    for name in &sizes.contestants {
        say(&format!("writers: starting {}", label(name)));
        match Contestant::start(name, sizes.scale) {
            Ok(contestant) => contestants.push(contestant),
            Err(why) => found.note(format!("{} did not take part: {why}", label(name))),
        }
    }
    for &workload in &sizes.workloads {
        for &clients in &sizes.clients {
            let what = if workload == Workload::Update { "one-row updates" } else { "TPC-B" };
            let case = Case::new(
                format!("{what}, {clients} writer{}", if clients == 1 { "" } else { "s" }),
                f64::from(clients),
            );
            for round in 0..sizes.rounds {
                for turn in turns(round, contestants.len()) {
                    let contestant = &mut contestants[turn];
                    match contestant.round(workload, clients, sizes.seconds) {
                        Ok(result) => {
                            say(&format!(
                                "writers: {}, round {}, {}: {:.0} TPS",
                                case.name,
                                round + 1,
                                contestant.name,
                                result.tps
                            ));
                            let mut record = |metric, value| found.record(&contestant.name, &case, metric, value);
                            record("tps", result.tps);
                            record("cpu", result.cpu_us);
                            if let Some(behind) = result.behind {
                                record("behind", behind);
                            }
                        }
                        Err(why) => found.note(format!("{}, {}: {why}", label(&contestant.name), case.name)),
                    }
                }
            }
        }
    }
    Ok(())
}

struct Round {
    tps: f64,
    /// Of all the server's processes and the peer, per transaction.
    cpu_us: f64,
    /// Seconds after the last commit until the client had everything.
    behind: Option<f64>,
}

impl Contestant {
    fn start(name: &str, scale: u64) -> Result<Self, String> {
        let (way, watched) = name.split_once(", ").map_or((name, false), |(way, _)| (way, true));
        let capture = match way {
            "trigger" => Some(Capture::Trigger),
            "wal" => Some(Capture::Wal),
            _ => None,
        };
        let cluster = match (capture, way) {
            (Some(capture), _) => rig::ours(capture, Needs::default())?,
            (None, "wal2json") => rig::with_wal2json()?,
            (None, _) => rig::plain(&[]),
        };
        rig::pgbench_tables(&cluster, scale);
        let mut sql = cluster.sql();
        // Who serves copies needs to tell rows apart; so that all write the same, everybody's table has it.
        sql.run("ALTER TABLE pgbench_history ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY");
        let (mut crowd, mut peer, mut reader) = (None, None, None);
        match (capture, way) {
            (Some(capture), _) => {
                for table in TABLES {
                    rig::register(&cluster, capture, table)?;
                }
                if watched {
                    let endpoint = Endpoint::ours(cluster.rte_port);
                    let party = Party::new(1, Count::Changes, Hello::table(TABLES[0]));
                    crowd = Some(Crowd::join(&endpoint, party)?);
                }
            }
            (None, "notify") => {
                TABLES.iter().for_each(|table| notify_on(&mut sql, table));
                let node = Peer::node(&cluster)?;
                let endpoint = Endpoint { port: node.port, path: "/".into(), protocol: None, speech: Speech::Frames };
                crowd = Some(Crowd::join(&endpoint, Party::new(1, Count::Frames, Hello::Nothing))?);
                peer = Some(node);
            }
            (None, "log-trigger") => TABLES.iter().for_each(|table| log_on(&mut sql, table)),
            (None, "wal2json") => reader = Some(SlotReader::start(&cluster)?),
            (None, "bare") => {}
            (None, other) => return Err(format!("there is no contestant {other:?}")),
        }
        Ok(Self { name: name.into(), crowd, peer, reader, cluster })
    }

    fn round(&mut self, workload: Workload, clients: u32, seconds: u64) -> Result<Round, String> {
        rig::settle(&self.cluster, &TABLES[..3]);
        let before = self.crowd.as_ref().map_or(0, Crowd::count);
        // An update that changes nothing is no change, but for the peer.
        let nothings = || match workload {
            Workload::Tpcb if self.crowd.is_some() && self.peer.is_none() => {
                self.cluster.sql().number("SELECT count(*) FROM pgbench_history WHERE delta = 0") as u64
            }
            _ => 0,
        };
        let nothings_before = nothings();
        let cpu_before = self.cpu_seconds();
        let mut pgbench = self.cluster.tool("pgbench");
        pgbench.args(["-n", "-M", "prepared", "-c", &clients.to_string(), "-j", "2", "-T", &seconds.to_string()]);
        if workload == Workload::Update {
            let script = self.cluster.dir().join("update.sql");
            let accounts = self.cluster.sql().number("SELECT count(*) FROM pgbench_accounts");
            let text = format!(
                "\\set aid random(1, {accounts})\n\\set delta random(1, 5000)\n\
                 UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;\n"
            );
            fs::write(&script, text).map_err(|e| e.to_string())?;
            pgbench.arg("-f").arg(script);
        }
        let output = pgbench.arg("postgres").output().map_err(|e| e.to_string())?;
        let ended = Instant::now();
        let text = String::from_utf8_lossy(&output.stdout);
        let number = |after: &str| -> Result<f64, String> {
            let found = text.lines().find_map(|l| l.strip_prefix(after)?.split([' ', '/']).next()?.parse().ok());
            found.ok_or_else(|| format!("pgbench: {text}{}", String::from_utf8_lossy(&output.stderr)))
        };
        let (tps, transactions) = (number("tps = ")?, number("number of transactions actually processed: ")?);
        let mut behind = None;
        if let Some(crowd) = &self.crowd {
            // The peer tells of all four tables.
            let each = if workload == Workload::Tpcb && self.peer.is_some() { 4 } else { 1 };
            let goal = before + transactions as u64 * each - (nothings() - nothings_before);
            if !crowd.wait_count(goal, Duration::from_secs(60)) {
                return Err(format!("{} of {goal} changes came, closed: {}", crowd.count(), crowd.closed()));
            }
            behind = Some(ended.elapsed().as_secs_f64());
        }
        Ok(Round { tps, cpu_us: (self.cpu_seconds() - cpu_before) * 1e6 / transactions, behind })
    }

    /// Of all the server's processes, those that have ended included, and of what reads for it.
    fn cpu_seconds(&self) -> f64 {
        let peer = self.peer.as_ref().map_or(0.0, |p| cpu_seconds(p.server()));
        let reader = self.reader.as_ref().map_or(0.0, |r| cpu_seconds(r.0.id() as i32));
        server_cpu_seconds(&self.cluster) + peer + reader
    }
}

impl SlotReader {
    fn start(cluster: &Cluster) -> Result<Self, String> {
        cluster.sql().run("SELECT pg_create_logical_replication_slot('reader', 'wal2json')");
        let mut reader = cluster.tool("pg_recvlogical");
        reader.args(["-d", "postgres", "-S", "reader", "--start", "-o", "format-version=2", "-f", "/dev/null"]);
        reader.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let reader = Self(reader.spawn().map_err(|e| format!("pg_recvlogical: {e}"))?);
        let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
        let mut sql = cluster.sql();
        rte_testkit::within(Duration::from_secs(10), || (sql.number(active) == 1).then_some(()))
            .ok_or("pg_recvlogical does not read the slot")?;
        Ok(reader)
    }
}
