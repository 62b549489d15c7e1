//! How settings are declared and read: the shape of a declaration, which `tools/check_docs.py` reads too. Main thread only.

use pgrx::pg_sys;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::ffi::{CStr, CString};

pub(super) type Text = GucSetting<Option<CString>>;
pub(super) type Int = GucSetting<i32>;
pub(super) type Switch = GucSetting<bool>;

/// Context of a setting that holds from the server's start on. Only the postmaster may declare settings of its own; a library
/// that is loaded later has no use for them.
pub(super) fn postmaster() -> GucContext {
    // SAFETY: plain read of a flag of the postmaster's.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        GucContext::Postmaster
    } else {
        GucContext::Sighup
    }
}

pub(super) fn text(name: &'static CStr, what: &'static CStr, setting: &'static Text, context: GucContext) {
    GucRegistry::define_string_guc(name, what, c"", setting, context, GucFlags::default());
}

pub(super) fn int(
    name: &'static CStr,
    what: &'static CStr,
    setting: &'static Int,
    min: i32,
    max: i32,
    context: GucContext,
    flags: GucFlags,
) {
    GucRegistry::define_int_guc(name, what, c"", setting, min, max, context, flags);
}

pub(super) fn switch(name: &'static CStr, what: &'static CStr, setting: &'static Switch, context: GucContext) {
    GucRegistry::define_bool_guc(name, what, c"", setting, context, GucFlags::default());
}

#[allow(clippy::cast_sign_loss, reason = "every integer setting has a positive range")]
pub(super) fn get(setting: &Int) -> u64 {
    setting.get() as u64
}

pub(super) fn get_text(setting: &Text) -> String {
    setting.get().map(|s| s.to_string_lossy().trim().to_owned()).unwrap_or_default()
}

pub(super) fn set_text(setting: &Text) -> Option<String> {
    Some(get_text(setting)).filter(|text| !text.is_empty())
}

pub(super) fn get_list(setting: &Text) -> Vec<String> {
    get_text(setting).split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
}
