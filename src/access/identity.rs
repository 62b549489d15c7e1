//! As whom a session's queries and policies run.
//!
//! Feeder and query worker act as a session in the same way, or a snapshot and its changes would differ: the session
//! user is the authenticator, the role is the token's, `request.jwt.claims` are its claims. Invariant: nothing that runs
//! meanwhile can take on another identity, because roles cannot be set in a security-restricted operation. Main thread
//! only, in a transaction.

use crate::local::Local;
use pgrx::pg_sys::{self, Oid};
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, CString};

/// Who a session is. Its claims are JSON text as it was signed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Oid of the session user (`rte.authenticator_role`), zero: the process' own.
    pub session_user: u32,
    /// Oid of the role.
    pub role: u32,
    pub claims: String,
    /// Where functions of policies look for names: as sessions of this database do.
    pub search_path: String,
}

/// A process that acts as somebody, until [`Acting::end`] or the end of the (sub)transaction by an error.
#[must_use]
pub struct Acting {
    local: Local,
    user: Oid,
    context: i32,
}

impl Identity {
    pub fn role(&self) -> Oid {
        Oid::from(self.role)
    }

    /// Takes on the identity. Raises an error where the role is gone or was not granted to the session user.
    pub fn act(&self) -> Acting {
        let restricted = (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION) as i32;
        let (mut user, mut context) = (Oid::INVALID, 0);
        // SAFETY: in a transaction, whose end by an error undoes the settings and the user.
        unsafe {
            let local = Local::begin();
            pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context);
            if self.session_user != 0 && pg_sys::GetSessionUserId() != Oid::from(self.session_user) {
                local.set(c"session_authorization", &name_of(Oid::from(self.session_user)));
            }
            local.set(c"role", &name_of(self.role()));
            local.set(c"row_security", c"on");
            local.set(c"request.jwt.claims", &CString::new(self.claims.as_str()).unwrap_or_default());
            local.set(c"search_path", &CString::new(self.search_path.as_str()).unwrap_or_default());
            let mut now = (Oid::INVALID, 0);
            pg_sys::GetUserIdAndSecContext(&raw mut now.0, &raw mut now.1);
            pg_sys::SetUserIdAndSecContext(now.0, now.1 | restricted);
            Acting { local, user, context }
        }
    }
}

impl Acting {
    /// Becomes again who the process was.
    pub fn end(self) {
        // SAFETY: the nest level and the user are those that `act` found.
        unsafe {
            pg_sys::SetUserIdAndSecContext(self.user, self.context);
            self.local.end();
            // The role's own hook sets the user to that of the outer level.
            pg_sys::SetUserIdAndSecContext(self.user, self.context);
        }
    }
}

/// Name of a role; raises an error where there is none.
fn name_of(role: Oid) -> CString {
    // SAFETY: gives a copy, or raises an error.
    unsafe { CStr::from_ptr(pg_sys::GetUserNameFromId(role, false)).to_owned() }
}

/// Makes the session user of this process one that [`Acting::end`] can go back to: a worker that connected without a
/// name has none in its settings. Once, after it connected, in a transaction.
pub fn settle_session_user() {
    // SAFETY: both are C strings, which are copied.
    unsafe {
        let name = name_of(pg_sys::GetSessionUserId());
        pg_sys::SetConfigOption(
            c"session_authorization".as_ptr(),
            name.as_ptr(),
            pg_sys::GucContext::PGC_BACKEND,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}
