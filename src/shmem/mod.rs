//! Shared memory: who runs, and what committing backends tell a feeder.
//!
//! Decides nothing about changes. This file lays it out and guards it; what each part means is said in its own. Leaf; main
//! thread of a process only. The gateway is detached from it.

mod database;
mod ring;
mod segments;
mod tenants;
mod workers;

use crate::guc;
use pgrx::pg_sys;
use std::mem::size_of;
use std::ptr::{addr_of_mut, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use workers::WORKERS;

pub use database::{
    Database, Extension, Slot, all_databases, database, find_database, free_databases, own_database,
    own_database_if_any, take_room_wanted,
};
pub use ring::{Announcement, RANGES, Range};
pub use segments::SEGMENTS;
pub use tenants::{
    become_landlord, set_tenants_prepared, take_upkeep_wanted, tenant_changes, tenants_changed, tenants_prepared,
    wake_landlord,
};
pub use workers::{
    Kind, State, Worker, count_workers, enter_this_worker, enter_worker, leave_worker, make_room, workers,
};

/// Bytes of the path of the gateway's socket, with a zero at its end.
const PATH: usize = 64;
const TRANCHE: &std::ffi::CStr = c"whagons_rte";

#[repr(C)]
struct Shared {
    /// Identifies this start of the server: microseconds since 2000-01-01 at its start.
    start: u64,
    /// The lowest id of a transaction that has begun to commit since then.
    first_xid: AtomicU64,
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
            (*shared).first_xid = AtomicU64::new(u64::MAX);
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

/// Notes that a transaction with this id begins to commit.
pub fn note_first_xid(xid: u64) {
    let first = &shared().first_xid;
    // Ids rise, so after the first few this is a comparison.
    if xid < first.load(Ordering::Relaxed) {
        first.fetch_min(xid, Ordering::SeqCst);
    }
}

/// The lowest id of a transaction that has begun to commit since the server's start; the highest number where there is none.
pub fn first_xid() -> u64 {
    if available() { shared().first_xid.load(Ordering::SeqCst) } else { u64::MAX }
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

/// Wakes a process, where there is one.
fn set_latch(latch: &AtomicPtr<pg_sys::Latch>) {
    let latch = latch.load(Ordering::Acquire);
    if !latch.is_null() {
        // SAFETY: latches live in shared memory as long as the server runs.
        unsafe { pg_sys::SetLatch(latch) };
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
