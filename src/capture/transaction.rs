//! What a backend remembers of its transaction: where its rows lie in the log, and whether a feeder
//! must be told.
//!
//! Invariants: rows are announced before the transaction can be seen (at pre-commit or pre-prepare, or at once
//! after that); the feeder is woken only after it can be seen and holds no lock that the feeder may ask for. Main thread
//! only.

use super::relation;
use crate::changelog::reader::Change;
use crate::changelog::{self, Bytea, Op, Row, segments};
use crate::scratch::Scratch;
use crate::shmem::{self, Range, Slot};
use crate::snapshot;
use pgrx::pg_sys::{self, Oid};
use std::cell::{Cell, RefCell};

/// Blocks between two ranges that are still worth reading to keep them one.
const GAP: u32 = 64;
/// Bytes that a transaction writes between looks at the size of the segment.
const LOOK: usize = 64 * 1024;
/// Bytes of a row of the log without its images.
const ROW: usize = 100;
/// Ranges that a transaction keeps before it announces them.
const RANGES: usize = shmem::RANGES;

#[derive(Default)]
struct Transaction {
    /// Full top-level id; zero: nothing was captured.
    xid: u64,
    at: i64,
    seq: u32,
    slot: Option<Slot>,
    ranges: Vec<Range>,
    /// Set once the commit has begun: what comes now is announced at once.
    announced: bool,
    wrote_start: bool,
    /// What it wrote has been delivered: nobody needs to be woken.
    delivered: bool,
    /// Epoch in which a gap was written by this transaction.
    wrote_gap: Option<u32>,
    /// Tables that policies read and that this transaction has marked as changed.
    marked: Vec<Oid>,
    /// Whether it redefined a table.
    redefined: bool,
}

/// How to wake a feeder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wake {
    /// Where it has not been woken already and somebody is interested.
    ForChanges,
    Always,
}

/// What a backend knows of the log, beyond a transaction.
struct Log {
    oids: [Option<Oid>; shmem::SEGMENTS],
    /// Bytes written since the last look at the current segment's size.
    unlooked: usize,
    /// Whether the segment was found to be far past its size; looked at each time while it is.
    full: bool,
}

