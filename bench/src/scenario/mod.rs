//! What is measured, one file for each kind of scenario. Each reads its sizes from the scenario's file and records by the
//! names of the metrics there.

mod asked;
mod bulk;
mod idle;
mod latency;
mod limits;
mod policies;
mod shapes;
mod snapshot;
mod soak;
mod storm;
mod throughput;
mod writers;

pub use limits::serve as serve_limit;

use crate::options::Options;
use crate::plan::Scenario;
use crate::results::Found;

/// Declares the kinds: the module's `Sizes` is what the file holds, its `run` measures.
macro_rules! kinds {
    ($($kind:ident),*) => {
        /// Whether a scenario's file holds what its code wants.
        ///
        /// # Errors
        /// What is missing or unknown.
        pub fn check(scenario: &Scenario, options: &Options) -> Result<(), String> {
            match scenario.kind.as_str() {
                $(stringify!($kind) => scenario.sizes::<$kind::Sizes>(options).map(drop),)*
                other => Err(format!("{}: there is no kind {other:?}", scenario.name)),
            }
        }

        /// Measures.
        ///
        /// # Errors
        /// Why it could not be measured to the end; what was found before is kept.
        pub fn run(scenario: &Scenario, options: &Options, found: &mut Found) -> Result<(), String> {
            match scenario.kind.as_str() {
                $(stringify!($kind) => $kind::run(&scenario.sizes::<$kind::Sizes>(options)?, found),)*
                other => Err(format!("{}: there is no kind {other:?}", scenario.name)),
            }
        }
    };
}

kinds!(asked, bulk, idle, latency, limits, policies, shapes, snapshot, soak, storm, throughput, writers);

/// The contestants of a round in an order that turns, so that none is always first.
fn turns(round: usize, count: usize) -> impl Iterator<Item = usize> {
    let (step, start) = if round.is_multiple_of(2) { (1, round) } else { (count.saturating_sub(1), round) };
    (0..count).map(move |n| (start + n * step.max(1)) % count)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_round_has_every_contestant_once() {
        for count in 0..9 {
            for round in 0..6 {
                let mut turns: Vec<usize> = super::turns(round, count).collect();
                turns.sort_unstable();
                assert!(turns.into_iter().eq(0..count));
            }
        }
    }
}
