//! What capture knows of a table, per backend: its root, its key, its fingerprint. Dropped on relcache
//! invalidation, so it is never older than the lock that the writer holds. Main thread only.

use crate::access::node;
use crate::changelog::for_each_row;
use crate::compat;
use pgrx::pg_sys::{self, Oid};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// How values of an attribute are stored.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub by_value: bool,
    pub len: i16,
}

/// What is needed to record a row of a table.
pub struct Info {
    /// The table that clients know: the root of a partitioned one.
    pub root: Oid,
    pub fingerprint: i64,
    /// Descriptor of the root, owned by this entry.
    pub desc: pg_sys::TupleDesc,
    /// Of `desc`, beside it because to ask Postgres for an attribute costs more than to compare a value of it.
    pub columns: Vec<Column>,
    /// Converts a partition's row into its root's; null where they are alike.
    pub map: *mut pg_sys::TupleConversionMap,
    /// Attribute numbers of the key, in the root.
    pub key: Vec<i16>,
    /// Attribute numbers of the root that decide who may see a row, so that a change must tell their values, wherever
    /// they are stored.
    pub wanted: Vec<i16>,
    /// Whether anybody asked for its changes: whoever may create triggers can put ours on any table of theirs.
    pub registered: bool,
    /// Memory of this entry.
    context: pg_sys::MemoryContext,
}

impl Drop for Info {
    fn drop(&mut self) {
        // SAFETY: made in `load`, and used by nothing else.
        unsafe { pg_sys::MemoryContextDelete(self.context) }
    }
}

/// The key of a table, or why it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    Columns(Vec<i16>),
    Missing,
    Deferrable,
}

thread_local! {
    static CACHE: RefCell<HashMap<Oid, Rc<Info>>> = RefCell::new(HashMap::new());
}

/// Forgets a table, or all (invalid oid).
pub fn forget(oid: Oid) {
    CACHE.with_borrow_mut(|cache| {
        if oid == Oid::INVALID {
            cache.clear();
        } else {
            cache.remove(&oid);
        }
    });
}

/// Calls `f` with what is known of an open table.
///
/// # Safety
/// `rel` is open, and `clone` tells whether the trigger came from a partitioned parent.
pub unsafe fn with<R>(rel: pg_sys::Relation, clone: bool, f: impl FnOnce(&Info) -> R) -> R {
    // SAFETY: the caller's promise.
    let oid = unsafe { (*rel).rd_id };
    let info = CACHE.with_borrow(|cache| cache.get(&oid).cloned()).unwrap_or_else(|| {
        // SAFETY: the caller's promise.
        let info = Rc::new(unsafe { load(rel, clone) });
        CACHE.with_borrow_mut(|cache| cache.insert(oid, info.clone()));
        info
    });
    f(&info)
}

/// # Safety
/// `rel` is open.
unsafe fn load(rel: pg_sys::Relation, clone: bool) -> Info {
    // SAFETY: `rel` is open; the root is opened and closed here, its lock is held by whoever holds the partition's.
    unsafe {
        let root = if clone { root_of(rel) } else { (*rel).rd_id };
        let root_rel = pg_sys::table_open(root, pg_sys::AccessShareLock as i32);
        let info = describe(rel, root_rel, is_registered(root));
        pg_sys::table_close(root_rel, pg_sys::NoLock as i32);
        info
    }
}

/// What the relation cache holds of a table and its root. Takes no lock.
///
/// # Safety
/// Both are referred to, and `rel` is a partition of `root_rel` or the same.
pub unsafe fn describe(rel: pg_sys::Relation, root_rel: pg_sys::Relation, registered: bool) -> Info {
    // SAFETY: the caller's promise; what is kept is copied.
    unsafe {
        let context = pg_sys::AllocSetContextCreateInternal(
            pg_sys::TopMemoryContext,
            c"whagons_rte relation".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
        );
        let root = (*root_rel).rd_id;
        let previous = pg_sys::MemoryContextSwitchTo(context);
        // With constraints: values of columns that ALTER TABLE added lately are in them, not in the rows.
        let desc = pg_sys::CreateTupleDescCopyConstr((*root_rel).rd_att);
        let map = if root == (*rel).rd_id {
            std::ptr::null_mut()
        } else {
            pg_sys::convert_tuples_by_name(pg_sys::CreateTupleDescCopyConstr((*rel).rd_att), desc)
        };
        pg_sys::MemoryContextSwitchTo(previous);
        let key = match key_of(root_rel) {
            Key::Columns(columns) => columns,
            Key::Missing | Key::Deferrable => Vec::new(),
        };
        let wanted = read_by_policies(root_rel);
        let column = |i| {
            let a = compat::attribute(desc, i);
            Column { by_value: a.attbyval, len: a.attlen }
        };
        let columns = (0..(*desc).natts as usize).map(column).collect();
        Info { root, fingerprint: fingerprint(desc), desc, columns, map, key, wanted, registered, context }
    }
}

