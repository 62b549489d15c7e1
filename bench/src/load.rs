//! Writers: sessions that update rows at a rate, each with a mark of its own in the row.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rte_testkit::Cluster;

use crate::contestant::Contestant;
use crate::crowd::{Crowd, Delays, no_delays};
use crate::{clock, rig};

/// Seconds before delays count.
const WARM_UP: f64 = 0.3;

/// What writers do, and how fast.
#[derive(Debug, Clone)]
pub struct Load {
    /// `$1` is the row's text with its mark, `$2` says which rows.
    statement: String,
    /// Rows that a commit changes, and what its changes are delivered to at most.
    pub rows_per_commit: u64,
    /// Where the rows of the first writer begin, how far apart those of two writers are, and how many there are to choose
    /// from: writers do not wait for each other's locks.
    first: u64,
    apart: u64,
    choices: u64,
    pub writers: u64,
    /// Changed rows per second, of all writers.
    pub rate: f64,
}

/// What has been written.
#[derive(Debug, Default)]
pub struct Written {
    pub changes: u64,
    pub seconds: f64,
    /// Of each commit.
    pub moments: Vec<Moment>,
}

/// A commit: its mark, which is when it was sent, and when the server had acknowledged it.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub mark: u64,
    pub acknowledged: u64,
}

impl Load {
    /// Updates rows of a table with the keys 1 to `rows`.
    pub fn rows(table: &str, rows: u64, rows_per_commit: u64, writers: u64, rate: f64) -> Self {
        let apart = rows / writers;
        let choices = (apart + 1).saturating_sub(rows_per_commit).max(1);
        let condition = if rows_per_commit == 1 {
            "id = $2".to_owned()
        } else {
            format!("id BETWEEN $2 AND $2 + {}", rows_per_commit - 1)
        };
        let statement = format!("UPDATE {table} SET body = $1 WHERE {condition}");
        Self { statement, rows_per_commit, first: 1, apart, choices, writers, rate }
    }

    /// Updates all rows of a writer at once, in a table with a column that tells whose they are.
    pub fn all_of_a_writer(table: &str, rows_per_commit: u64, writers: u64, rate: f64) -> Self {
        let statement = format!("UPDATE {table} SET body = $1 WHERE writer = $2");
        Self { statement, rows_per_commit, first: 0, apart: 1, choices: 1, writers, rate }
    }

    pub fn at(&self, rate: f64) -> Self {
        Self { rate, ..self.clone() }
    }

    /// Writes for so long. A writer that falls behind makes up for it.
    pub fn run(&self, cluster: &Cluster, seconds: f64) -> Written {
        let start = Instant::now();
        let mut written = Written::default();
        std::thread::scope(|scope| {
            let writers: Vec<_> =
                (0..self.writers).map(|n| scope.spawn(move || self.writer(cluster, n, start, seconds))).collect();
            for writer in writers {
                written.moments.extend(writer.join().expect("a writer"));
            }
        });
        written.seconds = start.elapsed().as_secs_f64();
        written.changes = written.moments.len() as u64 * self.rows_per_commit;
        written
    }

    /// One writer, as fast as it can, until it is told to stop; counts its commits.
    pub fn until(&self, cluster: &Cluster, n: u64, stop: &AtomicBool, commits: &AtomicU64) {
        let mut sql = cluster.sql();
        let update = sql.prepare(&self.statement).expect("a statement");
        while !stop.load(Ordering::SeqCst) {
            sql.execute(&update, &[&rig::body(clock::mark()), &self.key(n)]).expect("an update");
            commits.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn key(&self, n: u64) -> i32 {
        (self.first + n * self.apart + fastrand::u64(0..self.choices)) as i32
    }

    fn writer(&self, cluster: &Cluster, n: u64, start: Instant, seconds: f64) -> Vec<Moment> {
        let mut sql = cluster.sql();
        let update = sql.prepare(&self.statement).expect("a statement");
        let pause = (self.rows_per_commit * self.writers) as f64 / self.rate;
        let mut moments = Vec::new();
        // Not all at the same moment.
        let mut next = start + Duration::from_secs_f64(pause * n as f64 / self.writers as f64);
        loop {
            // Uneven, so as not to beat in time with anything.
            next += Duration::from_secs_f64((0.5 + fastrand::f64()) * pause);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            if start.elapsed().as_secs_f64() >= seconds {
                return moments;
            }
            let mark = clock::mark();
            sql.execute(&update, &[&rig::body(mark), &self.key(n)]).expect("an update");
            moments.push(Moment { mark, acknowledged: clock::now() });
        }
    }
}

/// Delays of a stretch at a light rate: from the acknowledgement, and from when it was sent.
pub struct Times {
    pub acknowledged: Delays,
    pub sent: Delays,
}

/// Writes for so long and gives the times until each client had each change; where changes are merged, those that came.
///
/// # Errors
/// Not everything came.
pub fn delays(load: &Load, contestant: &Contestant, crowd: &Crowd, seconds: f64) -> Result<Times, String> {
    // What is only met the first time is not what people wait for.
    let (cluster, patience) = (&contestant.cluster, Duration::from_secs(10));
    let arrived =
        |goal: u64| if contestant.merges() { crowd.wait_quiet(patience) } else { crowd.wait_count(goal, patience) };
    arrived(crowd.count() + load.run(cluster, WARM_UP).changes * crowd.size);
    crowd.take_arrivals();
    let before = crowd.count();
    let written = load.run(cluster, seconds);
    let goal = before + written.changes * crowd.size;
    if !arrived(goal) {
        return Err(format!("{} of {goal} changes came, {} clients were closed", crowd.count(), crowd.closed()));
    }
    let moments: std::collections::HashMap<u64, u64> =
        written.moments.iter().map(|m| (m.mark, m.acknowledged)).collect();
    let mut times = Times { acknowledged: no_delays(), sent: no_delays() };
    for (mark, at) in crowd.take_arrivals() {
        let Some(acknowledged) = moments.get(&mark) else { continue };
        // A client may have it before the writer knows: nobody waited then.
        times.acknowledged.saturating_record(at.saturating_sub(*acknowledged));
        times.sent.saturating_record(at.saturating_sub(mark));
    }
    Ok(times)
}

/// A quantile in milliseconds.
pub fn ms(delays: &Delays, part: f64) -> f64 {
    if delays.is_empty() { f64::NAN } else { delays.value_at_quantile(part) as f64 / 1e3 }
}