thread_local! {
    static CURRENT: RefCell<Transaction> = RefCell::new(Transaction::default());
    static LOG: RefCell<Log> = const { RefCell::new(Log { oids: [None; shmem::SEGMENTS], unlooked: 0, full: false }) };
    /// Who is to be woken when the transaction has released its locks.
    static TO_WAKE: Cell<Option<(Slot, Wake)>> = const { Cell::new(None) };
    /// Epoch in which this backend has committed a gap.
    static GAP_MARKED: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Registers the callbacks of this process. Called once, when the library is loaded.
pub fn register_callbacks() {
    // SAFETY: the functions have the right types and live as long as the process.
    unsafe {
        pg_sys::RegisterXactCallback(Some(on_transaction), std::ptr::null_mut());
        pg_sys::RegisterResourceReleaseCallback(Some(on_release), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(on_subtransaction), std::ptr::null_mut());
        pg_sys::CacheRegisterRelcacheCallback(Some(on_relcache), pg_sys::Datum::from(0));
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_relcache(_arg: pg_sys::Datum, relation: Oid) {
    relation::forget(relation);
    LOG.with_borrow_mut(|log| {
        if relation == Oid::INVALID || log.oids.contains(&Some(relation)) {
            log.oids = [None; shmem::SEGMENTS];
        }
    });
}

/// What a subtransaction wrote goes with it. Which of our records it wrote is not known: they are written again, which
/// does no harm.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    _own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut std::ffi::c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        // An error raised while a change is appended comes here with the state borrowed; the whole statement is lost then.
        CURRENT.with(|t| {
            if let Ok(mut t) = t.try_borrow_mut() {
                t.wrote_start = false;
                t.wrote_gap = None;
                t.marked.clear();
            }
        });
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_transaction(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE, XACT_EVENT_PREPARE,
    };
    match event {
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE => note_xid(),
        XACT_EVENT_COMMIT => {
            // One that got its id last of all.
            note_xid();
            wake_decoder();
        }
        _ => {}
    }
    CURRENT.with_borrow_mut(|t| {
        if t.xid == 0 {
            return;
        }
        match event {
            XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE => t.announce(),
            XACT_EVENT_COMMIT => {
                if let Some(slot) = t.slot {
                    if t.wrote_start {
                        slot.get().start_recorded.store(true, std::sync::atomic::Ordering::Release);
                    }
                    if !t.delivered || t.wrote_gap.is_some() {
                        wake_later(slot, Wake::ForChanges);
                    }
                    if t.redefined {
                        slot.get().redefined.store(true, std::sync::atomic::Ordering::Release);
                        if slot.get().has_feeder() {
                            wake_later(slot, Wake::Always);
                        }
                    }
                }
                if t.wrote_gap.is_some() {
                    GAP_MARKED.set(t.wrote_gap);
                }
                *t = Transaction::default();
            }
            // A prepared transaction wakes nobody when it commits: the feeder's poll finds it.
            XACT_EVENT_ABORT | XACT_EVENT_PREPARE => *t = Transaction::default(),
            _ => {}
        }
    });
}

/// A transaction that may commit: before anybody can see that it did.
fn note_xid() {
    // SAFETY: a plain read.
    let xid = unsafe { pg_sys::GetTopFullTransactionIdIfAny().value };
    if xid != 0 && shmem::available() {
        shmem::note_first_xid(xid);
    }
}

/// Where the WAL is decoded, any commit may have changed a table. The feeder's own wakes it for its markers only.
fn wake_decoder() {
    // SAFETY: a plain read.
    let changed = unsafe { pg_sys::GetTopTransactionIdIfAny() } != pg_sys::InvalidTransactionId;
    if changed
        && let Some(slot) = shmem::own_database_if_any()
        && slot.get().wal.load(std::sync::atomic::Ordering::Relaxed)
        && !slot.is_fed_by_this_process()
    {
        wake_later(slot, Wake::ForChanges);
    }
}

fn wake_later(slot: Slot, wake: Wake) {
    let always = wake == Wake::Always || TO_WAKE.get().is_some_and(|(_, known)| known == Wake::Always);
    TO_WAKE.set(Some((slot, if always { Wake::Always } else { Wake::ForChanges })));
}

/// A transaction that can be seen gives back what it holds. A tick waits for the lock on its id: who was woken before would
/// take the processor from it, only to sleep again.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_release(
    phase: pg_sys::ResourceReleasePhase::Type,
    _is_commit: bool,
    _is_top_level: bool,
    _arg: *mut std::ffi::c_void,
) {
    if phase == pg_sys::ResourceReleasePhase::RESOURCE_RELEASE_AFTER_LOCKS
        && let Some((slot, wake)) = TO_WAKE.take()
    {
        match wake {
            Wake::ForChanges => slot.wake(),
            Wake::Always => slot.wake_always(),
        }
    }
}

/// Appends a change of `relation` to the log.
#[allow(clippy::too_many_arguments, reason = "the columns of a row")]
pub fn append(
    relation: Oid,
    fingerprint: i64,
    op: Op,
    cid: u32,
    new_row: Option<&Bytea>,
    old_row: Option<&Bytea>,
    mask: Option<&Bytea>,
) {
    CURRENT.with_borrow_mut(|t| {
        t.begin();
        t.append(relation, fingerprint, op, cid, [new_row, old_row, mask]);
    });
}

/// Appends a marker (`Redefined`, `Access`): something about `relation` changed that is not a row.
pub fn mark(relation: Oid, op: Op) {
    // SAFETY: in a transaction, as every caller is.
    let cid = unsafe { pg_sys::GetCurrentCommandId(true) };
    append(relation, 0, op, cid, None, None, None);
    if op == Op::Redefined {
        CURRENT.with_borrow_mut(|t| t.redefined = true);
    }
}

/// Marks, once in a transaction, that a table was changed which policies read.
pub fn mark_read(relation: Oid) {
    let marked = CURRENT.with_borrow(|t| t.xid != 0 && t.marked.contains(&relation));
    // Whoever may create triggers can put ours on any table of theirs.
    if marked || !relation::is_policy_table(relation) {
        return;
    }
    CURRENT.with_borrow_mut(|t| {
        t.begin();
        // SAFETY: in a transaction.
        let cid = unsafe { pg_sys::GetCurrentCommandId(true) };
        t.append(relation, 0, Op::Read, cid, [None; 3]);
        t.marked.push(relation);
    });
}

/// Writes this start of the server down, where that was not done yet. In a transaction.
pub fn record_start() {
    CURRENT.with_borrow_mut(Transaction::begin);
}

/// Appends what a feeder has decoded and delivered, with the time of its commit: nobody is told. `false`: it found no room,
/// and the log says so. In a transaction.
pub fn append_decoded<'a>(changes: impl Iterator<Item = (i64, &'a Change)>) -> bool {
    CURRENT.with_borrow_mut(|t| {
        t.begin();
        t.delivered = true;
        t.append_all(changes)
    })
}

