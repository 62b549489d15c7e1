//! What is measured, one file each.

pub mod fanout;
pub mod latency;
pub mod policies;
pub mod snapshot;
pub mod writers;

/// The contestants of a round in an order that turns, so that none is always first.
fn turns(round: usize, count: usize) -> impl Iterator<Item = usize> {
    let (step, start) = if round.is_multiple_of(2) { (1, round) } else { (count - 1, round) };
    (0..count).map(move |n| (start + n * step.max(1)) % count)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_round_has_every_contestant_once() {
        for count in 1..5 {
            for round in 0..6 {
                let mut turns: Vec<usize> = super::turns(round, count).collect();
                turns.sort_unstable();
                assert!(turns.into_iter().eq(0..count));
            }
        }
    }
}
