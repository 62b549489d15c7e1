//! The leak test: whatever is written and however access changes, nobody hears a byte that was not meant for him, and every
//! copy is what Postgres shows to whom it belongs to. Tenants are by column in one database, and two have their own.
//!
//! `RTE_SEED` repeats a run's choices (not the interleaving), `RTE_ROUNDS` makes it longer.

mod between;
mod meddle;
mod newer;
mod people;
mod realm;
mod tables;
mod universe;
mod world;
mod writer;

use rte_testkit::{rounds, seed};
use universe::Universe;

#[test]
fn nobody_hears_what_was_not_meant_for_him() {
    let mut universe = Universe::new(seed("leaks"));
    universe.barrier();
    for round in 0..rounds(4) {
        for _ in 0..60 {
            universe.burst();
        }
        universe.barrier();
        println!("round {round}: {}", universe.story());
    }
    universe.assert_heard();
}
