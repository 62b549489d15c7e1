//! The gateway is killed under load, and all its clients come back at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rte_testkit::{Cluster, Signal, kill, within};
use serde::Deserialize;

use crate::clock;
use crate::contestant::{Contestant, label};
use crate::crowd::{Count, Crowd, Party};
use crate::load::{Load, Written};
use crate::results::{Case, Found};
use crate::rig::{self, Needs};
use crate::say;

const ROWS: u64 = 1000;
/// Sessions that write at full speed.
const WRITERS: u64 = 4;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    contestants: Vec<String>,
    clients: u64,
    /// Changes a second of the table that the clients have.
    rate: f64,
    /// Seconds that writers are watched before the kill, and after all are back.
    seconds: f64,
    /// Seconds until the clients are given up.
    patience: u64,
    rounds: usize,
}

pub fn run(sizes: &Sizes, found: &mut Found) -> Result<(), String> {
    let prepare = |cluster: &Cluster| {
        let mut sql = cluster.sql();
        rig::create_feed(&mut sql, ROWS);
        sql.run(
            "CREATE TABLE busy (LIKE feed INCLUDING ALL) WITH (fillfactor = 50); INSERT INTO busy SELECT * FROM feed",
        );
    };
    for contestant in Contestant::start_all(found, &sizes.contestants, Needs::default(), prepare, &["feed", "busy"]) {
        for (with_cursors, how) in [(true, "with cursors"), (false, "without")] {
            for _ in 0..sizes.rounds {
                let name = format!("{}, {how}", contestant.name);
                if let Err(why) = round(&contestant, &name, with_cursors, sizes, found) {
                    found.note(format!("{}: {why}", label(&name)));
                    break;
                }
            }
        }
    }
    Ok(())
}

fn round(
    contestant: &Contestant,
    name: &str,
    with_cursors: bool,
    sizes: &Sizes,
    found: &mut Found,
) -> Result<(), String> {
    let (cluster, case) = (&contestant.cluster, Case::clients(sizes.clients));
    rig::settle(cluster, &["feed", "busy"]);
    let mut party = Party::new(sizes.clients, Count::Marks, contestant.hello("feed"));
    party.come_back = Some(with_cursors);
    let crowd = Crowd::join(&contestant.endpoint(), party)?;
    let before = crowd.count();
    let (stop, commits) = (AtomicBool::new(false), AtomicU64::new(0));
    let busy = Load::rows("busy", ROWS, 1, WRITERS, 1e6);
    let (result, written) = std::thread::scope(|scope| {
        // Those whom nobody watches write as fast as they can; what the clients have changes at a rate.
        for n in 0..WRITERS {
            let (busy, stop, commits) = (&busy, &stop, &commits);
            scope.spawn(move || busy.until(cluster, n, stop, commits));
        }
        let feed = scope.spawn(|| {
            let (load, mut all) = (Load::rows("feed", ROWS, 1, 1, sizes.rate), Written::default());
            while !stop.load(Ordering::SeqCst) {
                all.changes += load.run(cluster, 0.5).changes;
            }
            all.changes
        });
        let result = storm(cluster, &crowd, &commits, sizes);
        stop.store(true, Ordering::SeqCst);
        (result, feed.join().unwrap_or_default())
    });
    let (back, [tps_before, tps_during, tps_after]) = result?;
    let mut record = |metric, value| found.record(name, &case, metric, value);
    record("back", back * 1e3);
    record("tps", tps_before);
    record("tps_during", tps_during / tps_before);
    record("tps_after", tps_after / tps_before);
    say(&format!(
        "storm: {name}: {} clients are back after {:.0} ms, writers {:.2}",
        sizes.clients,
        back * 1e3,
        tps_during / tps_before
    ));
    // With its cursor each client gets each change once, whenever it was made.
    let expected = before + written * sizes.clients;
    if with_cursors && !crowd.wait_count(expected, Duration::from_secs(10)) {
        return Err(format!("{} of {expected} changes came", crowd.count()));
    }
    if with_cursors && crowd.count() > expected {
        return Err(format!("{} changes came where {expected} were made", crowd.count()));
    }
    Ok(())
}

/// Seconds from the kill until all are live again, and the writers' commits per second before, during and after.
fn storm(cluster: &Cluster, crowd: &Crowd, commits: &AtomicU64, sizes: &Sizes) -> Result<(f64, [f64; 3]), String> {
    let gateway = cluster.worker("gateway");
    let since =
        |from: (Instant, u64)| (commits.load(Ordering::SeqCst) - from.1) as f64 / from.0.elapsed().as_secs_f64();
    let now = || (Instant::now(), commits.load(Ordering::SeqCst));
    let watch = Duration::from_secs_f64(sizes.seconds);
    std::thread::sleep(Duration::from_millis(500));
    let start = now();
    std::thread::sleep(watch);
    let before = since(start);
    let start = now();
    let at = clock::now();
    kill(gateway, Signal::KILL);
    let patience = Duration::from_secs(sizes.patience);
    within(patience, || (crowd.live() < crowd.size).then_some(()))
        .ok_or("no client notices that the gateway is gone")?;
    within(patience, || (crowd.live() == crowd.size).then_some(()))
        .ok_or_else(|| format!("{} of {} clients are back", crowd.live(), crowd.size))?;
    let back = (clock::now() - at) as f64 / 1e6;
    let during = since(start);
    let start = now();
    std::thread::sleep(watch);
    Ok((back, [before, during, since(start)]))
}
