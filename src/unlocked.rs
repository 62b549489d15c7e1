//! Relations that are looked at without a lock on them, so that a schema change in progress holds up nobody.
//!
//! Such a look may find a change of schema that has committed and not told anybody yet. Who reads older WAL with the
//! relation cache has to know of it, so it is noted here. Leaf. Main thread only, in a transaction.

use pgrx::pg_sys::{self, Oid};
use std::cell::RefCell;
use std::collections::HashSet;

/// Relations that are told apart.
const MANY: usize = 1_000;

thread_local! {
    static SEEN: RefCell<HashSet<Oid>> = RefCell::default();
}

/// A reference to a relation, to be given back by `RelationClose`; null where it is gone.
///
/// # Safety
/// In a transaction.
pub unsafe fn refer(relation: Oid) -> pg_sys::Relation {
    SEEN.with_borrow_mut(|seen| {
        // Past that the invalid one stands for all.
        seen.insert(if seen.len() < MANY { relation } else { Oid::INVALID });
    });
    // SAFETY: the caller's promise.
    unsafe { pg_sys::RelationIdGetRelation(relation) }
}

/// What was looked at since the last call; an invalid one among them stands for any.
pub fn take() -> HashSet<Oid> {
    SEEN.take()
}
