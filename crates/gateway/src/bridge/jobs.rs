//! Jobs: which waits, which query worker runs which, and what becomes of a job when one of its sides goes.
//!
//! A job is a snapshot, a verification or a question. First in, first out per database, questions before snapshots: a log-in does not
//! wait behind those who are in already. A worker runs one job at a time, but snapshots of the same shapes that wait together
//! are one job to it: what it reads goes to all of their sessions, its *members*. Who joins while it reads waits for the next reading.
//! Decides only: sending is the caller's. Bridge thread.

use crate::directory::FeederId;
use crate::flow::Flow;
use bytes::Bytes;
use rte_protocol::bridge::{JobId, SessionId, ShapeId};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Names a worker's attachment.
pub type WorkerId = u32;

/// What a database's waiting questions may take. Each session has one at most, so this is only reached by very many
/// connections with very long tokens.
const MAX_ASKS: usize = 64 << 20;
/// What a question costs besides its bytes.
const ASK: usize = 256;
/// Blobs that are handed to a worker together.
const TOGETHER: usize = 768 << 10;
/// Rows that may be between a worker and a client's socket.
const AHEAD: usize = 256 * 1024;
/// The same where several clients share them: how far one may be behind the others. Their queues share the rows, so
/// this is about what a reading takes in memory, however many they are.
const AHEAD_TOGETHER: usize = 4 << 20;

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
    /// What it reads; jobs of the same read the same. Empty: it is not shared.
    pub shapes: Vec<ShapeId>,
}

/// A job whose session gets what a worker reads.
#[derive(Debug, Clone)]
pub struct Member {
    pub job: Job,
    /// Rows that are on their way to its client.
    pub flow: Arc<Flow>,
}

/// What a worker does.
#[derive(Debug)]
pub struct Running {
    /// What the worker calls it: the job of its first member.
    pub id: JobId,
    pub kind: Kind,
    pub feeder: FeederId,
    /// Who waits for it. Nobody: it was cancelled, and what still comes is dropped.
    pub members: Vec<Member>,
    /// Rows of it went to the sessions: it can not be started anew.
    pub rows_sent: bool,
}

impl Running {
    fn new(jobs: &[Job]) -> Option<Self> {
        let first = jobs.first()?;
        let ahead = if jobs.len() > 1 { AHEAD_TOGETHER } else { AHEAD };
        let members = jobs.iter().map(|job| Member { job: job.clone(), flow: Flow::new(ahead) }).collect();
        Some(Self { id: first.id, kind: first.kind, feeder: first.feeder, members, rows_sent: false })
    }

    /// Takes those out that the worker does not read for, to be queued again.
    pub fn keep(&mut self, others: &[JobId]) -> Vec<Job> {
        let id = self.id;
        let stays = |member: &mut Member| member.job.id == id || others.contains(&member.job.id);
        self.members
            .extract_if(.., |member| !stays(member))
            .map(|member| Job { shapes: Vec::new(), ..member.job })
            .collect()
    }

    /// Takes those out of whom others are far ahead, where somebody could take more.
    pub fn leave_behind(&mut self) -> Vec<Member> {
        if self.members.iter().any(|member| member.flow.is_free()) {
            self.members.extract_if(.., |member| !member.flow.is_free()).collect()
        } else {
            Vec::new()
        }
    }
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

