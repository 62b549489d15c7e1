//! Jobs: which waits, which query worker runs which, and what becomes of a job when one of its sides goes.
//!
//! A job is a snapshot, a verification or a question. First in, first out per database, questions before snapshots: a log-in does not
//! wait behind those who are in already. A worker runs one job at a time. Decides only: sending is the caller's.
//! Bridge thread.

use crate::directory::FeederId;
use bytes::Bytes;
use rte_protocol::bridge::{JobId, SessionId};
use std::collections::{HashMap, VecDeque};

/// Names a worker's attachment.
pub type WorkerId = u32;

/// What a database's waiting questions may take. Each session has one at most, so this is only reached by very many
/// connections with very long tokens.
const MAX_ASKS: usize = 64 << 20;
/// What a question costs besides its bytes.
const ASK: usize = 256;

/// What is asked of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Snapshot,
    /// Waits behind snapshots, and talks with the feeder before its rows come.
    Verify,
    /// One answer comes, for the feeder.
    Ask,
}

/// A job.
#[derive(Debug, Clone)]
pub struct Job {
    pub kind: Kind,
    pub feeder: FeederId,
    pub id: JobId,
    pub session: SessionId,
    /// The feeder's blob.
    pub blob: Bytes,
}

/// A job in a worker's hands.
#[derive(Debug)]
pub struct Running {
    pub job: Job,
    /// Rows of it went to the session: it can not be started anew.
    pub rows_sent: bool,
    /// Nobody waits for it; what still comes is dropped.
    pub cancelled: bool,
}

#[derive(Debug)]
struct Worker {
    database: u32,
    running: Option<Running>,
}

/// Jobs of a database that wait.
#[derive(Debug, Default)]
struct Waiting {
    asks: VecDeque<Job>,
    snapshots: VecDeque<Job>,
    /// What the questions take.
    bytes: usize,
}

impl Waiting {
    fn next(&mut self) -> Option<Job> {
        let ask = self.asks.pop_front();
        if let Some(ask) = &ask {
            self.bytes -= cost(ask);
        }
        ask.or_else(|| self.snapshots.pop_front())
    }

    fn len(&self) -> usize {
        self.asks.len() + self.snapshots.len()
    }
}

fn cost(ask: &Job) -> usize {
    ask.blob.len() + ASK
}

/// Jobs and workers of all databases.
#[derive(Debug, Default)]
pub struct Jobs {
    waiting: HashMap<u32, Waiting>,
    workers: HashMap<WorkerId, Worker>,
}

/// What a lost worker means for its job.
#[derive(Debug)]
pub enum Lost {
    Nothing,
    /// The job waits again.
    Requeued,
    /// Rows were sent: the client must come back.
    Broken(Job),
    /// The client may ask again.
    Unverified(Job),
    /// A question has no answer. It is not asked again: it may be what the worker died of.
    Unanswered(Job),
}

impl Jobs {
    /// Answers whether there is room for it.
    #[must_use]
    pub fn queue(&mut self, database: u32, job: Job) -> bool {
        let waiting = self.waiting.entry(database).or_default();
        match job.kind {
            Kind::Snapshot | Kind::Verify => waiting.snapshots.push_back(job),
            Kind::Ask if waiting.bytes + cost(&job) > MAX_ASKS => return false,
            Kind::Ask => {
                waiting.bytes += cost(&job);
                waiting.asks.push_back(job);
            }
        }
        true
    }

    /// Snapshots that wait or are being read, by database.
    #[must_use]
    pub fn snapshots(&self) -> HashMap<u32, u64> {
        let mut counts = HashMap::new();
        for (database, waiting) in self.waiting.iter().filter(|(_, w)| !w.snapshots.is_empty()) {
            *counts.entry(*database).or_default() += waiting.snapshots.len() as u64;
        }
        for worker in self.workers.values() {
            if worker.running.as_ref().is_some_and(|r| r.job.kind == Kind::Snapshot) {
                *counts.entry(worker.database).or_default() += 1;
            }
        }
        counts
    }

