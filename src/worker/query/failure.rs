//! How a job fails, in the words that a client may read: nothing of a row, and nothing that tells a table that
//! is not there from one that the role may not read.

use crate::attempt;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use rte_protocol::bridge::{FromWorker, JobId};
use rte_protocol::wire::ErrorCode;

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: ErrorCode,
    pub(super) message: &'static str,
    pub(super) hint: Option<&'static str>,
}

impl Failure {
    pub(super) const fn forbidden(message: &'static str) -> Self {
        Self { code: ErrorCode::Forbidden, message, hint: None }
    }

    /// Nothing was sent yet; the feeder tries again by itself.
    pub(super) const fn not_ready() -> Self {
        Self { code: ErrorCode::NotReady, message: "a table is locked for a change of its definition", hint: None }
    }

    /// Rows may have been sent; the feeder has them replaced.
    pub(super) const fn drifted() -> Self {
        Self {
            code: ErrorCode::SnapshotFailed,
            message: "access has changed while the snapshot was read",
            hint: Some("subscribe again in a moment"),
        }
    }

    /// Of a verification that cannot be done now. What of the table has changed is told otherwise.
    pub(super) const fn not_verified() -> Self {
        Self { code: ErrorCode::NotReady, message: "the copy cannot be compared now", hint: Some("ask again later") }
    }

    pub(super) const fn unknown_table() -> Self {
        Self { code: ErrorCode::UnknownTable, message: "table does not exist or may not be read", hint: None }
    }

    pub(super) const fn unknown_column() -> Self {
        Self { code: ErrorCode::UnknownColumn, message: "column does not exist or may not be read", hint: None }
    }

    /// Of an error that Postgres raised. Also writes it to the server's log. `conditioned`: a client's condition may have
    /// raised it.
    pub(super) fn of(error: &CaughtError, conditioned: bool) -> Self {
        let code = attempt::report(error).sql_error_code();
        attempt::log("could not read a snapshot", error);
        // What arithmetic and casts complain about.
        if conditioned && attempt::sqlstate(code).starts_with("22") {
            return Self {
                code: ErrorCode::WhereFailed,
                message: "the condition raised an error on a row",
                hint: Some("write it so that it holds for every row, with CASE or NULLIF where it divides"),
            };
        }
        match code {
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE
            | PgSqlErrorCode::ERRCODE_INVALID_SCHEMA_NAME
            | PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE => Self::unknown_table(),
            PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN => Self::unknown_column(),
            PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE => Self {
                code: ErrorCode::SnapshotFailed,
                message: "a table is locked for a change of its definition",
                hint: Some("subscribe again in a moment"),
            },
            PgSqlErrorCode::ERRCODE_QUERY_CANCELED => Self {
                code: ErrorCode::SnapshotFailed,
                message: "the snapshot was canceled",
                hint: Some("subscribe again in a moment"),
            },
            _ => Self {
                code: ErrorCode::SnapshotFailed,
                message: "the snapshot could not be read to its end",
                hint: Some("the server's log says why"),
            },
        }
    }

    pub(super) fn message(&self, job: JobId) -> FromWorker {
        FromWorker::Failed {
            job,
            code: self.code,
            message: self.message.to_owned(),
            hint: self.hint.map(str::to_owned),
        }
    }
}