/// The columns that policies of an open table read outside of sub-selects. Policies with sub-selects are asked of Postgres
/// by key.
///
/// # Safety
/// `rel` is open.
unsafe fn read_by_policies(rel: pg_sys::Relation) -> Vec<i16> {
    let mut columns = Vec::new();
    // SAFETY: the caller's promise; the policies live as long as the relation is open.
    unsafe {
        let policies = (*rel).rd_rsdesc;
        if policies.is_null() {
            return columns;
        }
        for policy in node::each((*policies).policies) {
            columns.extend(node::columns((*policy.cast::<pg_sys::RowSecurityPolicy>()).qual.cast()));
        }
    }
    columns.sort_unstable();
    columns.dedup();
    columns
}

/// Whether a table is in `rte.registered_table`. Needs no privilege: read below SQL.
pub fn is_registered(oid: Oid) -> bool {
    let mut found = false;
    for_each_row("registered_table", |values, _| found |= Oid::from(values[0].value() as u32) == oid);
    found
}

/// Whether a table is in `rte.policy_table`. Needs no privilege: read below SQL.
pub fn is_policy_table(oid: Oid) -> bool {
    let mut found = false;
    for_each_row("policy_table", |values, _| found |= Oid::from(values[0].value() as u32) == oid);
    found
}

/// The topmost table of the partition tree that an open table is in; itself where it is in none.
///
/// # Safety
/// `rel` is open.
pub unsafe fn root_of(rel: pg_sys::Relation) -> Oid {
    // SAFETY: the caller's promise; the list's elements are oids.
    unsafe {
        if !(*(*rel).rd_rel).relispartition {
            return (*rel).rd_id;
        }
        let ancestors = compat::get_partition_ancestors((*rel).rd_id);
        let count = compat::list_length(ancestors);
        if count == 0 { (*rel).rd_id } else { pg_sys::list_nth_oid(ancestors, count - 1) }
    }
}

/// The key by which clients know rows: the primary key, or else the replica identity's index.
///
/// # Safety
/// `rel` is referred to.
pub unsafe fn key_of(rel: pg_sys::Relation) -> Key {
    // SAFETY: the caller's promise; the index is opened and closed here.
    unsafe {
        let mut index = compat::primary_key_index(rel);
        if index == Oid::INVALID {
            index = pg_sys::RelationGetReplicaIndex(rel);
        }
        if index == Oid::INVALID && (*(*rel).rd_rel).relreplident as u8 == b'f' {
            index = replaced_identity(rel);
        }
        if index == Oid::INVALID {
            return if (*rel).rd_pkindex == Oid::INVALID { Key::Missing } else { Key::Deferrable };
        }
        // Without a lock of its own: who decodes the WAL must not wait for one, and others hold the table's.
        let index = pg_sys::RelationIdGetRelation(index);
        if index.is_null() {
            return Key::Missing;
        }
        let form = &*(*index).rd_index;
        let columns = form.indkey.values.as_slice(form.indnkeyatts as usize).to_vec();
        let immediate = form.indimmediate;
        pg_sys::RelationClose(index);
        if immediate { Key::Columns(columns) } else { Key::Deferrable }
    }
}

/// The index that is the replica identity whenever the table is not captured from the WAL (`rte.replaced_identity`): it is
/// still marked as that.
///
/// # Safety
/// `rel` is open.
unsafe fn replaced_identity(rel: pg_sys::Relation) -> Oid {
    // SAFETY: the caller's promise; the list's elements are oids, and each index is referred to, without a lock, and given back here.
    unsafe {
        let indexes = pg_sys::RelationGetIndexList(rel);
        (0..compat::list_length(indexes))
            .map(|n| pg_sys::list_nth_oid(indexes, n))
            .find(|index| {
                let index = pg_sys::RelationIdGetRelation(*index);
                if index.is_null() {
                    return false;
                }
                let marked = (*(*index).rd_index).indisreplident;
                pg_sys::RelationClose(index);
                marked
            })
            .unwrap_or(Oid::INVALID)
    }
}

/// Names the layout of a row: a stored image is only read with a descriptor of the same fingerprint.
///
/// # Safety
/// `desc` is valid.
pub unsafe fn fingerprint(desc: pg_sys::TupleDesc) -> i64 {
    // FNV-1a: stable over versions and machines, which std's hashers do not promise.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |n: u64| {
        for byte in n.to_le_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    // SAFETY: the caller's promise.
    unsafe {
        let count = (*desc).natts as usize;
        add(count as u64);
        for i in 0..count {
            let a = compat::attribute(desc, i);
            add(u64::from(a.atttypid.to_u32()));
            add(u64::from(a.atttypmod as u32));
            add(u64::from(a.attlen as u16) << 32 | u64::from(a.attalign as u8) << 8 | u64::from(a.attbyval));
            add(u64::from(a.attisdropped) << 1 | u64::from(a.attgenerated != 0));
        }
    }
    hash as i64
}
