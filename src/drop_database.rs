//! `DROP DATABASE … WITH (FORCE)`: it ends all who are connected, but is refused while a replication slot of the database is in
//! use, which it looks for before. So the feeder that reads one is ended first.
//!
//! Whoever may not drop the database ends nothing. Main thread of any backend.

use crate::{compat, shmem, wal};
use pgrx::pg_sys::{self, Oid};
use std::ffi::{CStr, CString};
use std::time::{Duration, Instant};

/// Time for a feeder to end; past it Postgres says what is in the way.
const PATIENCE: Duration = Duration::from_secs(5);

static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

/// Called once, when the library is loaded.
pub fn register_hook() {
    // SAFETY: the hook is only touched here, on the main thread.
    unsafe {
        PREVIOUS = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(on_utility);
    }
}

// Postgres' own, as C sees it: the binding's guard would dress up every error of every command.
unsafe extern "C-unwind" {
    fn standard_ProcessUtility(
        statement: *mut pg_sys::PlannedStmt,
        text: *const std::ffi::c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        dest: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

/// Has no guard either, and nothing that an error must not pass over.
#[allow(clippy::too_many_arguments, reason = "the hook's")]
unsafe extern "C-unwind" fn on_utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const std::ffi::c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: a planned statement of a utility command; everything is handed on as it came.
    unsafe {
        let utility = (*statement).utilityStmt;
        if !utility.is_null() && (*utility).type_ == pg_sys::NodeTag::T_DropdbStmt {
            make_way(utility.cast(), context == pg_sys::ProcessUtilityContext::PROCESS_UTILITY_TOPLEVEL);
        }
        let next = PREVIOUS.unwrap_or(standard_ProcessUtility);
        next(statement, text, read_only_tree, context, params, environment, dest, completion);
    }
}

/// # Safety
/// The statement is valid; in a transaction.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn make_way(statement: *mut pg_sys::DropdbStmt, top_level: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        let statement = &*statement;
        if !shmem::available() || statement.dbname.is_null() || !is_forced(statement) {
            return;
        }
        let database = pg_sys::get_database_oid(statement.dbname, true);
        if database == Oid::INVALID || !is_in_use(database) {
            return;
        }
        pg_sys::PreventInTransactionBlock(top_level, c"DROP DATABASE".as_ptr());
        if !compat::owns_database(database, pg_sys::GetUserId()) {
            return;
        }
        // The lock that the command itself takes: a feeder that is launched meanwhile waits, and finds no database.
        let lock = pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE;
        pg_sys::LockSharedObject(pg_sys::DatabaseRelationId, database, 0, lock);
        let until = Instant::now() + PATIENCE;
        while is_in_use(database) && Instant::now() < until {
            if let Some(pid) = shmem::find_database(database).and_then(|slot| slot.get().feeder_pid()) {
                libc::kill(pid, libc::SIGTERM);
            }
            pg_sys::pg_usleep(10_000);
            pgrx::check_for_interrupts!();
        }
    }
}

/// # Safety
/// The statement is valid.
unsafe fn is_forced(statement: &pg_sys::DropdbStmt) -> bool {
    // SAFETY: the options are a list of DefElem.
    unsafe {
        (0..compat::list_length(statement.options)).any(|n| {
            let option = pg_sys::list_nth(statement.options, n).cast::<pg_sys::DefElem>();
            CStr::from_ptr((*option).defname) == c"force"
        })
    }
}

/// Whether somebody reads our slot of a database.
fn is_in_use(database: Oid) -> bool {
    let Ok(name) = CString::new(wal::slot_name(database)) else { return false };
    // SAFETY: slots lie in shared memory as long as the server runs; a pid is read as a whole.
    unsafe {
        if pg_sys::max_replication_slots <= 0 {
            return false;
        }
        let slot = pg_sys::SearchNamedReplicationSlot(name.as_ptr(), true);
        !slot.is_null() && (&raw const (*slot).active_pid).read_volatile() != 0
    }
}
