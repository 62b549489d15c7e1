//! A million rows in one transaction: how long, how much log and memory, and what others notice of it meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rte_testkit::{Cluster, Sql, within};
use serde::Deserialize;

use crate::contestant::label;
use crate::crowd::{Count, Crowd, Endpoint, Hello, Party};
use crate::load::{Load, ms};
use crate::process::{Peaks, pss_kib};
use crate::results::{Case, Found};
use crate::rig::{self, Capture, Needs};
use crate::say;

const FEED_ROWS: u64 = 100;
/// Changes a second that others see meanwhile.
const RATE: f64 = 50.0;
/// Room for a transaction of a million rows; short of it writers would stop logging, and clients resynchronise.
const LOG: (&str, &str) = ("rte.max_log_size", "16GB");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    contestants: Vec<String>,
    rows: u64,
    /// Clients of another table.
    others: u64,
    /// Seconds until the client of the million is given up.
    patience: u64,
    rounds: usize,
}

pub fn run(sizes: &Sizes, found: &mut Found) -> Result<(), String> {
    for name in &sizes.contestants {
        for _ in 0..sizes.rounds {
            if let Err(why) = contestant(name, sizes, found) {
                found.note(format!("{}: {why}", label(name)));
                break;
            }
        }
    }
    Ok(())
}

fn contestant(name: &str, sizes: &Sizes, found: &mut Found) -> Result<(), String> {
    say(&format!("bulk: starting {}", label(name)));
    let capture = match name {
        "trigger" => Some(Capture::Trigger),
        "wal" => Some(Capture::Wal),
        _ => None,
    };
    let cluster = match capture {
        Some(capture) => rig::ours(capture, Needs { settings: &[LOG], ..Needs::default() })?,
        None => rig::plain(&[]),
    };
    let file = prepare(&cluster, sizes.rows);
    let mut crowds = None;
    if let Some(capture) = capture {
        for table in ["feed", "big", "loaded"] {
            rig::register(&cluster, capture, table)?;
        }
        let endpoint = Endpoint::ours(cluster.rte_port);
        let both = r#"{"type":"hello","subscriptions":[{"id":"1","table":"big"},{"id":"2","table":"loaded"}]}"#;
        let watching = Crowd::join(&endpoint, Party::new(1, Count::Changes, Hello::Same(both.into())))?;
        let others = Crowd::join(&endpoint, Party::new(sizes.others, Count::Marks, Hello::table("feed")))?;
        crowds = Some((watching, others));
    }
    let update = ("one UPDATE", "UPDATE big SET n = n + 1".to_owned());
    let copy = ("one COPY", format!("COPY loaded FROM '{file}'"));
    for (n, (what, statement)) in [update, copy].into_iter().enumerate() {
        let case = Case::new(format!("{what} of {} rows", crate::results::grouped(sizes.rows)), n as f64);
        step(name, &cluster, crowds.as_ref(), &statement, &case, sizes, found)?;
    }
    Ok(())
}

/// Two tables of a million rows' size, one still empty, and a file with what is to be loaded into it.
fn prepare(cluster: &Cluster, rows: u64) -> String {
    let mut sql = cluster.sql();
    rig::create_feed(&mut sql, FEED_ROWS);
    let file = cluster.dir().join("rows.copy").display().to_string();
    sql.run(&format!(
        "CREATE TABLE big (id int PRIMARY KEY, n int NOT NULL, body text NOT NULL) WITH (fillfactor = 50);
         CREATE TABLE loaded (id int PRIMARY KEY, n int NOT NULL, body text NOT NULL);
         INSERT INTO big SELECT i, 0, repeat('x', 100) FROM generate_series(1, {rows}) i;
         COPY big TO '{file}'"
    ));
    sql.run("VACUUM ANALYZE big");
    sql.run("CHECKPOINT");
    file
}

fn step(
    name: &str,
    cluster: &Cluster,
    crowds: Option<&(Crowd, Crowd)>,
    statement: &str,
    case: &Case,
    sizes: &Sizes,
    found: &mut Found,
) -> Result<(), String> {
    let mut sql = cluster.sql();
    let backend = sql.number("SELECT pg_backend_pid()") as i32;
    let (log, wal) = (log_mib(&mut sql, crowds.is_some()), wal_mib(&mut sql));
    let before = crowds.map_or(0, |(watching, _)| watching.count());
    let copies = crowds.map_or(0, |(watching, _)| watching.copies());
    let workers = crowds.map(|_| (cluster.worker("feeder"), cluster.worker("gateway")));
    let mut watched = vec![backend];
    watched.extend(workers.iter().flat_map(|(feeder, gateway)| [*feeder, *gateway]));
    if let Some((_, others)) = crowds {
        others.take_delays();
    }
    let peaks = Peaks::watch(Duration::from_millis(100), move || watched.iter().map(|pid| pss_kib(*pid)).collect());
    let stop = AtomicBool::new(false);
    let (seconds, delivered) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let load = Load::rows("feed", FEED_ROWS, 1, 1, RATE);
            while !stop.load(Ordering::SeqCst) {
                load.run(cluster, 0.5);
            }
        });
        let start = Instant::now();
        let result = sql.batch_execute(statement);
        let seconds = start.elapsed().as_secs_f64();
        let delivered = crowds.map(|(watching, _)| {
            let has_all = || watching.count() >= before + sizes.rows || watching.copies() > copies;
            let all =
                within(Duration::from_secs(sizes.patience), || (has_all() || watching.closed() > 0).then_some(()));
            (all.is_some() && has_all()).then(|| start.elapsed().as_secs_f64() - seconds)
        });
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::SeqCst);
        result.map(|()| (seconds, delivered)).map_err(|e| e.to_string())
    })?;
    let peaks = peaks.end();
    let mut record = |metric, value| found.record(name, case, metric, value);
    record("seconds", seconds);
    record("wal", wal_mib(&mut sql) - wal);
    record("backend", peaks[0] as f64 / 1024.0);
    if let Some((watching, others)) = crowds {
        record("log", log_mib(&mut sql, true) - log);
        record("feeder", peaks[1] as f64 / 1024.0);
        record("gateway", peaks[2] as f64 / 1024.0);
        let delays = others.take_delays();
        record("others_p50", ms(&delays, 0.5));
        record("others_max", ms(&delays, 1.0));
        match delivered.flatten() {
            Some(delivered) => {
                record("delivered", delivered);
                if watching.copies() > copies {
                    found.note(format!("{}, {}: the client was sent the table anew", label(name), case.name));
                }
            }
            None => {
                let (came, closed) = (watching.count() - before, watching.closed());
                found.note(format!(
                    "{}, {}: {came} of {} changes came, closed: {closed}",
                    label(name),
                    case.name,
                    sizes.rows
                ));
            }
        }
    }
    say(&format!("bulk: {}, {name}: {seconds:.1} s, delivered {delivered:?}", case.name));
    Ok(())
}

fn log_mib(sql: &mut Sql, ours: bool) -> f64 {
    let query = "SELECT sum(pg_total_relation_size(inhrelid))::int8 FROM pg_inherits WHERE inhparent = 'rte.change_log'::regclass";
    if ours { sql.number(query) as f64 / 1048576.0 } else { 0.0 }
}

fn wal_mib(sql: &mut Sql) -> f64 {
    sql.number("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::int8") as f64 / 1048576.0
}
