//! The role that a session acts as: whether it is there, and whether a client may be it.
//!
//! Decides by Postgres' catalogs. Where an authenticator is set, every role must be one that it may `SET ROLE` to, because
//! query workers connect as it; a token needs one. Main thread, in a transaction.

use crate::{compat, guc};
use pgrx::pg_sys::{self, Oid};
use std::ffi::CString;

/// Why a role may not be acted as, in the server's log's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    #[error("role \"{0}\" does not exist")]
    Missing(String),
    #[error("role \"{0}\" is a superuser")]
    Superuser(String),
    #[error("role \"{0}\" bypasses row-level security, which the anonymous role may not")]
    BypassesPolicies(String),
    #[error(
        "role \"{role}\" is not granted to \"{authenticator}\" (rte.authenticator_role) with the right to SET ROLE"
    )]
    NotGranted { role: String, authenticator: String },
    #[error("rte.authenticator_role is not set, so tokens cannot be acted upon")]
    NoAuthenticator,
    #[error("role \"{name}\" of rte.authenticator_role {why}")]
    Authenticator { name: String, why: &'static str },
}

impl RoleError {
    /// Whether the server is set up wrongly, rather than the client asking for what it may not.
    pub fn is_setup(&self) -> bool {
        matches!(self, Self::NoAuthenticator | Self::Authenticator { .. })
    }
}

/// Whether the role may see the server's figures.
pub fn may_monitor(role: Oid) -> bool {
    // SAFETY: catalog look-ups in a transaction.
    unsafe { pg_sys::has_privs_of_role(role, Oid::from(pg_sys::ROLE_PG_MONITOR)) }
}

/// The role of a session. `anonymous`: it is `rte.anon_role`, not a token's.
pub fn resolve(name: &str, anonymous: bool) -> Result<Oid, RoleError> {
    // As whom query workers connect matters to all sessions.
    let authenticator = authenticator()?;
    let role = find(name).ok_or_else(|| RoleError::Missing(shown(name)))?;
    // SAFETY: catalog look-ups in a transaction.
    let (superuser, bypasses) = unsafe { (pg_sys::superuser_arg(role), pg_sys::has_bypassrls_privilege(role)) };
    if superuser {
        return Err(RoleError::Superuser(shown(name)));
    }
    // A token's role may: that is between whoever made the token and Postgres.
    if anonymous && bypasses {
        return Err(RoleError::BypassesPolicies(shown(name)));
    }
    match authenticator {
        // SAFETY: likewise.
        Some(authenticator) if unsafe { !compat::may_set_role(authenticator, role) } => {
            let authenticator = guc::authenticator_role().unwrap_or_default();
            Err(RoleError::NotGranted { role: shown(name), authenticator })
        }
        None if !anonymous => Err(RoleError::NoAuthenticator),
        _ => Ok(role),
    }
}

/// The role that query workers connect as: none where none is set.
pub fn authenticator() -> Result<Option<Oid>, RoleError> {
    let Some(name) = guc::authenticator_role() else { return Ok(None) };
    let wrong = |why| Err(RoleError::Authenticator { name: shown(&name), why });
    let Some(role) = find(&name) else { return wrong("does not exist") };
    // SAFETY: catalog look-ups in a transaction, and a global that is set once.
    unsafe {
        if pg_sys::superuser_arg(role) {
            return wrong("is a superuser");
        }
        if pg_sys::has_bypassrls_privilege(role) {
            return wrong("bypasses row-level security");
        }
        if compat::CONNECTING_NEEDS_LOGIN && !may_log_in(role) {
            return wrong("may not log in, which this version of Postgres needs of it");
        }
        if !compat::may_connect(pg_sys::MyDatabaseId, role) {
            return wrong("may not connect to this database");
        }
    }
    Ok(Some(role))
}

/// # Safety
/// In a transaction.
unsafe fn may_log_in(role: Oid) -> bool {
    // SAFETY: the caller's promise; the tuple's struct is that of the catalog.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::AUTHOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(role));
        if tuple.is_null() {
            return false;
        }
        let may = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_authid>()).rolcanlogin;
        pg_sys::ReleaseSysCache(tuple);
        may
    }
}

/// A role by its name.
pub fn find(name: &str) -> Option<Oid> {
    // A longer name is no role's: Postgres would compare its beginning.
    let name = CString::new(name).ok().filter(|name| name.as_bytes().len() < pg_sys::NAMEDATALEN as usize)?;
    // SAFETY: a catalog look-up in a transaction with a valid C string.
    let role = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    (role != Oid::INVALID).then_some(role)
}

/// A name that came from a token, fit for a line of the log.
fn shown(name: &str) -> String {
    name.chars().take(pg_sys::NAMEDATALEN as usize).flat_map(char::escape_debug).collect()
}
