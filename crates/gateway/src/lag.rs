//! How old ticks are when they have been written to clients: what the recent ones say. Pure, but for the lock.

use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Samples that are looked at: those of so long, and so many at most.
const RECENT: Duration = Duration::from_secs(10);
const SAMPLES: usize = 1024;

/// Recent lags.
#[derive(Debug, Default)]
pub struct Lags(Mutex<VecDeque<(Instant, u64)>>);

impl Lags {
    /// Notes a lag in microseconds.
    pub fn note(&self, now: Instant, micros: u64) {
        let mut samples = self.0.lock();
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back((now, micros));
    }

    /// The median and the 99th percentile of the recent ones in milliseconds; none where there were none.
    pub fn percentiles(&self, now: Instant) -> Option<(f64, f64)> {
        let mut micros: Vec<u64> = {
            let samples = self.0.lock();
            samples.iter().filter(|(at, _)| now.saturating_duration_since(*at) <= RECENT).map(|(_, m)| *m).collect()
        };
        micros.sort_unstable();
        let at = |percent: usize| micros.get((micros.len() * percent / 100).min(micros.len().saturating_sub(1)));
        #[allow(clippy::cast_precision_loss, reason = "figures for people")]
        let millis = |micros: &u64| *micros as f64 / 1000.0;
        Some((at(50).map(millis)?, at(99).map(millis)?))
    }

    /// The same as JSON.
    pub fn json(&self, now: Instant) -> Value {
        self.percentiles(now).map_or(Value::Null, |(p50, p99)| json!({"p50": p50, "p99": p99}))
    }
}

/// The time of a tick, as feeders write it (`2026-11-21T12:05:24.168647+00:00`), in microseconds since the Unix epoch.
pub fn micros(time: &str) -> Option<i64> {
    let (date, rest) = time.split_once('T')?;
    let clock = rest.strip_suffix("+00:00").or_else(|| rest.strip_suffix('Z'))?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let numbers = |text: &str, between: char| -> Option<[i64; 3]> {
        let mut parts = text.split(between).map(|part| {
            let digits = !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse::<i64>().ok()).flatten()
        });
        let found = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(found)
    };
    let ([year, month, day], [hour, minute, second]) = (numbers(date, '-')?, numbers(clock, ':')?);
    if fraction.len() > 6 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let fraction: i64 = format!("{fraction:0<6}").parse().ok()?;
    // Days since the epoch; years begin in March, so that the leap day is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_feeders_write_them_and_nothing_else() {
        for (time, expected) in [
            ("1970-01-01T00:00:00+00:00", 0),
            ("2000-02-29T23:59:59.5+00:00", 951_868_799_500_000),
            ("2026-11-21T12:05:24.168647+00:00", 1_795_262_724_168_647),
            ("2026-01-01T00:00:00Z", 1_767_225_600_000_000),
        ] {
            assert_eq!(micros(time), Some(expected), "{time}");
        }
        for time in
            ["", "t", "2026-01-01", "2026-01-01T00:00:00", "2026-01-01T00:00:00+01:00", "2026-01-01T00:00Z", "T::Z"]
        {
            assert_eq!(micros(time), None, "{time}");
        }
        for time in ["2026-01-01T00:00:00.1234567Z", "+026-01-01T00:00:00Z", "2026-01-01T00:00:00.+1Z", "é-1-1T0:0:0Z"]
        {
            assert_eq!(micros(time), None, "{time}");
        }
    }

    #[test]
    fn only_recent_lags_count() {
        let (lags, start) = (Lags::default(), Instant::now());
        assert_eq!(lags.percentiles(start), None);
        lags.note(start, 9_000_000);
        let later = start + RECENT + Duration::from_secs(1);
        for n in 1..=100 {
            lags.note(later, n * 1000);
        }
        assert_eq!(lags.percentiles(later), Some((51.0, 100.0)));
        for _ in 0..10_000 {
            lags.note(later, 1000);
        }
        assert_eq!(lags.percentiles(later), Some((1.0, 1.0)));
        assert_eq!(lags.percentiles(later + RECENT * 2), None);
    }
}
