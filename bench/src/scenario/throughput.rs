//! The highest rate of deliveries at which 99 of 100 still come within a second, and what each costs.

use serde::Deserialize;

use super::turns;
use crate::contestant::{Contestant, label};
use crate::crowd::{Count, Party};
use crate::load::Load;
use crate::ramp::{Ramp, Search};
use crate::results::{Case, Found, grouped};
use crate::rig::{self, Needs};

const ROWS: u64 = 4000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    contestants: Vec<String>,
    clients: Vec<u64>,
    /// Rows that a commit changes, for each number of clients: few clients want many changes, and a commit waits for the
    /// disk.
    rows_per_commit: Vec<u64>,
    writers: u64,
    /// Deliveries a second that the search begins with.
    start: f64,
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
        let mut starts = vec![sizes.start; contestants.len()];
        for round in 0..sizes.rounds {
            for turn in turns(round, contestants.len()) {
                let contestant = &contestants[turn];
                rig::settle(&contestant.cluster, &["feed"]);
                let load = Load::rows("feed", ROWS, rows_per_commit, sizes.writers, 1.0);
                let light = Load::rows("feed", ROWS, 1, 1, 1.0);
                let mut ramp = Ramp {
                    contestant,
                    endpoint: contestant.endpoint(),
                    party: Party::new(clients, Count::Marks, contestant.hello("feed")),
                    deliveries_per_change: clients,
                    crowd: None,
                };
                let search = Search { start: starts[turn], step: sizes.step };
                let result = ramp.cost(&light, sizes.light, sizes.light_seconds).and_then(|light| {
                    found.record(&contestant.name, &case, "cpu_light", light);
                    ramp.highest(&load, search)
                });
                match result {
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
