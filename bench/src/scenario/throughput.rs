//! The highest rate of deliveries at which 99 of 100 still come within a second, and what each costs.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::turns;
use crate::contestant::{Contestant, label};
use crate::crowd::{Count, Party};
use crate::load::Load;
use crate::ramp::{Ramp, Search};
use crate::results::{Case, Found, grouped};
use crate::rig::{self, Needs};

const ROWS: u64 = 400;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    contestants: Vec<String>,
    clients: Vec<u64>,
    /// Rows that a commit changes, for each number of clients: few clients want many changes, and a commit waits for the
    /// disk.
    rows_per_commit: Vec<u64>,
    writers: u64,
    /// The most clients of some contestants.
    most: BTreeMap<String, u64>,
    /// Deliveries a second that the search begins with, and where it does for some contestants.
    start: f64,
    starts: BTreeMap<String, f64>,
    /// Seconds of a step of the search.
    step: f64,
    /// Deliveries a second that count as light load.
    light: f64,
    light_seconds: f64,
    rounds: usize,
}

pub fn run(sizes: &Sizes, found: &mut Found) -> Result<(), String> {
    let prepare = |cluster: &rte_testkit::Cluster| rig::create_feed(&mut cluster.sql(), ROWS);
    let contestants = Contestant::start_all(found, &sizes.contestants, Needs::default(), prepare, &["feed"]);
    for (&clients, &rows_per_commit) in sizes.clients.iter().zip(&sizes.rows_per_commit) {
        let case = Case::clients(clients);
        // A later round begins near what the first has found.
        let start = |c: &Contestant| sizes.starts.get(&c.name).copied().unwrap_or(sizes.start);
        let mut starts: Vec<f64> = contestants.iter().map(start).collect();
        for round in 0..sizes.rounds {
            for turn in turns(round, contestants.len()) {
                let contestant = &contestants[turn];
                if !contestant.can_have(&sizes.most, clients) {
                    continue;
                }
                rig::settle(&contestant.cluster, &["feed"]);
                let light = Load::rows("feed", ROWS, 1, 1, 1.0);
                // At the rates of one that merges, a step would hold no commit of many rows.
                let load = if contestant.merges() {
                    light.clone()
                } else {
                    Load::rows("feed", ROWS, rows_per_commit, sizes.writers, 1.0)
                };
                let mut ramp = Ramp {
                    contestant,
                    endpoint: contestant.endpoint(),
                    party: Party::new(clients, Count::Marks, contestant.hello("feed")),
                    deliveries_per_change: clients,
                    crowd: None,
                };
                let search = Search { start: starts[turn], step: sizes.step };
                // One whose highest rate is below that has no light load.
                if search.start >= sizes.light
                    && let Ok(cost) = ramp.cost(&light, sizes.light, sizes.light_seconds)
                {
                    found.record(&contestant.name, &case, "cpu_light", cost);
                }
                match ramp.highest(&load, search) {
                    Ok(highest) => {
                        starts[turn] = highest.per_second / 1.5;
                        let mut record = |metric, value| found.record(&contestant.name, &case, metric, value);
                        record("per_s", highest.per_second);
                        record("p99", highest.p99_ms);
                        record("cpu", highest.cpu_per_million);
                        record("bytes", highest.bytes_per_delivery);
                        if highest.by_writers {
                            found.note(format!(
                                "{}, {}: the writers could not write faster than {} deliveries a second",
                                label(&contestant.name),
                                case.name,
                                grouped(highest.per_second as u64)
                            ));
                        }
                    }
                    Err(why) => found.note(format!("{}, {}: {why}", label(&contestant.name), case.name)),
                }
            }
        }
    }
    Ok(())
}
