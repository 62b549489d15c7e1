//! What every background worker of ours does: signals, waiting, settings that are read again. The one place
//! where a worker sleeps.

use super::socket;
use crate::compat;
use pgrx::PgTryBuilder;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use std::cell::RefCell;
use std::os::fd::RawFd;
use std::ptr::addr_of_mut;

// Postgres' own handlers, as C sees them: the bindings wrap them in a guard, which is not for signals.
unsafe extern "C-unwind" {
    fn die(signal: core::ffi::c_int);
    fn SignalHandlerForConfigReload(signal: core::ffi::c_int);
    fn SignalHandlerForShutdownRequest(signal: core::ffi::c_int);
    fn StatementCancelHandler(signal: core::ffi::c_int);
}

/// What SIGTERM does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminate {
    /// Ends the process at the next check for interrupts.
    Dies,
    /// Sets a flag that [`shutdown_requested`] reads.
    Asks,
}

pub fn install_signal_handlers(terminate: Terminate) {
    #[cfg(not(feature = "pg18"))]
    use pg_sys::pqsignal;
    #[cfg(feature = "pg18")]
    use pg_sys::pqsignal_be as pqsignal;
    // SAFETY: these handlers only set flags and the latch.
    unsafe {
        match terminate {
            Terminate::Dies => pqsignal(pg_sys::SIGTERM as i32, Some(die)),
            Terminate::Asks => pqsignal(pg_sys::SIGTERM as i32, Some(SignalHandlerForShutdownRequest)),
        };
        // What Postgres' own time-outs send to this process.
        pqsignal(pg_sys::SIGINT as i32, Some(StatementCancelHandler));
        pqsignal(pg_sys::SIGHUP as i32, Some(SignalHandlerForConfigReload));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// Whether SIGTERM came, with [`Terminate::Asks`].
pub fn shutdown_requested() -> bool {
    // SAFETY: a flag of this process that its signal handler sets.
    unsafe { addr_of_mut!(pg_sys::ShutdownRequestPending).read_volatile() != 0 }
}

/// Ends the process in order, where SIGTERM asked for it.
pub fn exit_if_asked() {
    if shutdown_requested() {
        // SAFETY: outside a transaction; the regular end of a background worker.
        unsafe { pg_sys::proc_exit(0) }
    }
}

/// [`sleep`], after which interrupts are raised as errors.
pub fn wait(socket: Option<RawFd>, events: u32, timeout_ms: u64) {
    sleep(socket, events, timeout_ms);
    pgrx::check_for_interrupts!();
}

/// Sleeps until the latch is set, the socket has one of `events`, or the time is over; longer sleeps are cut, every caller
/// looks again. Ends the process when the postmaster is gone. Sockets come from [`super::socket`].
pub fn sleep(socket: Option<RawFd>, events: u32, timeout_ms: u64) {
    let timeout = timeout_ms.min(3_600_000) as core::ffi::c_long;
    AWAITED.with_borrow_mut(|awaited| {
        let wanted = socket.map(|fd| (fd, socket::made()));
        if awaited.as_ref().is_none_or(|a| a.socket != wanted) {
            // The old one goes first: a process holds few of them.
            *awaited = None;
            *awaited = Some(Awaited::new(wanted, events));
        }
        if let Some(awaited) = awaited {
            awaited.wait(events, timeout);
        }
    });
}

thread_local! {
    static AWAITED: RefCell<Option<Awaited>> = const { RefCell::new(None) };
}

/// What the process sleeps on. It is kept: making it anew for each sleep, as `WaitLatchOrSocket` does, is a good part of
/// what a small tick costs.
struct Awaited {
    set: *mut pg_sys::WaitEventSet,
    /// The socket, and how many this process had made when it was put in: a number is given out again.
    socket: Option<(RawFd, u64)>,
    /// Its place in the set.
    place: i32,
    events: u32,
}

impl Awaited {
    fn new(socket: Option<(RawFd, u64)>, events: u32) -> Self {
        // SAFETY: the set is this process' own, outlives memory contexts and resource owners, and is given back by `drop`; latch
        // and socket are open.
        unsafe {
            let set = compat::lasting_wait_event_set(3);
            let (none, nothing) = (std::ptr::null_mut(), std::ptr::null_mut());
            pg_sys::AddWaitEventToSet(set, pg_sys::WL_LATCH_SET, -1, pg_sys::MyLatch, nothing);
            pg_sys::AddWaitEventToSet(set, pg_sys::WL_EXIT_ON_PM_DEATH, -1, none, nothing);
            let place = match socket {
                Some((fd, _)) => pg_sys::AddWaitEventToSet(set, events, fd, none, nothing),
                None => -1,
            };
            Self { set, socket, place, events }
        }
    }

    fn wait(&mut self, events: u32, timeout_ms: core::ffi::c_long) {
        // SAFETY: a set of this process, whose socket is open for as long as the call, and room for one event.
        unsafe {
            if self.socket.is_some() && events != self.events {
                pg_sys::ModifyWaitEvent(self.set, self.place, events, std::ptr::null_mut());
                self.events = events;
            }
            let mut event: pg_sys::WaitEvent = std::mem::zeroed();
            let n = pg_sys::WaitEventSetWait(self.set, timeout_ms, &raw mut event, 1, pg_sys::PG_WAIT_EXTENSION);
            if n > 0 && event.events & pg_sys::WL_LATCH_SET != 0 {
                pg_sys::ResetLatch(pg_sys::MyLatch);
            }
        }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and given back once.
        unsafe { pg_sys::FreeWaitEventSet(self.set) };
    }
}

/// Has transactions of this process be as they are by default, whatever server, database and role say: they read what is
/// committed, may write, and wait as long as they must. For workers that write, once, after they connected.
pub fn pin_transactions() {
    let pinned = [
        (c"default_transaction_isolation", c"read committed"),
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_deferrable", c"off"),
        (c"lock_timeout", c"0"),
    ];
    for (name, value) in pinned {
        let (context, source) = (pg_sys::GucContext::PGC_USERSET, pg_sys::GucSource::PGC_S_SESSION);
        // SAFETY: C strings; the settings exist in every supported version and take these values.
        unsafe { pg_sys::SetConfigOption(name.as_ptr(), value.as_ptr(), context, source) };
    }
}

/// Reads the settings again where SIGHUP asked for it; tells whether it did. Outside a transaction.
pub fn reload() -> bool {
    // SAFETY: outside a transaction, as the main loops of Postgres' own workers do it.
    unsafe {
        let pending = addr_of_mut!(pg_sys::ConfigReloadPending);
        if pending.read_volatile() == 0 {
            return false;
        }
        pending.write_volatile(0);
        pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        true
    }
}

/// Reads the settings of this database again (`ALTER DATABASE … SET`), which a session does at its start only. What was
/// `RESET` keeps its value until the process is started again. Outside a transaction.
pub fn apply_database_settings() {
    transaction(|_| {
        // SAFETY: in a transaction; the catalog is read under its own snapshot, as at the start of a session.
        unsafe {
            let catalog = crate::compat::DB_ROLE_SETTING;
            let relation = pg_sys::table_open(catalog, pg_sys::AccessShareLock as i32);
            let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetCatalogSnapshot(catalog));
            let source = pg_sys::GucSource::PGC_S_DATABASE;
            crate::compat::ApplySetting(snapshot, pg_sys::MyDatabaseId, pg_sys::Oid::INVALID, relation, source);
            pg_sys::UnregisterSnapshot(snapshot);
            pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        }
    });
}

/// Runs `f`, which is canceled by an error where it takes longer; zero is no limit.
pub fn within<R>(timeout_ms: u64, f: impl FnOnce() -> R) -> R {
    struct Running;
    impl Drop for Running {
        fn drop(&mut self) {
            // SAFETY: a time-out that this process knows; what it may have sent just now is not for what comes next.
            unsafe {
                crate::compat::disable_timeout(crate::compat::STATEMENT_TIMEOUT, false);
                pg_sys::QueryCancelPending = 0;
            }
        }
    }
    let _running = (timeout_ms > 0).then(|| {
        // SAFETY: likewise; registered at the start of every process with a database.
        unsafe { crate::compat::enable_timeout_after(crate::compat::STATEMENT_TIMEOUT, timeout_ms as i32) };
        Running
    });
    f()
}

/// Replaces the active snapshot of [`transaction`] by one of this moment.
///
/// # Safety
/// Directly in `transaction`; nothing uses the one before any more.
pub unsafe fn newer_snapshot() -> pg_sys::Snapshot {
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::PopActiveSnapshot();
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        pg_sys::GetActiveSnapshot()
    }
}

