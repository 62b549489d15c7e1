//! The query worker: takes a snapshot, sends its rows in parts, fails or dies now and then.

use super::World;
use super::database::Row;
use crate::snapshot::Snapshot;
use rte_protocol::bridge::{JobId, SessionId};
use std::collections::VecDeque;

pub enum FromWorker {
    Begin(JobId, Snapshot),
    Rows(JobId, u32, Vec<(u64, Row)>, bool),
    End(JobId),
    Failed(JobId),
}

/// A job as the feeder made it: the tables of its shapes.
pub struct Job {
    pub id: JobId,
    pub session: SessionId,
    pub tables: Vec<usize>,
}

/// The job that the worker has.
pub struct Running {
    pub job: Job,
    /// Of each shape, what is still to be sent.
    pub rows: Vec<VecDeque<(u64, Row)>>,
    pub began: bool,
    /// Rows were sent, not only that there are none.
    pub sent: bool,
}

impl World {
    pub fn worker_step(&mut self) {
        let Some(Running { job, rows, began, sent }) = &mut self.running else {
            self.running = self.jobs.pop_front().map(|job| Running { job, rows: vec![], began: false, sent: false });
            return;
        };
        let (id, session) = (job.id, job.session);
        if !*began {
            let snapshot = self.db.snapshot();
            *rows = job.tables.iter().map(|t| self.db.at(&snapshot, *t).into_iter().collect()).collect();
            *began = true;
            *sent = false;
            self.from_worker.push_back((session, FromWorker::Begin(id, snapshot)));
            return;
        }
        // It dies before its first row, and another begins anew.
        if !*sent && self.random.chance(10) {
            *began = false;
            return;
        }
        if self.random.chance(3) {
            self.from_worker.push_back((session, FromWorker::Failed(id)));
            self.running = None;
            return;
        }
        match rows.iter_mut().enumerate().find(|(_, r)| !r.contains(&(u64::MAX, [0; 2]))) {
            Some((index, left)) => {
                let n = left.len().min(self.random.below(4) as usize);
                let part: Vec<_> = left.drain(..n).collect();
                *sent |= n > 0;
                let done = left.is_empty();
                if done {
                    left.push_back((u64::MAX, [0; 2]));
                }
                self.from_worker.push_back((session, FromWorker::Rows(id, index as u32, part, done)));
            }
            None => {
                self.from_worker.push_back((session, FromWorker::End(id)));
                self.running = None;
            }
        }
    }
}
