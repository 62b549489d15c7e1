//! Joining: from the snapshot of a job to live, without a gap and without a change applied too early.
//!
//! A subscription is registered with the feeder first, its snapshot S' is taken after. From its registration on the
//! frames of its shape are kept, with the snapshot S of their tick. It goes live at a commit whose S contains S',
//! and only there `done` is let out, followed by the kept frames that S' has not seen whole, and that commit. What is
//! sent again of changes that S' had seen does no harm: replaying all of a row's changes up to S ends at S. Pure.

use super::subscription::{State, bridge_id};
use super::{Action, Frame, Session, Tick};
use crate::snapshot::Snapshot;
use rte_protocol::bridge::{JobId, ShapeId, ToFeeder};
use rte_protocol::wire::{ErrorCode, snapshot_parts};
use std::rc::Rc;

/// A job under way.
#[derive(Debug)]
pub(super) struct Join {
    pub job: JobId,
    /// In the order of the job's indexes.
    members: Vec<Member>,
    /// S', once it was taken.
    snapshot: Option<Snapshot>,
}

#[derive(Debug)]
struct Member {
    /// None: the subscription has gone, its rows are dropped.
    sub: Option<u32>,
    /// All of its rows are in the queue.
    done: bool,
}

impl<F: Frame> Session<F> {
    /// A job for subscriptions of this session was queued.
    pub fn job(&mut self, job: JobId, ids: &[String], out: &mut Vec<Action<F>>) {
        let members: Vec<Member> = ids
            .iter()
            .map(|id| {
                let sub = self.position(id).map(|at| &mut self.subs[at]);
                let sub = sub.filter(|s| s.state == State::Joining { job: None }).map(|s| {
                    s.state = State::Joining { job: Some(job) };
                    s.number
                });
                Member { sub, done: false }
            })
            .collect();
        if members.iter().all(|m| m.sub.is_none()) {
            out.push(Action::CancelJob(job));
        } else {
            self.joins.push(Join { job, members, snapshot: None });
        }
    }

    /// The job's snapshot is taken. Comes again where a job is started anew, before any rows.
    pub fn begin(&mut self, job: JobId, snapshot: Snapshot) {
        if let Some(join) = self.joins.iter_mut().find(|j| j.job == job) {
            join.snapshot = Some(snapshot);
            for member in &mut join.members {
                member.done = false;
            }
            self.trim();
        }
    }

    /// The client's id of a subscription whose rows come; none: they are dropped.
    #[must_use]
    pub fn rows_for(&self, job: JobId, index: u32) -> Option<&str> {
        let number = self.joins.iter().find(|j| j.job == job)?.members.get(index as usize)?.sub?;
        self.subs.iter().find(|s| s.number == number).map(|s| &*s.id)
    }

    /// All rows of a subscription are in the queue. `now` is the last tick, where none is open: if it contains S',
    /// the subscription goes live at once and the commit is repeated.
    pub fn rows_done(&mut self, job: JobId, index: u32, now: Option<&Rc<Tick>>, out: &mut Vec<Action<F>>) {
        let Some(join) = self.joins.iter_mut().find(|j| j.job == job) else { return };
        if join.snapshot.is_none() {
            return;
        }
        let Some(member) = join.members.get_mut(index as usize) else { return };
        member.done = true;
        if let Some(now) = now
            && !self.holds()
            && !self.dirty
            && self.go_live(now, out)
        {
            self.let_out(now, out);
            self.trim();
        }
    }

    /// The worker is through with the job. What is not done by now never will be.
    pub fn job_ended(&mut self, job: JobId, out: &mut Vec<Action<F>>) {
        if self.verify_job_ended(job, (ErrorCode::NotReady, "the verification ended early"), out) {
            return;
        }
        self.job_failed(job, ErrorCode::SnapshotFailed, "the snapshot ended early", None, out);
    }

    /// The job failed. The feeder decides what becomes of its subscriptions that are not done: a schema change may have
    /// come in the way, and another job follows, or they end. Until then they go on joining.
    pub fn job_failed(
        &mut self,
        job: JobId,
        code: ErrorCode,
        message: &str,
        hint: Option<&str>,
        out: &mut Vec<Action<F>>,
    ) {
        if self.verify_job_ended(job, (code, message), out) {
            return;
        }
        let ids = self.give_up_job(job);
        if !ids.is_empty() {
            let (session, message, hint) = (self.id, message.to_owned(), hint.map(ToOwned::to_owned));
            out.push(Action::Feeder(ToFeeder::SnapshotFailed { session, ids, code, message, hint }));
        }
    }

    /// The rows of a job come faster than this session takes them, and others wait for the same: it gets no more of them. What is
    /// not done is read anew, for it alone.
    pub fn left_behind(&mut self, job: JobId, out: &mut Vec<Action<F>>) {
        let ids = self.give_up_job(job);
        if !ids.is_empty() {
            out.push(Action::Feeder(ToFeeder::LeftBehind { session: self.id, ids }));
        }
    }

