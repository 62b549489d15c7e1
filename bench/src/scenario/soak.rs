//! Mixed load for a long time, with processes killed in between: does anything grow?

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rte_testkit::{Cluster, Signal, Sql, kill};
use serde::Deserialize;

use crate::contestant::{Contestant, label};
use crate::crowd::{Count, Crowd, Party};
use crate::load::{Load, ms};
use crate::process::{descriptors, pss_kib};
use crate::results::{Case, Found};
use crate::rig::{self, Needs};
use crate::say;
use crate::stats::Trend;

const ROWS: u64 = 1000;
/// Everything that keeps a server's disk from growing, at sizes that come round within the run.
const SETTINGS: [(&str, &str); 5] = [
    ("autovacuum", "on"),
    ("checkpoint_timeout", "30s"),
    ("max_wal_size", "256MB"),
    ("rte.max_log_size", "64MB"),
    ("rte.retention", "5min"),
];
/// What is watched, and what may be added over the whole time for it to count as flat: this part of its level, or this much.
const FIGURES: [(&str, f64, f64); 6] = [
    ("memory of gateway and feeder, MiB", 0.1, 4.0),
    ("memory of the whole server, MiB", 0.1, 16.0),
    ("open files of the whole server", 0.05, 10.0),
    ("change log, MiB", 0.2, 16.0),
    ("WAL, MiB", 0.2, 64.0),
    ("p50 of changes, ms", 0.2, 0.5),
];
/// Part of the time after which it counts: before, caches and the log fill.
const WARM: f64 = 0.3;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    contestants: Vec<String>,
    clients: u64,
    /// Changes a second of what the clients have.
    rate: f64,
    /// Changes a second of what nobody has.
    busy_rate: f64,
    /// Seconds between kills, of the gateway and of the feeder by turns.
    kill_every: u64,
    /// How long, for each contestant.
    seconds: u64,
}

pub fn run(sizes: &Sizes, found: &mut Found) -> Result<(), String> {
    let prepare = |cluster: &Cluster| {
        let mut sql = cluster.sql();
        rig::create_feed(&mut sql, ROWS);
        sql.run(
            "CREATE TABLE busy (LIKE feed INCLUDING ALL) WITH (fillfactor = 50); INSERT INTO busy SELECT * FROM feed",
        );
    };
    let needs = Needs { settings: &SETTINGS, ..Needs::default() };
    for name in &sizes.contestants {
        let result = Contestant::start(name, needs, prepare, &["feed", "busy"]);
        if let Err(why) = result.and_then(|contestant| soak(&contestant, sizes, found)) {
            found.note(format!("{}: {why}", label(name)));
        }
    }
    Ok(())
}

fn soak(contestant: &Contestant, sizes: &Sizes, found: &mut Found) -> Result<(), String> {
    let cluster = &contestant.cluster;
    let mut party = Party::new(sizes.clients, Count::Marks, contestant.hello("feed"));
    party.come_back = Some(true);
    let crowd = Crowd::join(&contestant.endpoint(), party)?;
    let before = crowd.count();
    let (stop, visits, kills) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let going = || !stop.load(Ordering::SeqCst);
    let written = std::thread::scope(|scope| {
        let write = |table: &'static str, rate: f64| {
            let load = Load::rows(table, ROWS, 1, 2, rate);
            let going = &going;
            scope.spawn(move || {
                let mut changes = 0;
                while going() {
                    changes += load.run(cluster, 1.0).changes;
                }
                changes
            })
        };
        let feed = write("feed", sizes.rate);
        write("busy", sizes.busy_rate);
        scope.spawn(|| visit(contestant, &going, &visits));
        scope.spawn(|| killer(cluster, sizes.kill_every, &going, &kills));
        watch(contestant, &crowd, sizes.seconds, found);
        stop.store(true, Ordering::SeqCst);
        feed.join().unwrap_or_default()
    });
    judge(&contestant.name, found);
    let (visits, kills) = (visits.into_inner(), kills.into_inner());
    found.note(format!("{}: {kills} kills, {visits} visitors", label(&contestant.name)));
    // With its cursor each client gets each change once, whatever was killed.
    let expected = before + written * sizes.clients;
    crowd.wait_count(expected, Duration::from_secs(30));
    if crowd.count() != expected {
        return Err(format!("{} changes came where {expected} were made for the clients", crowd.count()));
    }
    Ok(())
}

