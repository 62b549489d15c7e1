//! Which databases are served, and by how many feeders and query workers. Main thread only.

use super::declare::{Int, Switch, Text, get, get_text, int, postmaster, switch, text};
use pgrx::{GucContext, GucFlags, GucSetting, pg_sys};
use std::ffi::CString;
use std::time::Duration;

// The database whose tables a `hello` without tenant reads. `postgres` exists in every cluster.
static LANDLORD_DATABASE: Text = GucSetting::<Option<CString>>::new(Some(c"postgres"));
// Databases that may be captured at once: a few hundred tenants. Each holds about 50 kB of shared memory, all 13 MB.
static MAX_DATABASES: Int = GucSetting::<i32>::new(256);
// Far more than workers can take turns for; a table that was named by mistake must not fill the gateway.
static MAX_TENANTS: Int = GucSetting::<i32>::new(10_000);
// A tenant is served once it is registered: nobody wants to log in to its database first.
static AUTO_CREATE_EXTENSION: Switch = GucSetting::<bool>::new(true);
// Outlives a page's reload and a network's failure, and a tenant at night costs nothing.
static FEEDER_IDLE_TIMEOUT: Int = GucSetting::<i32>::new(60);
// Time for all clients of a tenant to be let in, to resume or read small snapshots, and to be sent what they missed.
static FEEDER_MIN_TURN: Int = GucSetting::<i32>::new(2000);
// Zero: half of the worker slots that are not the launchers', so that every feeder finds a query worker.
static MAX_FEEDERS: Int = GucSetting::<i32>::new(0);
// Snapshots that are read at once in a database; each takes a background worker slot.
static QUERY_WORKERS: Int = GucSetting::<i32>::new(2);
static QUERY_WORKER_IDLE_TIMEOUT: Int = GucSetting::<i32>::new(60);
// A feeder is up within a second; this leaves time for a database that is created, and for a free worker slot.
pub(super) static TENANT_START_TIMEOUT: Int = GucSetting::<i32>::new(10_000);

pub(super) fn register() {
    use GucContext::Sighup;
    let ms = GucFlags::UNIT_MS;
    let none = GucFlags::default();

    text(
        c"rte.landlord_database",
        c"Database whose tables clients without a tenant read.",
        &LANDLORD_DATABASE,
        postmaster(),
    );
    int(
        c"rte.max_databases",
        c"Databases whose changes may be captured at once.",
        &MAX_DATABASES,
        1,
        1024,
        postmaster(),
        none,
    );
    int(
        c"rte.max_tenants",
        c"Tenants that are served; further ones are left out.",
        &MAX_TENANTS,
        0,
        1_000_000,
        Sighup,
        none,
    );
    switch(
        c"rte.auto_create_extension",
        c"Creates the extension in the databases of tenants.",
        &AUTO_CREATE_EXTENSION,
        Sighup,
    );
    int(
        c"rte.feeder_idle_timeout",
        c"Time without clients after which the feeder of a tenant ends.",
        &FEEDER_IDLE_TIMEOUT,
        1,
        86_400,
        Sighup,
        GucFlags::UNIT_S,
    );
    int(
        c"rte.feeder_min_turn",
        c"Time that the feeder of a tenant serves before it makes room for another tenant.",
        &FEEDER_MIN_TURN,
        0,
        3_600_000,
        Sighup,
        ms,
    );
    int(
        c"rte.max_feeders",
        c"Feeders of tenants at once; 0 derives it from max_worker_processes.",
        &MAX_FEEDERS,
        0,
        1024,
        Sighup,
        none,
    );
    int(c"rte.query_workers", c"Query workers per database.", &QUERY_WORKERS, 1, 64, Sighup, none);
    int(
        c"rte.query_worker_idle_timeout",
        c"Time after which an idle query worker ends.",
        &QUERY_WORKER_IDLE_TIMEOUT,
        1,
        86_400,
        Sighup,
        GucFlags::UNIT_S,
    );
    int(
        c"rte.tenant_start_timeout",
        c"Time for the feeder of a tenant's database to come up while clients wait for it.",
        &TENANT_START_TIMEOUT,
        100,
        600_000,
        Sighup,
        ms,
    );
}

pub fn landlord_database() -> String {
    get_text(&LANDLORD_DATABASE)
}

pub fn max_databases() -> usize {
    get(&MAX_DATABASES) as usize
}

pub fn max_tenants() -> usize {
    get(&MAX_TENANTS) as usize
}

pub fn auto_create_extension() -> bool {
    AUTO_CREATE_EXTENSION.get()
}

pub fn tenant_start_timeout() -> Duration {
    Duration::from_millis(get(&TENANT_START_TIMEOUT))
}

pub fn feeder_idle_timeout() -> Duration {
    Duration::from_secs(get(&FEEDER_IDLE_TIMEOUT))
}

pub fn feeder_min_turn_ms() -> u64 {
    get(&FEEDER_MIN_TURN)
}

/// Feeders of tenants at once. Our launcher and that of logical replication have a slot each; of the rest one half is for
/// feeders, the landlord's among them, the other for their query workers.
pub fn max_feeders() -> usize {
    match get(&MAX_FEEDERS) as usize {
        0 => (max_worker_processes().saturating_sub(2) / 2).saturating_sub(1).max(1),
        set => set,
    }
}

pub fn max_worker_processes() -> usize {
    // SAFETY: a plain read of a setting that does not change.
    usize::try_from(unsafe { pg_sys::max_worker_processes }).unwrap_or(0)
}

pub fn query_workers() -> usize {
    get(&QUERY_WORKERS) as usize
}

pub fn query_worker_idle_timeout_ms() -> u64 {
    get(&QUERY_WORKER_IDLE_TIMEOUT) * 1000
}
