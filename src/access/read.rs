//! A table, or some rows of it, as a session sees it: the query that feeder and query worker ask Postgres.
//!
//! Names come from the catalogs, each quoted; a client's condition is added as the tree that it was analysed to, never
//! as text. Row-level security is Postgres' own, and stands before the condition. Main thread only, in a transaction.

use super::identity::Identity;
use super::{execute, node};
use crate::compat;
use pgrx::pg_sys::{self, DestReceiver, List, Oid, Query};
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, CString};

/// Columns and conditions of a reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Oid of the table (of the root, where it is partitioned).
    pub relation: u32,
    /// Attribute numbers in the order of the result's columns.
    pub columns: Vec<i16>,
    /// The condition on the tenant's column, as `node::text` makes it.
    pub tenant: Option<String>,
    /// The client's condition, likewise.
    pub condition: Option<String>,
}

/// Why a table cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReadable {
    Table,
    Column,
}

/// A query that is ready to be run.
pub struct Prepared {
    query: *mut Query,
    sql: CString,
    params: pg_sys::ParamListInfo,
    /// The planner's estimate of the table's rows, for a progress bar.
    pub total: Option<u64>,
}

/// Keys of the rows that are wanted: a column of values for each key column.
pub struct Keys<'a> {
    pub columns: &'a [i16],
    /// As many values for each column, none null.
    pub values: Vec<Vec<pg_sys::Datum>>,
}