impl Transaction {
    fn begin(&mut self) {
        // SAFETY: in a transaction on the main thread.
        unsafe {
            if self.xid == 0 {
                self.xid = pg_sys::GetTopFullTransactionId().value;
                self.at = pg_sys::GetCurrentTransactionStartTimestamp();
                self.slot = shmem::available().then(shmem::own_database).flatten();
            }
        }
        if let Some(slot) = self.slot
            && !self.wrote_start
            && !slot.get().start_recorded.load(std::sync::atomic::Ordering::Acquire)
        {
            segments::record_start();
            self.wrote_start = true;
        }
    }

    fn append(&mut self, relation: Oid, fingerprint: i64, op: Op, cid: u32, images: [Option<&Bytea>; 3]) {
        let Some((segment, oid)) = self.current_segment() else { return };
        let bytes = ROW + images.iter().flatten().map(|i| i.size()).sum::<usize>();
        let full = self.slot.is_none() || self.is_full(segment, oid, bytes);
        let (relation, fingerprint, op, images) = if full {
            if !self.gap_is_due() {
                return;
            }
            (Oid::INVALID, 0, Op::Gap, [None; 3])
        } else {
            (relation, fingerprint, op, images)
        };
        let row = Row {
            xid: self.xid,
            // End of this backend's last WAL record: after every commit that this change had to wait for.
            // SAFETY: a plain read.
            lsn: unsafe { pg_sys::XactLastRecEnd },
            at: self.at,
            fingerprint,
            cid,
            seq: self.seq,
            relation,
            // SAFETY: a plain read.
            role: unsafe { pg_sys::GetUserId() },
            op,
            new_row: images[0],
            old_row: images[1],
            mask: images[2],
        };
        self.seq += 1;
        // SAFETY: the segment is opened with the lock that `append` wants, which is kept until the end of
        // the transaction and so holds off the truncation of the segment.
        let block = unsafe {
            let segment = pg_sys::table_open(oid, pg_sys::RowExclusiveLock as i32);
            let block = changelog::append(segment, &row);
            pg_sys::table_close(segment, pg_sys::NoLock as i32);
            block
        };
        self.note(Range { segment: segment as u32, first: block, last: block });
    }

