//! The ring of announcements: where the rows lie of transactions that are about to commit.
//!
//! Invariant: an [`Announcement`] is in the ring (or its blocks in the overflow) before the transaction that made it can be
//! seen by any snapshot, because it is put there before the commit. A full ring loses nothing: it only gets coarser. Main
//! thread of any process.

use super::database::database_at;
use super::{SEGMENTS, Slot};
use std::ptr::addr_of_mut;

/// Ranges of blocks in one announcement.
pub const RANGES: usize = 3;

/// Announcements that wait for the feeder. At 10,000 commits a second it comes for some 200 at a time; a few pauses of that
/// kind fit, and what comes on top is only read less precisely. 48 bytes each, in every database.
const RING: usize = 1024;

/// Blocks of a segment, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Range {
    pub segment: u32,
    pub first: u32,
    pub last: u32,
}

/// Where the rows of a transaction lie. A transaction may make several.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Announcement {
    pub xid: u64,
    pub count: u32,
    pub ranges: [Range; RANGES],
}

/// All-zero bytes are an empty one.
#[repr(C)]
pub struct Ring {
    head: u32,
    tail: u32,
    overflow: [Range; SEGMENTS],
    overflowed: bool,
    entries: [Announcement; RING],
}

impl Slot {
    /// Announces rows of a transaction that has not committed yet. Never waits for the feeder.
    pub fn announce(self, xid: u64, ranges: &[Range]) {
        let _held = self.lock();
        let ring = self.ring();
        for chunk in ranges.chunks(RANGES) {
            // SAFETY: under the database's lock; indices are taken modulo the array's length.
            unsafe {
                let (head, tail) = ((*ring).head, (*ring).tail);
                if tail.wrapping_sub(head) as usize == RING {
                    (*ring).overflowed = true;
                    for range in chunk {
                        widen(addr_of_mut!((*ring).overflow[range.segment as usize % SEGMENTS]), *range);
                    }
                    continue;
                }
                let mut entry = Announcement { xid, count: chunk.len() as u32, ranges: [chunk[0]; RANGES] };
                entry.ranges[..chunk.len()].copy_from_slice(chunk);
                (*ring).entries[tail as usize % RING] = entry;
                (*ring).tail = tail.wrapping_add(1);
            }
        }
    }

    /// Takes all that was announced: entries, and the blocks of those that found the ring full.
    pub fn drain(self, entries: &mut Vec<Announcement>, overflow: &mut Vec<Range>) {
        let _held = self.lock();
        let ring = self.ring();
        // SAFETY: under the database's lock; indices are taken modulo the array's length.
        unsafe {
            let (head, tail) = ((*ring).head, (*ring).tail);
            let mut at = head;
            while at != tail {
                entries.push((*ring).entries[at as usize % RING]);
                at = at.wrapping_add(1);
            }
            (*ring).head = tail;
            if (*ring).overflowed {
                let ranges = addr_of_mut!((*ring).overflow);
                overflow.extend(
                    (*ranges).iter().filter(|r| r.segment != 0).map(|r| Range { segment: r.segment - 1, ..*r }),
                );
                (*ranges) = [Range { segment: 0, first: 0, last: 0 }; SEGMENTS];
                (*ring).overflowed = false;
            }
        }
    }

    /// To be read and written under the database's lock.
    fn ring(self) -> *mut Ring {
        // SAFETY: in bounds by construction; no reference is made.
        unsafe { addr_of_mut!((*database_at(self.0)).ring) }
    }
}

/// Adds a range to an overflow cell, whose `segment` is stored plus one so that zero means empty.
///
/// # Safety
/// `cell` is valid and under its database's lock.
unsafe fn widen(cell: *mut Range, range: Range) {
    // SAFETY: the caller's promise.
    unsafe {
        let old = *cell;
        *cell = if old.segment == 0 {
            Range { segment: range.segment + 1, ..range }
        } else {
            Range { segment: old.segment, first: old.first.min(range.first), last: old.last.max(range.last) }
        };
    }
}
