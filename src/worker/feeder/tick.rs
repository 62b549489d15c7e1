//! A tick: a new snapshot (or that of a verification), what it sees and the last one did not, and answers to the messages that came. How soon the next
//! one may be.
//!
//! Everything that clients are told is true of the snapshot of the tick that tells it. Main thread of its own process.

use super::Feeder;
use super::gathered::{Changes, Gathered};
use super::link::LinkError;
use super::pending::Pending;
use crate::access::drift;
use crate::changelog::{self, reader::Change};
use crate::worker::process;
use crate::{attempt, guc, snapshot};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use rte_core::{Snapshot, Xid};
use rte_protocol::bridge::{FromFeeder, ToFeeder};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A tick is followed by a pause of at least this many times its own length, where more commits come.
const REST: u32 = 3;
/// Commits per second up to which that is the whole pause.
const CALM: f64 = 1000.0;
/// Further pause per commit per second: at 10,000 a second 5 ms. Each tick costs feeder and gateway some 130 µs, whatever
/// is in it; so under load ticks grow, and writers keep the processor.
const PAUSE: f64 = 0.5e-6;

/// Snapshots that a tick takes at most until its rows and the rights to them are of one moment.
const LOOKS: usize = 8;

/// What follows a tick.
pub(super) enum After {
    GoOn,
    /// A change of this table could not be encoded.
    StartOver(Oid),
    /// The extension is gone.
    Stop,
}

impl Feeder {
    /// A tick, in which a value that cannot be shown costs its table, not the feeder. Any other error ends the
    /// process, which is started again.
    #[allow(clippy::result_large_err, reason = "pgrx's type of error")]
    pub(super) fn guarded_tick(&mut self, messages: &mut Vec<ToFeeder>, in_use: bool) -> After {
        self.encoding = None;
        self.evaluating = None;
        let this = std::panic::AssertUnwindSafe((&mut *self, messages));
        let outcome: Result<bool, CaughtError> = PgTryBuilder::new(move || {
            let std::panic::AssertUnwindSafe((this, messages)) = { this };
            Ok(this.tick(messages, in_use))
        })
        .catch_others(Err)
        .execute();
        match (outcome, self.encoding) {
            (Ok(true), _) => After::GoOn,
            (Ok(false), _) => After::Stop,
            (Err(error), Some(table)) => {
                // SAFETY: ends the failed transaction.
                unsafe { pg_sys::AbortCurrentTransaction() };
                pgrx::warning!(
                    "whagons_rte stops serving table {}: a change of it cannot be encoded: {}",
                    table.to_u32(),
                    attempt::report(&error).message()
                );
                After::StartOver(table)
            }
            (Err(error), None) => error.rethrow(),
        }
    }

    /// Forgets everything that a failed tick may have left half done; clients come back with their cursors.
    pub(super) fn start_over(&mut self) {
        self.disconnect(&LinkError::Gone);
        self.pending = Pending::default();
        self.unanswered.clear();
        self.last = process::transaction(|s| {
            // SAFETY: `s` is active.
            unsafe { snapshot::copy(s) }
        });
        self.history.restart(self.last.clone());
        self.registry.invalidate();
    }

    /// One tick, and answers to the messages that came. `false`: the extension is gone.
    fn tick(&mut self, messages: &mut Vec<ToFeeder>, in_use: bool) -> bool {
        let began = Instant::now();
        let adopted = self.begin_tick();
        // Before the snapshot: a commit after this sets it again. One that was adopted was taken before, so another tick
        // follows for what has come since.
        if adopted.is_none() {
            self.slot.get().pending.store(false, Ordering::SeqCst);
        }
        let mut commits = 0;
        process::finish(|_| {
            if changelog::schema_oid() != self.schema {
                return false;
            }
            let mut told = false;
            for look in 0..LOOKS {
                let first = if look == 0 { adopted.as_ref() } else { None };
                let (now, changes) = self.look(in_use, first.is_some());
                commits += count_commits(&changes.all);
                // First, so that nobody gets a change who may not any more.
                self.expire();
                self.recheck_roles();
                told |= self.deliver(now, changes, in_use);
                if self.unanswered.is_empty() {
                    break;
                }
            }
            told |= self.give_up_unanswered();
            let verified = adopted.as_ref().filter(|adopted| self.announce(adopted));
            if told || verified.is_some() {
                self.commit();
            }
            if let Some(verified) = verified {
                self.send(&FromFeeder::Adopted { job: verified.job() }, &[]);
            }
            let mut resuming = Vec::new();
            // What has come since an adopted snapshot was taken may be about what it does not see: that is for the next tick.
            let timely = if adopted.is_none() { messages.len() } else { 0 };
            if timely > 0 {
                self.refresh_registry();
            }
            for message in messages.drain(..timely) {
                self.handle(message, &mut resuming);
            }
            if !resuming.is_empty() {
                // SAFETY: active, and that of this tick.
                unsafe { self.resume(resuming, pg_sys::GetActiveSnapshot()) };
            }
            self.order_postponed(Instant::now());
            if self.commit_due {
                self.commit();
            }
            true
        }) && {
            self.ask_for_gaps();
            self.note_roles();
            self.rest(began, commits);
            true
        }
    }