    fn append_all<'a>(&mut self, changes: impl Iterator<Item = (i64, &'a Change)>) -> bool {
        let (mut scratch, mut unfreed) = (Scratch::new(), 0);
        for (at, change) in changes {
            let Some((segment, oid)) = self.current_segment() else { return true };
            if self.is_full(segment, oid, ROW + change.size()) {
                if self.gap_is_due() {
                    self.append(Oid::INVALID, 0, Op::Gap, 0, [None; 3]);
                }
                return false;
            }
            let images = [&change.new_row, &change.old_row, &change.mask];
            let images = images.map(|image| (!image.is_empty()).then(|| Bytea::new(image)));
            let row = Row {
                xid: change.xid,
                lsn: change.lsn,
                at,
                fingerprint: change.fingerprint,
                cid: change.cid,
                seq: change.seq,
                relation: change.relation,
                role: Oid::INVALID,
                op: change.op,
                new_row: images[0].as_ref(),
                old_row: images[1].as_ref(),
                mask: images[2].as_ref(),
            };
            // SAFETY: as in `append`.
            scratch.with(|| unsafe {
                let segment = pg_sys::table_open(oid, pg_sys::RowExclusiveLock as i32);
                changelog::append(segment, &row);
                pg_sys::table_close(segment, pg_sys::NoLock as i32);
            });
            unfreed += change.size();
            if unfreed > LOOK {
                unfreed = 0;
                scratch.reset();
            }
        }
        true
    }

    /// The feeder rotates; it need not wait for our commit to do so.
    fn ask_for_rotation(&self) {
        if let Some(slot) = self.slot
            && !slot.get().rotate.swap(true, std::sync::atomic::Ordering::AcqRel)
        {
            slot.wake_always();
        }
    }

    /// Looks at the size of the segment now and then, and goes on in a spare one where it is full: the next row finds it.
    /// `true`: it is so far past its size that nothing is written to it.
    fn is_full(&self, segment: usize, oid: Oid, bytes: usize) -> bool {
        let due = LOG.with_borrow_mut(|log| {
            log.unlooked += bytes;
            log.full || log.unlooked > LOOK
        });
        if !due {
            return false;
        }
        // Not under the borrow: opening a relation may call `on_relcache`.
        let size = segments::size_bytes(oid);
        let full = size > segments::hard_limit();
        LOG.with_borrow_mut(|log| (log.unlooked, log.full) = (0, full));
        if size > segments::soft_limit() {
            if let Some(slot) = self.slot {
                slot.advance(segment);
            }
            self.ask_for_rotation();
        }
        full
    }

    fn current_segment(&mut self) -> Option<(usize, Oid)> {
        let segment = match self.slot.and_then(Slot::segment) {
            Some(segment) => segment,
            None => {
                let segment = segments::newest()?;
                if let Some(slot) = self.slot {
                    slot.set_segment(segment);
                }
                segment
            }
        };
        let known = LOG.with_borrow(|log| log.oids[segment]);
        let oid = match known {
            Some(oid) => oid,
            None => {
                let oid = changelog::segment_oid(segment)?;
                LOG.with_borrow_mut(|log| log.oids[segment] = Some(oid));
                oid
            }
        };
        Some((segment, oid))
    }

    /// Whether the log must be told that changes are missing from it. With a feeder at work every
    /// transaction tells; without one, once per backend is enough, because a feeder that starts asks for the rest.
    fn gap_is_due(&mut self) -> bool {
        let epoch = match self.slot {
            Some(slot) => {
                let database = slot.get();
                // In one order with the feeder's arrival: either it sees the gap, or we see it.
                database.gap.store(true, std::sync::atomic::Ordering::SeqCst);
                let epoch = database.epoch.load(std::sync::atomic::Ordering::Acquire);
                if database.has_feeder() {
                    let due = self.wrote_gap.is_none();
                    self.wrote_gap = Some(epoch);
                    return due;
                }
                epoch
            }
            None => 0,
        };
        let due = self.wrote_gap.is_none() && GAP_MARKED.get() != Some(epoch);
        if due {
            self.wrote_gap = Some(epoch);
        }
        due
    }

    /// Remembers where a row went.
    fn note(&mut self, range: Range) {
        let near = |r: &&mut Range| {
            r.segment == range.segment
                && range.first <= r.last.saturating_add(GAP)
                && r.first <= range.first.saturating_add(GAP)
        };
        if let Some(r) = self.ranges.iter_mut().find(near) {
            r.first = r.first.min(range.first);
            r.last = r.last.max(range.last);
        } else {
            if self.ranges.len() == RANGES {
                self.announce_now();
            }
            self.ranges.push(range);
        }
        if self.announced {
            self.announce_now();
        }
    }

    fn announce(&mut self) {
        self.announced = true;
        self.announce_now();
    }

    fn announce_now(&mut self) {
        if let Some(slot) = self.slot
            && !self.ranges.is_empty()
        {
            slot.announce(self.xid, &self.ranges);
        }
        self.ranges.clear();
    }
}

/// The oldest transaction that may still write and has begun since the server's start.
///
/// Transactions that were prepared before the start are older than it, and a boundary below it would not do: of two
/// changes of a row, a cursor that is clamped there could get the earlier one again and not the later.
pub fn oldest_running() -> u64 {
    let next = snapshot::next_xid();
    // Before the snapshot: one that is committed in between is in neither, and what is prepared later began after the start.
    let prepared: Vec<u64> = pgrx::Spi::connect(|client| {
        let rows = client.select(
            "SELECT transaction::pg_catalog.text AS xid FROM pg_catalog.pg_prepared_xact()",
            None,
            &[],
        )?;
        rows.filter_map(|row| row["xid"].value::<String>().transpose())
            .map(|xid| xid.map(|xid| xid.parse::<u32>().map_or(0, |xid| snapshot::full_xid(xid.into(), next))))
            .collect::<Result<Vec<u64>, pgrx::spi::Error>>()
    })
    .unwrap_or_else(|e| pgrx::error!("could not read the prepared transactions: {e}"));
    // SAFETY: the snapshot is read at once; in a transaction that has an id.
    let (now, own) = unsafe {
        let snapshot = snapshot::copy(pg_sys::GetLatestSnapshot());
        (snapshot, pg_sys::GetTopFullTransactionId().value)
    };
    let running = now.in_progress().iter().filter(|xid| !prepared.contains(xid)).min();
    // After the snapshot: what it does not list as running and is older has begun to commit, where it began after the start.
    own.min(now.xmax()).min(running.copied().unwrap_or(u64::MAX)).min(shmem::first_xid())
}
