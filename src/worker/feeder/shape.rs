//! Shapes: what of a table a subscription sees, and how a change looks in it.
//!
//! A change is encoded once per shape, whoever subscribes to it. Invariant: an image is only read with the
//! definition of its fingerprint; another one makes the shape stale, never a wrong value. Main thread only.

use super::registry::{Definition, Selection};
use crate::capture::{Image, Mask};
use crate::changelog::Op;
use crate::changelog::reader::Change;
use crate::compat;
use crate::encode::{self, ValueEncoder};
use pgrx::pg_sys::{self, Datum, Oid};
use rte_protocol::bridge::ShapeId;
use std::collections::HashMap;
use std::rc::Rc;

/// A `changes` frame is closed at about this size, so that a client can parse while the rest is on its way.
const FRAME: usize = 1 << 20;

pub struct Shape {
    pub id: ShapeId,
    pub table: Oid,
    numbers: Vec<i16>,
    /// Names as JSON strings, in the order of `numbers`.
    names: Vec<Vec<u8>>,
    encoders: Vec<ValueEncoder>,
    key: Vec<i16>,
    key_encoders: Vec<ValueEncoder>,
    definition: Rc<Definition>,
    /// Subscriptions.
    pub users: usize,
}

/// The row images of a change could not be read with the shape's definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale;

/// A growing list of `changes` frames of a shape.
#[derive(Default)]
pub struct Frames {
    pub whole: Vec<Frame>,
    open: Vec<u8>,
    count: u32,
}

/// A `changes` text frame.
pub struct Frame {
    pub bytes: Vec<u8>,
    pub changes: u32,
}

impl Frames {
    fn next(&mut self, shape: ShapeId) -> &mut Vec<u8> {
        if self.open.len() > FRAME {
            self.close(shape);
        }
        self.open.push(if self.count == 0 { b'[' } else { b',' });
        self.count += 1;
        &mut self.open
    }

    pub fn close(&mut self, shape: ShapeId) {
        if self.count > 0 {
            self.open.push(b']');
            let bytes = rte_protocol::wire::changes_frame(&format!("s{shape}"), &self.open);
            self.whole.push(Frame { bytes, changes: self.count });
            self.open.clear();
            self.count = 0;
        }
    }
}

/// Values of an image; the image owns what they point to.
struct Row {
    _image: Image,
    values: Vec<Datum>,
    nulls: Vec<bool>,
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
}

impl Shape {
    pub fn new(id: ShapeId, selection: &Selection) -> Self {
        let encoder = |number: &i16| {
            // SAFETY: numbers are of attributes of this descriptor.
            let a = unsafe { compat::attribute(selection.definition.desc, *number as usize - 1) };
            ValueEncoder::new(a.atttypid, a.atttypmod)
        };
        let json = |name: &str| {
            let mut out = Vec::new();
            encode::append_json_string(&mut out, name.as_bytes());
            out
        };
        Self {
            id,
            table: selection.table,
            names: selection.columns.iter().map(|c| json(&c.name)).collect(),
            encoders: selection.numbers.iter().map(encoder).collect(),
            key_encoders: selection.key.iter().map(encoder).collect(),
            numbers: selection.numbers.clone(),
            key: selection.key.clone(),
            definition: selection.definition.clone(),
            users: 0,
        }
    }

    /// Attribute numbers of the columns.
    pub fn numbers(&self) -> &[i16] {
        &self.numbers
    }

