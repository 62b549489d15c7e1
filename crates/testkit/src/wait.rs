//! Waiting for a state, with a deadline. The only place in the tests that sleeps.

use std::time::{Duration, Instant};

/// How long a state may take before its test fails: `RTE_PATIENCE` seconds, 30 without it.
#[must_use]
pub fn patience() -> Duration {
    let seconds = std::env::var("RTE_PATIENCE").ok().and_then(|s| s.parse().ok()).unwrap_or(30);
    Duration::from_secs(seconds)
}

/// Polls until `probe` answers, and panics with `what` after [`patience`].
#[track_caller]
pub fn wait_until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    match within(patience(), probe) {
        Some(found) => found,
        None => panic!("waited {:?} in vain for: {what}", patience()),
    }
}

/// Polls until `probe` answers or the limit is over.
pub fn within<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(25));
    }
}
