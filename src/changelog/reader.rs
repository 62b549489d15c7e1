//! Reads the log: all rows of given transactions, or all that a snapshot did not see.
//!
//! Invariant: what is returned is what the given Postgres snapshot sees, so rows of aborted
//! (sub)transactions never come out. Main thread only, in a transaction.

use super::{Op, column, segment_oid};
use crate::shmem::{self, Range};
use pgrx::pg_sys::{self, Datum, Oid};
use rte_core::Snapshot;
use std::collections::BTreeMap;

/// A row of the log, copied.
#[derive(Debug, Clone)]
pub struct Change {
    pub xid: u64,
    pub lsn: u64,
    pub fingerprint: i64,
    pub cid: u32,
    pub seq: u32,
    pub relation: Oid,
    pub op: Op,
    pub new_row: Vec<u8>,
    pub old_row: Vec<u8>,
    pub mask: Vec<u8>,
}

impl Change {
    /// One without rows.
    pub fn marker(xid: u64, relation: Oid, op: Op) -> Self {
        let (new_row, old_row, mask) = (Vec::new(), Vec::new(), Vec::new());
        Self { xid, lsn: 0, fingerprint: 0, cid: 0, seq: 0, relation, op, new_row, old_row, mask }
    }

    /// Bytes of memory, about.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.new_row.len() + self.old_row.len() + self.mask.len()
    }
}

/// Puts changes into an order in which they can be applied: transactions as a whole, one that had to wait
/// for another behind it; within one, by command.
///
/// A transaction that waited for another has WAL records after that one's commit, and so a later last row. Within
/// a transaction versions of a row follow each other by command; triggers that change more rows may have
/// recorded them the other way round.
pub fn sort(changes: &mut [Change]) {
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    for c in changes.iter() {
        let lsn = last.entry(c.xid).or_default();
        *lsn = (*lsn).max(c.lsn);
    }
    changes.sort_by_key(|c| (last[&c.xid], c.xid, c.cid, c.seq));
}

/// Calls `keep` with the top-level id of each row in `blocks` that `snapshot` sees (or of every row, seen or
/// not, with `SnapshotAny`), and gives those that it wants to `found`, with their block.
///
/// # Safety
/// `snapshot` is valid for the time of the call.
pub unsafe fn scan(
    segment: usize,
    blocks: Option<(u32, u32)>,
    snapshot: pg_sys::Snapshot,
    mut keep: impl FnMut(u64) -> bool,
    mut found: impl FnMut(&Logged, u32),
) {
    let Some(oid) = segment_oid(segment) else { return };
    // SAFETY: relation, scan and slot are opened and closed here. The relation is a heap.
    unsafe {
        let rel = pg_sys::try_table_open(oid, pg_sys::AccessShareLock as i32);
        if rel.is_null() {
            // The extension was dropped while we waited for the lock.
            return;
        }
        let count = pg_sys::RelationGetNumberOfBlocksInFork(rel, pg_sys::ForkNumber::MAIN_FORKNUM);
        let (first, last) = blocks.unwrap_or((0, u32::MAX));
        if first < count {
            let flags = pg_sys::ScanOptions::SO_TYPE_SEQSCAN | pg_sys::ScanOptions::SO_ALLOW_PAGEMODE;
            let scan = pg_sys::heap_beginscan(rel, snapshot, 0, std::ptr::null_mut(), std::ptr::null_mut(), flags);
            pg_sys::heap_setscanlimits(scan, first, last.min(count - 1) - first + 1);
            let slot = pg_sys::MakeSingleTupleTableSlot((*rel).rd_att, &raw const pg_sys::TTSOpsBufferHeapTuple);
            while pg_sys::heap_getnextslot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot) {
                pg_sys::slot_getsomeattrs_int(slot, 1);
                let xid = (*(*slot).tts_values).value() as u64;
                if keep(xid) {
                    let block = (*slot).tts_tid.ip_blkid;
                    found(&Logged { xid, slot }, u32::from(block.bi_hi) << 16 | u32::from(block.bi_lo));
                }
            }
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            pg_sys::heap_endscan(scan);
        }
        pg_sys::table_close(rel, pg_sys::NoLock as i32);
    }
}