/// Somebody who comes, takes a copy and goes, again and again. While something is being restarted nobody is let in.
fn visit(contestant: &Contestant, going: &impl Fn() -> bool, visits: &AtomicU64) {
    while going() {
        let mut party = Party::new(1, Count::Marks, contestant.hello("feed"));
        party.patience = Duration::from_secs(5);
        if Crowd::join(&contestant.endpoint(), party).is_ok() {
            visits.fetch_add(1, Ordering::SeqCst);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The gateway is killed as hard as can be; the feeder is asked to end, because a kill of that sort has Postgres restart all.
fn killer(cluster: &Cluster, every: u64, going: &impl Fn() -> bool, kills: &AtomicU64) {
    let mut next = Instant::now() + Duration::from_secs(every);
    while going() {
        std::thread::sleep(Duration::from_millis(100));
        if Instant::now() < next {
            continue;
        }
        next += Duration::from_secs(every);
        let (kind, signal) = if kills.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
            ("gateway", Signal::KILL)
        } else {
            ("feeder", Signal::TERM)
        };
        kill(cluster.worker(kind), signal);
        say(&format!("soak: killed the {kind}"));
    }
}

/// Takes the figures some two hundred times, however long it takes.
fn watch(contestant: &Contestant, crowd: &Crowd, seconds: u64, found: &mut Found) {
    let cluster = &contestant.cluster;
    let pause = Duration::from_secs_f64((seconds as f64 / 200.0).max(1.0));
    let mut sql = cluster.sql();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(pause);
        let at = start.elapsed().as_secs_f64();
        let all = cluster.processes();
        let sum = |pids: &[i32]| pids.iter().map(|pid| pss_kib(*pid)).sum::<u64>() as f64 / 1024.0;
        let workers = "SELECT pid FROM rte.workers WHERE kind IN ('gateway', 'feeder') AND pid IS NOT NULL";
        let ours: Vec<i32> = sql.texts(workers).iter().filter_map(|pid| pid.parse().ok()).collect();
        let delays = crowd.take_delays();
        let figures = [
            // One that is just being restarted would be a hole in the picture.
            (ours.len() == 2).then(|| sum(&ours)),
            Some(sum(&all)),
            Some(all.iter().map(|pid| descriptors(*pid)).sum::<u64>() as f64),
            Some(log_mib(&mut sql)),
            Some(directory_mib(cluster)),
            (!delays.is_empty()).then(|| ms(&delays, 0.5)),
        ];
        for ((figure, ..), value) in FIGURES.iter().zip(figures) {
            if let Some(value) = value {
                found.point(&contestant.name, figure, at, value);
            }
        }
        if !delays.is_empty() {
            found.point(&contestant.name, "p99 of changes, ms", at, ms(&delays, 0.99));
        }
    }
}

/// Flat is what grows, by the median of its slopes after the first part of the time, by no more than it may.
fn judge(name: &str, found: &mut Found) {
    for (n, (figure, part, amount)) in FIGURES.iter().enumerate() {
        let Some(curve) = found.curves.iter().find(|c| c.contestant == name && c.metric == *figure) else { continue };
        let end = curve.points.last().map_or(0.0, |p| p[0]);
        let counted: Vec<[f64; 2]> = curve.points.iter().copied().filter(|p| p[0] >= WARM * end).collect();
        if counted.len() < 4 {
            continue;
        }
        let trend = Trend::of(&counted);
        let case = Case::new(*figure, n as f64);
        found.record(name, &case, "level", trend.level);
        found.record(name, &case, "growth", trend.growth);
        found.record(name, &case, "allowed", (part * trend.level).max(*amount));
        found.record(name, &case, "flat", f64::from(u8::from(trend.is_flat(*part, *amount))));
    }
}

fn log_mib(sql: &mut Sql) -> f64 {
    let query = "SELECT sum(pg_total_relation_size(inhrelid))::int8 FROM pg_inherits WHERE inhparent = 'rte.change_log'::regclass";
    sql.number(query) as f64 / 1048576.0
}

fn directory_mib(cluster: &Cluster) -> f64 {
    let files = fs::read_dir(cluster.data().join("pg_wal")).into_iter().flatten().flatten();
    files.filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum::<u64>() as f64 / 1048576.0
}
