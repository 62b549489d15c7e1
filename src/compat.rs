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
    pub fn get_attgenerated(relid: Oid, attnum: i16) -> std::ffi::c_char;
    pub fn datumCopy(value: pg_sys::Datum, by_value: bool, len: c_int) -> pg_sys::Datum;
    pub fn datum_image_eq(a: pg_sys::Datum, b: pg_sys::Datum, by_value: bool, len: c_int) -> bool;
    pub fn readTimeLineHistory(target: TimeLineID) -> *mut pg_sys::List;
    pub fn get_partition_ancestors(relid: Oid) -> *mut pg_sys::List;
    pub fn find_all_inheritors(
        parent: Oid,
        lock: pg_sys::LOCKMODE,
        parents: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::List;
    pub fn enable_timeout_after(id: c_int, delay_ms: c_int);
    pub fn disable_timeout(id: c_int, keep_indicator: bool);
    pub fn ApplySetting(
        snapshot: pg_sys::Snapshot,
        database: Oid,
        role: Oid,
        relation: pg_sys::Relation,
        source: pg_sys::GucSource::Type,
    );
    pub fn get_timeout_active(id: c_int) -> bool;
    pub fn LogicalDecodingProcessRecord(
        context: *mut pg_sys::LogicalDecodingContext,
        record: *mut pg_sys::XLogReaderState,
    );
}

/// Oid of the catalog `pg_db_role_setting`.
pub const DB_ROLE_SETTING: Oid = Oid::from_u32(2964);

/// `TimeoutId` of utils/timeout.h, the same in 15 to 18.
pub const STATEMENT_TIMEOUT: c_int = 3;

/// An empty set of events that lasts until it is freed.
///
/// # Safety
/// Main thread; whoever asks for it frees it.
pub unsafe fn lasting_wait_event_set(events: c_int) -> *mut pg_sys::WaitEventSet {
    // SAFETY: the caller's promise; no resource owner is to free it.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let set = pg_sys::CreateWaitEventSet(pg_sys::TopMemoryContext, events);
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let set = pg_sys::CreateWaitEventSet(std::ptr::null_mut(), events);
        set
    }
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

/// Ends this process in order. The bindings of 18 do not say that the server's function does not return.
///
/// # Safety
/// Main thread, outside a transaction.
pub unsafe fn exit() -> ! {
    #[cfg(not(feature = "pg18"))]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::proc_exit(0)
    }
    #[cfg(feature = "pg18")]
    {
        // SAFETY: likewise.
        unsafe { pg_sys::proc_exit(0) };
        unreachable!("proc_exit does not return")
    }
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

/// Whether a role may connect to a database.
///
/// # Safety
/// Main thread, in a transaction.
pub unsafe fn may_connect(database: Oid, role: Oid) -> bool {
    #[cfg(feature = "pg15")]
    // SAFETY: the caller's promise.
    let result = unsafe { pg_sys::pg_database_aclcheck(database, role, pg_sys::AclMode::from(pg_sys::ACL_CONNECT)) };
    #[cfg(not(feature = "pg15"))]
    // SAFETY: the caller's promise.
    let result = unsafe {
        pg_sys::object_aclcheck(pg_sys::DatabaseRelationId, database, role, pg_sys::AclMode::from(pg_sys::ACL_CONNECT))
    };
    result == pg_sys::AclResult::ACLCHECK_OK
}

/// Whether `member` may `SET ROLE` to `role`.
///
/// # Safety
/// Main thread, in a transaction.
pub unsafe fn may_set_role(member: Oid, role: Oid) -> bool {
    #[cfg(feature = "pg15")]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::is_member_of_role(member, role)
    }
    #[cfg(not(feature = "pg15"))]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::member_can_set_role(member, role)
    }
}

