//! Segments of the log: which one is written, when the next is, and what a cut leaves behind.
//!
//! The feeder alone rotates and cuts ([`rotate`]). Invariant: a segment is cut only when every transaction that
//! wrote to it has ended (its lock tells), and the cut leaves a *horizon*, a snapshot: a cursor goes on
//! only if it contains every horizon, hence missed nothing that was in a segment that is gone. Main thread only.

use super::{for_each_row, reader, relation_oid, segment_oid};
use crate::capture::oldest_running;
use crate::{guc, shmem, snapshot};
use pgrx::pg_sys::{self, Datum, Oid};
use rte_core::Snapshot;

/// A row of `rte.log_segment`.
#[derive(Debug, Clone)]
pub struct Segment {
    pub number: usize,
    /// Order of use; the highest is written to.
    pub generation: i64,
    /// When it began to be written to; microseconds since 2000-01-01.
    pub opened_at: i64,
    /// What a cursor must contain to go on.
    pub horizon: Option<Snapshot>,
}

/// Size at which a segment is left for the next: all together are about `rte.max_log_size`.
pub fn soft_limit() -> u64 {
    guc::max_log_bytes() / shmem::SEGMENTS as u64
}

/// Size past which nothing is written to a segment any more, until the feeder has opened another.
pub fn hard_limit() -> u64 {
    2 * soft_limit()
}

/// Bytes of a segment, out-of-line values included.
pub fn size_bytes(oid: Oid) -> u64 {
    // SAFETY: opens and closes a relation that exists; the size is a file's size.
    unsafe {
        let rel = pg_sys::table_open(oid, pg_sys::RowExclusiveLock as i32);
        let mut blocks = pg_sys::RelationGetNumberOfBlocksInFork(rel, pg_sys::ForkNumber::MAIN_FORKNUM);
        let toast = (*(*rel).rd_rel).reltoastrelid;
        if toast != Oid::INVALID {
            let toast = pg_sys::table_open(toast, pg_sys::AccessShareLock as i32);
            blocks += pg_sys::RelationGetNumberOfBlocksInFork(toast, pg_sys::ForkNumber::MAIN_FORKNUM);
            pg_sys::table_close(toast, pg_sys::NoLock as i32);
        }
        pg_sys::table_close(rel, pg_sys::NoLock as i32);
        u64::from(blocks) * u64::from(pg_sys::BLCKSZ)
    }
}

/// The segment that is written to, from the table: for backends that find shared memory empty.
pub fn newest() -> Option<usize> {
    all().into_iter().max_by_key(|s| s.generation).map(|s| s.number)
}

/// All rows of `rte.log_segment` as committed now. Needs no privilege: read below SQL.
pub fn all() -> Vec<Segment> {
    let mut segments = Vec::new();
    for_each_row("log_segment", |values, nulls| {
        // SAFETY: the column is a text, and not null.
        let horizon = (!nulls[3]).then(|| unsafe { text(values[3]) }).and_then(|t| t.parse().ok());
        segments.push(Segment {
            number: values[0].value(),
            generation: values[1].value() as i64,
            opened_at: values[2].value() as i64,
            horizon,
        });
    });
    segments.retain(|s| s.number < shmem::SEGMENTS);
    segments.sort_by_key(|s| s.number);
    segments
}

/// # Safety
/// `datum` is a non-null text value.
unsafe fn text(datum: Datum) -> String {
    // SAFETY: the caller's promise.
    unsafe { pgrx::FromDatum::from_datum(datum, false).unwrap_or_default() }
}

/// Writes this start of the server down, with the oldest transaction that may still write.
///
/// Every transaction that is captured after a start has an id at or above what is written, and the row
/// commits with the first of them: so no change of this start is in the log without it.
pub fn record_start() {
    let Some(oid) = relation_oid("server_start") else { return };
    // SAFETY: columns as sql/whagons_rte--*.sql declares them; all are not null.
    unsafe {
        let rel = pg_sys::table_open(oid, pg_sys::RowExclusiveLock as i32);
        let mut values = [
            Datum::from(shmem::start() as i64),
            Datum::from(oldest_running()),
            Datum::from(pg_sys::GetXLogInsertRecPtr()),
            Datum::from(pg_sys::GetCurrentTimestamp()),
        ];
        let mut nulls = [false; 4];
        let tuple = pg_sys::heap_form_tuple((*rel).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::heap_insert(rel, tuple, pg_sys::GetCurrentCommandId(true), 0, std::ptr::null_mut());
        pg_sys::table_close(rel, pg_sys::NoLock as i32);
    }
}

/// A row of `rte.server_start`.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    pub start: u64,
    pub boundary: u64,
    pub lsn: u64,
}