/// A row of the log where it lies; valid during the call that it is given to.
pub struct Logged {
    pub xid: u64,
    slot: *mut pg_sys::TupleTableSlot,
}

impl Logged {
    /// The relation and what was done to it; nothing where that is not known to this version.
    pub fn what(&self) -> Option<(Oid, Op)> {
        // SAFETY: the slot holds a row of a segment, whose descriptor is that of `column`.
        unsafe {
            pg_sys::slot_getsomeattrs_int(self.slot, column::OP as i32 + 1);
            let value = |i: usize| *(*self.slot).tts_values.add(i);
            let op = Op::from_code(value(column::OP).value() as u8)?;
            Some((Oid::from(value(column::RELATION).value() as u32), op))
        }
    }

    /// A copy of all of it.
    pub fn read(&self) -> Option<Change> {
        let (relation, op) = self.what()?;
        // SAFETY: as in `what`.
        unsafe {
            pg_sys::slot_getsomeattrs_int(self.slot, column::COUNT as i32);
            let value = |i: usize| *(*self.slot).tts_values.add(i);
            let bytes = |i: usize| if *(*self.slot).tts_isnull.add(i) { Vec::new() } else { bytes(value(i)) };
            Some(Change {
                xid: self.xid,
                lsn: value(column::LSN).value() as u64,
                fingerprint: value(column::FINGERPRINT).value() as i64,
                cid: value(column::CID).value() as u32,
                seq: value(column::SEQ).value() as u32,
                relation,
                op,
                new_row: bytes(column::NEW_ROW),
                old_row: bytes(column::OLD_ROW),
                mask: bytes(column::MASK),
            })
        }
    }
}

/// # Safety
/// `datum` is a non-null bytea.
unsafe fn bytes(datum: Datum) -> Vec<u8> {
    // SAFETY: the caller's promise; a copy that detoasting made is freed.
    unsafe {
        let stored = datum.cast_mut_ptr::<pg_sys::varlena>();
        let plain = pg_sys::pg_detoast_datum_packed(stored);
        let out = pgrx::varlena_to_byte_slice(plain).to_vec();
        if plain != stored {
            pg_sys::pfree(plain.cast());
        }
        out
    }
}

/// Merges overlapping and neighbouring ranges, by segment.
pub fn merge(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable_by_key(|r| (r.segment, r.first));
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for r in ranges {
        match merged.last_mut() {
            Some(m) if m.segment == r.segment && r.first <= m.last.saturating_add(1) => m.last = m.last.max(r.last),
            _ => merged.push(r),
        }
    }
    merged
}

/// What is known of the transactions that have rows in a segment, committed or not.
pub struct Xids {
    /// The highest id; none where the segment is empty.
    pub last: Option<u64>,
    /// Whether one is not seen by the snapshot that was asked about.
    pub unseen: bool,
}

/// Looks at the ids of all rows of a segment.
pub fn xids(segment: usize, delivered: &Snapshot) -> Xids {
    let mut xids = Xids { last: None, unseen: false };
    // SAFETY: SnapshotAny is a static of the server's; only the first column of rows is read.
    unsafe {
        scan(
            segment,
            None,
            &raw mut pg_sys::SnapshotAnyData,
            |xid| {
                xids.last = xids.last.max(Some(xid));
                xids.unseen |= !delivered.sees(xid);
                false
            },
            |_, _| {},
        );
    }
    xids
}

/// Names the file that a segment lies in; zero where there is none. The lock that is taken holds off a rewrite until
/// the end of the transaction.
pub fn file_of(segment: usize) -> u32 {
    let Some(oid) = segment_oid(segment) else { return 0 };
    // SAFETY: opened and closed here.
    unsafe {
        let rel = pg_sys::try_table_open(oid, pg_sys::AccessShareLock as i32);
        if rel.is_null() {
            return 0;
        }
        let file = (*(*rel).rd_rel).relfilenode.to_u32();
        pg_sys::table_close(rel, pg_sys::NoLock as i32);
        file
    }
}

/// All segments' numbers.
pub fn segments() -> impl Iterator<Item = usize> {
    0..shmem::SEGMENTS
}
