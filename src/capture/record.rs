//! Images of rows: a heap tuple as it is, without the part of its header that is about visibility.
//!
//! An image holds no pointer out of itself: values that TOAST moved out of line are fetched back in, unless
//! an update left them alone and no policy reads them; those are left out and named in the [`Mask`]. Main thread only.

use super::relation::{Column, Info};
use crate::changelog::Bytea;
use crate::compat;
use pgrx::pg_sys::{self, Datum};

/// Bytes at the start of a tuple header that an image leaves out (t_choice and t_ctid).
const SKIPPED: usize = std::mem::offset_of!(pg_sys::HeapTupleHeaderData, t_infomask2);

/// What an update keeps.
pub struct Update {
    pub new: Bytea,
    pub old: Bytea,
    pub mask: Bytea,
}

/// Which attributes an update changed, and which values an image leaves out.
///
/// Bytes: `u16` length of each bitmap, then the bitmap of changed attributes, then that of values left out; bit
/// `n` is attribute `n + 1`.
pub struct Mask<'a> {
    changed: &'a [u8],
    left_out: &'a [u8],
}

impl<'a> Mask<'a> {
    /// Reads a stored mask; an absent or short one has no bit set.
    pub fn new(bytes: &'a [u8]) -> Self {
        let split = || {
            let (len, rest) = bytes.split_first_chunk::<2>()?;
            rest.split_at_checked(u16::from_le_bytes(*len) as usize)
        };
        let (changed, left_out) = split().unwrap_or_default();
        Self { changed, left_out }
    }

    pub fn changed(&self, attribute: i16) -> bool {
        bit(self.changed, attribute)
    }

    /// Whether the image holds no value of the attribute, though the row does.
    pub fn left_out(&self, attribute: i16) -> bool {
        bit(self.left_out, attribute)
    }
}

fn bit(bits: &[u8], attribute: i16) -> bool {
    let n = attribute as usize - 1;
    bits.get(n / 8).is_some_and(|b| b >> (n % 8) & 1 == 1)
}

/// A [`Mask`] that is being made.
pub struct MaskBuilder(Vec<u8>, usize);

impl MaskBuilder {
    pub fn new(attributes: usize) -> Self {
        let len = attributes.div_ceil(8);
        let mut bytes = vec![0; 2 + 2 * len];
        bytes[..2].copy_from_slice(&(len as u16).to_le_bytes());
        Self(bytes, len)
    }

    pub fn set_changed(&mut self, i: usize) {
        self.0[2 + i / 8] |= 1 << (i % 8);
    }