/// Connects a background worker to a database as a role; an invalid one is the server's owner.
///
/// # Safety
/// Once, at the start of a background worker that asked for database access.
pub unsafe fn connect_as(database: Oid, role: Oid) {
    // Whether the role may log in says who may connect from outside; before 17 a worker cannot do without.
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    let flags = pg_sys::BGWORKER_BYPASS_ROLELOGINCHECK;
    #[cfg(not(any(feature = "pg17", feature = "pg18")))]
    let flags = 0;
    // SAFETY: the caller's promise.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(database, role, flags) }
}

/// Whether [`connect_as`] needs a role that may log in.
pub const CONNECTING_NEEDS_LOGIN: bool = cfg!(not(any(feature = "pg17", feature = "pg18")));

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

// The server's own functions, for the server's own use: the bindings wrap them in a guard, which is not for pointers to them.
unsafe extern "C-unwind" {
    fn read_local_xlog_page_no_wait(
        reader: *mut pg_sys::XLogReaderState,
        page: XLogRecPtr,
        wanted: c_int,
        record: XLogRecPtr,
        buffer: *mut std::ffi::c_char,
    ) -> c_int;
    fn wal_segment_open(reader: *mut pg_sys::XLogReaderState, segment: u64, timeline: *mut TimeLineID);
    fn wal_segment_close(reader: *mut pg_sys::XLogReaderState);
}

/// How a reader gets at this server's WAL: what is on disk, without waiting for more. Its private data is a
/// `ReadLocalXLogPageNoWaitPrivate`.
pub fn flushed_wal() -> pg_sys::XLogReaderRoutine {
    pg_sys::XLogReaderRoutine {
        page_read: Some(read_local_xlog_page_no_wait),
        segment_open: Some(wal_segment_open),
        segment_close: Some(wal_segment_close),
    }
}

/// Makes this process the one that reads a replication slot; raises an error where another one does.
///
/// # Safety
/// Main thread; this process reads none.
pub unsafe fn acquire_slot(name: &CStr) {
    #[cfg(feature = "pg18")]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::ReplicationSlotAcquire(name.as_ptr(), true, true);
    }
    #[cfg(not(feature = "pg18"))]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::ReplicationSlotAcquire(name.as_ptr(), true);
    }
}

/// The old and the new tuple of a decoded change, null where there is none.
///
/// # Safety
/// An insert, update or delete; the tuples live as long as the change.
pub unsafe fn decoded_tuples(change: *mut pg_sys::ReorderBufferChange) -> (pg_sys::HeapTuple, pg_sys::HeapTuple) {
    // SAFETY: the caller's promise tells which of the union it is.
    unsafe {
        let tuples = &(*change).data.tp;
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        {
            let tuple = |buffer: *mut pg_sys::ReorderBufferTupleBuf| {
                if buffer.is_null() { std::ptr::null_mut() } else { &raw mut (*buffer).tuple }
            };
            (tuple(tuples.oldtuple), tuple(tuples.newtuple))
        }
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        {
            (tuples.oldtuple, tuples.newtuple)
        }
    }
}

/// The text of a `name`.
pub fn name(name: &pg_sys::NameData) -> String {
    let bytes: Vec<u8> = name.data.iter().map(|c| *c as u8).take_while(|b| *b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A node of the current memory context, all zero but for its tag.
///
/// # Safety
/// `T` is the struct of `tag`.
pub unsafe fn make<T>(tag: pg_sys::NodeTag) -> *mut T {
    // SAFETY: zeroed memory of the struct's size; every node begins with its tag.
    unsafe {
        let node = pg_sys::palloc0(size_of::<T>()).cast::<T>();
        (*node.cast::<pg_sys::Node>()).type_ = tag;
        node
    }
}

/// A mutator of expression trees.
pub type Mutator = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut std::ffi::c_void) -> *mut pg_sys::Node;

/// A copy of a node whose children went through a mutator.
///
/// # Safety
/// `node` is a node of an analysed expression.
pub unsafe fn expression_tree_mutator(
    node: *mut pg_sys::Node,
    mutator: Mutator,
    context: *mut std::ffi::c_void,
) -> *mut pg_sys::Node {
    #[cfg(feature = "pg15")]
    // SAFETY: the server calls it with the node and the context, whatever the binding's type says (nodeFuncs.h).
    unsafe {
        let mutator = std::mem::transmute::<Mutator, unsafe extern "C-unwind" fn() -> *mut pg_sys::Node>(mutator);
        pg_sys::expression_tree_mutator(node, Some(mutator), context)
    }
    #[cfg(not(feature = "pg15"))]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::expression_tree_mutator_impl(node, Some(mutator), context)
    }
}

