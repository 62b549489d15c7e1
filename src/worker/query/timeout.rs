//! `rte.statement_timeout`: how long a job may work without sending anything. What a slow client takes does not count, that is
//! `rte.stall_timeout`'s; so a large snapshot may take its time, a policy that never ends may not. Main thread.

use crate::{compat, guc};

/// Starts the clock of a job.
pub(super) fn start() {
    let ms = i32::try_from(guc::statement_timeout_ms()).unwrap_or(i32::MAX);
    if ms > 0 {
        // SAFETY: the time-out is registered for every process with a database; it cancels what runs, as in a session.
        unsafe { compat::enable_timeout_after(compat::STATEMENT_TIMEOUT, ms) };
    }
}

/// Stops it: the job is over.
pub(super) fn stop() {
    // SAFETY: as above; one that is not active is left alone.
    unsafe { compat::disable_timeout(compat::STATEMENT_TIMEOUT, false) };
}

/// The clock stands still until this is dropped, and begins anew then.
pub(super) struct Pause(bool);

impl Pause {
    pub(super) fn begin() -> Self {
        // SAFETY: reads the state of this process' time-outs.
        let active = unsafe { compat::get_timeout_active(compat::STATEMENT_TIMEOUT) };
        if active {
            stop();
        }
        Self(active)
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        if self.0 {
            start();
        }
    }
}