    /// Takes a snapshot that is as new as what this process knows of access, and reads the changes up to it. The first is
    /// the transaction's own where that was `adopted`: what was heard of access was looked at before.
    fn look(&mut self, in_use: bool, adopted: bool) -> (Snapshot, Changes) {
        let (mut last, mut gathered) = (self.last.clone(), Gathered::new(guc::max_tick_bytes()));
        for look in 0..LOOKS {
            let adopted = adopted && look == 0;
            if !adopted {
                drift::begin();
            }
            // SAFETY: the snapshot is active until the next one is, or the transaction ends.
            let now = unsafe {
                let active = if adopted { pg_sys::GetActiveSnapshot() } else { process::newer_snapshot() };
                let now = snapshot::copy(active);
                self.pending.read(self.slot, &last, &now, active, in_use.then_some(&mut gathered));
                now
            };
            self.decode(&last, &now, in_use.then_some(&mut gathered));
            if in_use {
                hear_of_all(gathered.transactions());
            }
            last = now;
            if !in_use || !drift::of_tables(|table| self.shapes.depend_on(table)) {
                break;
            }
        }
        (last, gathered.into())
    }

    /// Decides when the next tick may be: at once where commits are few, later the more there are.
    fn rest(&mut self, began: Instant, commits: usize) {
        let since = began.duration_since(self.ticked_at).as_secs_f64().max(1e-5);
        self.ticked_at = began;
        self.rate = (self.rate + commits as f64 / since) / 2.0;
        if commits == 0 {
            self.tick_at = Instant::now();
            return;
        }
        let pause = Duration::from_secs_f64((self.rate - CALM).max(0.0) * PAUSE);
        let rest = (began.elapsed() * REST).max(pause).min(Duration::from_micros(guc::max_tick_interval_us()));
        self.tick_at = Instant::now() + rest;
        if !pause.is_zero() {
            // There will be a tick after the pause in any case: nobody needs to wake us for it.
            self.slot.get().pending.store(true, Ordering::SeqCst);
        }
    }
}

/// Transactions among changes that are in no order but lie together.
fn count_commits(changes: &[Change]) -> usize {
    let mut count = 0;
    let mut last = None;
    for change in changes {
        if last != Some(change.xid) {
            count += 1;
            last = Some(change.xid);
        }
    }
    count
}

/// Waits until these transactions have told everybody what else they changed, memberships of roles for one:
/// they do so after snapshots see them and before they release the lock on their own id. A matter of microseconds.
fn hear_of_all(transactions: &[Xid]) {
    for xid in transactions {
        // SAFETY: in a transaction; the other has ended for snapshots.
        unsafe {
            let xid = pg_sys::TransactionId::from(*xid as u32);
            pg_sys::XactLockTableWait(xid, std::ptr::null_mut(), std::ptr::null_mut(), pg_sys::XLTW_Oper::XLTW_None);
        }
    }
    // SAFETY: in a transaction.
    unsafe { pg_sys::AcceptInvalidationMessages() };
}

/// Makes sure that the commits of these changes are on disk: with asynchronous commit they can be seen
/// before.
pub fn flush(changes: &Changes) {
    if changes.coarse {
        // Not all of their transactions are named.
        return snapshot::flush_what_is_visible();
    }
    let mut last = 0;
    let mut xids: Vec<Xid> = changes.all.iter().map(|c| c.xid).collect();
    xids.sort_unstable();
    xids.dedup();
    for xid in xids {
        // SAFETY: the transaction has committed lately: its status is still there.
        last = last.max(unsafe { pg_sys::TransactionIdGetCommitLSN(pg_sys::TransactionId::from(xid as u32)) });
    }
    if last != 0 {
        // SAFETY: a position that was written by a commit.
        unsafe { pg_sys::XLogFlush(last) };
    }
}
