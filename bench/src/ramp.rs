//! The highest rate at which changes still come in time: doubled until they do not, then between the two.

use std::time::{Duration, Instant};

use crate::contestant::Contestant;
use crate::crowd::{Crowd, Endpoint, Party};
use crate::load::{Load, ms};
use crate::say;

/// When a change has not come in time.
const P99_MS: f64 = 1000.0;
/// How long the last changes of a step are waited for: those that take longer are late.
const PATIENCE: Duration = Duration::from_secs(4);
/// How much of the rate that was asked for the writers have to reach for the rate to count as tried.
const REACHED: f64 = 0.9;
/// How much more has to be delivered when twice as much was asked of writers that were too slow already, for the search to go
/// on: who gathers under load delivers more only then.
const GAINED: f64 = 1.1;
/// Steps up or down before a search is given up.
const STEPS: usize = 12;
/// Halvings of the last interval.
const REFINED: usize = 2;

/// How long is searched, and from where.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// Deliveries per second of the first step.
    pub start: f64,
    /// Seconds of a step.
    pub step: f64,
}

/// What the highest rate is, and what it costs.
#[derive(Debug, Clone, Copy)]
pub struct Highest {
    pub per_second: f64,
    pub p99_ms: f64,
    pub cpu_per_million: f64,
    pub bytes_per_delivery: f64,
    /// It was not the delivering that gave up: the writers could not write faster.
    pub by_writers: bool,
}

enum Step {
    InTime(Highest),
    Late,
}

/// A crowd that is asked again and again, and joins anew when its server has dropped it.
pub struct Ramp<'a> {
    pub contestant: &'a Contestant,
    pub endpoint: Endpoint,
    pub party: Party,
    /// Deliveries of each changed row.
    pub deliveries_per_change: u64,
    pub crowd: Option<Crowd>,
}

impl Ramp<'_> {
    /// # Errors
    /// The clients cannot join, or not even the lowest rate is reached.
    pub fn highest(&mut self, load: &Load, search: Search) -> Result<Highest, String> {
        let fan_out = self.deliveries_per_change as f64;
        let (mut good, mut bad): (Option<Highest>, Option<f64>) = (None, None);
        let mut rate = search.start / fan_out;
        // What was delivered when the writers were last too slow.
        let mut bound: Option<f64> = None;
        let mut steps = 0;
        while steps < STEPS && (good.is_none() || bad.is_none()) {
            match self.step(load, rate, search.step)? {
                Step::InTime(found) => {
                    let best = good.filter(|good| good.per_second >= found.per_second).unwrap_or(found);
                    if found.by_writers
                        && bound.replace(found.per_second).is_some_and(|b| found.per_second < GAINED * b)
                    {
                        return Ok(Highest { by_writers: true, ..best });
                    }
                    good = Some(best);
                    rate *= if bad.is_some() { 1.4 } else { 2.0 };
                }
                Step::Late => {
                    bad = Some(rate);
                    rate /= 2.0;
                }
            }
            steps += 1;
        }
        let mut best = good.ok_or("changes are late at every rate")?;
        let (mut low, Some(mut high)) = (best.per_second / fan_out, bad) else { return Ok(best) };
        for _ in 0..REFINED {
            let middle = (low + high) / 2.0;
            match self.step(load, middle, search.step)? {
                Step::InTime(found) => {
                    low = middle;
                    if found.per_second > best.per_second {
                        best = found;
                    }
                }
                Step::Late => high = middle,
            }
        }
        Ok(best)
    }

    /// Processor seconds per million deliveries at a rate of deliveries.
    ///
    /// # Errors
    /// The clients cannot join, or the changes do not come.
    pub fn cost(&mut self, load: &Load, deliveries: f64, seconds: f64) -> Result<f64, String> {
        match self.step(load, deliveries / self.deliveries_per_change as f64, seconds)? {
            Step::InTime(found) => Ok(found.cpu_per_million),
            Step::Late => Err("changes are late at a light rate".into()),
        }
    }

    fn step(&mut self, load: &Load, rate: f64, seconds: f64) -> Result<Step, String> {
        let crowd = match self.crowd.take() {
            Some(crowd) => crowd,
            None => Crowd::join(&self.endpoint, self.party.clone())?,
        };
        crowd.take_delays();
        let (before, bytes, cpu) = (crowd.count(), crowd.bytes(), self.contestant.cpu_seconds());
        let start = Instant::now();
        let written = load.at(rate).run(&self.contestant.cluster, seconds);
        let (mut wanted, patience) = (written.changes * self.deliveries_per_change, PATIENCE);
        let all = if self.contestant.merges() {
            let quiet = crowd.wait_quiet(patience);
            // Only what came counts.
            wanted = crowd.count() - before;
            quiet && wanted > 0
        } else {
            crowd.wait_count(before + wanted, patience)
        };
        let took = start.elapsed().as_secs_f64();
        let p99_ms = ms(&crowd.take_delays(), 0.99);
        let found = Highest {
            per_second: wanted as f64 / took,
            p99_ms,
            cpu_per_million: (self.contestant.cpu_seconds() - cpu) * 1e6 / wanted as f64,
            bytes_per_delivery: (crowd.bytes() - bytes) as f64 / wanted as f64,
            by_writers: (written.changes as f64) < REACHED * rate * seconds,
        };
        let name = &self.contestant.name;
        say(&format!(
            "{name}: {:.0}/s asked, {:.0}/s delivered, p99 {p99_ms:.1} ms{}{}",
            rate * self.deliveries_per_change as f64,
            found.per_second,
            if found.by_writers { ", bound by the writers" } else { "" },
            if all { "" } else { ", not all came" }
        ));
        // One that is far behind is better begun anew than waited for.
        if all && crowd.closed() == 0 {
            self.crowd = Some(crowd);
        }
        Ok(if all && p99_ms <= P99_MS { Step::InTime(found) } else { Step::Late })
    }
}
