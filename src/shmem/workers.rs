//! The processes of ours that run (`rte.workers`): entered when they start, taken out when they exit. Main thread
//! of any process.

use super::database::{Database, databases};
use super::{Held, set_latch, shared, wake_landlord};
use pgrx::pg_sys;
use rte_protocol::wire::CloseCode;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering};

pub(super) const WORKERS: usize = 256;

/// Kinds of processes in [`Shared::workers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Launcher = 1,
    Feeder = 2,
    QueryWorker = 3,
    Gateway = 4,
}

impl Kind {
    pub const fn name(kind: i32) -> &'static str {
        match kind {
            1 => "launcher",
            2 => "feeder",
            3 => "query worker",
            4 => "gateway",
            _ => "unknown",
        }
    }
}

/// What a worker is doing, for `rte.workers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Starting = 0,
    Waiting = 1,
    Running = 2,
}

impl State {
    pub const fn name(state: i32) -> &'static str {
        match state {
            0 => "starting",
            1 => "waiting for extension",
            _ => "running",
        }
    }
}

/// A process of ours.
#[repr(C)]
pub struct Worker {
    pub pid: AtomicI32,
    pub kind: AtomicI32,
    pub state: AtomicI32,
    pub database: AtomicU32,
    /// Microseconds since 2000-01-01, as Postgres counts.
    pub started_at: AtomicI64,
    /// Since when it has had nothing to do, likewise; zero: it has.
    pub idle_since: AtomicI64,
    /// Sessions of a feeder.
    pub sessions: AtomicU32,
    /// Close code for the clients of one that is to end when it can; zero: it need not.
    leave: AtomicU32,
    /// A hash of what it was told, so that another process sees whether that still holds.
    pub task: AtomicU64,
    latch: AtomicPtr<pg_sys::Latch>,
}

impl Worker {
    pub fn is(&self, kind: Kind) -> bool {
        self.kind.load(Ordering::Relaxed) == kind as i32
    }

    pub fn database(&self) -> pg_sys::Oid {
        self.database.load(Ordering::Relaxed).into()
    }

    pub fn is_leaving(&self) -> bool {
        self.leave.load(Ordering::Relaxed) != 0
    }

    /// The close code for its clients, where it was asked to end.
    pub fn leave_code(&self) -> Option<u16> {
        Some(self.leave.load(Ordering::Relaxed) as u16).filter(|code| *code != 0)
    }

    /// Since when it is idle, if it is.
    pub fn idle_since(&self) -> Option<i64> {
        Some(self.idle_since.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }

    /// Notes whether it has something to do.
    pub fn set_idle(&self, idle: bool) {
        if idle != self.idle_since().is_some() {
            // SAFETY: reads the clock.
            let now = if idle { unsafe { pg_sys::GetCurrentTimestamp() } } else { 0 };
            self.idle_since.store(now, Ordering::Relaxed);
        }
    }

    /// Asks it to end, because somebody else needs its slot.
    pub fn ask_to_leave(&self) {
        self.ask_to_leave_with(CloseCode::TryAgainLater);
    }

    /// Asks it to end and to close its clients with a code.
    pub fn ask_to_leave_with(&self, close: CloseCode) {
        self.leave.store(u32::from(close.code()), Ordering::Relaxed);
        set_latch(&self.latch);
    }
}

/// Enters a process into `rte.workers`; returns its place.
pub fn enter_worker(kind: Kind, pid: i32, database: pg_sys::Oid) -> Option<&'static Worker> {
    let _held = Held::acquire(0);
    let worker = shared().workers.iter().find(|w| w.pid.load(Ordering::Relaxed) == 0)?;
    worker.kind.store(kind as i32, Ordering::Relaxed);
    worker.state.store(State::Starting as i32, Ordering::Relaxed);
    worker.database.store(database.to_u32(), Ordering::Relaxed);
    // SAFETY: reads the clock.
    worker.started_at.store(unsafe { pg_sys::GetCurrentTimestamp() }, Ordering::Relaxed);
    worker.idle_since.store(0, Ordering::Relaxed);
    worker.sessions.store(0, Ordering::Relaxed);
    worker.leave.store(0, Ordering::Relaxed);
    worker.task.store(0, Ordering::Relaxed);
    worker.latch.store(null_mut(), Ordering::Relaxed);
    worker.pid.store(pid, Ordering::Release);
    Some(worker)
}

/// Takes a process out of `rte.workers`.
pub fn leave_worker(pid: i32) {
    for worker in shared().workers.iter().filter(|w| w.pid.load(Ordering::Relaxed) == pid) {
        worker.pid.store(0, Ordering::Release);
    }
}

/// Enters the calling process, and takes it out when it exits. For background workers.
pub fn enter_this_worker(kind: Kind, database: pg_sys::Oid) -> Option<&'static Worker> {
    // SAFETY: registers a callback of the right type for this process' orderly exit.
    unsafe {
        pg_sys::before_shmem_exit(Some(on_worker_exit), pg_sys::Datum::from(0));
        let worker = enter_worker(kind, pg_sys::MyProcPid, database);
        if let Some(worker) = worker {
            worker.latch.store(pg_sys::MyLatch, Ordering::Release);
        }
        if kind == Kind::Launcher {
            shared().launcher_latch.store(pg_sys::MyLatch, Ordering::Release);
        }
        worker
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_worker_exit(_code: i32, _arg: pg_sys::Datum) {
    // SAFETY: plain read of this process' id and latch.
    unsafe {
        leave_worker(pg_sys::MyProcPid);
        databases().for_each(Database::let_go);
        let latches = [&shared().landlord_latch, &shared().launcher_latch];
        for latch in latches {
            let _ = latch.compare_exchange(pg_sys::MyLatch, null_mut(), Ordering::AcqRel, Ordering::Relaxed);
        }
        // A slot is about to be free.
        wake_landlord();
    }
}

/// All processes that are entered.
pub fn workers() -> impl Iterator<Item = &'static Worker> {
    shared().workers.iter().filter(|w| w.pid.load(Ordering::Acquire) != 0)
}

/// Asks a query worker of another database to end, so that `database` gets a worker of the kind: the one that has been idle for
/// longest, or else one of a database that has several. `false`: there is none.
///
/// The first worker of a database comes before the second of another; feeders before both.
pub fn make_room(kind: Kind, database: pg_sys::Oid) -> bool {
    let others = || workers().filter(|w| w.is(Kind::QueryWorker) && w.database() != database);
    if others().any(Worker::is_leaving) {
        return true;
    }
    let first = kind == Kind::Feeder || count_workers(Kind::QueryWorker, database) == 0;
    let idle = others().filter_map(|w| w.idle_since().map(|at| (at, w))).min_by_key(|(at, _)| *at).map(|(_, w)| w);
    let spare = || {
        let several = others().filter(|w| count_workers(Kind::QueryWorker, w.database()) > 1);
        several.min_by_key(|w| w.started_at.load(Ordering::Relaxed))
    };
    let found = idle.or_else(|| first.then(spare).flatten());
    if let Some(worker) = found {
        worker.ask_to_leave();
    }
    found.is_some()
}

/// Number of entered processes of a kind in a database.
pub fn count_workers(kind: Kind, database: pg_sys::Oid) -> usize {
    workers()
        .filter(|w| {
            w.kind.load(Ordering::Relaxed) == kind as i32 && w.database.load(Ordering::Relaxed) == database.to_u32()
        })
        .count()
}
