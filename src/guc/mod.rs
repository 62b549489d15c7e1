//! The settings `rte.*`: each declared once, with unit, range and the reason for its default
//! (`docs/SETTINGS.md` is written from here).
//!
//! Each file declares the settings of a topic and says what the rest of the library gets of them.
//!
//! Leaf. Main thread only; the gateway gets a copied [`GatewayConfig`](rte_protocol::bridge::GatewayConfig).

mod access;
mod capture;
mod declare;
mod gateway;
mod log;
mod network;
mod tenants;

use pgrx::pg_sys;
use std::ffi::CStr;

pub use access::{
    anon_role, authenticate_function, authenticator_role, jwt_audience, jwt_issuer, jwt_keys, jwt_leeway_s,
    jwt_role_claim, jwt_secret, jwt_tenant_claim, max_asked_rows, policy_recheck_interval, policy_timeout_ms,
    require_tenant_claim, statement_timeout_ms,
};
pub use capture::{Capture, capture, max_slot_lag_bytes, wal_is_logical};
pub use gateway::gateway_config;
pub use log::{
    history_bytes, max_catch_up_bytes, max_log_bytes, max_tick_bytes, max_tick_interval_us, poll_interval_ms,
    retention_us,
};
pub use network::{heartbeat_ms, max_where_bytes, stall_timeout_ms};
pub use tenants::{
    auto_create_extension, feeder_idle_timeout, feeder_min_turn_ms, landlord_database, max_databases, max_feeders,
    max_tenants, max_worker_processes, query_worker_idle_timeout_ms, query_workers, tenant_start_timeout,
};

/// `whagons_rte x.y.z`
pub const SERVER: &str = concat!("whagons_rte ", env!("CARGO_PKG_VERSION"));

/// Declares every setting. Called once, when the library is loaded.
pub fn register() {
    access::register();
    capture::register();
    log::register();
    network::register();
    tenants::register();
    // SAFETY: the prefix is a static C string; from here on misspelt rte.* settings are reported.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"rte".as_ptr()) };
}

/// A setting of Postgres as this process has it.
pub fn setting(name: &CStr) -> String {
    // SAFETY: a C string of the server's, or null where there is no such setting.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        if value.is_null() { String::new() } else { CStr::from_ptr(value).to_string_lossy().into_owned() }
    }
}

/// The search path that this session began with.
pub fn usual_search_path() -> String {
    // SAFETY: a setting of Postgres' own; a C string.
    unsafe {
        CStr::from_ptr(pg_sys::GetConfigOptionResetString(c"search_path".as_ptr())).to_string_lossy().into_owned()
    }
}

/// Path of the bridge's socket, relative to the data directory; empty while no gateway runs.
pub fn bridge_path() -> String {
    crate::shmem::bridge_path()
}
