//! The rows of a change: the new one, and the old one as far as the change tells it. Read once for all shapes.
//!
//! Invariant: an image is only read with the definition of its fingerprint; another one is [`Stale`], never a
//! wrong value. Main thread only.

use super::registry::Definition;
use crate::capture::{Image, Mask};
use crate::changelog::Op;
use crate::changelog::reader::Change;
use crate::compat;
use pgrx::pg_sys::{self, Datum};
use std::cell::OnceCell;

/// The row images of a change could not be read with the definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale;

/// Values of an image; the image owns what they point to.
pub struct Row {
    _image: Image,
    pub values: Vec<Datum>,
    pub nulls: Vec<bool>,
}

impl Row {
    /// # Safety
    /// `desc` has the fingerprint that the bytes were stored with.
    unsafe fn new(bytes: &[u8], desc: pg_sys::TupleDesc) -> Self {
        let mut row = Self { _image: Image::new(bytes), values: Vec::new(), nulls: Vec::new() };
        // SAFETY: the caller's promise. The image's memory stays where it is when the row moves.
        unsafe { row._image.deform(desc, &mut row.values, &mut row.nulls) };
        row
    }

    /// A value, none where it is null.
    pub fn get(&self, attribute: i16) -> Option<Datum> {
        let i = attribute as usize - 1;
        (!self.nulls[i]).then(|| self.values[i])
    }
}

/// The rows of one change.
pub struct Rows<'a> {
    pub change: &'a Change,
    pub mask: Mask<'a>,
    desc: pg_sys::TupleDesc,
    new: OnceCell<Row>,
    changed: OnceCell<Row>,
    old: OnceCell<(Vec<Datum>, Vec<bool>)>,
}

impl<'a> Rows<'a> {
    /// Of a change and the table's definition; nothing is read yet.
    pub fn new(change: &'a Change, definition: &'a Definition) -> Result<Self, Stale> {
        let has_rows = matches!(change.op, Op::Insert | Op::Update | Op::Delete);
        if has_rows && change.fingerprint != definition.fingerprint {
            return Err(Stale);
        }
        Ok(Self {
            change,
            mask: Mask::new(&change.mask),
            desc: definition.desc,
            new: OnceCell::new(),
            changed: OnceCell::new(),
            old: OnceCell::new(),
        })
    }

    /// The new row of an insert or update.
    pub fn new_row(&self) -> &Row {
        // SAFETY: the fingerprint was compared.
        self.new.get_or_init(|| unsafe { Row::new(&self.change.new_row, self.desc) })
    }

    /// The image of the old row: of a delete the whole row, of an update what it changed, the rest being null.
    fn stored_old(&self) -> &Row {
        // SAFETY: the fingerprint was compared.
        self.changed.get_or_init(|| unsafe { Row::new(&self.change.old_row, self.desc) })
    }

    /// A value of the old row.
    pub fn old_value(&self, attribute: i16) -> Option<Datum> {
        if self.change.op == Op::Update && !self.mask.changed(attribute) {
            self.new_row().get(attribute)
        } else {
            self.stored_old().get(attribute)
        }
    }

    /// Values and nulls of the old row.
    pub fn old_row(&self) -> (&[Datum], &[bool]) {
        if self.change.op != Op::Update {
            let old = self.stored_old();
            return (&old.values, &old.nulls);
        }
        let (values, nulls) = self.old.get_or_init(|| {
            let (old, new) = (self.stored_old(), self.new_row());
            let (mut values, mut nulls) = (new.values.clone(), new.nulls.clone());
            for i in 0..values.len() {
                if self.mask.changed(i as i16 + 1) {
                    (values[i], nulls[i]) = (old.values[i], old.nulls[i]);
                }
            }
            (values, nulls)
        });
        (values, nulls)
    }

    /// Type of a column.
    pub fn type_of(&self, attribute: i16) -> pg_sys::Oid {
        // SAFETY: a number of the descriptor's.
        unsafe { compat::attribute(self.desc, attribute as usize - 1).atttypid }
    }

    /// Whether an update moved the row to another key.
    pub fn moves(&self, key: &[i16]) -> bool {
        self.change.op == Op::Update && key.iter().any(|k| self.mask.changed(*k))
    }

    /// Whether the change holds no value of a column, because it lies out of line and did not change.
    pub fn lacks(&self, attribute: i16) -> bool {
        self.mask.left_out(attribute)
    }
}
