//! Recent ticks in memory, so that clients that come back soon do not cost a reading of the log. Pure but
//! for its element type.

use crate::changelog::reader::Change;
use rte_core::Snapshot;
use std::collections::VecDeque;

struct Tick {
    changes: Vec<Change>,
    bytes: usize,
    after: Snapshot,
}

/// All changes that a snapshot behind `base` saw and `base` did not, up to the last tick.
pub struct History {
    base: Snapshot,
    ticks: VecDeque<Tick>,
    bytes: usize,
}

impl History {
    pub fn new(base: Snapshot) -> Self {
        Self { base, ticks: VecDeque::new(), bytes: 0 }
    }

    /// Forgets everything and begins at `base`.
    pub fn restart(&mut self, base: Snapshot) {
        *self = Self::new(base);
    }

    /// Adds the changes of a tick that ended at `after`, and forgets the oldest past `limit` bytes.
    pub fn push(&mut self, changes: Vec<Change>, after: &Snapshot, limit: usize) {
        if changes.is_empty() {
            if self.ticks.is_empty() {
                self.base = after.clone();
            }
            return;
        }
        let bytes = changes.iter().map(Change::size).sum();
        self.bytes += bytes;
        self.ticks.push_back(Tick { changes, bytes, after: after.clone() });
        while self.bytes > limit
            && let Some(tick) = self.ticks.pop_front()
        {
            self.bytes -= tick.bytes;
            self.base = tick.after;
        }
    }

    /// Whether everything that `cursor` has missed is here.
    pub fn covers(&self, cursor: &Snapshot) -> bool {
        cursor.contains(&self.base)
    }

    /// The changes that `place` has not seen, in an order in which they can be applied.
    pub fn since<'a>(&'a self, place: &'a Snapshot) -> impl Iterator<Item = &'a Change> {
        // Ticks are looked at newest first to find where to begin: most who come back were away for a moment.
        let begin = self.ticks.iter().rposition(|t| place.contains(&t.after)).map_or(0, |at| at + 1);
        self.ticks.range(begin..).flat_map(|t| t.changes.iter()).filter(|c| !place.sees(c.xid))
    }
}