    pub fn attach(&mut self, worker: WorkerId, database: u32) {
        self.workers.insert(worker, Worker { database, running: None });
    }

    /// The next job for an idle worker of the database; the caller sends it.
    pub fn assign(&mut self, database: u32) -> Option<(WorkerId, Job)> {
        let queue = self.waiting.get_mut(&database)?;
        let (id, worker) = self.workers.iter_mut().find(|(_, w)| w.database == database && w.running.is_none())?;
        let job = queue.next()?;
        worker.running = Some(Running { job: job.clone(), rows_sent: false, cancelled: false });
        Some((*id, job))
    }

    /// What the worker runs, if it is the job that it speaks of.
    pub fn running(&mut self, worker: WorkerId, job: JobId) -> Option<&mut Running> {
        self.workers.get_mut(&worker)?.running.as_mut().filter(|r| r.job.id == job)
    }

    /// The worker that runs a feeder's job.
    pub fn runner(&self, feeder: FeederId, job: JobId) -> Option<WorkerId> {
        let runs = |w: &Worker| w.running.as_ref().is_some_and(|r| r.job.feeder == feeder && r.job.id == job);
        self.workers.iter().find(|(_, w)| runs(w)).map(|(id, _)| *id)
    }

    /// The worker is idle again.
    pub fn finish(&mut self, worker: WorkerId) -> Option<Running> {
        self.workers.get_mut(&worker)?.running.take()
    }

    /// The worker is gone.
    pub fn detach(&mut self, worker: WorkerId) -> Lost {
        let Some(gone) = self.workers.remove(&worker) else { return Lost::Nothing };
        match gone.running {
            Some(running) if running.cancelled => Lost::Nothing,
            Some(running) if running.job.kind == Kind::Ask => Lost::Unanswered(running.job),
            Some(running) if running.job.kind == Kind::Verify => Lost::Unverified(running.job),
            Some(running) if running.rows_sent => Lost::Broken(running.job),
            Some(running) => {
                self.waiting.entry(gone.database).or_default().snapshots.push_front(running.job);
                Lost::Requeued
            }
            None => Lost::Nothing,
        }
    }

    /// Drops the jobs that match; answers the workers that run one and the job's id, for a `Cancel` to them.
    pub fn cancel(&mut self, matches: impl Fn(&Job) -> bool) -> Vec<(WorkerId, JobId)> {
        let mut out = Vec::new();
        for waiting in self.waiting.values_mut() {
            waiting.snapshots.retain(|job| !matches(job));
            waiting.asks.retain(|job| !matches(job));
            waiting.bytes = waiting.asks.iter().map(cost).sum();
        }
        for (id, worker) in &mut self.workers {
            if let Some(running) = worker.running.as_mut().filter(|r| !r.cancelled && matches(&r.job)) {
                running.cancelled = true;
                out.push((*id, running.job.id));
            }
        }
        out
    }

    /// How many wait for a worker of the database.
    pub fn waiting(&self, database: u32) -> usize {
        self.waiting.get(&database).map_or(0, Waiting::len)
    }

    pub fn all_waiting(&self) -> usize {
        self.waiting.values().map(Waiting::len).sum()
    }

    pub fn workers(&self) -> usize {
        self.workers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: JobId) -> Job {
        Job { kind: Kind::Snapshot, feeder: 1, id, session: id, blob: Bytes::new() }
    }

    fn ask(id: JobId) -> Job {
        Job { kind: Kind::Ask, blob: Bytes::from_static(b"who is it?"), ..job(id) }
    }

