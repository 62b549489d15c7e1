//! When to try again something that fails: pauses double.

use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A process that ran this long had started well: the next attempt comes at once.
const STARTED_WELL: Duration = Duration::from_secs(5);

pub struct Backoff {
    pause: Duration,
    pub at: Instant,
}

impl Backoff {
    pub fn new() -> Self {
        Self { pause: FIRST_PAUSE, at: Instant::now() }
    }

    pub fn is_due(&self) -> bool {
        Instant::now() >= self.at
    }

    pub fn ended(&mut self, ran: Duration) {
        if ran >= STARTED_WELL {
            *self = Self::new();
        } else {
            self.at = Instant::now() + self.pause;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }
}
