//! Capture from the WAL in the feeder: what a tick takes of what was decoded, and how that gets into the change log.
//!
//! Decides when to append and when the slot is told; how the WAL is read is `crate::wal`'s. Invariants: what was decoded is
//! kept, in the order of commits, until it is in the log; a transaction is in the log as a whole, and the position that is
//! written down with it is the end of the last one of which everything before is. A tick gives out each transaction that its
//! snapshot sees and the last one did not, once. Main thread of its own process.

use super::gathered::{self, Gathered};
use super::{Feeder, switch};
use crate::changelog::reader::Change;
use crate::changelog::{self, for_each_row};
use crate::local::Local;
use crate::wal::{Decoder, Transaction, position};
use crate::worker::process;
use crate::{attempt, capture, guc, shmem, snapshot};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use rte_core::Snapshot;
use std::collections::VecDeque;
use std::ffi::CStr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub use crate::wal::Lost;

/// What was decoded is appended to the log when it is older than this, or takes more bytes: what the log lacks is decoded
/// again after a crash, and is kept in memory until then.
const AGE: Duration = Duration::from_secs(1);
const BYTES: usize = 1 << 20;
/// Bytes of changes that one transaction appends, if it has more than one to append.
const BATCH: usize = 8 << 20;
/// Longest wait for a lock on a table of the log: less than `deadlock_timeout` is as a rule.
const LOCK: &CStr = c"200ms";
/// WAL behind which the slot is told of progress, where nothing was to be appended.
const IDLE: u64 = 1 << 20;

/// A transaction that is not in the log yet.
struct Decoded {
    transaction: Transaction,
    /// A snapshot of ours sees it: it was delivered, where anybody was there.
    seen: bool,
}

/// An open slot, with all that was decoded and is not in the change log yet.
pub struct Wal {
    name: String,
    decoder: Decoder,
    /// In the order of commits.
    decoded: VecDeque<Decoded>,
    bytes: usize,
    /// Since when there is something to append.
    since: Option<Instant>,
    /// A table of the log was locked: until when nothing is appended.
    held_up: Option<Instant>,
    /// The tables that are registered may be others than the decoder knows.
    registered_anew: bool,
    /// An append whose commit is not known to be on disk, and the position that it wrote down.
    on_its_way: Option<(u64, u64)>,
    told_at: Instant,
    /// Where it was last written to the WAL which transactions run.
    noted: u64,
}

impl Wal {
    /// Acquires the slot for this process and begins to decode where the log ends. Outside a transaction.
    ///
    /// # Errors
    /// It cannot be read.
    #[allow(clippy::result_large_err, reason = "pgrx's type of error")]
    pub fn open(name: &str) -> Result<Self, Lost> {
        let opened = process::try_transaction(|_| {
            // Before any change of this start gets into the log, or to a client who comes back.
            capture::record_start();
            // SAFETY: in a transaction.
            unsafe { Decoder::open(name) }
        });
        let decoder = opened.unwrap_or_else(|error| Err(given_up(&error)))?;
        let now = Instant::now();
        Ok(Self {
            name: name.to_owned(),
            decoder,
            decoded: VecDeque::new(),
            bytes: 0,
            since: None,
            held_up: None,
            registered_anew: true,
            on_its_way: None,
            told_at: now,
            noted: 0,
        })
    }

    /// Whether everything that was decoded is in the log, on disk.
    pub fn is_settled(&self) -> bool {
        self.decoded.is_empty() && self.on_its_way.is_none()
    }

    /// Bytes of WAL that the server keeps for the slot.
    pub fn lag(&self) -> u64 {
        self.decoder.lag()
    }

    /// Gives the slot up, and drops it where it is to be dropped. Outside a transaction.
    pub fn close(self, drop: bool) {
        if let Some(slot) = shmem::own_database_if_any() {
            slot.get().wal.store(false, Ordering::SeqCst);
        }
        process::transaction(|_| self.decoder.close());
        if drop {
            // One that cannot be dropped now is met again, and dropped then.
            let _ = switch::drop_slot(&self.name);
        }
    }

    /// Tables were registered, or switched to this way of capture.
    pub(super) fn read_tables_anew(&mut self) {
        self.registered_anew = true;
    }

