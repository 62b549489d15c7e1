//! Postgres' snapshots, in the 64-bit form of [`rte_core::Snapshot`]. Main thread only.

use pgrx::pg_sys;
use rte_core::{Snapshot, Xid};

/// The 64-bit form of a 32-bit id that is within two billion of the next one, as every id that is in use is.
pub fn full_xid(xid: pg_sys::TransactionId, next: Xid) -> Xid {
    let xid = u64::from(u32::from(xid));
    let full = (next & !0xffff_ffff) | xid;
    if full > next { full.saturating_sub(1 << 32) } else { full }
}

/// The next id to be given out.
pub fn next_xid() -> Xid {
    // SAFETY: reads shared memory under its own lock.
    unsafe { pg_sys::ReadNextFullTransactionId().value }
}

/// Copies an MVCC snapshot of this process. Ids of subtransactions are left out: the change log
/// records top-level ids.
///
/// # Safety
/// `snapshot` is a valid MVCC snapshot that was not taken during recovery.
pub unsafe fn copy(snapshot: pg_sys::Snapshot) -> Snapshot {
    // Read after the snapshot was taken, hence not below its xmax.
    let next = next_xid();
    // SAFETY: the caller's promise; xip has xcnt elements.
    unsafe {
        let s = &*snapshot;
        let xip = if s.xcnt == 0 { &[] } else { std::slice::from_raw_parts(s.xip, s.xcnt as usize) };
        Snapshot::new(full_xid(s.xmax, next), xip.iter().map(|x| full_xid(*x, next)).collect())
    }
}

/// Durable before visible: a commit shows itself to snapshots after its record is in the log, and with
/// `synchronous_commit = off` before that is on disk. So everything up to now goes to disk.
pub fn flush_what_is_visible() {
    // SAFETY: the snapshot is taken, so what it sees lies below the insert position.
    unsafe {
        if !pg_sys::RecoveryInProgress() {
            pg_sys::XLogFlush(insert_end());
        }
    }
}

/// End of what is in the log. At a page's start the insert position lies behind the header of a page that
/// has nothing yet, and flushing up to there is an error.
fn insert_end() -> pg_sys::XLogRecPtr {
    const SHORT_HEADER: u64 = 24;
    const LONG_HEADER: u64 = 40;
    // SAFETY: reads shared memory under its own lock, and a global that is set once.
    let (position, segment) = unsafe { (pg_sys::GetXLogInsertRecPtr(), pg_sys::wal_segment_size as u64) };
    if position % segment == LONG_HEADER {
        position - LONG_HEADER
    } else if position % u64::from(pg_sys::XLOG_BLCKSZ) == SHORT_HEADER {
        position - SHORT_HEADER
    } else {
        position
    }
}