impl Reading {
    /// Makes the query, as the process itself: a feeder, which may look into every schema, so that names and operators
    /// are found as the catalogs have them. Locks the table against changes of its definition until the transaction ends.
    ///
    /// # Errors
    /// The table or a column is gone.
    pub fn prepare(&self, keys: Option<&Keys<'_>>) -> Result<Prepared, NotReadable> {
        let oid = Oid::from(self.relation);
        // SAFETY: raises an error or gives the relation, or null where there is none of this oid.
        let relation = unsafe { pg_sys::try_relation_open(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
        if relation.is_null() {
            return Err(NotReadable::Table);
        }
        // SAFETY: open until it is closed below, and its lock is kept.
        unsafe {
            let prepared = self.prepare_open(relation, keys);
            pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            prepared
        }
    }

    /// Makes the query for all rows, acting as the identity. A query worker is the authenticator, who has no business in
    /// the schemas of the roles that are granted to it; it is the role that has to have their USAGE.
    ///
    /// # Errors
    /// As [`Reading::prepare`].
    pub fn prepare_as(&self, identity: &Identity) -> Result<Prepared, NotReadable> {
        let acting = identity.act();
        let prepared = self.prepare(None);
        acting.end();
        prepared
    }

    /// Whether a role has been granted every column that is read, and those of the client's condition.
    pub fn is_granted(&self, role: Oid) -> bool {
        let select = pg_sys::AclMode::from(pg_sys::ACL_SELECT);
        let ok = pg_sys::AclResult::ACLCHECK_OK;
        let relation = Oid::from(self.relation);
        // SAFETY: catalog look-ups; what is gone is answered with "no". The condition was made by `node::text`.
        unsafe {
            let used = self.condition.as_ref().map(|text| node::columns(node::parse(text))).unwrap_or_default();
            let granted = |n: &i16| pg_sys::pg_attribute_aclcheck_ext(relation, *n, role, select, &mut false) == ok;
            pg_sys::pg_class_aclcheck_ext(relation, role, select, &mut false) == ok
                || self.columns.iter().chain(&used).all(granted)
        }
    }

    /// # Safety
    /// `relation` is open and locked.
    unsafe fn prepare_open(
        &self,
        relation: pg_sys::Relation,
        keys: Option<&Keys<'_>>,
    ) -> Result<Prepared, NotReadable> {
        // SAFETY: the caller's promise.
        unsafe {
            let class = &*(*relation).rd_rel;
            let (sql, params) = sql(relation, &self.columns, keys)?;
            let types: Vec<Oid> = params.iter().map(|p| p.0).collect();
            let raw = pg_sys::list_nth(pg_sys::pg_parse_query(sql.as_ptr()), 0).cast::<pg_sys::RawStmt>();
            let query = pg_sys::parse_analyze_fixedparams(
                raw,
                sql.as_ptr(),
                types.as_ptr(),
                types.len() as i32,
                std::ptr::null_mut(),
            );
            if let Some(condition) = &self.condition {
                let condition = node::parse(condition);
                compat::check_columns(query, &node::columns(condition));
                let tree = (*query).jointree;
                (*tree).quals = pg_sys::make_and_qual((*tree).quals, condition);
            }
            if let Some(tenant) = &self.tenant {
                // A barrier: nothing of the client's is evaluated on rows of others.
                let entry = pg_sys::list_nth((*query).rtable, 0).cast::<pg_sys::RangeTblEntry>();
                (*entry).securityQuals = pg_sys::lappend((*entry).securityQuals, node::parse(tenant).cast());
            }
            let total = (class.reltuples >= 0.0).then_some(class.reltuples as u64);
            Ok(Prepared { query, sql, params: param_list(&params), total })
        }
    }
}

impl Prepared {
    /// Runs the query, acting as the identity: its privileges and policies are what decides.
    ///
    /// # Safety
    /// `dest` is a receiver.
    pub unsafe fn run(self, identity: &Identity, dest: *mut DestReceiver) {
        let acting = identity.act();
        // SAFETY: the caller's promise; the rewriter gives one SELECT for one.
        unsafe { execute::run(self.rewritten(), &self.sql, self.params, dest) };
        acting.end();
    }

    /// The same, with a closure for the rows.
    pub fn for_each_row(self, identity: &Identity, on_row: execute::OnRow<'_>) {
        let acting = identity.act();
        // SAFETY: the rewriter gives one SELECT for one.
        unsafe { execute::for_each_row(self.rewritten(), &self.sql, self.params, on_row) };
        acting.end();
    }

    /// The query with the acting user's row-level security.
    unsafe fn rewritten(&self) -> *mut Query {
        // SAFETY: an analysed SELECT, rewritten once.
        unsafe { pg_sys::list_nth(pg_sys::QueryRewrite(self.query), 0).cast() }
    }
}

/// The text of the query, and type and value of its parameters.
///
/// # Safety
/// `relation` is open and locked.
unsafe fn sql(
    relation: pg_sys::Relation,
    columns: &[i16],
    keys: Option<&Keys<'_>>,
) -> Result<(CString, Vec<(Oid, pg_sys::Datum)>), NotReadable> {
    // SAFETY: fields of an open relation; strings are C strings in the catalogs' caches or in the
    // transaction's memory.
    unsafe {
        let class = &*(*relation).rd_rel;
        let from: &[u8] = match class.relkind as u8 {
            // Partitions are published as their root.
            pg_sys::RELKIND_PARTITIONED_TABLE => b" FROM ",
            // Children of classical inheritance are tables of their own.
            pg_sys::RELKIND_RELATION => b" FROM ONLY ",
            _ => return Err(NotReadable::Table),
        };
        let mut sql = b"SELECT ".to_vec();
        for (i, number) in columns.iter().enumerate() {
            if i > 0 {
                sql.push(b',');
            }
            sql.extend_from_slice(b"t.");
            sql.extend_from_slice(quoted(attribute(relation, *number)?.attname.data.as_ptr()));
        }
        sql.extend_from_slice(from);
        let schema = pg_sys::get_namespace_name(class.relnamespace);
        if schema.is_null() {
            return Err(NotReadable::Table);
        }
        sql.extend_from_slice(quoted(schema));
        sql.push(b'.');
        sql.extend_from_slice(quoted(class.relname.data.as_ptr()));
        sql.extend_from_slice(b" t");
        let mut params = Vec::new();
        if let Some(keys) = keys {
            params = with_keys(relation, keys, &mut sql)?;
        }
        // Names hold no NUL.
        Ok((CString::new(sql).unwrap_or_default(), params))
    }
}

/// Adds the keys: arrays beside each other, unnested, so that one plan does for any number of columns.
///
/// # Safety
/// As for [`sql`].
unsafe fn with_keys(
    relation: pg_sys::Relation,
    keys: &Keys<'_>,
    sql: &mut Vec<u8>,
) -> Result<Vec<(Oid, pg_sys::Datum)>, NotReadable> {
    // SAFETY: the caller's promise; the values are of the columns' types.
    unsafe {
        let (mut params, mut names, mut tests) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (number, values)) in keys.columns.iter().zip(&keys.values).enumerate() {
            let a = attribute(relation, *number)?;
            let base = pg_sys::getBaseType(a.atttypid);
            let array = pg_sys::get_array_type(base);
            let equal = (*pg_sys::lookup_type_cache(base, pg_sys::TYPECACHE_EQ_OPR as i32)).eq_opr;
            if array == Oid::INVALID || equal == Oid::INVALID {
                return Err(NotReadable::Column);
            }
            let (mut len, mut by_value, mut align) = (0, false, 0);
            pg_sys::get_typlenbyvalalign(base, &raw mut len, &raw mut by_value, &raw mut align);
            let built = pg_sys::construct_array(
                values.as_ptr().cast_mut(),
                values.len() as i32,
                base,
                i32::from(len),
                by_value,
                align,
            );
            params.push((array, pg_sys::Datum::from(built)));
            names.push(format!("k{i}"));
            let column = String::from_utf8_lossy(quoted(a.attname.data.as_ptr()));
            tests.push(format!("t.{column} OPERATOR({}) k.k{i}", operator(equal)));
        }
        // One by one: with several arguments it is a function only where its name stands alone, as anybody may have named his.
        let arrays: Vec<String> = (1..=params.len()).map(|n| format!("pg_catalog.unnest(${n})")).collect();
        let (arrays, names, tests) = (arrays.join(","), names.join(","), tests.join(" AND "));
        sql.extend_from_slice(format!(", ROWS FROM ({arrays}) k({names}) WHERE {tests}").as_bytes());
        Ok(params)
    }
}

/// `schema.=`
unsafe fn operator(oid: Oid) -> String {
    // SAFETY: a syscache look-up; the tuple is read before it is released.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::OPEROID as i32, oid.into());
        if tuple.is_null() {
            pgrx::error!("operator {} does not exist", oid.to_u32());
        }
        let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_operator>();
        let schema = quoted(pg_sys::get_namespace_name(form.oprnamespace));
        let name = format!("{}.{}", String::from_utf8_lossy(schema), compat::name(&form.oprname));
        pg_sys::ReleaseSysCache(tuple);
        name
    }
}

