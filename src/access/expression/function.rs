//! What the catalog says of a function that a condition calls. Decides nothing. Main thread only, in a transaction.

use crate::compat;
use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;

/// Oids of languages that initdb gives (pg_language.dat).
const INTERNAL_LANGUAGE: Oid = Oid::from_u32(12);
const SQL_LANGUAGE: Oid = Oid::from_u32(14);

/// A row of `pg_proc`.
pub(super) struct Function {
    pub(super) name: String,
    /// Name of the C function; the text of one in SQL, or nothing.
    pub(super) source: String,
    /// Written in SQL: built-in ones stand for others of Postgres' own.
    pub(super) is_sql: bool,
    pub(super) volatility: u8,
    /// Neither an aggregate nor a window function, gives one value, and runs as its caller.
    pub(super) plain: bool,
}

impl Function {
    /// Nothing where there is none.
    ///
    /// # Safety
    /// In a transaction.
    pub(super) unsafe fn load(oid: Oid) -> Option<Self> {
        // SAFETY: a tuple of pg_proc, copied from before it is released.
        unsafe {
            let cache = pg_sys::SysCacheIdentifier::PROCOID as i32;
            let tuple = pg_sys::SearchSysCache1(cache, oid.into());
            if tuple.is_null() {
                return None;
            }
            let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
            let mut null = false;
            let source = pg_sys::SysCacheGetAttr(cache, tuple, pg_sys::Anum_pg_proc_prosrc as i16, &raw mut null);
            let source = if null {
                String::new()
            } else {
                CStr::from_ptr(pg_sys::text_to_cstring(source.cast_mut_ptr())).to_string_lossy().into_owned()
            };
            let is_sql = row.prolang == SQL_LANGUAGE;
            let function = Self {
                name: compat::name(&row.proname),
                source,
                is_sql,
                volatility: row.provolatile as u8,
                plain: row.prokind as u8 == pg_sys::PROKIND_FUNCTION
                    && !row.proretset
                    && !row.prosecdef
                    && (is_sql || row.prolang == INTERNAL_LANGUAGE),
            };
            pg_sys::ReleaseSysCache(tuple);
            Some(function)
        }
    }
}
