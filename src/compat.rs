//! Differences between Postgres versions, and functions of the server that pgrx does not bind.
//! Leaf; main thread only.
#![allow(non_snake_case, reason = "names of the server's")]

use pgrx::pg_sys;
use pgrx::pg_sys::{Oid, TimeLineID, XLogRecPtr};
use std::ffi::{CStr, c_int};

#[pgrx::pg_guard]
unsafe extern "C-unwind" {
    pub fn PGSharedMemoryDetach();
    pub fn toast_flatten_tuple(tup: pg_sys::HeapTuple, desc: pg_sys::TupleDesc) -> pg_sys::HeapTuple;
    pub fn datum_image_eq(a: pg_sys::Datum, b: pg_sys::Datum, by_value: bool, len: c_int) -> bool;
    pub fn readTimeLineHistory(target: TimeLineID) -> *mut pg_sys::List;
    pub fn get_partition_ancestors(relid: Oid) -> *mut pg_sys::List;
    pub fn find_all_inheritors(
        parent: Oid,
        lock: pg_sys::LOCKMODE,
        parents: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::List;
}

/// WAL position where the server's history left `timeline`; `None` where it was never on it.
///
/// # Safety
/// Main thread, in a memory context that may be reset.
pub unsafe fn timeline_end(timeline: TimeLineID, current: TimeLineID) -> Option<XLogRecPtr> {
    #[repr(C)]
    struct TimeLineHistoryEntry {
        tli: TimeLineID,
        begin: XLogRecPtr,
        end: XLogRecPtr,
    }
    // SAFETY: the list's elements are TimeLineHistoryEntry (access/timeline.h), the same in 15 to 18.
    unsafe {
        let list = readTimeLineHistory(current);
        for i in 0..list_length(list) {
            let entry = &*pg_sys::list_nth(list, i).cast::<TimeLineHistoryEntry>();
            if entry.tli == timeline {
                return Some(entry.end);
            }
        }
    }
    None
}

/// Length of a Postgres list; a null one is empty.
///
/// # Safety
/// `list` is null or valid.
pub unsafe fn list_length(list: *mut pg_sys::List) -> c_int {
    // SAFETY: the caller's promise.
    if list.is_null() { 0 } else { unsafe { (*list).length } }
}

/// Oid of the primary key's index that is not deferrable, or invalid.
///
/// # Safety
/// `relation` is open.
pub unsafe fn primary_key_index(relation: pg_sys::Relation) -> Oid {
    #[cfg(feature = "pg18")]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::RelationGetPrimaryKeyIndex(relation, false)
    }
    #[cfg(not(feature = "pg18"))]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::RelationGetPrimaryKeyIndex(relation)
    }
}

/// Whether a role may use a schema.
///
/// # Safety
/// Main thread, in a transaction.
pub unsafe fn schema_usage(schema: Oid, role: Oid) -> bool {
    #[cfg(feature = "pg15")]
    // SAFETY: the caller's promise.
    let result = unsafe { pg_sys::pg_namespace_aclcheck(schema, role, pg_sys::AclMode::from(pg_sys::ACL_USAGE)) };
    #[cfg(not(feature = "pg15"))]
    // SAFETY: the caller's promise.
    let result = unsafe {
        pg_sys::object_aclcheck(pg_sys::NamespaceRelationId, schema, role, pg_sys::AclMode::from(pg_sys::ACL_USAGE))
    };
    result == pg_sys::AclResult::ACLCHECK_OK
}

/// Sets what `ps` shows for this process.
///
/// # Safety
/// Main thread.
pub unsafe fn set_process_title(title: &CStr) {
    #[cfg(feature = "pg15")]
    // SAFETY: a valid C string, which is copied.
    unsafe {
        pg_sys::set_ps_display(title.as_ptr());
    }
    #[cfg(not(feature = "pg15"))]
    // SAFETY: likewise.
    unsafe {
        pg_sys::set_ps_display_with_len(title.as_ptr(), title.to_bytes().len());
    }
}

/// The tuple descriptor's attribute number `i` (from zero).
///
/// # Safety
/// `desc` is valid and `i` below its `natts`.
pub unsafe fn attribute(desc: pg_sys::TupleDesc, i: usize) -> &'static pg_sys::FormData_pg_attribute {
    // SAFETY: the caller's promise; in 18 pgrx computes the place behind the compact attributes.
    unsafe {
        #[cfg(feature = "pg18")]
        {
            &*pg_sys::TupleDescAttr(desc, i as c_int)
        }
        #[cfg(not(feature = "pg18"))]
        {
            &*(*desc).attrs.as_ptr().add(i)
        }
    }
}

/// The text of a `name`.
pub fn name(name: &pg_sys::NameData) -> String {
    let bytes: Vec<u8> = name.data.iter().map(|c| *c as u8).take_while(|b| *b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
