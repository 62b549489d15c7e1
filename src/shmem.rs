//! Shared memory: who runs, and what committing backends tell a feeder.
//!
//! Decides nothing about changes. Its one invariant: an [`Announcement`] is in the ring (or its blocks in the
//! overflow) before the transaction that made it can be seen by any snapshot, because it is put there
//! before the commit. A full ring loses nothing: it only gets coarser. Leaf; main thread of a process
//! only. The gateway is detached from it.

use crate::guc;
use pgrx::pg_sys;
use rte_protocol::wire::CloseCode;
use std::cell::Cell;
use std::mem::size_of;
use std::ptr::{addr_of_mut, null_mut};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// Segments of the change log (`rte.change_log_0` …).
pub const SEGMENTS: usize = 8;
/// Ranges of blocks in one announcement.
pub const RANGES: usize = 3;
/// Announcements that wait for the feeder. At 10,000 commits a second it comes for some 200 at a time; a few pauses of that
/// kind fit, and what comes on top is only read less precisely. 48 bytes each, in every database.
const RING: usize = 512;
const WORKERS: usize = 256;
const PATH: usize = 64;
const TRANCHE: &std::ffi::CStr = c"whagons_rte";

/// Blocks of a segment, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Range {
    pub segment: u32,
    pub first: u32,
    pub last: u32,
}

/// Where the rows of a transaction lie. A transaction may make several.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Announcement {
    pub xid: u64,
    pub count: u32,
    pub ranges: [Range; RANGES],
}

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

/// What is known of the extension in a tenant's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    Unknown = 0,
    There = 1,
    /// It is not there, and was not created: `rte.auto_create_extension` is off, or it failed.
    Missing = 2,
    /// Somebody dropped it, who will have had a reason: it is not created again.
    Dropped = 3,
}

/// What backends of one database and its feeder share.
#[repr(C)]
pub struct Database {
    pub oid: AtomicU32,
    /// Pid of the feeder that owns the database; a second one ends at once.
    owner: AtomicI32,
    extension: AtomicU32,
    /// Whether clients wait for a feeder, and none can be launched yet.
    pub waiting: AtomicBool,
    /// The last feeder ended in order.
    pub ended_well: AtomicBool,
    /// The last look at the log left something in it.
    pub log_used: AtomicBool,
    /// The feeder's latch, null while there is none. A stale one only wakes a stranger for nothing.
    feeder: AtomicPtr<pg_sys::Latch>,
    /// Whether the feeder wants to be woken at commits.
    pub interested: AtomicBool,
    /// Whether it has been woken since it last looked.
    pub pending: AtomicBool,
    /// Whether a committed transaction has written this start of the server down (`rte.server_start`).
    pub start_recorded: AtomicBool,
    /// Segment that backends append to, plus one; zero: not known since the server's start.
    segment: AtomicU32,
    /// Bits of segments that are empty and ready.
    spares: AtomicU32,
    /// Changes whenever a feeder starts: backends that had given up capturing mark a gap anew.
    pub epoch: AtomicU32,
    /// Whether changes were left out of the log since a feeder last looked.
    pub gap: AtomicBool,
    /// Whether a writer found the segment full.
    pub rotate: AtomicBool,
    /// Under the database's lock from here on.
    head: u32,
    tail: u32,
    overflow: [Range; SEGMENTS],
    overflowed: bool,
    ring: [Announcement; RING],
}

impl Database {
    pub fn has_feeder(&self) -> bool {
        !self.feeder.load(Ordering::SeqCst).is_null()
    }

    pub fn extension(&self) -> Extension {
        match self.extension.load(Ordering::Acquire) {
            1 => Extension::There,
            2 => Extension::Missing,
            3 => Extension::Dropped,
            _ => Extension::Unknown,
        }
    }

    pub fn set_extension(&self, state: Extension) {
        self.extension.store(state as u32, Ordering::Release);
    }

    /// Whether there is something in the log, or may be.
    pub fn has_log(&self) -> bool {
        self.log_used.load(Ordering::Acquire) || self.pending.load(Ordering::SeqCst)
    }

    /// Pid of the feeder, if there is one.
    pub fn feeder_pid(&self) -> Option<i32> {
        Some(self.owner.load(Ordering::Acquire)).filter(|pid| *pid != 0)
    }
}

