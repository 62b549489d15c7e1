//! Makes the replication slot of a database. That waits for the transactions that run, so a feeder, who waits for nobody,
//! has it made by a process of its own, which ends once it is there.
//!
//! Decides nothing. A slot that is half made goes with the process. Main thread of its own process.

use super::process::{self, Terminate};
use crate::{compat, guc, wal};
use pgrx::bgworkers::{BackgroundWorkerBuilder, DynamicBackgroundWorker};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::prelude::*;

/// Launches the process. `None`: there is no free slot for a worker.
pub fn launch(database: Oid) -> Option<DynamicBackgroundWorker> {
    BackgroundWorkerBuilder::new("whagons_rte slot maker")
        .set_type("whagons_rte slot maker")
        .set_function("rte_slot_main")
        .set_library("whagons_rte")
        .set_argument(Some(Datum::from(database)))
        .enable_shmem_access(None)
        .enable_spi_access()
        .set_restart_time(None)
        // SAFETY: a plain read.
        .set_notify_pid(unsafe { pg_sys::MyProcPid })
        .load_dynamic()
        .ok()
}

/// Entry point; `arg` is the oid of the database.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn rte_slot_main(arg: Datum) {
    let database = Oid::from(arg.value() as u32);
    process::install_signal_handlers(Terminate::Dies);
    // SAFETY: once, at the start of a background worker that asked for database access.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database, Oid::INVALID, 0);
        pg_sys::pgstat_report_appname(c"whagons_rte slot maker".as_ptr());
    }
    process::pin_transactions();
    wal::allow_here();
    let (name, plugin) = (wal::slot_name(database), wal::PLUGIN);
    let made = process::transaction(|_| {
        let arguments = [DatumWithOid::from(name.as_str()), DatumWithOid::from(plugin)];
        let make = "SELECT pg_catalog.pg_create_logical_replication_slot($1::pg_catalog.name, $2::pg_catalog.name)
                    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = $1)";
        // Not as a change: that would give the transaction an id, and a slot is not made in one that has one.
        Spi::connect(|client| client.select(make, None, &arguments).map(|_| ()))
    });
    if let Err(e) = made {
        pgrx::warning!("{}: could not make replication slot \"{name}\": {e}", guc::SERVER);
    }
    // SAFETY: outside a transaction; the regular end of a background worker.
    unsafe { compat::exit() }
}