/// All starts that were written down, as committed now.
pub fn starts() -> Vec<Start> {
    let mut starts = Vec::new();
    for_each_row("server_start", |values, _| {
        starts.push(Start {
            start: values[0].value() as u64,
            boundary: values[1].value() as u64,
            lsn: values[2].value() as u64,
        });
    });
    starts
}

/// Segments that are kept empty for writers to go on in: they do so by themselves when the current one is full, so
/// that a feeder that is busy for a moment does not make them leave changes out.
const SPARES: usize = 2;

/// What is due, decided from sizes and ages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    Nothing,
    /// Writers have gone on to this segment: write it down.
    Record(usize),
    /// The current segment is full or old: writers go on in a spare one.
    Advance,
    /// This segment is empty: writers may have it.
    Spare(usize),
    /// The first of these that can be cut is to be; none of them is younger than those behind it.
    Cut(Vec<usize>),
}

/// What is due, given the time. `sizes` are bytes per segment, `current` is written to, `spares` are ready.
pub fn due(segments: &[Segment], sizes: &[u64], current: usize, spares: &[usize], now: i64) -> Due {
    let mut order: Vec<&Segment> = segments.iter().collect();
    order.sort_by_key(|s| s.generation);
    let Some(newest) = order.last() else { return Due::Nothing };
    if newest.number != current {
        return Due::Record(current);
    }
    let share = guc::retention_us() / (shmem::SEGMENTS as i64 - 1);
    let full = sizes[current] > soft_limit() || (sizes[current] > 0 && now - newest.opened_at > share);
    if full && !spares.is_empty() {
        return Due::Advance;
    }
    let others: Vec<&Segment> =
        order.iter().copied().filter(|s| s.number != current && !spares.contains(&s.number)).collect();
    let filled = || others.iter().filter(|s| sizes[s.number] > 0).map(|s| s.number).collect::<Vec<_>>();
    if spares.len() < SPARES {
        return match others.iter().find(|s| sizes[s.number] == 0) {
            Some(empty) => Due::Spare(empty.number),
            None => Due::Cut(filled()),
        };
    }
    if sizes.iter().sum::<u64>() > guc::max_log_bytes() {
        return Due::Cut(filled());
    }
    // What was written to a segment is not younger than the time when its successor was opened.
    let expired = |s: &&&Segment| {
        let closed = segments.iter().filter(|o| o.generation > s.generation).map(|o| o.opened_at).min();
        sizes[s.number] > 0 && closed.is_some_and(|closed| now - closed > guc::retention_us())
    };
    match others.iter().find(expired) {
        Some(segment) => Due::Cut(vec![segment.number]),
        None => Due::Nothing,
    }
}

/// Writes down that a segment is the newest. In a transaction.
pub fn record(segment: usize) {
    pgrx::Spi::run_with_args(
        "UPDATE rte.log_segment SET opened_at = clock_timestamp(),
             generation = (SELECT max(generation) + 1 FROM rte.log_segment) WHERE segment = $1",
        &[(segment as i32).into()],
    )
    .unwrap_or_else(|e| pgrx::error!("could not open a segment: {e}"));
}

/// Empties a segment and leaves its horizon. `false` where somebody may still write to it, or `delivered`, the
/// last tick's snapshot, has not seen all of it. In a transaction.
pub fn cut(segment: usize, delivered: &Snapshot) -> bool {
    let Some(oid) = segment_oid(segment) else { return false };
    // SAFETY: the lock is held to the end of the transaction; never waited for, so that writers are not queued
    // behind us.
    if !unsafe { pg_sys::ConditionalLockRelationOid(oid, pg_sys::AccessExclusiveLock as i32) } {
        return false;
    }
    let xids = reader::xids(segment, delivered);
    if xids.unseen {
        return false;
    }
    if let Some(last) = xids.last {
        // SAFETY: the snapshot is read at once.
        let now = unsafe { snapshot::copy(pg_sys::GetLatestSnapshot()) };
        let old = all().into_iter().find(|s| s.number == segment).and_then(|s| s.horizon);
        let xmax = old.map_or(0, |h| h.xmax()).max(last + 1);
        let horizon = Snapshot::new(xmax.min(now.xmax()), now.in_progress().to_vec());
        pgrx::Spi::run_with_args(
            "UPDATE rte.log_segment SET horizon = $2 WHERE segment = $1",
            &[(segment as i32).into(), horizon.to_string().into()],
        )
        .unwrap_or_else(|e| pgrx::error!("could not write the horizon: {e}"));
    }
    pgrx::Spi::run(&format!("TRUNCATE rte.change_log_{segment}"))
        .unwrap_or_else(|e| pgrx::error!("could not cut the change log: {e}"));
    true
}
