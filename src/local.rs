//! Settings for a while, as a function's own settings are: gone at the end, and after an error with the (sub)transaction.
//!
//! Leaf. Main thread only, in a transaction.

use pgrx::pg_sys;
use std::ffi::CStr;

/// A level of settings.
#[must_use]
pub struct Local(i32);

impl Local {
    pub fn begin() -> Self {
        // SAFETY: in a transaction.
        Self(unsafe { pg_sys::NewGUCNestLevel() })
    }

    /// Sets a setting until the level ends; raises an error where it may not be set, or not so.
    pub fn set(&self, name: &CStr, value: &CStr) {
        // SAFETY: both are C strings, which are copied.
        unsafe {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
    }

    pub fn end(self) {
        // SAFETY: the level is this one's, and those that began later have ended.
        unsafe { pg_sys::AtEOXact_GUC(true, self.0) };
    }
}