/// Runs `f` in a transaction with an active snapshot.
pub fn transaction<R>(f: impl FnOnce(pg_sys::Snapshot) -> R) -> R {
    begin();
    finish(f)
}

/// [`transaction`], which is undone where `f` raises an error.
///
/// # Errors
/// The error that was raised.
#[allow(clippy::result_large_err, reason = "pgrx's type of error")]
pub fn try_transaction<R>(f: impl FnOnce(pg_sys::Snapshot) -> R) -> Result<R, CaughtError> {
    catch(|| transaction(f))
}

/// Runs `f` outside a transaction, and ends that which an error that it raises has left open.
///
/// # Errors
/// The error that was raised.
#[allow(clippy::result_large_err, reason = "pgrx's type of error")]
pub fn catch<R>(f: impl FnOnce() -> R) -> Result<R, CaughtError> {
    let f = std::panic::AssertUnwindSafe(f);
    PgTryBuilder::new(move || {
        let std::panic::AssertUnwindSafe(f) = { f };
        Ok(f())
    })
    .catch_others(|error| {
        // SAFETY: ends the failed transaction.
        unsafe { pg_sys::AbortCurrentTransaction() };
        Err(error)
    })
    .execute()
}

/// Opens a transaction, to be ended by [`finish`] or an abort.
pub fn begin() {
    // SAFETY: outside a transaction, on the main thread. An error ends the worker, which is started again.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
    }
}

/// Runs `f` with an active snapshot in the transaction that was begun, and commits it.
pub fn finish<R>(f: impl FnOnce(pg_sys::Snapshot) -> R) -> R {
    // SAFETY: in a transaction, on the main thread.
    unsafe {
        let snapshot = pg_sys::GetTransactionSnapshot();
        pg_sys::PushActiveSnapshot(snapshot);
        let result = f(pg_sys::GetActiveSnapshot());
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
        result
    }
}
