//! Runs a query tree under the active snapshot, and gives its rows to a closure or to a receiver. Main thread only, in a
//! transaction.

use crate::compat;
use pgrx::pg_sys::{self, DestReceiver, Query};
use pgrx::prelude::*;
use std::ffi::CStr;

/// What becomes of a row: `false` ends the query.
pub type OnRow<'a> = &'a mut dyn FnMut(&[pg_sys::Datum], &[bool]) -> bool;

/// Postgres calls through `base`, which therefore comes first.
#[repr(C)]
struct Receiver<'a> {
    base: DestReceiver,
    on_row: OnRow<'a>,
}

/// Plans and runs a rewritten SELECT.
///
/// # Safety
/// `query` is the rewriter's; `params` null or as the query wants them; `dest` a receiver.
pub unsafe fn run(query: *mut Query, sql: &CStr, params: pg_sys::ParamListInfo, dest: *mut DestReceiver) {
    // SAFETY: the caller's promise; the snapshot is active for as long as the call.
    unsafe {
        let plan = pg_sys::pg_plan_query(query, sql.as_ptr(), 0, params);
        let desc = pg_sys::CreateQueryDesc(
            plan,
            sql.as_ptr(),
            pg_sys::GetActiveSnapshot(),
            std::ptr::null_mut(),
            dest,
            params,
            std::ptr::null_mut(),
            0,
        );
        pg_sys::ExecutorStart(desc, 0);
        compat::executor_run(desc);
        pg_sys::ExecutorFinish(desc);
        pg_sys::ExecutorEnd(desc);
        pg_sys::FreeQueryDesc(desc);
    }
}

/// The same, with a closure for the rows. What it is given lives as long as its call.
///
/// # Safety
/// As for [`run`].
pub unsafe fn for_each_row(query: *mut Query, sql: &CStr, params: pg_sys::ParamListInfo, on_row: OnRow<'_>) {
    let base = DestReceiver {
        receiveSlot: Some(receive),
        rStartup: Some(startup),
        rShutdown: Some(shutdown),
        rDestroy: Some(shutdown),
        mydest: pg_sys::CommandDest::DestTuplestore,
    };
    let mut receiver = Receiver { base, on_row };
    // SAFETY: the caller's promise; the receiver stays where it is for as long as the call.
    unsafe { run(query, sql, params, (&raw mut receiver).cast()) }
}

#[pg_guard]
unsafe extern "C-unwind" fn startup(_dest: *mut DestReceiver, _operation: i32, _desc: pg_sys::TupleDesc) {}

#[pg_guard]
unsafe extern "C-unwind" fn receive(slot: *mut pg_sys::TupleTableSlot, dest: *mut DestReceiver) -> bool {
    // SAFETY: the receiver that the executor was given; after the attributes are read, the slot's arrays hold as many.
    unsafe {
        let receiver = &mut *dest.cast::<Receiver<'_>>();
        let columns = (*(*slot).tts_tupleDescriptor).natts;
        if i32::from((*slot).tts_nvalid) < columns {
            pg_sys::slot_getsomeattrs_int(slot, columns);
        }
        let values = std::slice::from_raw_parts((*slot).tts_values, columns as usize);
        let nulls = std::slice::from_raw_parts((*slot).tts_isnull, columns as usize);
        (receiver.on_row)(values, nulls)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn shutdown(_dest: *mut DestReceiver) {}
