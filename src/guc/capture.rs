//! How changes are captured, and what that may hold back of the WAL. Main thread only.

use super::declare::{Int, get, int};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum, pg_sys};

// Nobody has to know of WAL capture to have it, and nobody who keeps `wal_level` low has to know of it at all.
static CAPTURE: GucSetting<Capture> = GucSetting::<Capture>::new(Capture::Auto);
// What a disk that holds a database can spare; some minutes of heavy writing.
static MAX_SLOT_LAG: Int = GucSetting::<i32>::new(1024);

/// Values of `rte.capture`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum Capture {
    #[name = c"auto"]
    Auto,
    #[name = c"trigger"]
    Trigger,
    #[name = c"wal"]
    Wal,
}

pub(super) fn register() {
    use GucContext::{Sighup, Suset};
    let none = GucFlags::default();

    // A superuser may set it per database too.
    GucRegistry::define_enum_guc(
        c"rte.capture",
        c"Whether changes are captured by triggers or from the WAL.",
        c"",
        &CAPTURE,
        Suset,
        none,
    );
    int(
        c"rte.max_slot_lag",
        c"WAL that the replication slot of a database may hold back, past which it is dropped.",
        &MAX_SLOT_LAG,
        32,
        1 << 20,
        Sighup,
        GucFlags::UNIT_MB,
    );
}

pub fn capture() -> Capture {
    CAPTURE.get()
}

pub fn max_slot_lag_bytes() -> u64 {
    get(&MAX_SLOT_LAG) << 20
}

/// Whether the WAL has what logical decoding needs.
pub fn wal_is_logical() -> bool {
    // SAFETY: a plain read of a setting that does not change.
    unsafe { pg_sys::wal_level >= pg_sys::WalLevel::WAL_LEVEL_LOGICAL as i32 }
}
