//! The functions of the library that SQL calls (`sql/whagons_rte--*.sql`); nothing in the library calls
//! them. Main thread of any backend.

mod access;
mod condition;
mod drop;
mod log;
mod report;
mod tenants;

use crate::changelog::Op;
use crate::{capture, shmem, sql_function};
use pgrx::iter::TableIterator;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::prelude::*;
use std::sync::atomic::Ordering;

sql_function!(pg_finfo_rte_mark, rte_mark, mark);
sql_function!(pg_finfo_rte_preloaded, rte_preloaded, preloaded);
sql_function!(pg_finfo_rte_wake, rte_wake, wake);
sql_function!(pg_finfo_rte_random_key, rte_random_key, random_key);
sql_function!(pg_finfo_rte_switching, rte_switching, switching);

/// # Safety
/// `fcinfo` has two arguments, neither null (the function is strict).
unsafe fn mark(fcinfo: pg_sys::FunctionCallInfo) -> Datum {
    // SAFETY: the caller's promise.
    let (relation, op) = unsafe {
        let args = (*fcinfo).args.as_slice(2);
        (Oid::from(args[0].value.value() as u32), args[1].value.value() as u8)
    };
    match Op::from_code(op) {
        Some(op @ (Op::Redefined | Op::Access)) => capture::mark(relation, op),
        _ => {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "operation is not a marker",
                "Markers are S (redefined) and A (grants)."
            );
        }
    }
    Datum::from(0)
}

/// # Safety
/// None: takes no argument.
unsafe fn preloaded(_fcinfo: pg_sys::FunctionCallInfo) -> Datum {
    Datum::from(shmem::available())
}

/// Wakes the feeder now and once more when the transaction commits (the marker's commit does that).
///
/// # Safety
/// None: takes no argument.
unsafe fn wake(_fcinfo: pg_sys::FunctionCallInfo) -> Datum {
    capture::mark(Oid::INVALID, Op::Access);
    if let Some(slot) = shmem::available().then(shmem::own_database).flatten() {
        // Whoever creates it by hand wants it served, even where it was dropped before.
        slot.get().set_extension(shmem::Extension::Unknown);
    }
    Datum::from(0)
}

/// # Safety
/// None: takes no argument.
unsafe fn switching(_fcinfo: pg_sys::FunctionCallInfo) -> Datum {
    Datum::from(capture::is_switching())
}

/// # Safety
/// None: takes no argument.
unsafe fn random_key(_fcinfo: pg_sys::FunctionCallInfo) -> Datum {
    let mut key = [0_u8; 32];
    // SAFETY: writes 32 bytes.
    if !unsafe { pg_sys::pg_strong_random(key.as_mut_ptr().cast(), key.len()) } {
        ereport!(ERROR, PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "could not generate a random key");
    }
    key.as_slice().into_datum().unwrap_or(Datum::from(0))
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of the view")]
fn rte_workers() -> TableIterator<
    'static,
    (
        name!(pid, i32),
        name!(kind, String),
        name!(database, Option<Oid>),
        name!(state, String),
        name!(started_at, TimestampWithTimeZone),
    ),
> {
    let mut rows = Vec::new();
    if shmem::available() {
        for w in shmem::workers() {
            let database = Oid::from(w.database.load(Ordering::Relaxed));
            let started_at = w.started_at.load(Ordering::Relaxed);
            rows.push((
                w.pid.load(Ordering::Relaxed),
                shmem::Kind::name(w.kind.load(Ordering::Relaxed)).to_owned(),
                (database != Oid::INVALID).then_some(database),
                shmem::State::name(w.state.load(Ordering::Relaxed)).to_owned(),
                TimestampWithTimeZone::try_from(started_at).unwrap_or_else(|_| now()),
            ));
        }
    }
    TableIterator::new(rows)
}

fn now() -> TimestampWithTimeZone {
    pgrx::datum::datetime_support::now()
}
