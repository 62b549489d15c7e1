//! Which segment of the change log backends append to, and which are empty and ready. Main thread of any process; no locks.

use super::Slot;
use std::sync::atomic::Ordering;

/// Segments of the change log (`rte.change_log_0` …).
pub const SEGMENTS: usize = 8;

impl Slot {
    /// The segment to append to, if known since the server's start.
    pub fn segment(self) -> Option<usize> {
        (self.get().segment.load(Ordering::Acquire) as usize).checked_sub(1)
    }

    pub fn set_segment(self, segment: usize) {
        self.get().segment.store(segment as u32 + 1, Ordering::Release);
    }

    /// Makes a spare segment the one to append to, unless another than `full` is already. Only one of those who find it
    /// full succeeds.
    pub fn advance(self, full: usize) {
        let database = self.get();
        if self.segment().is_some_and(|now| now != full) {
            return;
        }
        let spares = &database.spares;
        let taken =
            spares.fetch_update(Ordering::AcqRel, Ordering::Acquire, |bits| (bits != 0).then(|| bits & (bits - 1)));
        if let Ok(bits) = taken {
            let spare = bits.trailing_zeros();
            let next =
                database.segment.compare_exchange(full as u32 + 1, spare + 1, Ordering::AcqRel, Ordering::Acquire);
            if next.is_err_and(|now| now != 0) {
                // Somebody else was faster.
                spares.fetch_or(1 << spare, Ordering::AcqRel);
            } else if next.is_err() {
                self.set_segment(spare as usize);
            }
        }
    }

    pub fn add_spare(self, segment: usize) {
        self.get().spares.fetch_or(1 << segment, Ordering::AcqRel);
    }

    pub fn spares(self) -> Vec<usize> {
        let bits = self.get().spares.load(Ordering::Acquire);
        (0..SEGMENTS).filter(|n| bits >> n & 1 == 1).collect()
    }
}