#[repr(C)]
struct Shared {
    /// Identifies this start of the server: microseconds since 2000-01-01 at its start.
    start: u64,
    locks: *mut pg_sys::LWLockPadded,
    databases: usize,
    /// Counts the commits that changed tenants, and those of them that want everything tried again.
    tenant_changes: AtomicU32,
    tenant_reloads: AtomicU32,
    /// A transaction that changes tenants was prepared, and tells nobody when it commits.
    tenants_prepared: AtomicBool,
    /// Database of the landlord and its feeder's latch, while it runs.
    landlord: AtomicU32,
    landlord_latch: AtomicPtr<pg_sys::Latch>,
    launcher_latch: AtomicPtr<pg_sys::Latch>,
    /// A database without a feeder asked for one, because its log needs looking after.
    upkeep_wanted: AtomicBool,
    /// A database found no place since the server's start.
    exhausted: AtomicBool,
    /// The same, since the launcher last looked.
    room_wanted: AtomicBool,
    bridge_path: [u8; PATH],
    workers: [Worker; WORKERS],
}

static mut SHARED: *mut Shared = null_mut();
static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

fn size() -> usize {
    size_of::<Shared>() + guc::max_databases() * size_of::<Database>()
}

/// Asks for the shared memory. Called while `shared_preload_libraries` are loaded.
pub fn request() {
    // SAFETY: the hooks are only touched here, by the postmaster's single thread.
    unsafe {
        PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(on_request);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(on_startup);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_request() {
    // SAFETY: called by the postmaster at the time when requests are allowed.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            previous();
        }
        pg_sys::RequestAddinShmemSpace(size());
        pg_sys::RequestNamedLWLockTranche(TRANCHE.as_ptr(), 1 + guc::max_databases() as i32);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_startup() {
    // SAFETY: called once per (re)start before any other process is attached; the memory has the size
    // that was requested and all-zero bytes are a valid `Shared` and `Database`.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            previous();
        }
        let mut found = false;
        let shared = pg_sys::ShmemInitStruct(TRANCHE.as_ptr(), size(), &mut found).cast::<Shared>();
        if !found {
            std::ptr::write_bytes(shared.cast::<u8>(), 0, size());
            (*shared).start = pg_sys::GetCurrentTimestamp().unsigned_abs();
            (*shared).databases = guc::max_databases();
            (*shared).locks = pg_sys::GetNamedLWLockTranche(TRANCHE.as_ptr());
        }
        SHARED = shared;
    }
}

/// Whether the library was loaded at the server's start, so that shared memory and workers exist.
pub fn available() -> bool {
    // SAFETY: a plain read of a pointer that is set before this process was forked.
    unsafe { !SHARED.is_null() }
}

fn shared() -> &'static Shared {
    assert!(available(), "shared memory of whagons_rte is not there");
    // SAFETY: not null, and mapped for the life of the process. Fields that change are atomics, or are
    // only reached through raw pointers under their lock.
    unsafe { &*SHARED }
}

/// Identifies this start of the server.
pub fn start() -> u64 {
    shared().start
}

/// An LWLock that is held until dropped. An error in between releases it as well (Postgres does).
struct Held(*mut pg_sys::LWLock);

impl Held {
    fn acquire(index: usize) -> Self {
        // SAFETY: the tranche has 1 + max_databases locks, and index is at most max_databases.
        unsafe {
            let lock = addr_of_mut!((*shared().locks.add(index)).lock);
            pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
            Self(lock)
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: acquired in `acquire`, by this process.
        unsafe { pg_sys::LWLockRelease(self.0) }
    }
}

/// Publishes where the gateway's socket is; an empty path: nowhere.
pub fn set_bridge_path(path: &str) {
    let _held = Held::acquire(0);
    // SAFETY: under lock 0, through a raw pointer; the length is bounded.
    unsafe {
        let field = addr_of_mut!((*SHARED).bridge_path);
        let bytes = path.as_bytes();
        let len = bytes.len().min(PATH - 1);
        std::ptr::write_bytes(field.cast::<u8>(), 0, PATH);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), field.cast::<u8>(), len);
    }
}

