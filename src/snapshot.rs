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
