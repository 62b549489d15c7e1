//! Work that may raise an error without costing the transaction around it: a subtransaction, as PL/pgSQL's
//! `BEGIN … EXCEPTION` makes one.
//!
//! Leaf. Main thread only, in a transaction.

use pgrx::pg_sys;
use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
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

/// What is known of an error.
pub fn report(error: &CaughtError) -> &ErrorReportWithLevel {
    let (CaughtError::PostgresError(report)
    | CaughtError::ErrorReport(report)
    | CaughtError::RustPanic { ereport: report, .. }) = error;
    report
}

/// Writes an error to the server's log that a client's or a policy's expression raised. Errors about data (`22…`, `23…`), and
/// those that functions of users raise (`P0…`, or codes of their own), may quote a row, so only their code is logged.
pub fn log(what: &str, error: &CaughtError) {
    let report = report(error);
    let code = report.sql_error_code();
    let state = sqlstate(code);
    let quotes_no_row = matches!(&state[..2], "25" | "40" | "42" | "53" | "54" | "55" | "57" | "58" | "XX");
    ereport!(
        PgLogLevel::LOG,
        code,
        if quotes_no_row { format!("{what}: {}", report.message()) } else { format!("{what}: error {state}") }
    );
}

/// Postgres packs five characters of six bits.
pub fn sqlstate(code: PgSqlErrorCode) -> String {
    let packed = code as u32;
    (0..5).map(|i| char::from((packed >> (6 * i) & 0x3f) as u8 + b'0')).collect()
}
