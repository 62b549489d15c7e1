//! Changes as capture by trigger records them, made of decoded tuples.
//!
//! What is known of a table here was read as the catalogs were at the change, and is dropped with the relation cache's entry.
//! Takes no lock on users' tables. The replica identity of tables that are captured from the WAL is FULL: the old tuple is
//! complete, with all that lay out of line fetched in. Of the new one, what an update carried over is a pointer whose
//! target may be gone: it is never followed, the old tuple has the value. Invariant: what cannot be known for certain is
//! a redefinition, which makes clients resynchronise, never a guess. Main thread of a feeder, while decoding.

use super::plugin::Roots;
use crate::capture::record::{self, MaskBuilder};
use crate::capture::relation::{self, Info};
use crate::changelog::Op;
use crate::compat;
use pgrx::pg_sys::{self, Datum, Oid};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;
use std::rc::Rc;

/// Of a deleted row, values from this size on are left out unless they are wanted: as large as those that TOAST moves out of
/// line, which capture by trigger leaves out.
const LARGE: usize = 2_000;

/// `vartag_external` of varatt.h: a pointer to a value that lies in a TOAST table.
const VARTAG_ONDISK: u8 = 18;

const ROWS: &CStr = c"!rte_capture";
const TRUNCATES: &CStr = c"!rte_capture_truncate";

/// A table as it was at a change.
pub struct Table {
    /// `None` where its rows are not captured from the WAL.
    pub rows: Option<Info>,
    /// The table that clients know, where TRUNCATE is captured from the WAL.
    pub truncates: Option<Oid>,
    /// Whether old rows are complete.
    full: bool,
}

/// What is known of a change.
pub struct Made {
    pub op: Op,
    pub new_row: Vec<u8>,
    pub old_row: Vec<u8>,
    pub mask: Vec<u8>,
}

impl Made {
    pub fn only(op: Op) -> Self {
        Self { op, new_row: Vec::new(), old_row: Vec::new(), mask: Vec::new() }
    }
}

thread_local! {
    static TABLES: RefCell<HashMap<Oid, Rc<Table>>> = RefCell::default();
}

/// Forgets a table and its partitions, or all (invalid oid).
pub fn forget(relation: Oid) {
    TABLES.with_borrow_mut(|tables| {
        if relation == Oid::INVALID {
            tables.clear();
        } else {
            tables.retain(|oid, table| {
                let root = table.rows.as_ref().map(|info| info.root).or(table.truncates);
                *oid != relation && root != Some(relation)
            });
        }
    });
}

/// What is known of an open table, as it was at the change that is being decoded.
///
/// # Safety
/// `rel` is referred to, under the snapshot of the change.
pub unsafe fn table(rel: pg_sys::Relation, roots: &Roots) -> Rc<Table> {
    // SAFETY: the caller's promise.
    let oid = unsafe { (*rel).rd_id };
    if let Some(table) = TABLES.with_borrow(|tables| tables.get(&oid).cloned()) {
        return table;
    }
    // SAFETY: the caller's promise.
    let table = Rc::new(unsafe { load(rel, roots) });
    TABLES.with_borrow_mut(|tables| tables.insert(oid, table.clone()));
    table
}

/// # Safety
/// As for [`table`].
unsafe fn load(rel: pg_sys::Relation, roots: &Roots) -> Table {
    // SAFETY: the caller's promise; the root is given back.
    unsafe {
        let full = (*(*rel).rd_rel).relreplident as u8 == pg_sys::REPLICA_IDENTITY_FULL;
        let mut table = Table { rows: None, truncates: None, full };
        if let Some(trigger) = disabled(rel, ROWS) {
            let root = if trigger.tgisclone { relation::root_of(rel) } else { (*rel).rd_id };
            if roots.contains(&root) {
                let root_rel = pg_sys::RelationIdGetRelation(root);
                if !root_rel.is_null() {
                    table.rows = Some(relation::describe(rel, root_rel, true));
                    pg_sys::RelationClose(root_rel);
                }
            }
        }
        if disabled(rel, TRUNCATES).is_some() {
            table.truncates = Some(relation::root_of(rel)).filter(|root| roots.contains(root));
        }
        table
    }
}

/// A trigger of a table, where it is there and disabled.
///
/// # Safety
/// As for [`table`]; what is returned lives as long as the reference.
unsafe fn disabled<'a>(rel: pg_sys::Relation, name: &CStr) -> Option<&'a pg_sys::Trigger> {
    // SAFETY: the caller's promise; names are C strings.
    unsafe {
        let triggers = (*rel).trigdesc;
        if triggers.is_null() {
            return None;
        }
        let triggers = std::slice::from_raw_parts((*triggers).triggers, (*triggers).numtriggers as usize);
        let disabled = pg_sys::TRIGGER_DISABLED as std::ffi::c_char;
        triggers.iter().find(|t| t.tgenabled == disabled && CStr::from_ptr(t.tgname) == name)
    }
}

