//! What the feeder of the landlord database is told: of tenants that changed, of databases that want a feeder. Main thread of
//! any process.

use super::{set_latch, shared};
use pgrx::pg_sys;
use std::sync::atomic::Ordering;

/// Makes the calling process, the feeder of the landlord database, the one that is told of tenants.
pub fn become_landlord(database: pg_sys::Oid) {
    // SAFETY: plain read of this process' latch, which lives in shared memory.
    shared().landlord_latch.store(unsafe { pg_sys::MyLatch }, Ordering::SeqCst);
    shared().landlord.store(database.to_u32(), Ordering::SeqCst);
}

/// Wakes the landlord's feeder.
pub fn wake_landlord() {
    set_latch(&shared().landlord_latch);
}

/// Tells the landlord's feeder that tenants have changed, where this is its database.
pub fn tenants_changed(database: pg_sys::Oid, reload: bool) {
    if shared().landlord.load(Ordering::SeqCst) == database.to_u32() {
        shared().tenant_reloads.fetch_add(u32::from(reload), Ordering::SeqCst);
        shared().tenant_changes.fetch_add(1, Ordering::SeqCst);
        wake_landlord();
    }
}

/// Whether a database without a feeder asked for one since the last call.
pub fn take_upkeep_wanted() -> bool {
    shared().upkeep_wanted.swap(false, Ordering::SeqCst)
}

/// Counts what [`tenants_changed`] was told: all, and what wants everything tried again.
pub fn tenant_changes() -> (u32, u32) {
    (shared().tenant_changes.load(Ordering::SeqCst), shared().tenant_reloads.load(Ordering::SeqCst))
}

/// Whether a prepared transaction may change tenants when it commits, which nobody will tell.
pub fn tenants_prepared() -> bool {
    shared().tenants_prepared.load(Ordering::SeqCst)
}

pub fn set_tenants_prepared(prepared: bool) {
    shared().tenants_prepared.store(prepared, Ordering::SeqCst);
}
