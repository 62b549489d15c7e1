//! Waiting, and what `pg_stat_activity` shows. The one place where the worker sleeps: an idle one ends
//! quietly on SIGTERM and ignores a cancel, one with a job is interrupted by an error.

use crate::shmem::Worker;
use crate::worker::process;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::CStr;
use std::os::fd::RawFd;

thread_local! {
    /// This process' entry in shared memory.
    static SELF: Cell<Option<&'static Worker>> = const { Cell::new(None) };
}

pub(super) fn enter(worker: &'static Worker) {
    SELF.set(Some(worker));
}

/// Shows others whether this worker has a job.
pub(super) fn note_idle(idle: bool) {
    if let Some(worker) = SELF.get() {
        worker.set_idle(idle);
    }
}

/// Whether somebody needs this worker's slot. Looked at between jobs.
pub(super) fn is_asked_to_leave() -> bool {
    SELF.get().is_some_and(Worker::is_leaving)
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    /// Something may have happened; look again.
    Look,
    /// SIGTERM came while idle, or other settings.
    Shutdown,
}

/// Sleeps while idle until the latch is set, the socket has one of `events`, or the time is over.
pub(super) fn wait(socket: Option<RawFd>, events: u32, timeout_ms: u64) -> Wake {
    process::sleep(socket, events, timeout_ms);
    // SAFETY: flags of this process that its signal handlers set. A cancel that came between jobs has
    // nothing to cancel.
    unsafe {
        if pg_sys::ProcDiePending != 0 {
            return Wake::Shutdown;
        }
        pg_sys::QueryCancelPending = 0;
    }
    pgrx::check_for_interrupts!();
    if process::reload() {
        // The next worker begins with all settings as they are now, and connects as the role that they name.
        return Wake::Shutdown;
    }
    Wake::Look
}

/// The same in the middle of a job: a shutdown or a cancel is raised as an error here.
pub(super) fn wait_in_job(socket: RawFd, events: u32, timeout_ms: u64) {
    process::sleep(Some(socket), events, timeout_ms);
    pgrx::check_for_interrupts!();
}

pub(super) fn report_idle() {
    // SAFETY: outside a transaction; no text.
    unsafe {
        pg_sys::pgstat_report_stat(true);
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, core::ptr::null());
    }
}

pub(super) fn report_running(what: &CStr) {
    // SAFETY: copies the C string.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, what.as_ptr());
    }
}
