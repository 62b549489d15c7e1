//! One table of a job as SQL: names from the catalogs, each quoted by Postgres.

use super::failure::Failure;
use crate::job::JobTable;
use pgrx::pg_sys;
use std::ffi::{CStr, CString};

pub(super) struct Query {
    pub(super) sql: CString,
    /// The planner's estimate of the table's rows, for a progress bar.
    pub(super) total: Option<u64>,
}

impl Query {
    /// Locks the table against changes of its definition until the transaction ends, so that the names
    /// stay its own.
    pub(super) fn of(table: &JobTable) -> Result<Self, Failure> {
        let oid = pg_sys::Oid::from(table.relation);
        // SAFETY: raises an error or gives the relation, or null where there is none of this oid.
        let relation = unsafe { pg_sys::try_relation_open(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
        if relation.is_null() {
            return Err(Failure::unknown_table());
        }
        // SAFETY: open until it is closed below, and its lock is kept.
        unsafe {
            let query = Self::of_open(relation, &table.columns);
            pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            query
        }
    }

    /// # Safety
    /// `relation` is open and locked.
    unsafe fn of_open(relation: pg_sys::Relation, columns: &[i16]) -> Result<Self, Failure> {
        // SAFETY: fields of an open relation; strings are C strings in the catalogs' caches or in the
        // transaction's memory.
        unsafe {
            let class = &*(*relation).rd_rel;
            let desc = pgrx::PgTupleDesc::from_pg_unchecked((*relation).rd_att);
            let from: &[u8] = match class.relkind as u8 {
                // Partitions are published as their root.
                pg_sys::RELKIND_PARTITIONED_TABLE => b" FROM ",
                // Children of classical inheritance are tables of their own.
                pg_sys::RELKIND_RELATION => b" FROM ONLY ",
                _ => return Err(Failure::unknown_table()),
            };
            let mut sql = b"SELECT ".to_vec();
            for (i, number) in columns.iter().enumerate() {
                let index = usize::try_from(*number).ok().and_then(|n| n.checked_sub(1));
                let attribute =
                    index.and_then(|i| desc.get(i)).filter(|a| !a.attisdropped).ok_or(Failure::unknown_column())?;
                if i > 0 {
                    sql.push(b',');
                }
                sql.extend_from_slice(quoted(attribute.attname.data.as_ptr()));
            }
            sql.extend_from_slice(from);
            let schema = pg_sys::get_namespace_name(class.relnamespace);
            if schema.is_null() {
                return Err(Failure::unknown_table());
            }
            sql.extend_from_slice(quoted(schema));
            sql.push(b'.');
            sql.extend_from_slice(quoted(class.relname.data.as_ptr()));
            // Negative: never analyzed. Names hold no NUL.
            let total = (class.reltuples >= 0.0).then_some(class.reltuples as u64);
            Ok(Self { sql: CString::new(sql).unwrap_or_default(), total })
        }
    }
}

/// # Safety
/// `name` is a C string.
unsafe fn quoted<'a>(name: *const core::ffi::c_char) -> &'a [u8] {
    // SAFETY: gives the name itself or a quoted copy in the current memory context.
    unsafe { CStr::from_ptr(pg_sys::quote_identifier(name)).to_bytes() }
}
