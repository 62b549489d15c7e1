//! The settings that the text of values depends on.

use crate::local::Local;
use core::ffi::CStr;
use pgrx::pg_sys;

/// Name and value, the same in feeders and query workers, or a row's snapshot and its changes would differ.
/// `search_path` decides whether `regclass` and its like show a schema. `lc_monetary` is left alone: it is
/// part of what a stored `money` means (its number of decimals).
const PINNED: &[(&CStr, &CStr)] = &[
    (c"TimeZone", c"UTC"),
    (c"DateStyle", c"ISO, MDY"),
    (c"IntervalStyle", c"postgres"),
    (c"extra_float_digits", c"1"),
    (c"bytea_output", c"hex"),
    (c"xmlbinary", c"base64"),
    (c"xmloption", c"content"),
    (c"quote_all_identifiers", c"off"),
    (c"search_path", SEARCH_PATH),
];

const SEARCH_PATH: &CStr = c"pg_catalog, pg_temp";

/// Makes the text of values independent of the settings of server, database and role, for the rest of
/// the process: at the level of a session, which those levels and a reload do not override. For workers, once,
/// after they connected and outside a transaction.
pub fn pin_settings() {
    for (name, value) in PINNED {
        // SAFETY: both are C strings; the settings exist in every supported version and take these values.
        unsafe {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
            );
        }
    }
}

/// Runs `f` under the search path that texts depend on, whatever path somebody who is being acted for has.
pub(super) fn with_pinned_path<R>(f: impl FnOnce() -> R) -> R {
    let local = Local::begin();
    local.set(c"search_path", SEARCH_PATH);
    let result = f();
    local.end();
    result
}