unsafe fn param_list(params: &[(Oid, pg_sys::Datum)]) -> pg_sys::ParamListInfo {
    if params.is_empty() {
        return std::ptr::null_mut();
    }
    // SAFETY: the list has as many places.
    unsafe {
        let list = pg_sys::makeParamList(params.len() as i32);
        for (place, (oid, value)) in (*list).params.as_mut_slice(params.len()).iter_mut().zip(params) {
            place.value = *value;
            place.isnull = false;
            place.pflags = pg_sys::PARAM_FLAG_CONST as u16;
            place.ptype = *oid;
        }
        list
    }
}

unsafe fn attribute(
    relation: pg_sys::Relation,
    number: i16,
) -> Result<&'static pg_sys::FormData_pg_attribute, NotReadable> {
    // SAFETY: an open relation's descriptor, within its bounds.
    unsafe {
        let desc = (*relation).rd_att;
        let index = usize::try_from(number).ok().and_then(|n| n.checked_sub(1)).ok_or(NotReadable::Column)?;
        if index >= (*desc).natts as usize {
            return Err(NotReadable::Column);
        }
        let a = compat::attribute(desc, index);
        if a.attisdropped { Err(NotReadable::Column) } else { Ok(a) }
    }
}

/// # Safety
/// `name` is a C string.
unsafe fn quoted<'a>(name: *const core::ffi::c_char) -> &'a [u8] {
    // SAFETY: gives the name itself or a quoted copy in the current memory context.
    unsafe { CStr::from_ptr(pg_sys::quote_identifier(name)).to_bytes() }
}

/// Whether a table, and its partitions, could be locked at once against changes of its definition; the lock is kept until the
/// transaction ends.
///
/// # Safety
/// In a transaction.
pub unsafe fn lock(table: Oid) -> bool {
    let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: the caller's promise; the list's elements are oids. Its other partitions stay while the root is locked.
    unsafe {
        if !pg_sys::ConditionalLockRelationOid(table, mode) {
            return false;
        }
        if pg_sys::get_rel_relkind(table) as u8 != pg_sys::RELKIND_PARTITIONED_TABLE {
            return true;
        }
        let all = compat::find_all_inheritors(table, pg_sys::NoLock as pg_sys::LOCKMODE, core::ptr::null_mut());
        (0..compat::list_length(all)).all(|i| pg_sys::ConditionalLockRelationOid(pg_sys::list_nth_oid(all, i), mode))
    }
}

/// A list with one more expression.
///
/// # Safety
/// `text` was made by [`node::text`].
pub unsafe fn with(list: *mut List, text: Option<&str>) -> *mut List {
    // SAFETY: the caller's promise.
    text.map_or(list, |text| unsafe { pg_sys::lappend(list, node::parse(text).cast()) })
}
