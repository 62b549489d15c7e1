//! Verifications: what a client asks about its copy, and at which commit it is answered.
//!
//! A session has one at a time. A query worker exports its snapshot, a tick of the feeder adopts it, and `verifying` goes
//! out right before that tick's commit: so the copy at that commit's cursor and what the worker reads are of one snapshot.
//! Invariant: nothing of a verification is sent before that commit, and each that the client was not told to have ended
//! otherwise (by `resync`'s error, `unsubscribed` or a close) ends with `verified` or an `error`. Pure.

use super::subscription::{State, bridge_id};
use super::{Action, Frame, Session, Tick, error};
use crate::held::Held;
use rte_protocol::bridge::{JobId, ToFeeder};
use rte_protocol::wire::{ErrorCode, ServerMessage, Verify};
use std::rc::Rc;

/// A verification under way.
#[derive(Debug)]
pub(super) struct Verification {
    /// Counts the session's, so that an answer to an earlier one is not taken for one to this.
    request: u32,
    /// Of the subscription.
    number: u32,
    id: Box<str>,
    /// Rows are sent, which count from the next commit.
    repairs: bool,
    job: Option<JobId>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// No tick has its snapshot yet.
    Asked,
    /// The open tick has.
    Due,
    /// `verifying` was sent, and the commit with this cursor.
    At(String),
}

impl<F: Frame> Session<F> {
    /// The client asks for a verification.
    pub(super) fn verify(&mut self, verify: Verify, out: &mut Vec<Action<F>>) {
        let Verify { id, parts, columns, want } = verify;
        let parts = parts.unwrap_or(1);
        let refusal = if !(1..=Verify::MAX_PARTS).contains(&parts) {
            Some((ErrorCode::BadMessage, "`parts` must be 1 to 4096"))
        } else if want.len() > parts as usize || want.iter().any(|part| *part >= parts) {
            Some((ErrorCode::BadMessage, "`want` must name parts, from 0, each once"))
        } else if columns.as_ref().is_some_and(Vec::is_empty) {
            Some((ErrorCode::BadMessage, "`columns` must name a column"))
        } else if self.verification.is_some() {
            Some((ErrorCode::TooManyRequests, "another verification of this connection is under way"))
        } else {
            None
        };
        if let Some((code, message)) = refusal {
            out.push(error(code, message, None, Some(&id)));
            return;
        }
        let Some(sub) = self.subs.iter().find(|s| *s.id == *id && s.is_the_clients()) else {
            out.push(error(ErrorCode::UnknownSubscription, "there is no subscription of this id", None, Some(&id)));
            return;
        };
        if sub.state != State::Live || self.holds() {
            let message = "the copy of the subscription is not ready";
            // Before it is answered, an error that names a subscription would refuse it.
            let named = (sub.state != State::Requested).then_some(&*id);
            out.push(error(ErrorCode::NotReady, message, Some("ask again after its commit"), named));
            return;
        }
        self.last_request = self.last_request.wrapping_add(1);
        let (request, number, repairs) = (self.last_request, sub.number, !want.is_empty());
        self.verification =
            Some(Verification { request, number, id: id.as_str().into(), repairs, job: None, stage: Stage::Asked });
        let id = bridge_id(number, &id);
        out.push(Action::Feeder(ToFeeder::Verify { session: self.id, request, id, parts, columns, want }));
    }

    /// A job for a verification was queued.
    pub fn verify_job(&mut self, job: JobId, request: u32, out: &mut Vec<Action<F>>) {
        match self.verification.as_mut().filter(|v| v.request == request && v.job.is_none()) {
            Some(verification) => verification.job = Some(job),
            None => out.push(Action::CancelJob(job)),
        }
    }

    /// The open tick has the snapshot of this verification: its commit must be let out, and [`Session::commit`] called.
    pub fn verifying(&mut self, job: JobId) {
        if let Some(verification) = self.verification_of(job) {
            verification.stage = Stage::Due;
            self.dirty = true;
        }
    }

    /// Before a commit is let out: the client is told where its verification stands.
    pub(super) fn announce(&mut self, tick: &Rc<Tick>, held: &Held, out: &mut Vec<Action<F>>) {
        if let Some(verification) = self.verification.as_mut().filter(|v| matches!(v.stage, Stage::Due)) {
            verification.stage = Stage::At(tick.cursor.with(held));
            out.push(Action::Text(ServerMessage::Verifying { id: verification.id.to_string() }.to_text()));
        }
    }

    /// The client's id of the subscription whose wanted rows come; none: they are dropped.
    #[must_use]
    pub fn repair_for(&self, job: JobId) -> Option<&str> {
        let of_job = |v: &&Verification| v.job == Some(job) && matches!(v.stage, Stage::At(_));
        self.verification.as_ref().filter(of_job).map(|v| &*v.id)
    }

    /// What the worker says of the rows; `parts` is a JSON array, or empty. All wanted rows are in the queue, and a commit
    /// follows for them: that of `now`, the last tick, is repeated where none is open.
    pub fn verified(
        &mut self,
        job: JobId,
        hash: String,
        rows: u64,
        parts: &[u8],
        now: Option<&Rc<Tick>>,
        out: &mut Vec<Action<F>>,
    ) {
        let is_it = |v: &mut Verification| v.job == Some(job) && matches!(v.stage, Stage::At(_));
        let Some(Verification { id, repairs, stage: Stage::At(cursor), .. }) = self.verification.take_if(is_it) else {
            return;
        };
        let mut text = ServerMessage::Verified { id: id.into(), cursor, hash, rows, parts: None }.to_text();
        if let Some(parts) = std::str::from_utf8(parts).ok().filter(|parts| !parts.is_empty()) {
            text.pop();
            text.push_str(",\"parts\":");
            text.push_str(parts);
            text.push('}');
        }
        out.push(Action::Text(text));
        if repairs && !now.is_some_and(|now| self.bare_commit(now, out)) {
            self.dirty = true;
        }
    }

    /// A job has ended. Tells whether it was a verification's; one that is not answered by now never will be.
    pub(super) fn verify_job_ended(&mut self, job: JobId, why: (ErrorCode, &str), out: &mut Vec<Action<F>>) -> bool {
        let is_its = self.verification_of(job).is_some();
        if is_its && let Some(verification) = self.verification.take() {
            out.push(error(why.0, why.1, Some("ask again later"), Some(&verification.id)));
        }
        is_its
    }

    /// The feeder gives a verification up.
    pub fn verify_failed(
        &mut self,
        request: u32,
        code: ErrorCode,
        message: &str,
        hint: Option<&str>,
        out: &mut Vec<Action<F>>,
    ) {
        if let Some(verification) = self.verification.take_if(|v| v.request == request) {
            out.extend(verification.job.map(Action::CancelJob));
            out.push(error(code, message, hint, Some(&verification.id)));
        }
    }

    /// A subscription is no longer live: what was asked about it has no answer. Gives its id where something was.
    pub(super) fn drop_verification(&mut self, number: u32, out: &mut Vec<Action<F>>) -> Option<Box<str>> {
        let verification = self.verification.take_if(|v| v.number == number)?;
        out.extend(verification.job.map(Action::CancelJob));
        Some(verification.id)
    }

    fn verification_of(&mut self, job: JobId) -> Option<&mut Verification> {
        self.verification.as_mut().filter(|v| v.job == Some(job))
    }
}
