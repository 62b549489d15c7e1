//! whagons_rte: a PostgreSQL extension that keeps a live local copy of tables in every browser.
//!
//! The life of a change: [`capture`] → [`changelog`] → [`worker::feeder`] → (bridge) → gateway → client.
//! This file alone knows everybody: settings, shared memory, callbacks, the launcher. Main thread only.

mod access;
mod api;
mod attempt;
mod capture;
mod changelog;
mod compat;
mod drop_database;
mod encode;
mod guc;
mod job;
mod local;
mod refusal;
mod scratch;
mod secret;
mod shmem;
mod snapshot;
mod tenants;
mod unlocked;
mod wal;
mod worker;

/// Where `#[pg_guard]` on a block of foreign functions looks for its boundary.
mod ffi {
    pub use pgrx::pg_sys::submodules::ffi::pg_guard_ffi_boundary;
}

use pgrx::pg_sys;

pgrx::pg_module_magic!();

/// Called when the library is loaded: by the postmaster where it is preloaded, else by the first backend
/// that calls one of its functions (capture then runs, but there are no workers to serve).
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    guc::register();
    capture::register_callbacks();
    tenants::register_callback();
    drop_database::register_hook();
    // SAFETY: plain read of a flag of the postmaster's.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        shmem::request();
        worker::register_launcher();
    }
}
