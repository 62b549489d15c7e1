//! The output plugin: what Postgres' decoder calls for each change of each transaction that committed.
//!
//! It gathers the changes of registered tables that are captured from the WAL, by transaction, and drops everything else as
//! early as it can. It writes nothing out: the process that decodes is the one that takes what was gathered. Processes that
//! did not say so beforehand ([`allow_here`]) may make a slot with it, as Postgres allows them to, but read none. Main
//! thread of a feeder, while decoding.

use super::PLUGIN;
use super::image::{self, Made};
use crate::changelog::Op;
use crate::changelog::reader::Change;
use crate::scratch::Scratch;
use crate::{compat, guc, snapshot};
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use rte_core::gathered::{Gathered, Kept};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ffi::{CString, c_int};

/// Registered tables.
pub type Roots = HashSet<Oid>;

/// Bytes of changes between two times that memory is given back.
const UNFREED: usize = 1 << 20;

/// What a transaction changed in registered tables.
pub struct Transaction {
    pub xid: u64,
    /// Where the record of its commit ends.
    pub end: u64,
    /// When it committed; microseconds since 2000-01-01.
    pub at: i64,
    pub changes: Vec<Change>,
    /// Memory that the changes take.
    pub bytes: usize,
}

#[derive(Default)]
struct Collector {
    roots: Roots,
    /// Of the transaction that is being decoded, bounded as a tick is; and how many there were.
    changes: Option<Gathered<Change>>,
    count: u32,
    unfreed: usize,
    /// What was decoded and not taken yet, in the order of commits.
    done: Vec<Transaction>,
    done_bytes: usize,
    /// An id that is not below any that is decoded, and near them.
    next_xid: u64,
    scratch: Option<Scratch>,
}

thread_local! {
    static ALLOWED: Cell<bool> = const { Cell::new(false) };
    static COLLECTOR: RefCell<Collector> = RefCell::default();
}

/// Lets this process read slots of our plugin.
///
/// Newer servers load only plugins that `output_plugin_libraries` names. That guards what those who may use replication can
/// have loaded; this library is loaded already and takes a name from nobody, so its own processes name it for themselves.
pub fn allow_here() {
    ALLOWED.set(true);
    let name = c"output_plugin_libraries";
    // SAFETY: C strings, which are copied; a setting of this process alone.
    unsafe {
        if !pg_sys::GetConfigOption(name.as_ptr(), true, false).is_null() {
            let value = CString::new(PLUGIN).unwrap_or_default();
            let (context, source) = (pg_sys::GucContext::PGC_SIGHUP, pg_sys::GucSource::PGC_S_OVERRIDE);
            pg_sys::SetConfigOption(name.as_ptr(), value.as_ptr(), context, source);
        }
    }
}

/// Says which tables are registered, before decoding; tells whether they are others than before.
pub fn set_roots(roots: Roots) {
    let other = COLLECTOR.with_borrow_mut(|c| {
        let other = c.roots != roots;
        c.roots = roots;
        other
    });
    if other {
        image::forget(Oid::INVALID);
    }
}

/// Before decoding.
pub fn begin() {
    COLLECTOR.with_borrow_mut(|c| c.next_xid = snapshot::next_xid());
}

/// Bytes that were decoded and not taken.
pub fn gathered() -> usize {
    COLLECTOR.with_borrow(|c| c.done_bytes)
}

/// What was decoded since the last call, in the order of commits.
pub fn take() -> Vec<Transaction> {
    COLLECTOR.with_borrow_mut(|c| {
        c.done_bytes = 0;
        std::mem::take(&mut c.done)
    })
}

/// Forgets everything, for another slot.
pub fn restart() {
    COLLECTOR.with_borrow_mut(|c| *c = Collector { roots: std::mem::take(&mut c.roots), ..Collector::default() });
}

