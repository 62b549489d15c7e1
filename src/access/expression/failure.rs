//! Errors that Postgres raises while a client's text is worked on: they cost a subtransaction and nothing else, and the client
//! is told in words that repeat nothing which it did not write. Main thread only, in a transaction.

use crate::attempt::attempt;
use crate::local::Local;
use crate::refusal::Refusal;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, ErrorContextCallback};
use pgrx::prelude::*;
use rte_protocol::wire::ErrorCode;
use std::cell::Cell;
use std::ffi::{CStr, c_void};

/// What is being done, for the words about an error.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stage {
    /// The grammar reads the text: messages quote the text and nothing else.
    Reading,
    Analysing,
    /// A parameter gets its value.
    Param(usize),
    /// A string literal gets its value; its place in characters.
    Literal(usize),
    /// What is constant is evaluated.
    Folding,
}

/// Settings that the meaning of a text depends on. The first is what keeps everybody's functions, operators and
/// types out of sight.
const SETTINGS: &[(&CStr, &CStr)] = &[
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"TimeZone", c"UTC"),
    (c"DateStyle", c"ISO, MDY"),
    (c"IntervalStyle", c"postgres"),
    (c"standard_conforming_strings", c"on"),
    (c"backslash_quote", c"safe_encoding"),
    (c"transform_null_equals", c"off"),
    (c"array_nulls", c"on"),
];

/// Runs `f` under [`SETTINGS`], in memory of its own and in a subtransaction; an error becomes a refusal.
pub(super) fn guarded<T>(stage: &Cell<Stage>, f: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
    let position = Cell::new(0_i32);
    // SAFETY: the context lives until nothing refers to it (`T` is Rust's own memory); the callback is taken off
    // before it goes, also after an error, which leaves the stack as it was when it was raised.
    let outcome = unsafe {
        let memory = pg_sys::AllocSetContextCreateInternal(
            pg_sys::CurrentMemoryContext,
            c"whagons_rte where".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        let previous = pg_sys::MemoryContextSwitchTo(memory);
        let callbacks = pg_sys::error_context_stack;
        let mut callback = ErrorContextCallback {
            previous: callbacks,
            callback: Some(note_position),
            arg: (&raw const position).cast_mut().cast(),
        };
        let outcome = attempt(|| {
            pg_sys::error_context_stack = &raw mut callback;
            let level = pin();
            let result = f();
            level.end();
            pg_sys::error_context_stack = callbacks;
            result
        });
        pg_sys::error_context_stack = callbacks;
        pg_sys::MemoryContextSwitchTo(previous);
        pg_sys::MemoryContextDelete(memory);
        outcome
    };
    outcome.unwrap_or_else(|error| Err(refusal(error, stage.get(), usize::try_from(position.get()).unwrap_or(0))))
}

/// Notes where in the text an error is, as Postgres counts: characters, from one.
#[pg_guard]
unsafe extern "C-unwind" fn note_position(position: *mut c_void) {
    // SAFETY: the cell of `guarded`, which outlives the callback.
    unsafe { (*position.cast::<Cell<i32>>()).set(pg_sys::geterrposition()) }
}

/// Sets [`SETTINGS`] until the level ends.
fn pin() -> Local {
    let local = Local::begin();
    SETTINGS.iter().for_each(|(name, value)| local.set(name, value));
    local
}

fn refusal(error: CaughtError, stage: Stage, position: usize) -> Refusal {
    let (code, message) = match &error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
            (report.sql_error_code(), report.message().to_owned())
        }
        CaughtError::RustPanic { .. } => error.rethrow(),
    };
    use PgSqlErrorCode as Code;
    match code {
        Code::ERRCODE_QUERY_CANCELED | Code::ERRCODE_ADMIN_SHUTDOWN => error.rethrow(),
        Code::ERRCODE_OUT_OF_MEMORY | Code::ERRCODE_INTERNAL_ERROR => {
            pgrx::log!("whagons_rte could not analyse a condition: error {code:?}");
            return Refusal::new(ErrorCode::Internal, "where could not be analysed", "");
        }
        Code::ERRCODE_STATEMENT_TOO_COMPLEX | Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED => {
            return Refusal::new(ErrorCode::InvalidWhere, "where is too complex", "");
        }
        _ => {}
    }
    match stage {
        Stage::Param(number) => {
            let hint =
                "params are JSON values of the types that the parameters have in where; $1::int8 gives one a type.";
            Refusal::new(ErrorCode::InvalidParams, format!("parameter ${number} is no value of its type"), hint)
        }
        Stage::Literal(position) => Refusal::new(
            ErrorCode::InvalidWhere,
            format!("the literal is no value of its type (position {position} of where)"),
            "",
        ),
        Stage::Reading => {
            let message: String = message.chars().take(200).collect();
            Refusal::new(ErrorCode::InvalidWhere, at(&message, position), "")
        }
        Stage::Folding => {
            let message = "where raises an error whatever the row is, such as a division by zero";
            Refusal::new(ErrorCode::InvalidWhere, message, "")
        }
        Stage::Analysing => {
            let (message, hint) = words(code);
            Refusal::new(ErrorCode::InvalidWhere, at(message, position), hint)
        }
    }
}

fn at(message: &str, position: usize) -> String {
    if position == 0 { message.to_owned() } else { format!("{message} (position {position} of where)") }
}

/// Message and hint for an error of the analyser, whose own words may name what the catalogs hold.
fn words(code: PgSqlErrorCode) -> (&'static str, &'static str) {
    use PgSqlErrorCode as Code;
    match code {
        Code::ERRCODE_UNDEFINED_FUNCTION => {
            ("no operator or function takes values of these types", "A cast may help, as in $1::int8.")
        }
        Code::ERRCODE_AMBIGUOUS_FUNCTION => {
            ("it is not clear which operator or function is meant", "A cast may help, as in $1::int8.")
        }
        Code::ERRCODE_DATATYPE_MISMATCH => {
            ("the types do not fit", "where must be boolean, and so must what AND, OR and NOT join.")
        }
        Code::ERRCODE_CANNOT_COERCE => ("a value cannot be cast to that type", ""),
        Code::ERRCODE_INDETERMINATE_DATATYPE | Code::ERRCODE_AMBIGUOUS_PARAMETER => {
            ("the type of a parameter is not clear", "A cast tells it, as in $1::int8.")
        }
        Code::ERRCODE_UNDEFINED_OBJECT => (NO_COLLATION, ""),
        Code::ERRCODE_COLLATION_MISMATCH | Code::ERRCODE_INDETERMINATE_COLLATION => {
            ("the collations do not fit", "COLLATE tells which one is meant.")
        }
        _ => ("where cannot be analysed", ""),
    }
}

pub(super) const NO_COLLATION: &str = "the collation does not exist or may not be used in where";
