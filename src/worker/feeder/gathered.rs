//! The changes of a tick or of a catch-up, bounded in memory: a table with more than that is given up, and of its rows only markers
//! are left ([`Op::Bulk`]). Whoever holds a copy of it reads a snapshot, which a query worker streams.
//!
//! Both ways of capture gather here. Main thread only.

use crate::changelog::Op;
use crate::changelog::reader::{self, Change, Logged};
use pgrx::pg_sys::Oid;
use rte_core::gathered::Kept;

pub type Gathered = rte_core::gathered::Gathered<Change>;

/// What was gathered, in an order in which it can be applied.
pub struct Changes {
    pub all: Vec<Change>,
    /// Markers do not name all transactions that they stand for.
    pub coarse: bool,
}

impl rte_core::gathered::Change for Change {
    fn transaction(&self) -> u64 {
        self.xid
    }

    fn table(&self) -> u32 {
        self.relation.to_u32()
    }

    fn is_of_rows(&self) -> bool {
        self.op.is_of_rows()
    }

    fn size(&self) -> usize {
        self.size()
    }
}

/// Adds a row of the log, if it is wanted.
pub fn take(gathered: &mut Gathered, row: &Logged) {
    if let Some((relation, op)) = row.what()
        && gathered.wants(row.xid, relation.to_u32(), op.is_of_rows())
        && let Some(change) = row.read()
    {
        gathered.add(change);
    }
}

/// Adds a copy of a change, if it is wanted.
pub fn take_copy(gathered: &mut Gathered, change: &Change) {
    if gathered.wants(change.xid, change.relation.to_u32(), change.op.is_of_rows()) {
        gathered.add(change.clone());
    }
}

impl From<Gathered> for Changes {
    fn from(gathered: Gathered) -> Self {
        let Kept { changes: mut all, given_up, coarse } = gathered.finish();
        all.extend(given_up.into_iter().map(|(table, xid)| Change::marker(xid, Oid::from(table), Op::Bulk)));
        drop_parts_of_truncated_roots(&mut all);
        reader::sort(&mut all);
        Self { all, coarse }
    }
}

/// A partition that is truncated together with its root is no news.
fn drop_parts_of_truncated_roots(changes: &mut Vec<Change>) {
    let roots: Vec<(u64, u32, Oid)> =
        changes.iter().filter(|c| c.op == Op::Truncate).map(|c| (c.xid, c.cid, c.relation)).collect();
    if !roots.is_empty() {
        changes.retain(|c| c.op != Op::TruncatePart || !roots.contains(&(c.xid, c.cid, c.relation)));
    }
}