/// Where Postgres asks the library for its callbacks.
///
/// # Safety
/// Called by Postgres with a struct to fill.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn _PG_output_plugin_init(callbacks: *mut pg_sys::OutputPluginCallbacks) {
    // SAFETY: the caller's promise.
    let callbacks = unsafe { &mut *callbacks };
    callbacks.startup_cb = Some(startup);
    callbacks.begin_cb = Some(on_begin);
    callbacks.change_cb = Some(on_change);
    callbacks.truncate_cb = Some(on_truncate);
    callbacks.commit_cb = Some(on_commit);
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn startup(
    _context: *mut pg_sys::LogicalDecodingContext,
    options: *mut pg_sys::OutputPluginOptions,
    is_init: bool,
) {
    if !is_init && !ALLOWED.get() {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "slots of whagons_rte are read by its own workers only"
        );
    }
    // SAFETY: given by Postgres to be filled.
    unsafe { (*options).output_type = pg_sys::OutputPluginOutputType::OUTPUT_PLUGIN_BINARY_OUTPUT };
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_begin(
    _context: *mut pg_sys::LogicalDecodingContext,
    _transaction: *mut pg_sys::ReorderBufferTXN,
) {
    COLLECTOR.with_borrow_mut(|c| (c.changes, c.count) = (None, 0));
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_change(
    _context: *mut pg_sys::LogicalDecodingContext,
    _transaction: *mut pg_sys::ReorderBufferTXN,
    relation: pg_sys::Relation,
    change: *mut pg_sys::ReorderBufferChange,
) {
    use pg_sys::ReorderBufferChangeType::{
        REORDER_BUFFER_CHANGE_DELETE, REORDER_BUFFER_CHANGE_INSERT, REORDER_BUFFER_CHANGE_UPDATE,
    };
    // SAFETY: the relation is referred to by Postgres, under the snapshot of the change, and the tuples are its rows.
    COLLECTOR.with_borrow_mut(|c| unsafe {
        let table = image::table(relation, &c.roots);
        let Some(info) = &table.rows else { return };
        let (old, new) = compat::decoded_tuples(change);
        let made = c.scratch.get_or_insert_with(Scratch::new).with(|| match (*change).action {
            REORDER_BUFFER_CHANGE_INSERT if !new.is_null() => Some(image::inserted(info, new)),
            REORDER_BUFFER_CHANGE_UPDATE if !new.is_null() => image::updated(&table, info, old, new),
            REORDER_BUFFER_CHANGE_DELETE => Some(image::deleted(&table, info, old)),
            _ => Some(Made::only(Op::Redefined)),
        });
        if let Some(made) = made {
            c.push(info.root, info.fingerprint, made);
        }
    });
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_truncate(
    _context: *mut pg_sys::LogicalDecodingContext,
    _transaction: *mut pg_sys::ReorderBufferTXN,
    count: c_int,
    relations: *mut pg_sys::Relation,
    _change: *mut pg_sys::ReorderBufferChange,
) {
    // SAFETY: as many relations, referred to by Postgres, under the snapshot of the change.
    COLLECTOR.with_borrow_mut(|c| unsafe {
        let relations = std::slice::from_raw_parts(relations, count as usize);
        let mut truncated: Vec<(Oid, bool)> = Vec::new();
        for relation in relations {
            let Some(root) = image::table(*relation, &c.roots).truncates else { continue };
            let whole = root == (**relation).rd_id;
            match truncated.iter_mut().find(|(known, _)| *known == root) {
                Some((_, known)) => *known |= whole,
                None => truncated.push((root, whole)),
            }
        }
        for (root, whole) in truncated {
            c.push(root, 0, Made::only(if whole { Op::Truncate } else { Op::TruncatePart }));
        }
    });
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_commit(
    _context: *mut pg_sys::LogicalDecodingContext,
    transaction: *mut pg_sys::ReorderBufferTXN,
    commit: pg_sys::XLogRecPtr,
) {
    COLLECTOR.with_borrow_mut(|c| {
        let Some(gathered) = c.changes.take() else { return };
        // SAFETY: the transaction that is being decoded, which has committed.
        let (xid, end, at) = unsafe {
            let transaction = &*transaction;
            (transaction.xid, transaction.end_lsn, transaction.xact_time.commit_time)
        };
        let xid = snapshot::full_xid(xid, c.next_xid);
        let Kept { mut changes, given_up, .. } = gathered.finish();
        // Who holds a copy of these reads it anew.
        changes.extend(given_up.into_iter().map(|(table, _)| Change::marker(xid, Oid::from(table), Op::Bulk)));
        for change in &mut changes {
            (change.xid, change.lsn) = (xid, commit);
        }
        let bytes = changes.iter().map(Change::size).sum();
        c.done_bytes += bytes;
        c.done.push(Transaction { xid, end, at, changes, bytes });
    });
}

impl Collector {
    fn push(&mut self, relation: Oid, fingerprint: i64, made: Made) {
        let changes = self.changes.get_or_insert_with(|| Gathered::new(guc::max_tick_bytes()));
        // All of a transaction are in the order of the WAL. Its id is filled in when it is known to be at its end.
        let n = self.count;
        self.count += 1;
        let Made { op, new_row, old_row, mask } = made;
        let change = Change { xid: 0, lsn: 0, fingerprint, cid: n, seq: n, relation, op, new_row, old_row, mask };
        self.unfreed += change.size();
        if changes.wants(0, relation.to_u32(), op.is_of_rows()) {
            changes.add(change);
        }
        if self.unfreed > UNFREED {
            self.unfreed = 0;
            if let Some(scratch) = &mut self.scratch {
                scratch.reset();
            }
        }
    }
}