/// Where the gateway's socket is, relative to the data directory; empty: nowhere.
pub fn bridge_path() -> String {
    let _held = Held::acquire(0);
    // SAFETY: a copy under lock 0.
    let path = unsafe { *addr_of_mut!((*SHARED).bridge_path) };
    let end = path.iter().position(|b| *b == 0).unwrap_or(PATH);
    String::from_utf8_lossy(&path[..end]).into_owned()
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

/// Wakes a process, where there is one.
fn set_latch(latch: &AtomicPtr<pg_sys::Latch>) {
    let latch = latch.load(Ordering::Acquire);
    if !latch.is_null() {
        // SAFETY: latches live in shared memory as long as the server runs.
        unsafe { pg_sys::SetLatch(latch) };
    }
}

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

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_worker_exit(_code: i32, _arg: pg_sys::Datum) {
    // SAFETY: plain read of this process' id and latch.
    unsafe {
        leave_worker(pg_sys::MyProcPid);
        for database in databases() {
            if database.feeder.load(Ordering::Relaxed) == pg_sys::MyLatch {
                database.interested.store(false, Ordering::Relaxed);
                database.feeder.store(null_mut(), Ordering::Release);
            }
            let _ = database.owner.compare_exchange(pg_sys::MyProcPid, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
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

fn database_at(index: usize) -> *mut Database {
    // SAFETY: the array of `databases` elements lies right behind `Shared`.
    unsafe { SHARED.add(1).cast::<Database>().add(index) }
}

fn databases() -> impl Iterator<Item = &'static Database> {
    // SAFETY: in bounds; shared references reach the atomics only.
    (0..shared().databases).map(|i| unsafe { &*database_at(i) })
}

thread_local! {
    /// The place of this process' own database: it stays where it is for as long as a process is connected to it.
    static OWN: Cell<Option<Slot>> = const { Cell::new(None) };
}

/// The place of the database of this process, made if there is room.
pub fn own_database() -> Option<Slot> {
    if let Some(slot) = OWN.get() {
        return Some(slot);
    }
    // SAFETY: a plain read.
    OWN.set(database(unsafe { pg_sys::MyDatabaseId }));
    OWN.get()
}

/// The place of a database, if it has one.
pub fn find_database(oid: pg_sys::Oid) -> Option<Slot> {
    let oid = oid.to_u32();
    databases().position(|d| d.oid.load(Ordering::Acquire) == oid).map(Slot)
}

/// All databases that have a place.
pub fn all_databases() -> impl Iterator<Item = &'static Database> {
    databases().filter(|d| d.oid.load(Ordering::Acquire) != 0)
}

/// The place of a database, made if there is room.
pub fn database(oid: pg_sys::Oid) -> Option<Slot> {
    if let Some(slot) = find_database(oid) {
        return Some(slot);
    }
    let _held = Held::acquire(0);
    if let Some(slot) = find_database(oid) {
        return Some(slot);
    }
    let Some(index) = databases().position(|d| d.oid.load(Ordering::Relaxed) == 0) else {
        shared().exhausted.store(true, Ordering::Relaxed);
        if !shared().room_wanted.swap(true, Ordering::AcqRel) {
            set_latch(&shared().launcher_latch);
        }
        return None;
    };
    let slot = Slot(index);
    if shared().exhausted.load(Ordering::Relaxed) {
        // Writers that found no room before may have left changes out.
        slot.get().gap.store(true, Ordering::SeqCst);
    }
    slot.get().oid.store(oid.to_u32(), Ordering::Release);
    Some(slot)
}

/// Whether a database found no room since the last call.
pub fn take_room_wanted() -> bool {
    shared().room_wanted.swap(false, Ordering::AcqRel)
}

/// Frees the places of databases that are gone. `existing` is called once, and reads which there are *after* the places were
/// looked at: so one that was made meanwhile keeps its place.
pub fn free_databases(existing: impl FnOnce() -> Vec<u32>) -> usize {
    let taken: Vec<(usize, u32)> =
        databases().enumerate().map(|(i, d)| (i, d.oid.load(Ordering::Acquire))).filter(|(_, oid)| *oid != 0).collect();
    let existing = existing();
    let gone = taken.into_iter().filter(|(_, oid)| !existing.contains(oid));
    gone.map(|(index, _)| Slot(index).free()).filter(|freed| *freed).count()
}

/// The place of one database.
#[derive(Debug, Clone, Copy)]
pub struct Slot(usize);

impl Slot {
    pub fn get(self) -> &'static Database {
        // SAFETY: in bounds by construction; shared references reach the atomics only.
        unsafe { &*database_at(self.0) }
    }

    fn lock(self) -> Held {
        Held::acquire(1 + self.0)
    }

    /// The segment to append to, if known since the server's start.
    pub fn segment(self) -> Option<usize> {
        (self.get().segment.load(Ordering::Acquire) as usize).checked_sub(1)
    }

    pub fn set_segment(self, segment: usize) {
        self.get().segment.store(segment as u32 + 1, Ordering::Release);
    }

    /// Makes a spare segment the one to append to, unless another than `full` is already. Only one of those who find it
    /// full succeeds.
    pub fn advance(self, full: usize) {
        let database = self.get();
        if self.segment().is_some_and(|now| now != full) {
            return;
        }
        let spares = &database.spares;
        let taken =
            spares.fetch_update(Ordering::AcqRel, Ordering::Acquire, |bits| (bits != 0).then(|| bits & (bits - 1)));
        if let Ok(bits) = taken {
            let spare = bits.trailing_zeros();
            let next =
                database.segment.compare_exchange(full as u32 + 1, spare + 1, Ordering::AcqRel, Ordering::Acquire);
            if next.is_err_and(|now| now != 0) {
                // Somebody else was faster.
                spares.fetch_or(1 << spare, Ordering::AcqRel);
            } else if next.is_err() {
                self.set_segment(spare as usize);
            }
        }
    }

    pub fn add_spare(self, segment: usize) {
        self.get().spares.fetch_or(1 << segment, Ordering::AcqRel);
    }

    pub fn spares(self) -> Vec<usize> {
        let bits = self.get().spares.load(Ordering::Acquire);
        (0..SEGMENTS).filter(|n| bits >> n & 1 == 1).collect()
    }

    /// Makes the calling process the feeder of the database.
    pub fn attach_feeder(self) {
        let database = self.get();
        // SAFETY: plain read of this process' latch, which lives in shared memory.
        database.feeder.store(unsafe { pg_sys::MyLatch }, Ordering::SeqCst);
        database.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Wakes the feeder, if it wants that and nobody has yet.
    pub fn wake(self) {
        let database = self.get();
        // In one order with the feeder's own store and load: either it sees this commit, or we see its interest.
        if database.pending.swap(true, Ordering::SeqCst) || !database.interested.load(Ordering::SeqCst) {
            return;
        }
        self.wake_always();
    }

    /// Wakes the feeder in any case; where there is none, the landlord's, which may launch it.
    pub fn wake_always(self) {
        let database = self.get();
        if database.has_feeder() {
            set_latch(&database.feeder);
        } else {
            shared().upkeep_wanted.store(true, Ordering::SeqCst);
            wake_landlord();
        }
    }

    /// Makes the calling process the one feeder of the database. `false`: another one is.
    pub fn claim(self) -> bool {
        // SAFETY: a plain read of this process' id.
        let pid = unsafe { pg_sys::MyProcPid };
        self.get().owner.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Empties the place of a database that is gone. `false` where its feeder has not ended yet.
    fn free(self) -> bool {
        let _all = Held::acquire(0);
        let _own = self.lock();
        let database = self.get();
        if database.feeder_pid().is_some() || database.has_feeder() {
            return false;
        }
        // SAFETY: under both locks; nobody is connected to a database that is gone, and strangers read only the oid,
        // which is the first field and cleared last. All-zero bytes are a valid `Database`.
        unsafe {
            let place = database_at(self.0);
            let first = size_of::<AtomicU32>();
            std::ptr::write_bytes(place.cast::<u8>().add(first), 0, size_of::<Database>() - first);
        }
        database.oid.store(0, Ordering::Release);
        true
    }

    /// Announces rows of a transaction that has not committed yet. Never waits for the feeder.
    pub fn announce(self, xid: u64, ranges: &[Range]) {
        let _held = self.lock();
        let database = database_at(self.0);
        for chunk in ranges.chunks(RANGES) {
            // SAFETY: under the database's lock; indices are taken modulo the array's length.
            unsafe {
                let (head, tail) = ((*database).head, (*database).tail);
                if tail.wrapping_sub(head) as usize == RING {
                    (*database).overflowed = true;
                    for range in chunk {
                        widen(addr_of_mut!((*database).overflow[range.segment as usize % SEGMENTS]), *range);
                    }
                    continue;
                }
                let mut entry = Announcement { xid, count: chunk.len() as u32, ranges: [chunk[0]; RANGES] };
                entry.ranges[..chunk.len()].copy_from_slice(chunk);
                (*database).ring[tail as usize % RING] = entry;
                (*database).tail = tail.wrapping_add(1);
            }
        }
    }

    /// Takes all that was announced: entries, and the blocks of those that found the ring full.
    pub fn drain(self, entries: &mut Vec<Announcement>, overflow: &mut Vec<Range>) {
        let _held = self.lock();
        let database = database_at(self.0);
        // SAFETY: under the database's lock; indices are taken modulo the array's length.
        unsafe {
            let (head, tail) = ((*database).head, (*database).tail);
            let mut at = head;
            while at != tail {
                entries.push((*database).ring[at as usize % RING]);
                at = at.wrapping_add(1);
            }
            (*database).head = tail;
            if (*database).overflowed {
                let ranges = addr_of_mut!((*database).overflow);
                overflow.extend(
                    (*ranges).iter().filter(|r| r.segment != 0).map(|r| Range { segment: r.segment - 1, ..*r }),
                );
                (*ranges) = [Range { segment: 0, first: 0, last: 0 }; SEGMENTS];
                (*database).overflowed = false;
            }
        }
    }
}

/// Adds a range to an overflow cell, whose `segment` is stored plus one so that zero means empty.
///
/// # Safety
/// `cell` is valid and under its database's lock.
unsafe fn widen(cell: *mut Range, range: Range) {
    // SAFETY: the caller's promise.
    unsafe {
        let old = *cell;
        *cell = if old.segment == 0 {
            Range { segment: range.segment + 1, ..range }
        } else {
            Range { segment: old.segment, first: old.first.min(range.first), last: old.last.max(range.last) }
        };
    }
}