    /// Appends a change as this shape sees it.
    pub fn encode(&mut self, change: &Change, frames: &mut Frames) -> Result<(), Stale> {
        if matches!(change.op, Op::Insert | Op::Update | Op::Delete)
            && change.fingerprint != self.definition.fingerprint
        {
            return Err(Stale);
        }
        let desc = self.definition.desc;
        // SAFETY: the fingerprint was compared.
        let row = |bytes: &[u8]| unsafe { Row::new(bytes, desc) };
        match change.op {
            Op::Insert => {
                let new = row(&change.new_row);
                self.insert(frames.next(self.id), &new);
            }
            Op::Update => {
                let mask = Mask::new(&change.mask);
                if self.key.iter().any(|k| mask.changed(*k)) {
                    // The row left one key and came to another. The old image holds the key columns that changed.
                    let (old, new) = (row(&change.old_row), row(&change.new_row));
                    let key: Vec<(Datum, bool)> = self
                        .key
                        .iter()
                        .map(|k| {
                            let (from, i) = (if mask.changed(*k) { &old } else { &new }, *k as usize - 1);
                            (from.values[i], from.nulls[i])
                        })
                        .collect();
                    self.delete(frames.next(self.id), &key);
                    self.insert(frames.next(self.id), &new);
                } else if self.numbers.iter().any(|n| mask.changed(*n)) {
                    let new = row(&change.new_row);
                    self.update(frames.next(self.id), &new, &mask);
                }
            }
            Op::Delete => {
                let old = row(&change.old_row);
                let key: Vec<(Datum, bool)> =
                    self.key.iter().map(|k| (old.values[*k as usize - 1], old.nulls[*k as usize - 1])).collect();
                self.delete(frames.next(self.id), &key);
            }
            Op::Truncate => frames.next(self.id).extend_from_slice(br#"{"op":"truncate"}"#),
            Op::TruncatePart | Op::Redefined | Op::Access | Op::Gap => {}
        }
        Ok(())
    }

    fn insert(&mut self, out: &mut Vec<u8>, row: &Row) {
        out.extend_from_slice(br#"{"op":"insert","row":["#);
        for (place, (number, encoder)) in self.numbers.iter().zip(&mut self.encoders).enumerate() {
            if place > 0 {
                out.push(b',');
            }
            value(out, encoder, row, *number);
        }
        out.extend_from_slice(b"]}");
    }

    fn update(&mut self, out: &mut Vec<u8>, row: &Row, mask: &Mask<'_>) {
        out.extend_from_slice(br#"{"op":"update","key":"#);
        let key: Vec<(Datum, bool)> =
            self.key.iter().map(|k| (row.values[*k as usize - 1], row.nulls[*k as usize - 1])).collect();
        self.append_key(out, &key);
        out.extend_from_slice(br#","set":{"#);
        let mut first = true;
        for (place, (number, encoder)) in self.numbers.iter().zip(&mut self.encoders).enumerate() {
            if !mask.changed(*number) {
                continue;
            }
            if !first {
                out.push(b',');
            }
            first = false;
            out.extend_from_slice(&self.names[place]);
            out.push(b':');
            value(out, encoder, row, *number);
        }
        out.extend_from_slice(b"}}");
    }

    fn delete(&mut self, out: &mut Vec<u8>, key: &[(Datum, bool)]) {
        out.extend_from_slice(br#"{"op":"delete","key":"#);
        self.append_key(out, key);
        out.push(b'}');
    }

    fn append_key(&mut self, out: &mut Vec<u8>, key: &[(Datum, bool)]) {
        out.push(b'[');
        for (place, ((datum, null), encoder)) in key.iter().zip(&mut self.key_encoders).enumerate() {
            if place > 0 {
                out.push(b',');
            }
            if *null {
                encode::append_null(out);
            } else {
                // SAFETY: a value of the encoder's type.
                unsafe { encoder.append(out, *datum) };
            }
        }
        out.push(b']');
    }
}

fn value(out: &mut Vec<u8>, encoder: &mut ValueEncoder, row: &Row, number: i16) {
    let i = number as usize - 1;
    if row.nulls[i] {
        encode::append_null(out);
    } else {
        // SAFETY: a value of the encoder's type.
        unsafe { encoder.append(out, row.values[i]) };
    }
}

/// The shapes that somebody subscribes to.
#[derive(Default)]
pub struct Shapes {
    all: HashMap<ShapeId, Shape>,
    by_columns: HashMap<(Oid, Vec<i16>), ShapeId>,
    by_table: HashMap<Oid, Vec<ShapeId>>,
    last: ShapeId,
}

impl Shapes {
    /// The shape of a selection, made where nobody has it yet; counts one more user.
    pub fn acquire(&mut self, selection: &Selection) -> ShapeId {
        let by = (selection.table, selection.numbers.clone());
        let id = *self.by_columns.entry(by).or_insert_with(|| {
            self.last += 1;
            self.all.insert(self.last, Shape::new(self.last, selection));
            self.by_table.entry(selection.table).or_default().push(self.last);
            self.last
        });
        if let Some(shape) = self.all.get_mut(&id) {
            shape.users += 1;
        }
        id
    }

    /// One user less; a shape without users is forgotten.
    pub fn release(&mut self, id: ShapeId) {
        let Some(shape) = self.all.get_mut(&id) else { return };
        shape.users = shape.users.saturating_sub(1);
        if shape.users == 0 {
            self.forget(id);
        }
    }

    /// Makes sure that no later subscription joins the shapes of a table: it was redefined.
    pub fn retire(&mut self, table: Oid) -> Vec<ShapeId> {
        let ids = self.by_table.remove(&table).unwrap_or_default();
        for id in &ids {
            self.forget(*id);
        }
        ids
    }

    fn forget(&mut self, id: ShapeId) {
        let Some(shape) = self.all.remove(&id) else { return };
        let by = (shape.table, shape.numbers);
        if self.by_columns.get(&by) == Some(&id) {
            self.by_columns.remove(&by);
        }
        if let Some(ids) = self.by_table.get_mut(&shape.table) {
            ids.retain(|other| *other != id);
        }
    }

    pub fn get(&mut self, id: ShapeId) -> Option<&mut Shape> {
        self.all.get_mut(&id)
    }

    /// Takes a shape out to be encoded with; [`Shapes::put_back`] follows.
    pub fn take(&mut self, id: ShapeId) -> Option<Shape> {
        self.all.remove(&id)
    }

    pub fn put_back(&mut self, shape: Shape) {
        self.all.insert(shape.id, shape);
    }

    pub fn of_table(&self, table: Oid) -> &[ShapeId] {
        self.by_table.get(&table).map_or(&[], Vec::as_slice)
    }

    pub fn clear(&mut self) {
        let last = self.last;
        *self = Self { last, ..Self::default() };
    }
}
