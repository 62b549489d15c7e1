//! The places of databases: what backends of one and its feeder share, and who its feeder is.
//!
//! A database gets a place when it is first captured, and keeps it until it is dropped. Main thread of any process.

use super::ring::Ring;
use super::{Held, SHARED, available, set_latch, shared, wake_landlord};
use pgrx::pg_sys;
use std::cell::Cell;
use std::mem::size_of;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, Ordering};

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
    /// Whether the feeder decodes the WAL, so that every commit may be of interest.
    pub wal: AtomicBool,
    /// Whether a committed transaction has written this start of the server down (`rte.server_start`).
    pub start_recorded: AtomicBool,
    /// Segment that backends append to, plus one; zero: not known since the server's start.
    pub(super) segment: AtomicU32,
    /// Bits of segments that are empty and ready.
    pub(super) spares: AtomicU32,
    /// Changes whenever a feeder starts: backends that had given up capturing mark a gap anew.
    pub epoch: AtomicU32,
    /// Whether changes were left out of the log since a feeder last looked.
    pub gap: AtomicBool,
    /// Whether a writer found the segment full.
    pub rotate: AtomicBool,
    /// Whether a table was registered or redefined since a feeder last looked at how tables are captured.
    pub redefined: AtomicBool,
    /// Under the database's lock.
    pub(super) ring: Ring,
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

    /// Ends what the calling process is to the database, for its exit.
    pub(super) fn let_go(&self) {
        // SAFETY: plain reads of this process' id and latch.
        let (pid, latch) = unsafe { (pg_sys::MyProcPid, pg_sys::MyLatch) };
        if self.feeder.load(Ordering::Relaxed) == latch {
            self.interested.store(false, Ordering::Relaxed);
            self.wal.store(false, Ordering::Relaxed);
            self.feeder.store(null_mut(), Ordering::Release);
        }
        let _ = self.owner.compare_exchange(pid, 0, Ordering::AcqRel, Ordering::Relaxed);
    }
}

pub(super) fn database_at(index: usize) -> *mut Database {
    // SAFETY: the array of `databases` elements lies right behind `Shared`.
    unsafe { SHARED.add(1).cast::<Database>().add(index) }
}

pub(super) fn databases() -> impl Iterator<Item = &'static Database> {
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

/// The place of the database of this process, if it has one.
pub fn own_database_if_any() -> Option<Slot> {
    // SAFETY: a plain read; some processes have no database.
    let own = unsafe { pg_sys::MyDatabaseId };
    if OWN.get().is_none() && available() && own != pg_sys::Oid::INVALID {
        OWN.set(find_database(own));
    }
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
pub struct Slot(pub(super) usize);

impl Slot {
    pub fn get(self) -> &'static Database {
        // SAFETY: in bounds by construction; shared references reach the atomics only.
        unsafe { &*database_at(self.0) }
    }

    pub(super) fn lock(self) -> Held {
        Held::acquire(1 + self.0)
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

    /// Whether the calling process is the feeder of the database.
    pub fn is_fed_by_this_process(self) -> bool {
        // SAFETY: a plain read of this process' id.
        self.get().feeder_pid() == Some(unsafe { pg_sys::MyProcPid })
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
}
