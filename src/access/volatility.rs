//! What the result of a function depends on: more finely than Postgres' three words, because "stable" may mean the
//! session's settings (constant for an identity), the clock, or other rows. Main thread only, in a transaction.

use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;

/// What the result of a function depends on, beside its arguments.
pub enum Of {
    /// Nothing that changes while an identity stays the same: immutable, or reads settings only.
    Arguments { built_in: bool },
    /// Memberships of roles.
    Roles,
    /// The clock.
    Time(String),
    /// It may be anything.
    Unknown(String),
}

/// Stable functions of Postgres that depend on their arguments and on settings which feeder and query worker have in
/// common (`encode/settings.rs`, `identity.rs`): time zone, formats, locale, claims. Looked through in the catalogs of
/// 15 to 18; whatever is not in the list is taken to depend on more. Not in it on purpose: input functions that understand
/// `now`, functions that read catalogs, one-argument `age`.
const SETTINGS_ONLY: &[&str] = &[
    "anytextcat",
    "array_in",
    "array_out",
    "array_to_json",
    "array_to_string",
    "concat",
    "concat_ws",
    "convert",
    "convert_from",
    "convert_to",
    "current_setting",
    "date",
    "date_add",
    "date_cmp_timestamptz",
    "date_eq_timestamptz",
    "date_ge_timestamptz",
    "date_gt_timestamptz",
    "date_le_timestamptz",
    "date_lt_timestamptz",
    "date_ne_timestamptz",
    "date_out",
    "date_part",
    "date_subtract",
    "date_trunc",
    "enum_in",
    "enum_out",
    "extract",
    "format",
    "generate_series",
    "interval_in",
    "interval_out",
    "interval_pl_timestamptz",
    "json_agg",
    "json_build_array",
    "json_build_object",
    "jsonb_agg",
    "jsonb_build_array",
    "jsonb_build_object",
    "json_object_agg",
    "jsonb_object_agg",
    "make_timestamptz",
    "overlaps",
    "quote_literal",
    "quote_nullable",
    "row_to_json",
    "textanycat",
    "time",
    "timestamp",
    "timestamp_cmp_timestamptz",
    "timestamp_eq_timestamptz",
    "timestamp_ge_timestamptz",
    "timestamp_gt_timestamptz",
    "timestamp_le_timestamptz",
    "timestamp_lt_timestamptz",
    "timestamp_ne_timestamptz",
    "timestamp_out",
    "timestamptz",
    "timestamptz_cmp_date",
    "timestamptz_cmp_timestamp",
    "timestamptz_eq_date",
    "timestamptz_eq_timestamp",
    "timestamptz_ge_date",
    "timestamptz_ge_timestamp",
    "timestamptz_gt_date",
    "timestamptz_gt_timestamp",
    "timestamptz_le_date",
    "timestamptz_le_timestamp",
    "timestamptz_lt_date",
    "timestamptz_lt_timestamp",
    "timestamptz_mi_interval",
    "timestamptz_ne_date",
    "timestamptz_ne_timestamp",
    "timestamptz_out",
    "timestamptz_pl_interval",
    "timetz",
    "to_char",
    "to_date",
    "to_json",
    "to_jsonb",
    "to_number",
    "to_timestamp",
];

const ROLES: &[&str] = &["pg_has_role"];

const CLOCK: &[&str] = &["now", "transaction_timestamp", "statement_timestamp", "clock_timestamp", "timeofday", "age"];

/// What a function depends on.
pub fn of(function: Oid) -> Of {
    let built_in = function.to_u32() < pg_sys::FirstNormalObjectId;
    // SAFETY: catalog look-ups; the name is a copy, or null where the function is gone.
    let (volatile, name) = unsafe {
        let name = pg_sys::get_func_name(function);
        if name.is_null() {
            return Of::Unknown("(dropped)".to_owned());
        }
        (pg_sys::func_volatile(function) as u8, CStr::from_ptr(name).to_string_lossy().into_owned())
    };
    if volatile == pg_sys::PROVOLATILE_IMMUTABLE {
        return Of::Arguments { built_in };
    }
    match name.as_str() {
        name if !built_in => Of::Unknown(name.to_owned()),
        name if volatile == pg_sys::PROVOLATILE_STABLE && SETTINGS_ONLY.contains(&name) => Of::Arguments { built_in },
        name if ROLES.contains(&name) => Of::Roles,
        name if CLOCK.contains(&name) => Of::Time(name.to_owned()),
        name => Of::Unknown(name.to_owned()),
    }
}