    pub fn set_left_out(&mut self, i: usize) {
        self.0[2 + self.1 + i / 8] |= 1 << (i % 8);
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A row in its root's layout, with attributes as values.
pub struct Values {
    pub tuple: pg_sys::HeapTuple,
    pub values: Vec<Datum>,
    pub nulls: Vec<bool>,
}

/// # Safety
/// `tuple` is a row of the table of `info` (or of its partition).
pub unsafe fn rooted(info: &Info, tuple: pg_sys::HeapTuple) -> pg_sys::HeapTuple {
    // SAFETY: the map was made for these two descriptors.
    if info.map.is_null() { tuple } else { unsafe { pg_sys::execute_attr_map_tuple(tuple, info.map) } }
}

/// # Safety
/// As for [`rooted`].
pub unsafe fn deform(info: &Info, tuple: pg_sys::HeapTuple) -> Values {
    // SAFETY: the arrays have as many elements as the descriptor has attributes.
    unsafe {
        let tuple = rooted(info, tuple);
        let count = (*info.desc).natts as usize;
        let (mut values, mut nulls) = (vec![Datum::from(0); count], vec![false; count]);
        pg_sys::heap_deform_tuple(tuple, info.desc, values.as_mut_ptr(), nulls.as_mut_ptr());
        Values { tuple, values, nulls }
    }
}

/// Whether a tuple holds values out of line.
///
/// # Safety
/// `tuple` is valid.
pub unsafe fn has_external(tuple: pg_sys::HeapTuple) -> bool {
    // SAFETY: the caller's promise.
    unsafe { u32::from((*(*tuple).t_data).t_infomask) & pg_sys::HEAP_HASEXTERNAL != 0 }
}

/// # Safety
/// `tuple` is valid.
unsafe fn image(tuple: pg_sys::HeapTuple) -> Bytea {
    // SAFETY: the caller's promise; the bytes are copied.
    Bytea::new(unsafe { bytes_of(tuple) })
}

/// What an image keeps of a tuple.
///
/// # Safety
/// `tuple` is valid, and for as long as what is returned.
pub unsafe fn bytes_of<'a>(tuple: pg_sys::HeapTuple) -> &'a [u8] {
    // SAFETY: a tuple has t_len bytes at t_data.
    let bytes = unsafe { std::slice::from_raw_parts((*tuple).t_data.cast::<u8>(), (*tuple).t_len as usize) };
    &bytes[SKIPPED..]
}

/// The image of a whole row.
///
/// # Safety
/// `tuple` is a row of the table of `info` (or of its partition).
pub unsafe fn whole(info: &Info, tuple: pg_sys::HeapTuple) -> Bytea {
    // SAFETY: the caller's promise.
    unsafe {
        let tuple = rooted(info, tuple);
        if has_external(tuple) { image(compat::toast_flatten_tuple(tuple, info.desc)) } else { image(tuple) }
    }
}

/// What an update changed; `None` where it changed nothing.
///
/// # Safety
/// Both are rows of the table of `info` (or of its partition).
pub unsafe fn update(info: &Info, old: pg_sys::HeapTuple, new: pg_sys::HeapTuple) -> Option<Update> {
    // SAFETY: the caller's promise; the arrays have the descriptor's length.
    unsafe {
        let (old, mut new) = (deform(info, old), deform(info, new));
        let count = old.values.len();
        let mut mask = MaskBuilder::new(count);
        let mut old_nulls = vec![true; count];
        let (mut any, mut key) = (false, false);
        for (i, old_null) in old_nulls.iter_mut().enumerate() {
            if same(info.columns[i], (old.values[i], old.nulls[i]), (new.values[i], new.nulls[i])) {
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
        let new_image = if !has_external(new.tuple) {
            image(new.tuple)
        } else if key {
            // The row moves to another key, where clients need all of it.
            image(compat::toast_flatten_tuple(new.tuple, info.desc))
        } else {
            for i in 0..count {
                if !mask_changed(&mask, i)
                    && !new.nulls[i]
                    && !info.wanted.contains(&(i as i16 + 1))
                    && is_external(info.columns[i], new.values[i])
                {
                    mask.set_left_out(i);
                    new.nulls[i] = true;
                }
            }
            let tuple = pg_sys::heap_form_tuple(info.desc, new.values.as_mut_ptr(), new.nulls.as_mut_ptr());
            image(compat::toast_flatten_tuple(tuple, info.desc))
        };
        // Of the old row: what changed, and out-of-line values as they are only where nobody else can tell them.
        let mut old_values = old.values;
        for i in 0..count {
            if !old_nulls[i] && is_external(info.columns[i], old_values[i]) {
                old_values[i] = Datum::from(pg_sys::pg_detoast_datum(old_values[i].cast_mut_ptr()));
            }
        }
        let tuple = pg_sys::heap_form_tuple(info.desc, old_values.as_mut_ptr(), old_nulls.as_mut_ptr());
        Some(Update { new: new_image, old: image(tuple), mask: Bytea::new(&mask.0) })
    }
}

/// The image of a deleted row: out-of-line values are left out, except the key's and those that policies read.
///
/// # Safety
/// `tuple` is a row of the table of `info` (or of its partition).
pub unsafe fn deleted(info: &Info, tuple: pg_sys::HeapTuple) -> (Bytea, Bytea) {
    // SAFETY: the caller's promise; the arrays have the descriptor's length.
    unsafe {
        let mut row = deform(info, tuple);
        let mut mask = MaskBuilder::new(row.values.len());
        if !has_external(row.tuple) {
            return (image(row.tuple), Bytea::new(&mask.0));
        }
        for i in 0..row.values.len() {
            if row.nulls[i] || !is_external(info.columns[i], row.values[i]) {
                continue;
            }
            if info.key.contains(&(i as i16 + 1)) || info.wanted.contains(&(i as i16 + 1)) {
                row.values[i] = Datum::from(pg_sys::pg_detoast_datum(row.values[i].cast_mut_ptr()));
            } else {
                mask.set_left_out(i);
                row.nulls[i] = true;
            }
        }
        let tuple = pg_sys::heap_form_tuple(info.desc, row.values.as_mut_ptr(), row.nulls.as_mut_ptr());
        (image(tuple), Bytea::new(&mask.0))
    }
}

fn mask_changed(mask: &MaskBuilder, i: usize) -> bool {
    mask.0[2 + i / 8] >> (i % 8) & 1 == 1
}

/// # Safety
/// The value is of the column's type and not null.
unsafe fn is_external(column: Column, value: Datum) -> bool {
    // SAFETY: a varlena's first byte tells its kind.
    column.len == -1 && unsafe { pgrx::varatt_is_1b_e(value.cast_mut_ptr()) }
}

/// Whether two values of a column are the same, null being one.
///
/// # Safety
/// The values are of the column's type.
pub unsafe fn same(column: Column, old: (Datum, bool), new: (Datum, bool)) -> bool {
    if old.1 || new.1 {
        return old.1 == new.1;
    }
    if column.by_value {
        return old.0 == new.0;
    }
    // SAFETY: the caller's promise; a varlena tells its length, that of a pointer out of line included. Two
    // out-of-line values are the same when their pointers are: an update that does not set a column carries its pointer
    // over. Equal bytes are equal values; others may be, where one is compressed or out of line.
    unsafe {
        let len = |d: Datum| match column.len {
            -1 => Some(pgrx::varsize_any(d.cast_mut_ptr())),
            len => usize::try_from(len).ok(),
        };
        if let (Some(old_len), Some(new_len)) = (len(old.0), len(new.0)) {
            let bytes = |d: Datum| std::slice::from_raw_parts(d.cast_mut_ptr::<u8>().cast_const(), old_len);
            if old_len == new_len && bytes(old.0) == bytes(new.0) {
                return true;
            }
            if column.len != -1 {
                return false;
            }
        }
        compat::datum_image_eq(old.0, new.0, false, i32::from(column.len))
    }
}

/// A stored image, as a tuple that can be read with a descriptor of the same fingerprint.
pub struct Image {
    /// `u64` elements keep the tuple aligned as `MAXALIGN` wants.
    memory: Vec<u64>,
    len: usize,
}

impl Image {
    pub fn new(bytes: &[u8]) -> Self {
        let len = SKIPPED + bytes.len();
        let mut memory = vec![0_u64; len.div_ceil(8)];
        // SAFETY: the memory holds `len` bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.as_mut_ptr().cast::<u8>().add(SKIPPED), bytes.len());
        }
        Self { memory, len }
    }

    /// Values and nulls of all attributes; values point into the image.
    ///
    /// # Safety
    /// `desc` has the fingerprint that the image was stored with.
    pub unsafe fn deform(&mut self, desc: pg_sys::TupleDesc, values: &mut Vec<Datum>, nulls: &mut Vec<bool>) {
        // SAFETY: the caller's promise; the arrays have the descriptor's length.
        unsafe {
            let count = (*desc).natts as usize;
            values.resize(count, Datum::from(0));
            nulls.resize(count, false);
            let mut tuple = pg_sys::HeapTupleData {
                t_len: self.len as u32,
                t_data: self.memory.as_mut_ptr().cast(),
                ..Default::default()
            };
            pg_sys::heap_deform_tuple(&mut tuple, desc, values.as_mut_ptr(), nulls.as_mut_ptr());
        }
    }
}
