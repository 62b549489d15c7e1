//! What a run of the tests may be told from outside: seeds and durations.

use std::env;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The random source of seeded tests.
pub type Dice = fastrand::Rng;

/// `RTE_SEED`, or a new one; printed, so that a failure can be run again.
#[must_use]
pub fn seed(test: &str) -> u64 {
    let seed = env::var("RTE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.as_micros() as u64 & 0xffff_ffff
    });
    println!("{test}: RTE_SEED={seed}");
    seed
}

/// Whether clusters capture changes from the WAL: `RTE_CAPTURE`, or by triggers.
///
/// # Panics
/// When it is neither `wal` nor `trigger`.
#[must_use]
pub fn captures_wal() -> bool {
    match env::var("RTE_CAPTURE").as_deref() {
        Ok("wal") => true,
        Ok("trigger" | "") | Err(_) => false,
        Ok(other) => panic!("RTE_CAPTURE is {other:?}"),
    }
}

/// Duration of a load: `RTE_SECONDS`, or the default.
#[must_use]
pub fn seconds(default: u64) -> Duration {
    Duration::from_secs(env::var("RTE_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(default))
}

/// Number of rounds: `RTE_ROUNDS`, or the default.
#[must_use]
pub fn rounds(default: usize) -> usize {
    env::var("RTE_ROUNDS").ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}