    /// Decodes past every commit that `after` sees, and gathers the changes of those that `before` did not see. In a
    /// transaction.
    fn take(&mut self, before: &Snapshot, after: &Snapshot, wanted: Option<&mut Gathered>) -> Result<(), Lost> {
        self.decode(position::behind(before, after), usize::MAX)?;
        self.see(before, after, wanted);
        Ok(())
    }

    /// Tells whether it came to the target.
    fn decode(&mut self, target: u64, limit: usize) -> Result<bool, Lost> {
        if std::mem::take(&mut self.registered_anew) {
            let mut roots = std::collections::HashSet::new();
            for_each_row("registered_table", |values, _| {
                roots.insert(Oid::from(values[0].value() as u32));
            });
            self.decoder.set_roots(roots);
        }
        let came = self.decoder.decode_to(target, limit, process::exit_if_asked)?;
        for transaction in self.decoder.take() {
            self.bytes += transaction.bytes;
            self.decoded.push_back(Decoded { transaction, seen: false });
        }
        Ok(came)
    }

    /// Marks what `after` sees as seen, and gathers the changes of what `before` did not see.
    fn see(&mut self, before: &Snapshot, after: &Snapshot, mut wanted: Option<&mut Gathered>) {
        for decoded in self.decoded.iter_mut().filter(|d| !d.seen && after.sees(d.transaction.xid)) {
            decoded.seen = true;
            self.since.get_or_insert_with(Instant::now);
            if let Some(gathered) = wanted.as_deref_mut()
                && !before.sees(decoded.transaction.xid)
            {
                decoded.transaction.changes.iter().for_each(|change| gathered::take_copy(gathered, change));
            }
        }
    }

    /// What the log lacks of what was delivered.
    pub(super) fn unlogged(&self) -> impl Iterator<Item = &Change> {
        self.decoded.iter().filter(|d| d.seen).flat_map(|d| &d.transaction.changes)
    }

    /// When something is to be appended. The slot is told with other work, at the latest when the feeder looks by itself.
    pub(super) fn next(&self) -> Option<Instant> {
        self.since.map(|since| since + AGE)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| self.bytes > BYTES || now >= since + AGE)
            && self.held_up.is_none_or(|until| now >= until)
    }

    /// Appends what comes first; `false` where nothing is to be appended. Outside a transaction.
    fn append(&mut self) -> bool {
        let (mut count, mut bytes) = (0_usize, 0);
        for decoded in self.decoded.iter().take_while(|d| d.seen) {
            if count > 0 && bytes + decoded.transaction.bytes > BATCH {
                break;
            }
            count += 1;
            bytes += decoded.transaction.bytes;
        }
        let Some(end) = count.checked_sub(1).map(|last| self.decoded[last].transaction.end) else {
            self.since = None;
            return false;
        };
        let appended = process::try_transaction(|_| {
            // The settings hold until the transaction ends.
            let local = Local::begin();
            // Nobody waits for it: the slot is told once it is on disk.
            local.set(c"synchronous_commit", c"off");
            // Who drops the extension, or dumps it, has its tables one after the other, as we do: whoever waits for the other is not
            // to find out by a deadlock.
            local.set(c"lock_timeout", LOCK);
            let transactions = self.decoded.iter().take(count).map(|d| &d.transaction);
            capture::append_decoded(transactions.flat_map(|t| t.changes.iter().map(|change| (t.at, change))));
            position::record(&self.name, end);
        });
        if let Err(error) = appended {
            if attempt::report(&error).sql_error_code() != PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE {
                error.rethrow();
            }
            // It is kept, and tried again.
            let now = Instant::now();
            (self.since, self.held_up) = (Some(now), Some(now + AGE));
            return false;
        }
        // SAFETY: a plain read: the end of the commit just made.
        let commit = unsafe { pg_sys::XactLastCommitEnd };
        self.on_its_way = Some((commit, end));
        self.decoded.drain(..count);
        self.bytes -= bytes;
        if self.decoded.front().is_none_or(|d| !d.seen) {
            self.since = None;
        }
        true
    }

    /// Tells the slot what it may forget.
    fn tell(&mut self, now: Instant) {
        if let Some((commit, end)) = self.on_its_way {
            if position::flushed() < commit {
                return;
            }
            self.on_its_way = None;
            self.confirm(end, now);
        }
        let position = self.decoder.position();
        let behind = position.saturating_sub(self.decoder.confirmed());
        if self.decoded.is_empty() && behind > 0 && (behind > IDLE || now >= self.told_at + AGE) {
            self.confirm(position, now);
        }
    }

    /// Has the WAL say which transactions run, where the slot holds back much: with transactions at any time, it lets go of what lies
    /// before the last but one of such notes.
    fn hold_back_less(&mut self) {
        let (most, position) = (guc::max_slot_lag_bytes(), position::flushed());
        if self.lag() > most / 8 && position > self.noted + most / 32 {
            self.noted = position;
            switch::note_running_transactions();
        }
    }

    fn confirm(&mut self, position: u64, now: Instant) {
        self.decoder.confirm(position);
        self.told_at = now;
    }
}