/// `SELECT FROM` a table as the parser makes it: the query, and the table's entry in it.
///
/// # Safety
/// Main thread, in a transaction.
pub unsafe fn select_of(relation: Oid, kind: u8) -> (*mut pg_sys::Query, *mut pg_sys::RangeTblEntry) {
    // SAFETY: nodes of these tags.
    unsafe {
        let query = make::<pg_sys::Query>(pg_sys::NodeTag::T_Query);
        let entry = make::<pg_sys::RangeTblEntry>(pg_sys::NodeTag::T_RangeTblEntry);
        (*query).commandType = pg_sys::CmdType::CMD_SELECT;
        (*entry).rtekind = pg_sys::RTEKind::RTE_RELATION;
        (*entry).relid = relation;
        (*entry).relkind = kind as std::ffi::c_char;
        (*entry).rellockmode = pg_sys::AccessShareLock as c_int;
        (*query).rtable = pg_sys::lappend(std::ptr::null_mut(), entry.cast());
        #[cfg(feature = "pg15")]
        {
            (*entry).requiredPerms = pg_sys::AclMode::from(pg_sys::ACL_SELECT);
        }
        #[cfg(not(feature = "pg15"))]
        {
            let permissions = pg_sys::addRTEPermissionInfo(&raw mut (*query).rteperminfos, entry);
            (*permissions).requiredPerms = pg_sys::AclMode::from(pg_sys::ACL_SELECT);
        }
        (query, entry)
    }
}

/// Adds columns to those that the first table of a query is read by, so that privileges on them are checked.
///
/// # Safety
/// `query` has a table as its first entry.
pub unsafe fn check_columns(query: *mut pg_sys::Query, columns: &[i16]) {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(feature = "pg15")]
        let selected = &raw mut (*pg_sys::list_nth((*query).rtable, 0).cast::<pg_sys::RangeTblEntry>()).selectedCols;
        #[cfg(not(feature = "pg15"))]
        let selected =
            &raw mut (*pg_sys::list_nth((*query).rteperminfos, 0).cast::<pg_sys::RTEPermissionInfo>()).selectedCols;
        for column in columns {
            let member = c_int::from(*column) - pg_sys::FirstLowInvalidHeapAttributeNumber;
            *selected = pg_sys::bms_add_member(*selected, member);
        }
    }
}

/// Runs a query that was started, to its end.
///
/// # Safety
/// `query` was started by `ExecutorStart`.
pub unsafe fn executor_run(query: *mut pg_sys::QueryDesc) {
    let forward = pg_sys::ScanDirection::ForwardScanDirection;
    #[cfg(feature = "pg18")]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::ExecutorRun(query, forward, 0);
    }
    #[cfg(not(feature = "pg18"))]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::ExecutorRun(query, forward, 0, true);
    }
}

/// What is told the range table of every query that the executor starts.
pub type OnRangeTable = unsafe fn(*mut pg_sys::List);

static mut ON_RANGE_TABLE: Option<OnRangeTable> = None;
static mut PREVIOUS_CHECK: pg_sys::ExecutorCheckPerms_hook_type = None;

/// Listens to the executor's checks of privileges, and forbids nothing. Once per process.
pub fn on_range_table(listener: OnRangeTable) {
    // SAFETY: the hook is only touched here, on the main thread.
    unsafe {
        ON_RANGE_TABLE = Some(listener);
        PREVIOUS_CHECK = pg_sys::ExecutorCheckPerms_hook;
        pg_sys::ExecutorCheckPerms_hook = Some(check_perms);
    }
}

