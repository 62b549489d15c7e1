//! The leak test: whatever is written and however access changes, nobody hears a byte that was not meant for him, and every
//! copy is what Postgres shows to whom it belongs to.
//!
//! `RTE_SEED` repeats a run's choices (not the interleaving), `RTE_ROUNDS` makes it longer.

mod meddle;
mod people;
mod tables;
mod world;
mod writer;

use rte_testkit::{rounds, seed};
use world::World;

#[test]
fn nobody_hears_what_was_not_meant_for_him() {
    let mut world = World::new(seed("leaks"));
    world.barrier();
    for round in 0..rounds(4) {
        for _ in 0..40 {
            world.burst();
        }
        world.barrier();
        world.assert_folds();
        let heard: u64 = world.people.iter().map(|p| p.heard).sum();
        println!("round {round}: {} states, {} changes of access, {heard} tokens heard", world.states, world.changes);
    }
    assert!(world.people.iter().all(|p| p.heard > 0), "somebody has heard nothing at all");
}