    /// The next, and those that wait for the same.
    fn next_together(&mut self) -> Option<Vec<Job>> {
        let first = self.next()?;
        let mut bytes = first.blob.len();
        let mut jobs = vec![first];
        if !jobs[0].shapes.is_empty() {
            let (feeder, shapes) = (jobs[0].feeder, jobs[0].shapes.clone());
            self.snapshots.retain(|job| {
                let same = job.feeder == feeder && job.shapes == shapes && bytes + job.blob.len() <= TOGETHER;
                if same {
                    bytes += job.blob.len();
                    jobs.push(job.clone());
                }
                !same
            });
        }
        Some(jobs)
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
    /// Rows were sent: the clients must come back.
    Broken(Vec<Job>),
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
            if worker.running.as_ref().is_some_and(|r| r.kind == Kind::Snapshot) {
                let members = worker.running.as_ref().map_or(0, |r| r.members.len());
                *counts.entry(worker.database).or_default() += members.max(1) as u64;
            }
        }
        counts
    }

    pub fn attach(&mut self, worker: WorkerId, database: u32) {
        self.workers.insert(worker, Worker { database, running: None });
    }

    /// The next job for an idle worker of the database, and all that wait for the same; the caller sends them.
    pub fn assign(&mut self, database: u32) -> Option<(WorkerId, Vec<Job>)> {
        let queue = self.waiting.get_mut(&database)?;
        let (id, worker) = self.workers.iter_mut().find(|(_, w)| w.database == database && w.running.is_none())?;
        let jobs = queue.next_together()?;
        worker.running = Running::new(&jobs);
        Some((*id, jobs))
    }

    /// Puts jobs back that a worker was handed and has sent nothing of: they are the next.
    pub fn requeue(&mut self, database: u32, jobs: Vec<Job>) {
        let waiting = self.waiting.entry(database).or_default();
        jobs.into_iter().rev().for_each(|job| waiting.snapshots.push_front(job));
    }

    /// The ways to the clients for whom a worker reads.
    pub fn flows(&self, worker: WorkerId) -> Vec<Arc<Flow>> {
        let running = self.workers.get(&worker).and_then(|w| w.running.as_ref());
        running.map_or_else(Vec::new, |running| running.members.iter().map(|member| member.flow.clone()).collect())
    }

    /// Takes those out of a worker's job of whom others are far ahead.
    pub fn leave_behind(&mut self, worker: WorkerId) -> Vec<Member> {
        let running = self.workers.get_mut(&worker).and_then(|w| w.running.as_mut());
        running.map_or_else(Vec::new, Running::leave_behind)
    }

    /// What the worker runs, if it is the job that it speaks of.
    pub fn running(&mut self, worker: WorkerId, job: JobId) -> Option<&mut Running> {
        self.workers.get_mut(&worker)?.running.as_mut().filter(|r| r.id == job)
    }

    /// The worker that runs a feeder's job.
    pub fn runner(&self, feeder: FeederId, job: JobId) -> Option<WorkerId> {
        let runs = |w: &Worker| w.running.as_ref().is_some_and(|r| r.feeder == feeder && r.id == job);
        self.workers.iter().find(|(_, w)| runs(w)).map(|(id, _)| *id)
    }

    /// The worker is idle again.
    pub fn finish(&mut self, worker: WorkerId) -> Option<Running> {
        self.workers.get_mut(&worker)?.running.take()
    }

    /// The worker is gone.
    pub fn detach(&mut self, worker: WorkerId) -> Lost {
        let Some(gone) = self.workers.remove(&worker) else { return Lost::Nothing };
        let Some(running) = gone.running else { return Lost::Nothing };
        let mut jobs: Vec<Job> = running.members.into_iter().map(|member| member.job).collect();
        match running.kind {
            Kind::Snapshot if jobs.is_empty() => Lost::Nothing,
            Kind::Snapshot if running.rows_sent => Lost::Broken(jobs),
            Kind::Snapshot => {
                self.requeue(gone.database, jobs);
                Lost::Requeued
            }
            Kind::Ask => jobs.pop().map_or(Lost::Nothing, Lost::Unanswered),
            Kind::Verify => jobs.pop().map_or(Lost::Nothing, Lost::Unverified),
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
            let Some(running) = worker.running.as_mut().filter(|r| !r.members.is_empty()) else { continue };
            running.members.retain(|member| !matches(&member.job));
            if running.members.is_empty() {
                out.push((*id, running.id));
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
        Job { kind: Kind::Snapshot, feeder: 1, id, session: id, blob: Bytes::new(), shapes: Vec::new() }
    }

    fn ask(id: JobId) -> Job {
        Job { kind: Kind::Ask, blob: Bytes::from_static(b"who is it?"), ..job(id) }
    }

    /// Worker and jobs.
    fn assigned(jobs: &mut Jobs) -> Option<(WorkerId, Vec<JobId>)> {
        jobs.assign(7).map(|(worker, jobs)| (worker, jobs.iter().map(|job| job.id).collect()))
    }

    fn of(shapes: &[ShapeId], id: JobId) -> Job {
        Job { shapes: shapes.to_vec(), ..job(id) }
    }

    #[test]
    fn those_who_wait_for_the_same_are_read_for_together_and_others_keep_their_turn() {
        let mut jobs = Jobs::default();
        for job in [of(&[1, 2], 1), of(&[3], 2), of(&[1, 2], 3), job(4), of(&[1], 5), of(&[3], 6), of(&[1, 2], 7)] {
            assert!(jobs.queue(7, job));
        }
        assert!(jobs.queue(7, Job { feeder: 2, ..of(&[1, 2], 8) }), "another feeder's shapes are others");
        jobs.attach(1, 7);
        for ids in [&[1, 3, 7][..], &[2, 6], &[4], &[5], &[8], &[91, 92, 94, 95, 98]] {
            assert_eq!(assigned(&mut jobs), Some((1, ids.to_vec())));
            // Who comes while a worker reads may have come after the snapshot was taken.
            assert!(ids[0] > 90 || jobs.queue(7, of(&[9], 90 + ids[0])));
            assert!(jobs.finish(1).is_some());
        }
    }

    #[test]
    fn what_is_handed_to_a_worker_at_once_is_bounded() {
        let mut jobs = Jobs::default();
        for id in 1..=5 {
            assert!(jobs.queue(7, Job { blob: Bytes::from(vec![0; TOGETHER / 2]), ..of(&[1], id) }));
        }
        jobs.attach(1, 7);
        for ids in [&[1, 2][..], &[3, 4], &[5]] {
            assert_eq!(assigned(&mut jobs), Some((1, ids.to_vec())));
            jobs.finish(1);
        }
    }

    #[test]
    fn of_those_who_share_a_reading_each_may_go() {
        let mut jobs = Jobs::default();
        (1..=4).for_each(|id| assert!(jobs.queue(7, of(&[1], id))));
        jobs.attach(1, 7);
        assert_eq!(assigned(&mut jobs), Some((1, vec![1, 2, 3, 4])));
        assert!(jobs.cancel(|job| job.id == 1).is_empty(), "others wait for it");
        let running = jobs.running(1, 1).expect("still what the worker calls it");
        let again: Vec<JobId> = running.keep(&[2, 3]).iter().map(|job| job.id).collect();
        assert_eq!(again, [4], "the worker does not read for it");
        assert!(jobs.cancel(|job| job.id == 2).is_empty());
        assert_eq!(jobs.cancel(|job| job.id == 3), [(1, 1)], "now nobody waits");
    }

    #[test]
    fn who_is_far_behind_leaves_unless_all_are() {
        let jobs: Vec<Job> = (1..=3).map(|id| of(&[1], id)).collect();
        let mut running = Running::new(&jobs).expect("jobs");
        let slow = running.members[1].flow.take(AHEAD_TOGETHER);
        let left: Vec<JobId> = running.leave_behind().iter().map(|member| member.job.id).collect();
        assert_eq!(left, [2]);
        let _all: Vec<_> = running.members.iter().map(|member| member.flow.take(AHEAD_TOGETHER)).collect();
        assert!(running.leave_behind().is_empty());
        assert_eq!(running.members.len(), 2);
        drop(slow);
    }

    #[test]
    fn jobs_run_in_their_order_on_workers_of_their_database() {
        let mut jobs = Jobs::default();
        jobs.attach(1, 7);
        assert!(jobs.queue(8, job(1)));
        assert!(jobs.assign(8).is_none());
        assert!(jobs.queue(7, job(2)));
        assert!(jobs.queue(7, job(3)));
        assert_eq!(assigned(&mut jobs), Some((1, vec![2])));
        assert!(jobs.assign(7).is_none());
        assert!(jobs.finish(1).is_some());
        assert_eq!(assigned(&mut jobs), Some((1, vec![3])));
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
        assert!(matches!(jobs.detach(2), Lost::Broken(jobs) if jobs[0].id == 1));
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
        assert_eq!(assigned(&mut jobs), Some((1, vec![2])));
        assert!(matches!(jobs.detach(1), Lost::Unanswered(Job { id: 2, .. })));
        jobs.attach(2, 7);
        assert_eq!(assigned(&mut jobs), Some((2, vec![3])));
        assert_eq!(jobs.cancel(|j| j.id == 3), [(2, 3)]);
        assert!(matches!(jobs.detach(2), Lost::Nothing), "nobody waits for the answer");
        jobs.attach(3, 7);
        assert_eq!(assigned(&mut jobs), Some((3, vec![1])));
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
