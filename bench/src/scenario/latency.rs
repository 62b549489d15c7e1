//! From a commit to the clients, at a light rate: what a person at a screen waits for.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::turns;
use crate::contestant::{Contestant, label};
use crate::crowd::{Count, Crowd, Party};
use crate::load::{Load, delays, ms};
use crate::results::{Case, Found};
use crate::rig::{self, Needs};
use crate::say;

const ROWS: u64 = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    contestants: Vec<String>,
    clients: Vec<u64>,
    /// Updates a second, for each number of clients: many clients make many deliveries of each.
    rates: Vec<f64>,
    /// The most clients of some contestants.
    most: BTreeMap<String, u64>,
    seconds: f64,
    rounds: usize,
}

pub fn run(sizes: &Sizes, found: &mut Found) -> Result<(), String> {
    let prepare = |cluster: &rte_testkit::Cluster| rig::create_feed(&mut cluster.sql(), ROWS);
    let contestants = Contestant::start_all(found, &sizes.contestants, Needs::default(), prepare, &["feed"]);
    for (&clients, &rate) in sizes.clients.iter().zip(&sizes.rates) {
        let case = Case::clients(clients);
        for round in 0..sizes.rounds {
            for turn in turns(round, contestants.len()) {
                let contestant = &contestants[turn];
                if !contestant.can_have(&sizes.most, clients) {
                    continue;
                }
                rig::settle(&contestant.cluster, &["feed"]);
                let party = Party::new(clients, Count::Arrivals, contestant.hello("feed"));
                let load = Load::rows("feed", ROWS, 1, 1, rate);
                let times = Crowd::join(&contestant.endpoint(), party)
                    .and_then(|crowd| delays(&load, contestant, &crowd, sizes.seconds));
                let times = match times {
                    Ok(times) => times,
                    Err(why) => {
                        found.note(format!("{}, {}: {why}", label(&contestant.name), case.name));
                        continue;
                    }
                };
                let mut record = |metric, value| found.record(&contestant.name, &case, metric, value);
                let (p50, p99) = (ms(&times.acknowledged, 0.5), ms(&times.acknowledged, 0.99));
                record("p50", p50);
                record("p99", p99);
                record("max", ms(&times.acknowledged, 1.0));
                record("sent_p50", ms(&times.sent, 0.5));
                record("sent_p99", ms(&times.sent, 0.99));
                say(&format!(
                    "latency: {}, round {}, {}: p50 {p50:.3} p99 {p99:.3} ms",
                    case.name,
                    round + 1,
                    contestant.name
                ));
            }
        }
    }
    Ok(())
}
