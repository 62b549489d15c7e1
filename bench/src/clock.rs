//! The run's own clock, and the marks that rows carry: the time when they were written, by this clock.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Digits of a mark: microseconds of eleven days.
pub const DIGITS: usize = 12;

/// Microseconds since the run began.
pub fn now() -> u64 {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    STARTED.get_or_init(Instant::now).elapsed().as_micros() as u64
}

/// The time, made unique in the run: an update that changes nothing would be no change.
pub fn mark() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = now();
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
    now.max(last.unwrap_or(0) + 1)
}

/// How a mark looks in a row: an at sign and its digits.
pub fn written(mark: u64) -> String {
    format!("@{mark:0DIGITS$}")
}

/// The mark whose at sign is here.
pub fn read(text: &[u8], at: usize) -> Option<u64> {
    text.get(at + 1..=at + DIGITS)?
        .iter()
        .try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_never_comes_twice() {
        let (first, second) = (mark(), mark());
        assert!(first < second);
        let text = format!("{{\"body\":\"{}xxx\"}}", written(second));
        assert_eq!(read(text.as_bytes(), 9), Some(second));
        assert_eq!(read(b"@12", 0), None);
        assert_eq!(read(b"@someone.else", 0), None);
    }
}
