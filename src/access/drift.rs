//! Whether roles, rights and policies may be newer than the snapshot that rows are read under.
//!
//! Postgres reads rows under a snapshot, but roles, grants, policies and functions as they are at the moment. A change of access
//! that commits in between would let somebody see what rows were before he might see them. Invalidations tell of every such
//! change, sooner or later: an answer counts only where none that could concern it came since [`begin`]. Decides nothing
//! beyond that. Main thread only.

use super::reads::root_of;
use crate::wal::caches;
use pgrx::pg_sys::{self, Datum, Oid};
use std::cell::RefCell;
use std::collections::HashSet;

/// Tables that are told apart; past as many, any may have changed.
const TABLES: usize = 1_000;

#[derive(Default)]
struct Seen {
    /// Of these, grants, policies or the definition.
    tables: HashSet<Oid>,
    /// Whether there were more.
    any: bool,
    /// Roles, memberships, functions, schemas.
    everywhere: bool,
}

thread_local! {
    static SEEN: RefCell<Seen> = RefCell::default();
}

/// Begins to listen. Once per process.
pub fn watch() {
    use pg_sys::SysCacheIdentifier::{AUTHMEMROLEMEM, AUTHOID, NAMESPACEOID, PROCOID};
    // SAFETY: functions of the right types that live as long as the process.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(on_table), Datum::from(0));
        for cache in [AUTHMEMROLEMEM, AUTHOID, NAMESPACEOID, PROCOID] {
            pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(on_others), Datum::from(0));
        }
    }
}

/// Hears what others have told so far, and counts from here on. A snapshot that is taken next sees all of it.
pub fn begin() {
    // SAFETY: in a transaction.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    SEEN.take();
}

/// Whether roles or functions may have changed.
pub fn of_roles() -> bool {
    SEEN.with_borrow(|seen| seen.everywhere || seen.any)
}

/// Whether access to any of some tables may have changed. `concerns`: whether a table is one of them; it is asked of roots,
/// where tables are partitions.
pub fn of_tables(concerns: impl Fn(Oid) -> bool) -> bool {
    if of_roles() {
        return true;
    }
    let tables: Vec<Oid> = SEEN.with_borrow(|seen| seen.tables.iter().copied().collect());
    // SAFETY: catalog look-ups in a transaction; a view is not told from others by those who read it.
    let is_view = |table: Oid| unsafe { pg_sys::get_rel_relkind(table) as u8 == pg_sys::RELKIND_VIEW };
    tables.into_iter().any(|table| concerns(table) || is_view(table) || concerns(root_of(table)))
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_table(_arg: Datum, table: Oid) {
    if caches::is_no_news() {
        return;
    }
    SEEN.with_borrow_mut(|seen| {
        if table == Oid::INVALID || seen.tables.len() >= TABLES {
            seen.any = true;
        } else {
            seen.tables.insert(table);
        }
    });
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_others(_arg: Datum, _cache: i32, _hash: u32) {
    if caches::is_no_news() {
        return;
    }
    SEEN.with_borrow_mut(|seen| seen.everywhere = true);
}
