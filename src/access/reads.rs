//! Which tables a piece of work reads, functions of policies included: told by the executor, which checks the privileges
//! of every query that it starts. Main thread only.

use crate::compat;
use pgrx::pg_sys::{self, List, Oid};
use std::cell::RefCell;

thread_local! {
    static SEEN: RefCell<Option<Vec<Oid>>> = const { RefCell::new(None) };
}

/// Begins to listen. Once per process.
pub fn listen() {
    compat::on_range_table(seen);
}

/// # Safety
/// A range table of a planned query.
unsafe fn seen(range_table: *mut List) {
    SEEN.with_borrow_mut(|seen| {
        let Some(seen) = seen else { return };
        // SAFETY: the caller's promise.
        unsafe {
            for entry in super::node::each(range_table) {
                let entry = &*entry.cast::<pg_sys::RangeTblEntry>();
                if entry.rtekind == pg_sys::RTEKind::RTE_RELATION && entry.relkind as u8 != pg_sys::RELKIND_VIEW {
                    seen.push(entry.relid);
                }
            }
        }
    });
}

/// Runs `f`, whose main query reads `table` once; tells which tables were read beside that, partitions as their roots.
pub fn observe<R>(table: Oid, f: impl FnOnce() -> R) -> (R, Vec<Oid>) {
    SEEN.set(Some(Vec::new()));
    let result = f();
    let seen = SEEN.take().unwrap_or_default();
    // The query mentions its table once, and its partitions.
    let again = seen.iter().filter(|oid| **oid == table).count() > 1;
    let mut tables: Vec<Oid> = seen.into_iter().map(root_of).filter(|oid| again || *oid != table).collect();
    tables.sort_unstable_by_key(|oid| oid.to_u32());
    tables.dedup();
    (result, tables)
}

/// Whether the piece of work that is observed has read a table so far, its own or one of its partitions included.
pub fn is_read(table: Oid) -> bool {
    SEEN.with_borrow(|seen| seen.as_ref().is_some_and(|seen| seen.contains(&table)))
}

/// The table itself, or the root that it is a partition of.
pub fn root_of(table: Oid) -> Oid {
    // SAFETY: catalog look-ups; the list's elements are oids.
    unsafe {
        if !pg_sys::get_rel_relispartition(table) {
            return table;
        }
        let ancestors = compat::get_partition_ancestors(table);
        let count = compat::list_length(ancestors);
        if count == 0 { table } else { pg_sys::list_nth_oid(ancestors, count - 1) }
    }
}
