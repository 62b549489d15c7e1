//! Arrays as nested JSON arrays and composites as objects, by the same rule inside.

use super::call::detoasted;
use super::source::Source;
use super::{ValueEncoder, append_null};
use core::ptr;
use pgrx::{PgTupleDesc, pg_sys};

/// Encodes arrays. The element's encoder is made from what the first array says of itself.
#[derive(Default)]
pub(super) struct ArrayEncoder {
    element: Option<Element>,
}

struct Element {
    oid: pg_sys::Oid,
    len: i16,
    by_value: bool,
    align: core::ffi::c_char,
    encoder: ValueEncoder,
}

impl Element {
    fn new(oid: pg_sys::Oid) -> Self {
        let (mut len, mut by_value, mut align) = (0, false, 0);
        // SAFETY: a catalog look-up that fills the places or raises an error.
        unsafe { pg_sys::get_typlenbyvalalign(oid, &mut len, &mut by_value, &mut align) };
        Self { oid, len, by_value, align, encoder: ValueEncoder::new(oid, -1) }
    }
}

impl ArrayEncoder {
    /// # Safety
    /// `datum` is an array and not null.
    pub(super) unsafe fn append(&mut self, out: &mut Vec<u8>, datum: pg_sys::Datum) {
        // SAFETY: an array's header is followed by its dimensions; what `deconstruct_array` allocates lives
        // in the current context, longer than these slices.
        let (oid, dimensions, array) = unsafe {
            pg_sys::check_stack_depth();
            let array = detoasted::<pg_sys::ArrayType>(datum);
            let first = array.add(1).cast::<i32>();
            ((*array).elemtype, core::slice::from_raw_parts(first, (*array).ndim.max(0) as usize), array)
        };
        if self.element.as_ref().is_none_or(|e| e.oid != oid) {
            self.element = Some(Element::new(oid));
        }
        let Some(element) = self.element.as_mut() else { return };
        let (mut values, mut nulls, mut count) = (ptr::null_mut(), ptr::null_mut(), 0);
        // SAFETY: length, alignment and passing are those of the element's type.
        let (values, nulls) = unsafe {
            pg_sys::deconstruct_array(
                array,
                oid,
                element.len.into(),
                element.by_value,
                element.align,
                &mut values,
                &mut nulls,
                &mut count,
            );
            if count <= 0 {
                return out.extend_from_slice(b"[]");
            }
            let count = count as usize;
            (core::slice::from_raw_parts(values, count), core::slice::from_raw_parts(nulls, count))
        };
        let mut items = values.iter().zip(nulls);
        // SAFETY: the items are values of the element's type.
        unsafe { append_dimension(out, dimensions, &mut items, &mut element.encoder) };
    }
}

/// # Safety
/// What `items` yields are values of `encoder`'s type, with whether they are null.
unsafe fn append_dimension<'a>(
    out: &mut Vec<u8>,
    dimensions: &[i32],
    items: &mut impl Iterator<Item = (&'a pg_sys::Datum, &'a bool)>,
    encoder: &mut ValueEncoder,
) {
    let Some((size, inner)) = dimensions.split_first() else { return };
    out.push(b'[');
    for i in 0..*size {
        if i > 0 {
            out.push(b',');
        }
        if !inner.is_empty() {
            // SAFETY: the caller's promise.
            unsafe { append_dimension(out, inner, items, encoder) };
            continue;
        }
        match items.next() {
            // SAFETY: the caller's promise.
            Some((value, false)) => unsafe { encoder.append(out, *value) },
            _ => append_null(out),
        }
    }
    out.push(b']');
}

/// Encodes rows. The fields' encoders are made from what the first row says of itself, and again when
/// the type was altered since or when a `record` is of another type.
pub(super) struct CompositeEncoder {
    source: Source,
    /// Postgres' number for this version of the row type; it has none that is 0.
    version: u64,
    fields: Vec<Option<Field>>,
}

struct Field {
    /// `"name":`
    key: Vec<u8>,
    encoder: ValueEncoder,
}

impl CompositeEncoder {
    pub(super) const fn new(source: Source) -> Self {
        Self { source, version: 0, fields: Vec::new() }
    }

    /// # Safety
    /// `datum` is a row and not null.
    pub(super) unsafe fn append(&mut self, out: &mut Vec<u8>, datum: pg_sys::Datum) {
        // SAFETY: a row's datum starts with its header, which names its type; the descriptor is held until
        // `desc` is dropped and matches the tuple.
        let (values, nulls) = unsafe {
            pg_sys::check_stack_depth();
            let header = detoasted::<pg_sys::HeapTupleHeaderData>(datum);
            let typed = (*header).t_choice.t_datum;
            let (desc, version) = row_type(typed.datum_typeid, typed.datum_typmod);
            if version != self.version {
                self.fields = desc.iter().map(|attribute| self.field(attribute)).collect();
                self.version = version;
            }
            let mut tuple = pg_sys::HeapTupleData {
                t_len: pgrx::varsize_any(header.cast()) as u32,
                t_data: header,
                ..Default::default()
            };
            let (mut values, mut nulls) = (vec![pg_sys::Datum::null(); desc.len()], vec![true; desc.len()]);
            pg_sys::heap_deform_tuple(&raw mut tuple, desc.as_ptr(), values.as_mut_ptr(), nulls.as_mut_ptr());
            (values, nulls)
        };
        out.push(b'{');
        let mut first = true;
        for ((field, value), null) in self.fields.iter_mut().zip(values).zip(nulls) {
            let Some(field) = field else { continue };
            if !core::mem::take(&mut first) {
                out.push(b',');
            }
            out.extend_from_slice(&field.key);
            if null {
                append_null(out);
            } else {
                // SAFETY: the value was taken from the attribute that the encoder was made for.
                unsafe { field.encoder.append(out, value) };
            }
        }
        out.push(b'}');
    }

    /// The field of an attribute, if it was not dropped.
    fn field(&self, attribute: &pg_sys::FormData_pg_attribute) -> Option<Field> {
        if attribute.attisdropped {
            return None;
        }
        let mut key = Vec::new();
        // SAFETY: a name ends with NUL within its fixed length.
        let name = unsafe { core::ffi::CStr::from_ptr(attribute.attname.data.as_ptr()) }.to_bytes();
        self.source.append_string(&mut key, name);
        key.push(b':');
        Some(Field { key, encoder: ValueEncoder::new(attribute.atttypid, attribute.atttypmod) })
    }
}

/// A row type's descriptor with its version. A look-up may take in that another session altered the type, so
/// the version is read before and after, until both are that of the descriptor.
///
/// # Safety
/// Main thread, in a transaction.
unsafe fn row_type<'a>(oid: pg_sys::Oid, typmod: i32) -> (PgTupleDesc<'a>, u64) {
    loop {
        // SAFETY: look-ups in the cache of types, which raise an error where there is no such type; the
        // descriptor's reference is given back when it is dropped.
        unsafe {
            let before = pg_sys::assign_record_type_identifier(oid, typmod);
            let desc = PgTupleDesc::from_pg(pg_sys::lookup_rowtype_tupdesc(oid, typmod));
            if pg_sys::assign_record_type_identifier(oid, typmod) == before {
                return (desc, before);
            }
        }
    }
}
