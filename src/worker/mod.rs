//! The processes of whagons_rte: one launcher per server, one feeder per database, query workers as
//! needed. Each runs on the main thread of a background worker; the gateway, which the launcher forks, is the
//! only one with threads, and the only one that never calls Postgres.

mod backoff;
pub mod feeder;
pub mod launcher;
mod process;
pub mod query;
mod slot_maker;
mod socket;

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use std::time::Duration;

/// Registers the launcher with the postmaster. Called while `shared_preload_libraries` are loaded.
pub fn register_launcher() {
    BackgroundWorkerBuilder::new("whagons_rte launcher")
        .set_type("whagons_rte launcher")
        .set_function("rte_launcher_main")
        .set_library("whagons_rte")
        .enable_shmem_access(None)
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
        .load();
}
