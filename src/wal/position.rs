//! How far there is to decode, and up to where the change log holds what was decoded. Main thread only.

use crate::changelog::for_each_row;
use crate::snapshot;
use pgrx::pg_sys::{self, TransactionId};
use rte_core::Snapshot;
use std::ffi::CStr;

/// Transactions past which one flush costs less than asking about each.
const MANY: u64 = 10_000;

/// A position behind the commits of all transactions that `after` sees and `before` does not. All of it is on disk.
///
/// A synchronous commit is flushed before snapshots see it. An asynchronous one may not be: its position is asked for, and
/// flushed. No commit is flushed that was flushed anyway.
pub fn behind(before: &Snapshot, after: &Snapshot) -> u64 {
    let ended = before.in_progress().iter().copied().chain(before.xmax()..after.xmax());
    let last = if after.xmax().saturating_sub(before.xmax()) > MANY {
        snapshot::flush_what_is_visible();
        0
    } else {
        // SAFETY: ids that were given out lately, or were in progress lately: their status is still there.
        let position = |xid: u64| unsafe { pg_sys::TransactionIdGetCommitLSN(TransactionId::from(xid as u32)) };
        ended.filter(|xid| after.sees(*xid)).map(position).max().unwrap_or(0)
    };
    // SAFETY: a position of a commit; reads of shared state.
    unsafe {
        if last > flushed() {
            pg_sys::XLogFlush(last);
        }
        // After the snapshot was taken: what it sees and was flushed before it lies below.
        flushed()
    }
}

/// Up to where the WAL is on disk.
pub fn flushed() -> u64 {
    // SAFETY: a read of shared state.
    unsafe { pg_sys::GetFlushRecPtr(std::ptr::null_mut()) }
}

/// Up to where the change log holds what was decoded of a slot; zero where nothing was written down. In a transaction.
pub fn recorded(slot: &str) -> u64 {
    let mut position = 0;
    for_each_row("wal_position", |values, _| {
        // SAFETY: a name, which is not null, is a C string.
        let name = unsafe { CStr::from_ptr(values[0].cast_mut_ptr()) };
        if name.to_bytes() == slot.as_bytes() {
            position = values[1].value() as u64;
        }
    });
    position
}

/// Writes down up to where the change log holds what was decoded of a slot. In a transaction.
pub fn record(slot: &str, position: u64) {
    let write = |sql: &str| {
        pgrx::Spi::connect_mut(|client| {
            let arguments = [slot.into(), text(position).into()];
            client.update(sql, None, &arguments).map(|done| done.len())
        })
        .unwrap_or_else(|e| pgrx::error!("could not write the position in the WAL: {e}"))
    };
    if write("UPDATE rte.wal_position SET position = $2::pg_catalog.pg_lsn WHERE slot = $1::pg_catalog.name") == 0 {
        pgrx::Spi::run("DELETE FROM rte.wal_position")
            .unwrap_or_else(|e| pgrx::error!("could not write the position in the WAL: {e}"));
        write("INSERT INTO rte.wal_position VALUES ($1::pg_catalog.name, $2::pg_catalog.pg_lsn)");
    }
}

/// A position as Postgres writes it.
pub fn text(position: u64) -> String {
    format!("{:X}/{:X}", position >> 32, position & 0xffff_ffff)
}
