//! Measures whagons_rte against what else is there, in one run and in turns, on servers of its own.
//!
//! `make bench ARGS="--help"`. What is measured and how to read it: docs/BENCHMARKS.md.

mod crowd;
mod options;
mod peer;
mod process;
mod report;
mod rig;
mod scenario;
mod stats;
mod websocket;

use options::{Options, Scenario};
use report::Report;

fn main() {
    let options = Options::from_args();
    let mut report = Report::new(&options);
    for scenario in &options.only {
        match scenario {
            Scenario::Latency => scenario::latency::run(&options, &mut report),
            Scenario::Writers => scenario::writers::run(&options, &mut report),
            Scenario::Snapshot => scenario::snapshot::run(&options, &mut report),
            Scenario::Fanout => scenario::fanout::run(&options, &mut report),
            Scenario::Policies => scenario::policies::run(&options, &mut report),
        }
    }
    report.finish(&options);
}

/// A line for whoever waits. On stderr: stdout is for the tables.
pub fn say(text: &str) {
    static STARTED: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let at = STARTED.get_or_init(std::time::Instant::now).elapsed().as_secs();
    eprintln!("[{at:4} s] {text}");
}