    /// The job is over: its subscriptions that are not done wait for another one.
    fn give_up_job(&mut self, job: JobId) -> Vec<String> {
        let mut ids = Vec::new();
        let Some(join) = self.joins.iter().find(|j| j.job == job) else { return ids };
        let failed: Vec<u32> = join.members.iter().filter(|m| !m.done).filter_map(|m| m.sub).collect();
        for number in failed {
            // The job is over: leaving it must not cancel it.
            self.forget_member(job, number);
            if let Some(sub) = self.subs.iter_mut().find(|s| s.number == number) {
                sub.state = State::Joining { job: None };
                ids.push(bridge_id(number, &sub.id));
            }
        }
        self.joins.retain(|j| j.members.iter().any(|m| m.sub.is_some()));
        ids
    }

    fn forget_member(&mut self, job: JobId, number: u32) {
        if let Some(join) = self.joins.iter_mut().find(|j| j.job == job) {
            for member in join.members.iter_mut().filter(|m| m.sub == Some(number)) {
                member.sub = None;
            }
        }
    }

    /// A subscription leaves its job; the last one takes the job with it.
    pub(super) fn leave_job(&mut self, job: JobId, number: u32, out: &mut Vec<Action<F>>) {
        let Some(at) = self.joins.iter().position(|j| j.job == job) else { return };
        let in_it = self.joins[at].members.iter().any(|m| m.sub == Some(number));
        self.forget_member(job, number);
        if in_it && self.joins[at].members.iter().all(|m| m.sub.is_none()) {
            self.joins.swap_remove(at);
            out.push(Action::CancelJob(job));
        }
    }

    /// Lets every subscription go live that may at this tick; answers whether one did, and the commit must follow.
    pub(super) fn go_live(&mut self, tick: &Rc<Tick>, out: &mut Vec<Action<F>>) -> bool {
        // (shape, S') of those that go; a shape's frames are sent once for the oldest S' among them.
        let mut shapes: Vec<(ShapeId, usize)> = Vec::new();
        for join in &mut self.joins {
            let Some(snapshot) = &join.snapshot else { continue };
            if !tick.snapshot.contains(snapshot) {
                continue;
            }
            for member in join.members.iter_mut().filter(|m| m.done) {
                let Some(number) = member.sub.take() else { continue };
                let Some(sub) = self.subs.iter_mut().find(|s| s.number == number) else { continue };
                sub.state = State::Live;
                self.holding = None;
                let (mut text, tail) = snapshot_parts(&sub.id, true, None, None);
                text.extend_from_slice(b"[]");
                text.extend_from_slice(&tail);
                out.push(Action::Text(String::from_utf8(text).unwrap_or_default()));
                let Some(used) = self.shapes.iter_mut().find(|s| Some(s.shape) == sub.shape) else { continue };
                used.joining -= 1;
                used.live += 1;
                let seen =
                    |k: &super::subscription::Kept<F>| k.tick.as_ref().is_some_and(|t| snapshot.contains(&t.snapshot));
                let seen = used.kept.iter().take_while(|k| seen(k)).count();
                let from = if used.kept_and_sent { 0 } else { seen };
                match shapes.iter_mut().find(|(shape, _)| *shape == used.shape) {
                    Some((_, other)) => *other = from.min(*other),
                    None => shapes.push((used.shape, from)),
                }
            }
        }
        let went = !shapes.is_empty();
        for (shape, from) in shapes {
            let Some(used) = self.shapes.iter_mut().find(|s| s.shape == shape) else { continue };
            out.extend(used.kept[from..].iter().map(|k| Action::Frame(k.frame.clone())));
            if used.joining == 0 {
                self.kept_bytes -= used.drop_kept();
            } else {
                used.kept_and_sent = true;
            }
        }
        if went {
            self.joins.retain(|j| j.members.iter().any(|m| m.sub.is_some()));
            if self.joins.is_empty() {
                self.joins = Vec::new();
            }
        }
        went
    }

    /// Drops kept frames that every snapshot under way has seen.
    pub(super) fn trim(&mut self) {
        for used in self.shapes.iter_mut().filter(|s| !s.kept.is_empty() && !s.kept_and_sent) {
            let mut snapshots = Vec::new();
            let all_taken = self.subs.iter().filter(|s| s.shape == Some(used.shape)).all(|s| match s.state {
                State::Joining { job: None } => false,
                State::Joining { job: Some(job) } => {
                    let taken = self.joins.iter().find(|j| j.job == job).and_then(|j| j.snapshot.as_ref());
                    snapshots.extend(taken);
                    taken.is_some()
                }
                _ => true,
            });
            if !all_taken {
                continue;
            }
            let seen_by_all = |k: &super::subscription::Kept<F>| {
                k.tick.as_ref().is_some_and(|t| snapshots.iter().all(|s| s.contains(&t.snapshot)))
            };
            let count = used.kept.iter().take_while(|k| seen_by_all(k)).count();
            self.kept_bytes -= used.kept.drain(..count).map(|k| k.frame.bytes()).sum::<usize>();
        }
    }
}
