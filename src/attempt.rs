//! Work that may raise an error without costing the transaction around it: a subtransaction, as PL/pgSQL's
//! `BEGIN … EXCEPTION` makes one.
//!
//! Leaf. Main thread only, in a transaction.

use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

/// Runs `f`. Where it raises an error, what it did in the database is undone, and the transaction goes on.
///
/// # Errors
/// The error that was raised.
#[allow(clippy::result_large_err, reason = "pgrx's type of error")]
pub fn attempt<R>(f: impl FnOnce() -> R) -> Result<R, CaughtError> {
    // SAFETY: in a transaction; memory context and resource owner are put back as they were, which ending a
    // subtransaction does not do.
    unsafe {
        let (context, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let f = std::panic::AssertUnwindSafe(f);
        let outcome = PgTryBuilder::new(move || {
            let std::panic::AssertUnwindSafe(f) = { f };
            Ok(f())
        })
        .catch_others(Err)
        .execute();
        match outcome {
            Ok(_) => pg_sys::ReleaseCurrentSubTransaction(),
            Err(_) => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        outcome
    }
}