/// Why a slot could not be read; gives back what the end of the failed transaction did not.
fn given_up(error: &CaughtError) -> Lost {
    switch::give_back_slot();
    let report = attempt::report(error);
    match report.sql_error_code() {
        PgSqlErrorCode::ERRCODE_OBJECT_IN_USE => Lost::Busy,
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT => Lost::Missing,
        _ => Lost::Unreadable(report.message().to_owned()),
    }
}

impl Feeder {
    /// Begins with a slot that was opened: brings what was committed while nobody decoded into the log, a part at a time, for it
    /// may be much. Where somebody is connected, all that is new to the last tick is the next tick's.
    #[allow(clippy::result_large_err, reason = "pgrx's type of error")]
    pub(super) fn begin_wal(&mut self) {
        self.slot.get().wal.store(true, Ordering::SeqCst);
        while self.sessions.is_empty() {
            let Some(wal) = &mut self.wal else { return };
            let decoded: Result<Result<(Snapshot, bool), Lost>, CaughtError> = process::try_transaction(|s| {
                // SAFETY: `s` is active.
                let now = unsafe { snapshot::copy(s) };
                let came = wal.decode(position::flushed(), BYTES)?;
                wal.see(&now, &now, None);
                Ok((now, came))
            });
            match decoded.unwrap_or_else(|error| Err(given_up(&error))) {
                Ok((now, came)) => {
                    // Nobody is owed anything that was committed before this.
                    self.history.restart(now.clone());
                    self.last = now;
                    if came {
                        return;
                    }
                    self.append_decoded();
                }
                Err(lost) => {
                    pgrx::warning!("whagons_rte cannot read the WAL of database \"{}\" any more: {lost}", self.name);
                    self.wal_lost = Some(lost);
                    return;
                }
            }
        }
    }

    /// Gathers the changes of a tick that are captured from the WAL. In a transaction.
    pub(super) fn decode(&mut self, before: &Snapshot, after: &Snapshot, wanted: Option<&mut Gathered>) {
        let Some(wal) = &mut self.wal else { return };
        // Nothing may be told that lacks changes. The next feeder meets the same, before it serves anybody.
        wal.take(before, after, wanted).unwrap_or_else(|lost| pgrx::error!("{lost}"));
    }

    /// Appends what was decoded to the log where it is time, and tells the slot. Outside a transaction.
    pub(super) fn tend_wal(&mut self, now: Instant) {
        if self.wal.as_ref().is_some_and(|wal| wal.is_due(now)) {
            self.append_decoded();
        }
        if let Some(wal) = &mut self.wal {
            wal.tell(now);
            wal.hold_back_less();
        }
    }

    fn append_decoded(&mut self) {
        if !process::transaction(|_| changelog::relation_oid("wal_position").is_some()) {
            // The extension was dropped: the next tick sees that.
            return;
        }
        while self.wal.as_mut().is_some_and(Wal::append) {
            // What was just written may have filled a segment: before the next, there is to be another.
            if self.slot.get().rotate.swap(false, Ordering::AcqRel) {
                self.upkeep_at = self.upkeep(Instant::now());
            }
        }
    }

    /// Brings everything that was decoded and seen into the log, so that [`Wal::is_settled`] holds where nothing is about to
    /// become visible. Outside a transaction.
    pub(super) fn settle_wal(&mut self) {
        self.append_decoded();
        if let Some(wal) = &mut self.wal {
            if let Some((commit, _)) = wal.on_its_way {
                // SAFETY: the end of a commit of ours.
                unsafe { pg_sys::XLogFlush(commit) };
            }
            let now = Instant::now();
            wal.tell(now);
            let position = wal.decoder.position();
            if wal.is_settled() && position > wal.decoder.confirmed() {
                wal.confirm(position, now);
            }
        }
    }
}
