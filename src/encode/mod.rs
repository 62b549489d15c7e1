//! From a datum to its JSON on the wire: what `to_json` makes, except that `int8` and `numeric` are
//! strings and `bytea` is base64, here and inside arrays and composites.
//!
//! Decides the text of a value and nothing else. Where the format is Postgres' own and worth the speed
//! (integers, floats, dates, text, uuid) it is written here; everything else goes through the type's output
//! function, so the caller must have called [`pin_settings`] once. Main thread only, inside a transaction.
//!
//! **Memory.** Detoasted copies and the texts of output functions are left in the current memory context:
//! callers switch to a context of their own and reset it after each row.

mod call;
mod datetime;
mod nested;
mod number;
mod settings;
mod source;
mod string;

pub use settings::pin_settings;
pub use string::append_json_string;

use call::{CastFunction, OutputFunction};
use nested::{ArrayEncoder, CompositeEncoder};
use pgrx::pg_sys;
use source::Source;

/// Encodes the values of one column. It caches what catalogs say of the type, so it lives as long as the
/// shape; composite types are looked at again when their definition changes.
pub struct ValueEncoder {
    kind: Kind,
}

enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Date,
    Timestamp,
    TimestampTz,
    Uuid,
    Bytea,
    /// `text`, `varchar`, `bpchar`: the bytes are the text.
    Text(Source),
    /// `name`: a fixed field that ends at its first NUL.
    Name(Source),
    /// `json`: its text is JSON already.
    Json(Source),
    /// `jsonb`: its output is JSON already.
    Verbatim(OutputFunction, Source),
    /// `numeric`: its output needs quotes, never escapes.
    Quoted(OutputFunction),
    /// Any other type: its output as a string.
    Output(OutputFunction, Source),
    /// A type that is not built in and has a cast to json: what the cast gives.
    Cast(CastFunction, Source),
    Array(Box<ArrayEncoder>),
    Composite(Box<CompositeEncoder>),
}

impl ValueEncoder {
    /// Looks the type up in the catalogs; raises an error where it does not exist. `typmod` is part of the
    /// signature because a column is (type, modifier), but no output depends on it: stored values are
    /// already padded and rounded.
    #[must_use]
    pub fn new(type_oid: pg_sys::Oid, _typmod: i32) -> Self {
        // SAFETY: a catalog look-up, on the main thread and in a transaction as the module demands.
        let base = unsafe { pg_sys::getBaseType(type_oid) };
        let source = Source::of_server();
        let kind = match base {
            pg_sys::BOOLOID => Kind::Bool,
            pg_sys::INT2OID => Kind::Int2,
            pg_sys::INT4OID => Kind::Int4,
            pg_sys::INT8OID => Kind::Int8,
            pg_sys::OIDOID => Kind::Oid,
            pg_sys::FLOAT4OID => Kind::Float4,
            pg_sys::FLOAT8OID => Kind::Float8,
            pg_sys::NUMERICOID => Kind::Quoted(OutputFunction::of_type(base)),
            pg_sys::DATEOID => Kind::Date,
            pg_sys::TIMESTAMPOID => Kind::Timestamp,
            pg_sys::TIMESTAMPTZOID => Kind::TimestampTz,
            pg_sys::UUIDOID => Kind::Uuid,
            pg_sys::BYTEAOID => Kind::Bytea,
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => Kind::Text(source),
            pg_sys::NAMEOID => Kind::Name(source),
            pg_sys::JSONOID => Kind::Json(source),
            pg_sys::JSONBOID => Kind::Verbatim(OutputFunction::of_type(base), source),
            _ => Self::derived(base, source),
        };
        Self { kind }
    }

    /// What `json_categorize_type` does in its default branch.
    fn derived(base: pg_sys::Oid, source: Source) -> Kind {
        // SAFETY: a catalog look-up; see `new`.
        let element = unsafe { pg_sys::get_element_type(base) };
        if element != pg_sys::InvalidOid
            || matches!(base, pg_sys::ANYARRAYOID | pg_sys::ANYCOMPATIBLEARRAYOID | pg_sys::RECORDARRAYOID)
        {
            return Kind::Array(Box::default());
        }
        // SAFETY: likewise.
        if unsafe { pg_sys::type_is_rowtype(base) } {
            return Kind::Composite(Box::new(CompositeEncoder::new(source)));
        }
        if base.to_u32() >= pg_sys::FirstNormalObjectId
            && let Some(cast) = CastFunction::to_json(base)
        {
            return Kind::Cast(cast, source);
        }
        Kind::Output(OutputFunction::of_type(base), source)
    }

    /// Appends the value's JSON.
    ///
    /// # Safety
    /// `datum` is a value of the encoder's type (or of a domain over it) and not null; what it points to
    /// lives until the call returns.
    pub unsafe fn append(&mut self, out: &mut Vec<u8>, datum: pg_sys::Datum) {
        // SAFETY: by the caller's promise the datum is of the type that the arm was chosen for: passed by value
        // as the arm reads it, or a pointer to what the arm reads.
        unsafe {
            match &mut self.kind {
                Kind::Bool => out.extend_from_slice(if datum.value() & 0xff != 0 { b"true" } else { b"false" }),
                Kind::Int2 => number::append_int(out, i64::from(datum.value() as i16)),
                Kind::Int4 => number::append_int(out, i64::from(datum.value() as i32)),
                Kind::Int8 => number::append_quoted_int(out, datum.value() as i64),
                Kind::Oid => number::append_quoted_int(out, i64::from(datum.value() as u32)),
                Kind::Float4 => number::append_float4(out, f32::from_bits(datum.value() as u32)),
                Kind::Float8 => number::append_float8(out, f64::from_bits(datum.value() as u64)),
                Kind::Date => datetime::append_date(out, datum.value() as i32),
                Kind::Timestamp => datetime::append_timestamp(out, datum.value() as i64, false),
                Kind::TimestampTz => datetime::append_timestamp(out, datum.value() as i64, true),
                Kind::Uuid => string::append_uuid(out, &*datum.cast_mut_ptr::<[u8; 16]>()),
                Kind::Bytea => string::append_base64(out, call::varlena(datum)),
                Kind::Text(source) => source.append_string(out, call::varlena(datum)),
                Kind::Name(source) => {
                    source.append_string(out, core::ffi::CStr::from_ptr(datum.cast_mut_ptr()).to_bytes());
                }
                Kind::Json(source) => source.append_verbatim(out, call::varlena(datum)),
                Kind::Verbatim(output, source) => source.append_verbatim(out, output.text(datum)),
                Kind::Quoted(output) => string::append_quoted(out, output.text(datum)),
                Kind::Output(output, source) => source.append_string(out, output.text(datum)),
                Kind::Cast(cast, source) => source.append_verbatim(out, call::varlena(cast.json(datum))),
                Kind::Array(array) => array.append(out, datum),
                Kind::Composite(composite) => composite.append(out, datum),
            }
        }
    }
}

/// Appends the JSON of an SQL NULL.
pub fn append_null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"null");
}
