//! The change log of a database and how often its feeder looks at it. Main thread only.

use super::declare::{Int, get, int};
use pgrx::{GucContext, GucFlags, GucSetting};

// A client that is away over a weekend's night resumes; one that is away longer reads a snapshot.
static RETENTION: Int = GucSetting::<i32>::new(24 * 60);
// Large enough for a day of moderate load, small enough for any disk.
static MAX_LOG_SIZE: Int = GucSetting::<i32>::new(1024);
// Recent ticks, so that a reconnect storm does not read the log: some seconds of heavy load.
static HISTORY_SIZE: Int = GucSetting::<i32>::new(64 * 1024);
// Replaying more than this costs more than a snapshot.
static MAX_CATCH_UP_SIZE: Int = GucSetting::<i32>::new(256 * 1024);
// Some 150,000 changes of short rows. A client reads a snapshot of a table as fast as that many changes of it, and
// the feeder, which everybody else waits for, holds them and what they come to in memory.
static MAX_TICK_SIZE: Int = GucSetting::<i32>::new(64 * 1024);
// Upper bound of the pause between ticks under load: below what a person notices.
static MAX_TICK_INTERVAL: Int = GucSetting::<i32>::new(20);
// The wake at commit is a hint (COMMIT PREPARED does not send it); this backs it up.
static POLL_INTERVAL: Int = GucSetting::<i32>::new(500);

pub(super) fn register() {
    use GucContext::Sighup;
    let ms = GucFlags::UNIT_MS;
    let kb = GucFlags::UNIT_KB;

    int(
        c"rte.retention",
        c"How long the change log is kept for clients that come back.",
        &RETENTION,
        1,
        60 * 24 * 365,
        Sighup,
        GucFlags::UNIT_MIN,
    );
    int(
        c"rte.max_log_size",
        c"Size of the change log of a database, past which its oldest part is cut.",
        &MAX_LOG_SIZE,
        8,
        1 << 20,
        Sighup,
        GucFlags::UNIT_MB,
    );
    int(c"rte.history_size", c"Memory of a feeder for recent ticks.", &HISTORY_SIZE, 64, 1 << 24, Sighup, kb);
    int(
        c"rte.max_catch_up_size",
        c"Changes that a resuming client is sent at most; beyond it gets a snapshot.",
        &MAX_CATCH_UP_SIZE,
        64,
        1 << 24,
        Sighup,
        kb,
    );
    int(
        c"rte.max_tick_size",
        c"Changes that a feeder takes in at once; tables with more are read anew.",
        &MAX_TICK_SIZE,
        16,
        1 << 22,
        Sighup,
        kb,
    );
    int(c"rte.max_tick_interval", c"Longest pause between ticks under load.", &MAX_TICK_INTERVAL, 0, 1000, Sighup, ms);
    int(
        c"rte.poll_interval",
        c"How often a feeder looks for changes that no commit announced.",
        &POLL_INTERVAL,
        10,
        60_000,
        Sighup,
        ms,
    );
}

pub fn retention_us() -> i64 {
    i64::from(RETENTION.get()) * 60 * 1_000_000
}

pub fn max_log_bytes() -> u64 {
    get(&MAX_LOG_SIZE) << 20
}

pub fn history_bytes() -> usize {
    (get(&HISTORY_SIZE) << 10) as usize
}

pub fn max_catch_up_bytes() -> usize {
    (get(&MAX_CATCH_UP_SIZE) << 10) as usize
}

pub fn max_tick_bytes() -> usize {
    (get(&MAX_TICK_SIZE) << 10) as usize
}

pub fn max_tick_interval_us() -> u64 {
    get(&MAX_TICK_INTERVAL) * 1000
}

pub fn poll_interval_ms() -> u64 {
    get(&POLL_INTERVAL)
}