#[cfg(feature = "pg15")]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn check_perms(range_table: *mut pg_sys::List, report: bool) -> bool {
    // SAFETY: the executor's own range table; the hook before ours as it was set.
    unsafe {
        if let Some(listener) = ON_RANGE_TABLE {
            listener(range_table);
        }
        PREVIOUS_CHECK.is_none_or(|hook| hook(range_table, report))
    }
}

#[cfg(not(feature = "pg15"))]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn check_perms(
    range_table: *mut pg_sys::List,
    permissions: *mut pg_sys::List,
    report: bool,
) -> bool {
    // SAFETY: the executor's own range table; the hook before ours as it was set.
    unsafe {
        if let Some(listener) = ON_RANGE_TABLE {
            listener(range_table);
        }
        PREVIOUS_CHECK.is_none_or(|hook| hook(range_table, permissions, report))
    }
}

/// A text in the database's encoding. Raises an error where it cannot be.
///
/// # Safety
/// Main thread.
pub unsafe fn server_text(text: &CStr) -> std::ffi::CString {
    let bytes = text.to_bytes();
    // SAFETY: the text and its length; the result is the same text or a new C string.
    unsafe {
        let converted = pg_sys::pg_any_to_server(text.as_ptr(), bytes.len() as c_int, pg_sys::pg_enc::PG_UTF8 as c_int);
        CStr::from_ptr(converted).to_owned()
    }
}

/// The name of a schema; empty where it is gone.
///
/// # Safety
/// Main thread, in a transaction.
pub unsafe fn schema_name(schema: Oid) -> String {
    // SAFETY: a copy, or null.
    unsafe {
        let name = pg_sys::get_namespace_name(schema);
        if name.is_null() { String::new() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

/// Schema and name of a type.
///
/// # Safety
/// Main thread, in a transaction.
pub unsafe fn type_name(oid: Oid) -> Option<(String, String)> {
    // SAFETY: a tuple of pg_type, read before it is released.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::TYPEOID as c_int, oid.into());
        if tuple.is_null() {
            return None;
        }
        let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_type>();
        let found = (schema_name(row.typnamespace), name(&row.typname));
        pg_sys::ReleaseSysCache(tuple);
        Some(found)
    }
}

/// A range type: what its values are of, and the functions that it may have of its own.
pub struct Range {
    pub subtype: Oid,
    pub operator_class: Oid,
    pub canonical: Oid,
}

/// # Safety
/// Main thread, in a transaction.
pub unsafe fn range(oid: Oid) -> Option<Range> {
    /// A row of pg_range (catalog/pg_range.h), the same in 15 to 18.
    #[repr(C)]
    struct Row {
        rngtypid: Oid,
        rngsubtype: Oid,
        rngmultitypid: Oid,
        rngcollation: Oid,
        rngsubopc: Oid,
        rngcanonical: Oid,
        rngsubdiff: Oid,
    }
    // SAFETY: a tuple of pg_range, copied from before it is released.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RANGETYPE as c_int, oid.into());
        if tuple.is_null() {
            return None;
        }
        let row = &*pg_sys::GETSTRUCT(tuple).cast::<Row>();
        let found = Range { subtype: row.rngsubtype, operator_class: row.rngsubopc, canonical: row.rngcanonical };
        pg_sys::ReleaseSysCache(tuple);
        Some(found)
    }
}

/// Whether a role may drop a database.
///
/// # Safety
/// Main thread, in a transaction.
pub unsafe fn owns_database(database: Oid, role: Oid) -> bool {
    #[cfg(feature = "pg15")]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::pg_database_ownercheck(database, role)
    }
    #[cfg(not(feature = "pg15"))]
    // SAFETY: likewise.
    unsafe {
        pg_sys::object_ownercheck(pg_sys::DatabaseRelationId, database, role)
    }
}
