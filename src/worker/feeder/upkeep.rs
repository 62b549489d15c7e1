//! What a feeder does now and then: rotates and cuts the log, launches query workers. Main thread only.

use super::{Feeder, log_is_there};
use crate::changelog::segments::{self, Due};
use crate::shmem::{self, Kind};
use crate::worker::process;
use crate::{changelog, guc};
use pgrx::bgworkers::BackgroundWorkerBuilder;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Between looks at the log, where nothing asks for one sooner.
const LOOK: Duration = Duration::from_secs(1);
/// After a rotation that was not possible: writers are close to giving up.
const AGAIN: Duration = Duration::from_millis(20);
/// Time for a query worker that was launched to show up.
const LAUNCH: Duration = Duration::from_millis(200);

/// Until another attempt where there was no slot for one, and between lines in the log about that.
const RETRY: Duration = Duration::from_millis(50);
const COMPLAIN: Duration = Duration::from_secs(60);

/// Query workers that are to be launched.
#[derive(Default)]
pub struct Hiring {
    launched_at: Option<Instant>,
    /// Jobs that wait for one that could not be launched yet, since when, and when to try again.
    missed: Option<(usize, Instant, Instant)>,
    complained_at: Option<Instant>,
}

impl Hiring {
    /// When to try again.
    pub fn next(&self) -> Option<Instant> {
        self.missed.map(|(_, _, at)| at)
    }
}

/// What a step of upkeep came to.
enum Step {
    Done,
    More,
    /// Everything that could be cut is in use.
    Blocked,
    Spare(usize),
}

impl Feeder {
    /// Rotates or cuts the log where that is due; returns when to look again.
    pub(super) fn upkeep(&mut self, now: Instant) -> Instant {
        let again = loop {
            match process::transaction(|_| self.upkeep_step()) {
                Step::Done => break LOOK,
                Step::Blocked => break AGAIN,
                Step::More => {}
                // After the commit: writers may use it from here on.
                Step::Spare(segment) => self.slot.add_spare(segment),
            }
        };
        // SAFETY: outside a transaction.
        unsafe { pg_sys::pgstat_report_stat(true) };
        now + again
    }

    fn upkeep_step(&self) -> Step {
        if !log_is_there() {
            return Step::Done;
        }
        let all = segments::all();
        let Some(newest) = all.iter().max_by_key(|s| s.generation).map(|s| s.number) else { return Step::Done };
        let sizes: Vec<u64> =
            (0..shmem::SEGMENTS).map(|n| changelog::segment_oid(n).map_or(0, segments::size_bytes)).collect();
        self.slot.get().log_used.store(sizes.iter().any(|size| *size > 0), Ordering::Release);
        let current = self.slot.segment().unwrap_or(newest);
        let spares = self.slot.spares();
        // SAFETY: reads the clock.
        match segments::due(&all, &sizes, current, &spares, unsafe { pg_sys::GetCurrentTimestamp() }) {
            Due::Nothing => Step::Done,
            Due::Record(segment) => {
                segments::record(segment);
                Step::More
            }
            Due::Advance => {
                self.slot.advance(current);
                Step::More
            }
            Due::Spare(segment) => Step::Spare(segment),
            Due::Cut(candidates) => {
                let cut = candidates.into_iter().find(|segment| segments::cut(*segment, &self.last));
                if cut.is_some() { Step::More } else { Step::Blocked }
            }
        }
    }

    /// Makes sure that query workers run while jobs wait.
    pub(super) fn launch_query_workers(&mut self, waiting: usize) {
        let now = Instant::now();
        let running = shmem::count_workers(Kind::QueryWorker, self.database);
        let wanted = (running + waiting).min(guc::query_workers());
        let hiring = &mut self.hiring;
        if running >= wanted {
            hiring.missed = None;
            return;
        }
        // One that was launched needs a moment to show up.
        if hiring.launched_at.is_some_and(|at| now < at + LAUNCH) {
            return;
        }
        // Said when it was found out; nobody is let in, so no job waits for long.
        let Ok(authenticator) = &self.authenticator else { return };
        let argument = crate::worker::query::argument(self.database, authenticator.unwrap_or(pg_sys::Oid::INVALID));
        for _ in running..wanted {
            let launched = BackgroundWorkerBuilder::new("whagons_rte query worker")
                .set_type("whagons_rte query worker")
                .set_function("rte_query_worker_main")
                .set_library("whagons_rte")
                .set_argument(Some(argument))
                .enable_shmem_access(None)
                .enable_spi_access()
                .set_restart_time(None)
                .load_dynamic();
            if launched.is_err() {
                hiring.missed(waiting, self.database, now);
                return;
            }
            hiring.launched_at = Some(now);
        }
        hiring.missed = None;
    }

    /// Tries again to launch query workers that found no slot.
    pub(super) fn hire_again(&mut self, now: Instant) {
        if let Some((waiting, since, at)) = self.hiring.missed
            && now >= at
        {
            self.hiring.missed = Some((waiting, since, now + RETRY));
            self.launch_query_workers(waiting);
        }
    }
}

impl Hiring {
    /// There is no free slot: others are asked for theirs.
    fn missed(&mut self, waiting: usize, database: pg_sys::Oid, now: Instant) {
        let since = self.missed.map_or(now, |(_, since, _)| since);
        self.missed = Some((waiting, since, now + RETRY));
        let room = shmem::make_room(Kind::QueryWorker, database);
        // The second worker of a database is no matter.
        let short = !room && shmem::count_workers(Kind::QueryWorker, database) == 0 && now >= since + LAUNCH;
        if short && self.complained_at.is_none_or(|at| now >= at + COMPLAIN) {
            self.complained_at = Some(now);
            let workers = guc::max_worker_processes();
            ereport!(
                PgLogLevel::WARNING,
                PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                "snapshots wait for a query worker: there is no free worker slot",
                format!("Raise max_worker_processes (now {workers}).")
            );
        }
    }
}
