//! Who may see what: tokens, roles, identities, row-level security, conditions.
//!
//! Decides, by asking Postgres, which rows of a table a session's subscription holds, and how that is found out for a
//! change: on the row alone where the policies fold ([`fold`]), else by asking Postgres for the row ([`read`]). Nothing here
//! knows of connections. Main thread only, in a transaction.

pub mod drift;
pub mod execute;
pub mod expression;
pub mod filter;
pub mod fold;
pub mod identity;
pub mod node;
pub mod policy;
pub mod read;
pub mod reads;
pub mod role;
mod subselect;
pub mod token;
mod volatility;

use crate::attempt::attempt;
use crate::compat;
use crate::scratch::Scratch;
use filter::Predicate;
use fold::Unfoldable;
use identity::Identity;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, Oid};

/// How the rows of a subscription are told from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    /// On the row alone.
    Folded(Predicate),
    /// By asking Postgres for the row.
    Asked {
        /// What cannot be folded.
        why: Unfoldable,
        /// Whether the answer may change without a change in a table.
        always: bool,
    },
}

/// A predicate of folded policies, the tenant's column and the client's condition.
fn predicate(policies: *mut pg_sys::List, tenant: Option<&str>, condition: Option<&str>) -> Predicate {
    let text = |list: *mut pg_sys::List| {
        // SAFETY: a list of expressions.
        if list.is_null() { String::new() } else { unsafe { node::text(list.cast()) } }
    };
    // SAFETY: the texts were made by `node::text`.
    let (access, condition) = unsafe { (read::with(policies, tenant), read::with(std::ptr::null_mut(), condition)) };
    Predicate { access: text(access), condition: text(condition), ..Predicate::default() }
}

/// Whether a generated column is computed when it is read.
fn is_virtual(relation: Oid, column: i16) -> bool {
    // SAFETY: a catalog look-up.
    unsafe { compat::get_attgenerated(relation, column) as u8 == b'v' }
}

/// Finds the path for an identity: its policies on the table, the tenant's column, its own condition (both as
/// `node::text` makes them).
///
/// # Errors
/// What the policies raised: no row can be shown.
#[allow(clippy::result_large_err, reason = "pgrx's type of error")]
pub fn path(
    identity: &Identity,
    relation: Oid,
    kind: u8,
    tenant: Option<&str>,
    condition: Option<&str>,
) -> Result<Path, CaughtError> {
    if !policy::applies(relation) {
        // Nobody needs to be acted as.
        return Ok(Path::Folded(predicate(std::ptr::null_mut(), tenant, condition)));
    }
    // A tick may plan thousands of subscriptions.
    Scratch::new().with(|| {
        attempt(|| {
            let acting = identity.act();
            // SAFETY: in a transaction; the texts were made for this table.
            let path = unsafe {
                let policies = policy::conditions(relation, kind);
                match fold::fold(policies) {
                    // Of a virtual column no image has the value.
                    Ok(folded) if node::columns(folded.conditions.cast()).iter().any(|n| is_virtual(relation, *n)) => {
                        Path::Asked { why: Unfoldable::Column, always: fold::is_restless(policies) }
                    }
                    Ok(folded) => {
                        let role = if folded.reads_roles || folded.calls_users_functions { identity.role } else { 0 };
                        let reads_roles = folded.reads_roles;
                        Path::Folded(Predicate { role, reads_roles, ..predicate(folded.conditions, tenant, condition) })
                    }
                    Err(why) => Path::Asked { why, always: fold::is_restless(policies) },
                }
            };
            acting.end();
            path
        })
    })
}