    #[test]
    fn jobs_run_in_their_order_on_workers_of_their_database() {
        let mut jobs = Jobs::default();
        jobs.attach(1, 7);
        assert!(jobs.queue(8, job(1)));
        assert!(jobs.assign(8).is_none());
        assert!(jobs.queue(7, job(2)));
        assert!(jobs.queue(7, job(3)));
        assert!(matches!(jobs.assign(7), Some((1, Job { id: 2, .. }))));
        assert!(jobs.assign(7).is_none());
        assert!(jobs.finish(1).is_some());
        assert!(matches!(jobs.assign(7), Some((1, Job { id: 3, .. }))));
    }

    #[test]
    fn a_lost_worker_gives_its_job_back_unless_rows_were_sent() {
        let mut jobs = Jobs::default();
        jobs.attach(1, 7);
        assert!(jobs.queue(7, job(1)));
        jobs.assign(7);
        assert!(matches!(jobs.detach(1), Lost::Requeued));
        jobs.attach(2, 7);
        jobs.assign(7);
        jobs.running(2, 1).expect("runs").rows_sent = true;
        assert!(matches!(jobs.detach(2), Lost::Broken(Job { id: 1, .. })));
    }

    #[test]
    fn a_lost_worker_ends_its_verification_and_others_are_told_apart() {
        let mut jobs = Jobs::default();
        jobs.attach(1, 7);
        assert!(jobs.queue(7, Job { kind: Kind::Verify, ..job(1) }));
        assert_eq!(jobs.runner(1, 1), None, "it waits");
        jobs.assign(7);
        assert_eq!((jobs.runner(1, 1), jobs.runner(2, 1), jobs.runner(1, 2)), (Some(1), None, None));
        assert!(matches!(jobs.detach(1), Lost::Unverified(Job { id: 1, .. })));
        assert_eq!(jobs.waiting(7), 0);
    }

    #[test]
    fn a_cancelled_job_is_dropped_wherever_it_is() {
        let mut jobs = Jobs::default();
        jobs.attach(1, 7);
        assert!(jobs.queue(7, job(1)));
        assert!(jobs.queue(7, job(2)));
        jobs.assign(7);
        assert_eq!(jobs.cancel(|_| true), [(1, 1)]);
        assert_eq!(jobs.waiting(7), 0);
        assert!(matches!(jobs.detach(1), Lost::Nothing));
    }

    #[test]
    fn questions_go_before_snapshots_and_are_not_asked_twice() {
        let mut jobs = Jobs::default();
        assert!(jobs.queue(7, job(1)) && jobs.queue(7, ask(2)) && jobs.queue(7, ask(3)));
        assert_eq!(jobs.waiting(7), 3);
        jobs.attach(1, 7);
        assert!(matches!(jobs.assign(7), Some((1, Job { id: 2, .. }))));
        assert!(matches!(jobs.detach(1), Lost::Unanswered(Job { id: 2, .. })));
        jobs.attach(2, 7);
        assert!(matches!(jobs.assign(7), Some((2, Job { id: 3, .. }))));
        assert_eq!(jobs.cancel(|j| j.id == 3), [(2, 3)]);
        assert!(matches!(jobs.detach(2), Lost::Nothing), "nobody waits for the answer");
        jobs.attach(3, 7);
        assert!(matches!(jobs.assign(7), Some((3, Job { id: 1, .. }))));
    }

    #[test]
    fn questions_that_wait_are_bounded_in_bytes() {
        let mut jobs = Jobs::default();
        let large = |id| Job { blob: Bytes::from(vec![0; MAX_ASKS / 3]), ..ask(id) };
        assert!(jobs.queue(7, large(1)) && jobs.queue(7, large(2)));
        assert!(!jobs.queue(7, large(3)));
        assert!(jobs.queue(8, large(3)), "another database has its own");
        jobs.attach(1, 7);
        jobs.assign(7);
        assert!(jobs.queue(7, large(4)));
        assert!(jobs.cancel(|j| j.id == 2).is_empty());
        assert!(jobs.queue(7, large(5)) && jobs.queue(7, job(6)) && !jobs.queue(7, large(7)));
    }
}
