//! What a new snapshot sees and the last one did not.
//!
//! Where rows lie is announced by their writers before they can be seen (`shmem`). What is announced and not
//! yet seen is kept ([`Pending`]) until it is. Invariant: every row of the log that the new snapshot sees
//! and the last one did not lies in a range that this tick reads; each is returned once. Main
//! thread only, in a transaction.

use super::gathered::{self, Gathered};
use crate::changelog::reader;
use crate::shmem::{Announcement, Range, SEGMENTS, Slot};
use pgrx::pg_sys;
use rte_core::{Snapshot, Xid};
use std::collections::HashMap;

/// Where rows lie of transactions that were in progress at the last tick.
#[derive(Default)]
pub struct Pending {
    ranges: HashMap<Xid, Vec<Range>>,
    announced: Vec<Announcement>,
    overflow: Vec<Range>,
    /// File of each segment when it was last read: a rewrite (VACUUM FULL, CLUSTER) moves rows.
    files: [u32; SEGMENTS],
    /// Set until the log was read once: announcements made before this feeder ran are not known.
    started: bool,
}

impl Pending {
    /// Gathers the rows that `snapshot` (`after` in its 64-bit form) sees and `before` does not; none where they are not `wanted`.
    ///
    /// # Safety
    /// `snapshot` is registered or active, and was taken after the last call returned.
    pub unsafe fn read(
        &mut self,
        slot: Slot,
        before: &Snapshot,
        after: &Snapshot,
        snapshot: pg_sys::Snapshot,
        wanted: Option<&mut Gathered>,
    ) {
        // SAFETY: the caller's promise holds for all of it.
        unsafe {
            if !self.started {
                self.started = true;
                for segment in reader::segments() {
                    self.search(Range { segment: segment as u32, first: 0, last: u32::MAX }, before);
                }
            }
            // After the snapshot: whatever it sees was announced before.
            slot.drain(&mut self.announced, &mut self.overflow);
            for a in self.announced.drain(..) {
                self.ranges.entry(a.xid).or_default().extend_from_slice(&a.ranges[..a.count as usize]);
            }
            for range in std::mem::take(&mut self.overflow) {
                self.search(range, before);
            }
            self.notice_rewrites();
            let mut ready = Vec::new();
            self.ranges.retain(|xid, ranges| {
                let ended = after.sees(*xid);
                if ended && !before.sees(*xid) {
                    ready.append(ranges);
                }
                !ended
            });
            let Some(gathered) = wanted else { return };
            for range in reader::merge(ready) {
                let blocks = Some((range.first, range.last));
                let keep = |xid| !before.sees(xid);
                reader::scan(range.segment as usize, blocks, snapshot, keep, |row, _| gathered::take(gathered, row));
            }
        }
    }

    /// Where a segment was rewritten, rows may lie anywhere in it.
    fn notice_rewrites(&mut self) {
        let mut used = [false; SEGMENTS];
        for range in self.ranges.values().flatten() {
            used[range.segment as usize] = true;
        }
        for segment in (0..SEGMENTS).filter(|n| used[*n]) {
            let file = reader::file_of(segment);
            if std::mem::replace(&mut self.files[segment], file) == file {
                continue;
            }
            for range in self.ranges.values_mut().flatten().filter(|r| r.segment as usize == segment) {
                (range.first, range.last) = (0, u32::MAX);
            }
        }
    }

    /// Looks into blocks whose owners are not known, for all transactions that `before` does not see.
    ///
    /// # Safety
    /// In a transaction.
    unsafe fn search(&mut self, range: Range, before: &Snapshot) {
        let ranges = &mut self.ranges;
        // SAFETY: SnapshotAny is a static of the server's.
        unsafe {
            reader::scan(
                range.segment as usize,
                Some((range.first, range.last)),
                &raw mut pg_sys::SnapshotAnyData,
                |xid| !before.sees(xid),
                |row, block| {
                    let own = ranges.entry(row.xid).or_default();
                    match own.last_mut() {
                        Some(r) if r.segment == range.segment && r.last <= block && block - r.last <= 1 => {
                            r.last = block
                        }
                        _ => own.push(Range { segment: range.segment, first: block, last: block }),
                    }
                },
            );
        }
    }
}
