//! The row-level security of a table, as Postgres applies it to whoever is acting.
//!
//! Decides nothing: permissive and restrictive policies, their roles, owners, FORCE and BYPASSRLS are combined by the
//! server's own rewriter. Takes no lock. Main thread only, in a transaction.

use crate::{compat, unlocked};
use pgrx::pg_sys::{self, List, Oid};

/// Whether a table has row-level security at all.
pub fn applies(relation: Oid) -> bool {
    // SAFETY: a reference of the relation cache, given back here.
    unsafe {
        let rel = unlocked::refer(relation);
        if rel.is_null() {
            return true;
        }
        let applies = (*(*rel).rd_rel).relrowsecurity;
        pg_sys::RelationClose(rel);
        applies
    }
}

/// The conditions on rows that the acting user may SELECT, all of which must hold; none where it may see every row.
///
/// Expressions over the range table's first entry, in the current memory context. Sub-selects in them are as they were
/// stored.
///
/// # Safety
/// The table exists, and is in the relation cache of this process for as long as the call.
pub unsafe fn conditions(relation: Oid, kind: u8) -> *mut List {
    let (mut quals, mut checks) = (std::ptr::null_mut(), std::ptr::null_mut());
    let (mut any, mut sublinks) = (false, false);
    // SAFETY: a query over the table as the parser would make it; the places are filled.
    unsafe {
        let (query, entry) = compat::select_of(relation, kind);
        pg_sys::get_row_security_policies(
            query,
            entry,
            1,
            &raw mut quals,
            &raw mut checks,
            &raw mut any,
            &raw mut sublinks,
        );
    }
    quals
}
