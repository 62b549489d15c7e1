//! What a feeder does now and then: rotates and cuts the log, launches query workers. Main thread only.

use super::{Feeder, log_is_there};
use crate::changelog::segments::{self, Due};
use crate::shmem::{self, Kind};
use crate::worker::process;
use crate::{changelog, guc};
use pgrx::bgworkers::BackgroundWorkerBuilder;
use pgrx::pg_sys;
use std::time::{Duration, Instant};

/// Between looks at the log, where nothing asks for one sooner.
const LOOK: Duration = Duration::from_secs(1);
/// After a rotation that was not possible: writers are close to giving up.
const AGAIN: Duration = Duration::from_millis(20);
/// Time for a query worker that was launched to show up.
const LAUNCH: Duration = Duration::from_millis(200);

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
        // One that was launched needs a moment to show up.
        if running >= wanted || self.launched_at.is_some_and(|at| now < at + LAUNCH) {
            return;
        }
        // Said when it was found out; nobody is let in, so no job waits for long.
        let Ok(authenticator) = &self.authenticator else { return };
        let argument = crate::worker::query::argument(self.database, authenticator.unwrap_or(pg_sys::Oid::INVALID));
        self.launched_at = Some(now);
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
                pgrx::warning!("could not launch a query worker: max_worker_processes is too low");
                return;
            }
        }
    }
}
