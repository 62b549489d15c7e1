//! The first copy of a large table, for one client and for several at once, against Postgres' own fastest way out.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use memchr::memmem;
use rte_testkit::Cluster;
use serde::Deserialize;

use super::turns;
use crate::contestant::label;
use crate::process::{Peaks, private_kib};
use crate::results::{Case, Found};
use crate::rig::{self, Capture, Needs};
use crate::say;
use crate::websocket::{self, Frame, Frames};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    contestants: Vec<String>,
    clients: Vec<u64>,
    /// Of pgbench's accounts: 100,000 rows each.
    scale: u64,
    rounds: usize,
}

pub fn run(sizes: &Sizes, found: &mut Found) -> Result<(), String> {
    say("snapshot: starting the server");
    // One reads the same way whatever captures; capture from the WAL is not in it.
    let cluster = rig::ours(Capture::Trigger, Needs::default())?;
    rig::pgbench_tables(&cluster, sizes.scale);
    rig::register(&cluster, Capture::Trigger, "pgbench_accounts")?;
    cluster.sql().run("VACUUM FREEZE ANALYZE pgbench_accounts");
    cluster.sql().run("CHECKPOINT");
    let rows = sizes.scale * 100_000;
    // So that worker and gateway are there and warm, and their memory is what it is at rest.
    copy_of(cluster.rte_port, rows)?;
    for &clients in &sizes.clients {
        let case = Case::clients(clients);
        for round in 0..sizes.rounds {
            for turn in turns(round, sizes.contestants.len()) {
                let name = &sizes.contestants[turn];
                let start = Instant::now();
                let result = match name.as_str() {
                    "copy" => psql(&cluster, "COPY pgbench_accounts TO STDOUT", clients),
                    "copy-json" => {
                        psql(&cluster, "COPY (SELECT row_to_json(a) FROM pgbench_accounts a) TO STDOUT", clients)
                    }
                    "trigger" => ours(&cluster, clients, rows, &case, found),
                    other => return Err(format!("there is no contestant {other:?}")),
                };
                match result {
                    Ok(seconds) => {
                        let speed = (rows * clients) as f64 / seconds;
                        found.record(name, &case, "rows", speed);
                        say(&format!("snapshot: {}, round {}, {name}: {speed:.0} rows/s", case.name, round + 1));
                    }
                    Err(why) => {
                        let took = start.elapsed().as_secs_f64();
                        found.note(format!("{}, {}: {why} after {took:.1} s", label(name), case.name));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Seconds that so many of psql take for a statement, without those that one takes for none.
fn psql(cluster: &Cluster, statement: &str, clients: u64) -> Result<f64, String> {
    let run = |statement: &str| {
        let mut psql = cluster.tool("psql");
        psql.args(["-X", "-q", "-d", "postgres", "-c", statement]).stdin(Stdio::null()).stdout(Stdio::null()).spawn()
    };
    let time = |statement: &str, clients: u64| -> Result<f64, String> {
        let start = Instant::now();
        let all: Result<Vec<_>, _> = (0..clients).map(|_| run(statement)).collect();
        for mut psql in all.map_err(|e| e.to_string())? {
            if !psql.wait().is_ok_and(|status| status.success()) {
                return Err(format!("psql failed: {statement}"));
            }
        }
        Ok(start.elapsed().as_secs_f64())
    };
    Ok(time(statement, clients)? - time("SELECT 1", 1)?)
}

/// Seconds that so many clients take, who come at the same time; records how much memory those grew by who serve them.
fn ours(cluster: &Cluster, clients: u64, rows: u64, case: &Case, found: &mut Found) -> Result<f64, String> {
    let pids = cluster
        .sql()
        .query("SELECT kind = 'gateway', pid FROM rte.workers WHERE (kind LIKE 'query%' OR kind = 'gateway') AND pid IS NOT NULL", &[])
        .map_err(|e| e.to_string())?;
    let of = |gateway: bool| -> Vec<i32> {
        pids.iter().filter(|row| row.get::<_, bool>(0) == gateway).map(|row| row.get(1)).collect()
    };
    let (gateway, workers) = (of(true), of(false));
    let size = |pids: &[i32]| pids.iter().map(|pid| private_kib(*pid)).sum::<u64>();
    let at_rest = [size(&workers), size(&gateway)];
    let peaks = Peaks::watch(Duration::from_millis(5), move || vec![size(&workers), size(&gateway)]);
    let start = Instant::now();
    let port = cluster.rte_port;
    let all: Result<Vec<u64>, String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(move || copy_of(port, rows))).collect();
        clients.into_iter().map(|client| client.join().map_err(|_| "a client panicked".to_owned())?).collect()
    });
    let seconds = start.elapsed().as_secs_f64();
    let peaks = peaks.end();
    let bytes: u64 = all?.iter().sum();
    let grown = |n: usize| peaks[n].saturating_sub(at_rest[n]) as f64 / 1024.0;
    found.record("trigger", case, "worker", grown(0));
    found.record("trigger", case, "gateway", grown(1));
    found.record("trigger", case, "size", bytes as f64 / 1e6 / clients as f64);
    Ok(seconds)
}

/// Fetches a copy, until the commit from which it counts; gives its bytes.
fn copy_of(port: u16, expected: u64) -> Result<u64, String> {
    let failed = |e: std::io::Error| e.to_string();
    let mut stream = websocket::connect(port).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(failed)?;
    let hello = br#"{"type":"hello","subscriptions":[{"id":"1","table":"pgbench_accounts"}]}"#;
    stream.write_all(&websocket::frame(1, hello)).map_err(failed)?;
    let mut buffer = vec![0; websocket::READ];
    let mut frames = Frames::default();
    let (mut done, mut live, mut rows, mut bytes) = (false, false, 0, 0);
    let mut refusal = None;
    while !live && refusal.is_none() {
        let size = stream.read(&mut buffer).map_err(failed)?;
        if size == 0 {
            return Err("the server closed".into());
        }
        bytes += size as u64;
        frames.take(&buffer[..size], |frame| {
            let Frame::Text(text) = frame else { return };
            if text.starts_with(br#"{"type":"snapshot""#) {
                rows += memmem::find_iter(text, b"],[").count() as u64 + 1;
                done |= memmem::find(&text[..text.len().min(64)], br#""done":true"#).is_some()
                    || memmem::find(&text[text.len().saturating_sub(64)..], br#""done":true"#).is_some();
            } else if text.starts_with(br#"{"type":"commit""#) {
                live |= done;
            } else if text.starts_with(br#"{"type":"error""#) {
                refusal = Some(String::from_utf8_lossy(text).into_owned());
            }
        });
    }
    match refusal {
        Some(refusal) => Err(refusal),
        // The last frame may hold no row.
        None if (expected..=expected + 1).contains(&rows) => Ok(bytes),
        None => Err(format!("{rows} of {expected} rows came")),
    }
}
