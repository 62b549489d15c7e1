//! The first copy of a large table, against Postgres' own fastest way out.

use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memchr::memmem;
use rte_testkit::Cluster;
use serde_json::json;

use super::turns;
use crate::options::Options;
use crate::report::Report;
use crate::stats::Spread;
use crate::websocket::{self, Frame, Frames};
use crate::{process, rig, say};

const ROWS: f64 = 200_000.0;
/// Least part of COPY's speed.
const GOAL: f64 = 0.5;
/// What a process may grow by for it to count as flat: a few chunks, far below the table's 20 MB.
const FLAT_KIB: u64 = 4096;
const NAMES: [&str; 3] = ["COPY TO STDOUT", "COPY (SELECT row_to_json) TO STDOUT", "whagons_rte, one client"];

pub fn run(options: &Options, report: &mut Report) {
    say("snapshot: starting the server");
    let cluster = rig::ours();
    let output = cluster.tool("pgbench").args(["-i", "-q", "-s", "2", "postgres"]).output().expect("pgbench");
    assert!(output.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&output.stderr));
    cluster.sql().register("pgbench_accounts");
    cluster.sql().run("VACUUM FREEZE ANALYZE pgbench_accounts");
    cluster.sql().run("CHECKPOINT");
    // So that worker and gateway are there and warm, and their memory is what it is at rest.
    let (_, bytes) = ours(&cluster);
    say(&format!("snapshot: {:.1} MB of frames", bytes as f64 / 1e6));

    let mut speeds: [Vec<f64>; 3] = Default::default();
    let mut growth = [0, 0];
    for round in 0..options.rounds.max(3) {
        for turn in turns(round, NAMES.len()) {
            let seconds = match turn {
                0 => psql(&cluster, "COPY pgbench_accounts TO STDOUT"),
                1 => psql(&cluster, "COPY (SELECT row_to_json(a) FROM pgbench_accounts a) TO STDOUT"),
                _ => {
                    let (result, grown) = watching_memory(&cluster, || ours(&cluster));
                    growth = [growth[0].max(grown[0]), growth[1].max(grown[1])];
                    result.0
                }
            };
            speeds[turn].push(ROWS / seconds);
            say(&format!("snapshot: round {}, {}: {:.0} rows/s", round + 1, NAMES[turn], ROWS / seconds));
        }
    }
    let mut rows = vec![["200,000 rows to one client", "rows/s", "part of COPY"].map(str::to_owned).to_vec()];
    let mut numbers = serde_json::Map::new();
    for (name, mine) in NAMES.iter().zip(&speeds) {
        let ratio = Spread::of(mine.iter().zip(&speeds[0]).map(|(mine, copy)| mine / copy));
        let speed = Spread::of(mine.iter().copied());
        rows.push(vec![(*name).to_owned(), speed.text(0), ratio.text(2)]);
        numbers.insert((*name).into(), json!({"rows_per_s": speed.json(), "part_of_copy": ratio.json()}));
        if name.starts_with("whagons") {
            report.goal(format!("snapshot: at least {GOAL} of COPY"), ratio.median >= GOAL, ratio.text(2));
        }
    }
    let [worker, gateway] = growth;
    let found = format!("worker +{worker} KiB, gateway +{gateway} KiB for {:.1} MB", bytes as f64 / 1e6);
    report.goal("snapshot: flat memory", worker.max(gateway) <= FLAT_KIB, found);
    numbers.insert("growth_kib".into(), json!({"worker": worker, "gateway": gateway, "snapshot_bytes": bytes}));
    report.table("Snapshot", &rows);
    report.add("snapshot", numbers.into());
}

/// Seconds that psql takes for a statement, without those that it takes for none.
fn psql(cluster: &Cluster, statement: &str) -> f64 {
    let time = |statement: &str| {
        let start = Instant::now();
        let mut psql = cluster.tool("psql");
        psql.args(["-X", "-q", "-d", "postgres", "-c", statement]).stdout(Stdio::null());
        assert!(psql.status().expect("psql").success(), "psql: {statement}");
        start.elapsed().as_secs_f64()
    };
    time(statement) - time("SELECT 1")
}

/// Seconds from the question to the commit that makes it count, and the bytes that came.
fn ours(cluster: &Cluster) -> (f64, u64) {
    let mut stream = websocket::connect(cluster.rte_port).expect("a connection");
    stream.write_all(&websocket::frame(1, br#"{"type":"hello"}"#)).expect("hello");
    let mut buffer = vec![0; websocket::READ];
    let mut frames = Frames::default();
    let (mut welcome, mut done, mut live, mut rows, mut bytes) = (false, false, false, 0, 0);
    let mut start = Instant::now();
    while !live {
        let size = stream.read(&mut buffer).expect("frames");
        assert!(size > 0, "the server closed");
        bytes += size as u64;
        let was_welcome = welcome;
        frames.take(&buffer[..size], |frame| {
            let Frame::Text(text) = frame else { return };
            if text.starts_with(br#"{"type":"welcome""#) {
                welcome = true;
            } else if text.starts_with(br#"{"type":"snapshot""#) {
                rows += memmem::find_iter(text, b"],[").count() + 1;
                done |= memmem::find(&text[..text.len().min(64)], br#""done":true"#).is_some()
                    || memmem::find(&text[text.len().saturating_sub(64)..], br#""done":true"#).is_some();
            } else if text.starts_with(br#"{"type":"commit""#) {
                live |= done;
            } else {
                assert!(!text.starts_with(br#"{"type":"error""#), "{}", String::from_utf8_lossy(text));
            }
        });
        if welcome && !was_welcome {
            start = Instant::now();
            let subscribe = br#"{"type":"subscribe","id":"1","table":"pgbench_accounts"}"#;
            stream.write_all(&websocket::frame(1, subscribe)).expect("subscribe");
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    // The last frame may hold no row.
    assert!((200_000..=200_001).contains(&rows), "{rows} rows came");
    (seconds, bytes)
}

/// Runs `work` and returns how much the query workers' and the gateway's own memory grew meanwhile, in KiB.
fn watching_memory<T>(cluster: &Cluster, work: impl FnOnce() -> T) -> (T, [u64; 2]) {
    let mut sql = cluster.sql();
    let pids =
        sql.query("SELECT pid FROM rte.workers WHERE kind LIKE 'query%' AND pid IS NOT NULL", &[]).expect("pids");
    let workers: Vec<i32> = pids.iter().map(|row| row.get(0)).collect();
    assert!(!workers.is_empty(), "a query worker is at work");
    let gateway = cluster.worker("gateway");
    let sizes =
        move || [workers.iter().map(|pid| process::private_kib(*pid)).sum::<u64>(), process::private_kib(gateway)];
    let at_rest = sizes();
    let stop = Arc::new(AtomicBool::new(false));
    let peaks: Arc<[AtomicU64; 2]> = Arc::default();
    let (theirs, heard) = (Arc::clone(&peaks), Arc::clone(&stop));
    let thread = std::thread::spawn(move || {
        while !heard.load(Ordering::SeqCst) {
            for (peak, size) in theirs.iter().zip(sizes()) {
                peak.fetch_max(size, Ordering::SeqCst);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let result = work();
    stop.store(true, Ordering::SeqCst);
    thread.join().expect("the watcher of memory");
    let grown = [0, 1].map(|n| peaks[n].load(Ordering::SeqCst).saturating_sub(at_rest[n]));
    (result, grown)
}
