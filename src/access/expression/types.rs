//! Which types a condition may work with: Postgres' plain data types, enums, ranges, and arrays of them. What
//! they do on input and in comparisons is Postgres' own code. Main thread only, in a transaction.

use super::Table;
use crate::compat;
use pgrx::pg_sys::{self, Oid};

/// Names that casts may use for the types of Postgres' own. Types that look things up in the catalogs (`regclass` and its
/// like), pseudo-types, `xml`, `money` (locale), text search and JSON paths are not among them.
const NAMES: &[(&str, Oid)] = &[
    ("bit", pg_sys::BITOID),
    ("bool", pg_sys::BOOLOID),
    ("bpchar", pg_sys::BPCHAROID),
    ("bytea", pg_sys::BYTEAOID),
    ("char", pg_sys::CHAROID),
    ("cidr", pg_sys::CIDROID),
    ("date", pg_sys::DATEOID),
    ("datemultirange", pg_sys::DATEMULTIRANGEOID),
    ("daterange", pg_sys::DATERANGEOID),
    ("float4", pg_sys::FLOAT4OID),
    ("float8", pg_sys::FLOAT8OID),
    ("inet", pg_sys::INETOID),
    ("int2", pg_sys::INT2OID),
    ("int4", pg_sys::INT4OID),
    ("int4multirange", pg_sys::INT4MULTIRANGEOID),
    ("int4range", pg_sys::INT4RANGEOID),
    ("int8", pg_sys::INT8OID),
    ("int8multirange", pg_sys::INT8MULTIRANGEOID),
    ("int8range", pg_sys::INT8RANGEOID),
    ("interval", pg_sys::INTERVALOID),
    ("json", pg_sys::JSONOID),
    ("jsonb", pg_sys::JSONBOID),
    ("macaddr", pg_sys::MACADDROID),
    ("macaddr8", pg_sys::MACADDR8OID),
    ("name", pg_sys::NAMEOID),
    ("numeric", pg_sys::NUMERICOID),
    ("nummultirange", pg_sys::NUMMULTIRANGEOID),
    ("numrange", pg_sys::NUMRANGEOID),
    ("oid", pg_sys::OIDOID),
    ("text", pg_sys::TEXTOID),
    ("time", pg_sys::TIMEOID),
    ("timestamp", pg_sys::TIMESTAMPOID),
    ("timestamptz", pg_sys::TIMESTAMPTZOID),
    ("timetz", pg_sys::TIMETZOID),
    ("tsmultirange", pg_sys::TSMULTIRANGEOID),
    ("tsrange", pg_sys::TSRANGEOID),
    ("tstzmultirange", pg_sys::TSTZMULTIRANGEOID),
    ("tstzrange", pg_sys::TSTZRANGEOID),
    ("uuid", pg_sys::UUIDOID),
    ("varbit", pg_sys::VARBITOID),
    ("varchar", pg_sys::VARCHAROID),
];

/// The type that a client names; nothing where it may not be used or does not exist.
pub(super) fn named(schema: Option<&str>, name: &str, table: &Table) -> Option<Oid> {
    if schema.is_none_or(|s| s == "pg_catalog")
        && let Some((_, oid)) = NAMES.iter().find(|(n, _)| *n == name)
    {
        return Some(*oid);
    }
    let mut own = table.own_types.iter().filter(|t| t.name == name && schema.is_none_or(|s| s == t.schema));
    match (own.next(), own.next()) {
        (Some(only), None) => Some(only.oid),
        _ => None,
    }
}

/// What a value of the type is made of, domains and arrays looked through.
pub(super) fn innermost(oid: Oid) -> Oid {
    // SAFETY: catalog look-ups; zero for a type that is not an array.
    unsafe {
        let base = pg_sys::getBaseType(oid);
        let element = pg_sys::get_element_type(base);
        if element == Oid::INVALID { base } else { pg_sys::getBaseType(element) }
    }
}

/// Whether a condition may work with values of the type.
pub(super) fn allowed(oid: Oid) -> bool {
    let oid = innermost(oid);
    let known = if NAMES.iter().any(|(_, known)| *known == oid) {
        true
    } else if is_built_in(oid) {
        false
    } else {
        // SAFETY: catalog look-ups.
        match unsafe { pg_sys::get_typtype(oid) } as u8 {
            pg_sys::TYPTYPE_ENUM => true,
            pg_sys::TYPTYPE_RANGE => plain_range(oid),
            // SAFETY: a multirange type.
            pg_sys::TYPTYPE_MULTIRANGE => plain_range(unsafe { pg_sys::get_multirange_range(oid) }),
            _ => false,
        }
    };
    known && compares_by_built_in(oid)
}

pub(super) fn is_built_in(oid: Oid) -> bool {
    oid.to_u32() < pg_sys::FirstNormalObjectId
}

/// Whether values are compared (also as elements of arrays, by `greatest` and so on) by Postgres' own code: a superuser can give
/// a type that has no order another's.
fn compares_by_built_in(oid: Oid) -> bool {
    // SAFETY: an existing type; entries of the cache stay.
    unsafe {
        let entry = pg_sys::lookup_type_cache(oid, (pg_sys::TYPECACHE_EQ_OPR | pg_sys::TYPECACHE_CMP_PROC) as i32);
        is_built_in((*entry).eq_opr) && is_built_in((*entry).cmp_proc)
    }
}

/// Whether a range type runs nothing but Postgres' own code.
fn plain_range(oid: Oid) -> bool {
    // SAFETY: in a transaction.
    let Some(range) = (unsafe { compat::range(oid) }) else { return false };
    is_built_in(range.operator_class) && is_built_in(range.canonical) && NAMES.iter().any(|(_, n)| *n == range.subtype)
}

/// The type inside a range or multirange; others are what they are.
pub(super) fn inside_range(oid: Oid) -> Oid {
    // SAFETY: catalog look-ups.
    unsafe {
        let range = match pg_sys::get_typtype(oid) as u8 {
            pg_sys::TYPTYPE_RANGE => oid,
            pg_sys::TYPTYPE_MULTIRANGE => pg_sys::get_multirange_range(oid),
            _ => return oid,
        };
        pg_sys::get_range_subtype(range)
    }
}

/// A type in words: the name that casts use, or what kind of type it is.
pub(super) fn describe(oid: Oid) -> String {
    // SAFETY: catalog look-ups.
    let element = unsafe { pg_sys::get_element_type(oid) };
    if element != Oid::INVALID {
        return format!("{}[]", describe(element));
    }
    match NAMES.iter().find(|(_, known)| *known == oid) {
        Some((name, _)) => (*name).to_owned(),
        None => "its type".to_owned(),
    }
}
