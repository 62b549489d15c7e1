//! What a backend does when it changes tenants: it wakes the landlord's feeder, after its commit.
//!
//! Decides nothing about tenants. Invariant: a committed change of tenants is followed by a wake, or, of a prepared
//! transaction, followed by a note that has the feeder look by itself. A note that the change of a
//! subtransaction left which was rolled back costs one look for nothing. Main thread of any backend.

pub mod registry;

use crate::{guc, shmem, sql_function};
use pgrx::pg_sys::{self, Datum};
use std::cell::Cell;

/// What a transaction does to tenants, when it commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Change {
    #[default]
    None,
    /// A row of the watched table.
    Row,
    /// A call of one of our functions, whose user expects that everything is tried again.
    Call,
}

thread_local! {
    static CHANGED: Cell<Change> = const { Cell::new(Change::None) };
}

fn note_change(change: Change) {
    CHANGED.set(CHANGED.get().max(change));
}

sql_function!(pg_finfo_rte_is_landlord, rte_is_landlord, is_landlord);
sql_function!(pg_finfo_rte_note_tenants, rte_note_tenants, note);
sql_function!(pg_finfo_rte_follow_tenants, rte_follow_tenants, follow);

/// Registers the callback of this process. Called once, when the library is loaded.
pub fn register_callback() {
    // SAFETY: the function has the right type and lives as long as the process.
    unsafe { pg_sys::RegisterXactCallback(Some(on_transaction), std::ptr::null_mut()) };
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_transaction(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    if CHANGED.get() == Change::None || !matches!(event, XACT_EVENT_COMMIT | XACT_EVENT_PREPARE | XACT_EVENT_ABORT) {
        return;
    }
    let change = CHANGED.take();
    match event {
        XACT_EVENT_COMMIT if shmem::available() => {
            // SAFETY: a plain read.
            shmem::tenants_changed(unsafe { pg_sys::MyDatabaseId }, change == Change::Call);
        }
        // It can be seen in pg_prepared_xacts by now, and nobody can commit it before this returns.
        XACT_EVENT_PREPARE if shmem::available() => shmem::set_tenants_prepared(true),
        _ => {}
    }
}

/// Whether this process is connected to the landlord database.
pub fn here_is_the_landlord() -> bool {
    let landlord = guc::landlord_database();
    // SAFETY: a catalog look-up in a transaction; the name is copied.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
        !name.is_null() && std::ffi::CStr::from_ptr(name).to_bytes() == landlord.as_bytes()
    }
}

/// # Safety
/// In a transaction.
unsafe fn is_landlord(_fcinfo: pg_sys::FunctionCallInfo) -> Datum {
    Datum::from(here_is_the_landlord())
}

/// # Safety
/// None: takes no argument.
unsafe fn note(_fcinfo: pg_sys::FunctionCallInfo) -> Datum {
    note_change(Change::Call);
    Datum::from(0)
}

/// # Safety
/// `fcinfo` is valid.
unsafe fn follow(fcinfo: pg_sys::FunctionCallInfo) -> Datum {
    // SAFETY: Postgres hands a TriggerData where the context's tag says so.
    let trigger = unsafe {
        let context = (*fcinfo).context;
        !context.is_null() && (*context).type_ == pg_sys::NodeTag::T_TriggerData
    };
    if !trigger {
        pgrx::error!("rte.follow_tenants() is a trigger function");
    }
    note_change(Change::Row);
    Datum::from(0)
}