/// An inserted row.
///
/// # Safety
/// `new` is a row of the table of `info` (or of its partition); the current memory context is reset afterwards.
pub unsafe fn inserted(info: &Info, new: pg_sys::HeapTuple) -> Made {
    // SAFETY: the caller's promise.
    unsafe {
        if !record::has_external(new) {
            return Made { new_row: record::bytes_of(record::rooted(info, new)).to_vec(), ..Made::only(Op::Insert) };
        }
        // Postgres has put together what was moved out of line with this row: pointers to memory, which may be followed.
        let row = record::deform(info, new);
        if (0..row.values.len()).any(|i| !row.nulls[i] && is_on_disk(info, i, row.values[i])) {
            return Made::only(Op::Redefined);
        }
        let flat = compat::toast_flatten_tuple(row.tuple, info.desc);
        Made { new_row: record::bytes_of(flat).to_vec(), ..Made::only(Op::Insert) }
    }
}

/// An updated row; `None` where the update changed nothing.
///
/// # Safety
/// `old` (null where there is none) and `new` are rows of the table of `info` (or of its partition); the current memory
/// context is reset afterwards.
pub unsafe fn updated(table: &Table, info: &Info, old: pg_sys::HeapTuple, new: pg_sys::HeapTuple) -> Option<Made> {
    if old.is_null() || !table.full {
        return Some(Made::only(Op::Redefined));
    }
    // SAFETY: the caller's promise; the arrays have the descriptor's length.
    unsafe {
        let (mut old, mut new) = (record::deform(info, old), record::deform(info, new));
        let count = old.values.len();
        let mut mask = MaskBuilder::new(count);
        let mut old_nulls = vec![true; count];
        let mut carried = Vec::new();
        let (mut any, mut key) = (false, false);
        for (i, old_null) in old_nulls.iter_mut().enumerate() {
            if !new.nulls[i] && is_on_disk(info, i, new.values[i]) {
                if old.nulls[i] {
                    return Some(Made::only(Op::Redefined));
                }
                new.values[i] = old.values[i];
                carried.push(i);
                continue;
            }
            if record::same(info.columns[i], (old.values[i], old.nulls[i]), (new.values[i], new.nulls[i])) {
                continue;
            }
            any = true;
            key |= info.key.contains(&(i as i16 + 1));
            mask.set_changed(i);
            *old_null = old.nulls[i];
        }
        if !any {
            return None;
        }
        let new_row = if !record::has_external(new.tuple) {
            record::bytes_of(new.tuple).to_vec()
        } else {
            // A row that moves to another key is needed as a whole.
            for i in carried.into_iter().filter(|i| !key && !info.wanted.contains(&(*i as i16 + 1))) {
                mask.set_left_out(i);
                new.nulls[i] = true;
            }
            let tuple = pg_sys::heap_form_tuple(info.desc, new.values.as_mut_ptr(), new.nulls.as_mut_ptr());
            let external = record::has_external(tuple);
            let flat = if external { compat::toast_flatten_tuple(tuple, info.desc) } else { tuple };
            record::bytes_of(flat).to_vec()
        };
        let tuple = pg_sys::heap_form_tuple(info.desc, old.values.as_mut_ptr(), old_nulls.as_mut_ptr());
        let (old_row, mask) = (record::bytes_of(tuple).to_vec(), mask.bytes().to_vec());
        Some(Made { op: Op::Update, new_row, old_row, mask })
    }
}

/// A deleted row.
///
/// # Safety
/// As for [`updated`].
pub unsafe fn deleted(table: &Table, info: &Info, old: pg_sys::HeapTuple) -> Made {
    if old.is_null() || !table.full {
        return Made::only(Op::Redefined);
    }
    // SAFETY: the caller's promise; the arrays have the descriptor's length.
    unsafe {
        let mut row = record::deform(info, old);
        let mut mask = MaskBuilder::new(row.values.len());
        let mut all = true;
        for i in 0..row.values.len() {
            let attribute = i as i16 + 1;
            if !row.nulls[i]
                && info.columns[i].len == -1
                && pgrx::varsize_any(row.values[i].cast_mut_ptr()) >= LARGE
                && !info.key.contains(&attribute)
                && !info.wanted.contains(&attribute)
            {
                mask.set_left_out(i);
                row.nulls[i] = true;
                all = false;
            }
        }
        if !all {
            row.tuple = pg_sys::heap_form_tuple(info.desc, row.values.as_mut_ptr(), row.nulls.as_mut_ptr());
        }
        let (old_row, mask) = (record::bytes_of(row.tuple).to_vec(), mask.bytes().to_vec());
        Made { op: Op::Delete, new_row: Vec::new(), old_row, mask }
    }
}

/// Whether a value is a pointer into a TOAST table.
///
/// # Safety
/// The value is of the column's type and not null.
unsafe fn is_on_disk(info: &Info, column: usize, value: Datum) -> bool {
    // SAFETY: a varlena's first byte tells its kind, that of a pointer the second.
    unsafe {
        info.columns[column].len == -1
            && pgrx::varatt_is_1b_e(value.cast_mut_ptr())
            && *value.cast_mut_ptr::<u8>().add(1) == VARTAG_ONDISK
    }
}
