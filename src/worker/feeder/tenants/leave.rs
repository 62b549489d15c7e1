//! A tenant's feeder beside serving: it sees to the extension, and ends when it is not needed or its turn is over.

use super::super::{Feeder, switch};
use super::Task;
use crate::shmem::{self, Extension, Kind, Slot, Worker};
use crate::worker::process;
use crate::{attempt, compat};
use crate::{guc, snapshot};
use pgrx::pg_sys;
use pgrx::prelude::*;
use rte_protocol::bridge::FromFeeder;
use rte_protocol::wire::CloseCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Time for the gateway to take the goodbye.
const FAREWELL: Duration = Duration::from_millis(200);
/// A visit that finds the log in use comes again another time.
const VISIT: Duration = Duration::from_secs(5);
/// How often a visit tries to have the slot let go of WAL, and the pause between.
const RELEASES: usize = 10;
const RELEASE_MS: u64 = 20;
/// Upkeep that comes again this soon found something in use.
const AGAIN: Duration = Duration::from_millis(100);

/// Makes sure that the extension is there, or ends the process. For tenants, whose databases nobody else prepares.
pub fn prepare(slot: Slot) {
    let database = slot.get();
    if process::transaction(|_| crate::worker::feeder::extension_is_there()) {
        database.set_extension(Extension::There);
        return;
    }
    // SAFETY: a plain read.
    switch::forsake_slot(unsafe { pg_sys::MyDatabaseId });
    if database.extension() == Extension::Dropped {
        end(slot);
    }
    // Said once, until something changes.
    let known = database.extension() == Extension::Missing;
    database.set_extension(Extension::Missing);
    if !guc::auto_create_extension() {
        if !known {
            pgrx::log!("whagons_rte is not in a tenant's database, and rte.auto_create_extension is off");
        }
        end(slot);
    }
    match create() {
        Ok(()) => database.set_extension(Extension::There),
        Err(why) => {
            if !known {
                pgrx::warning!("could not create the extension whagons_rte in a tenant's database: {why}");
            }
            end(slot);
        }
    }
}

fn create() -> Result<(), String> {
    let create = |_| Spi::run("CREATE EXTENSION whagons_rte").unwrap_or_else(|e| pgrx::error!("{e}"));
    process::try_transaction(create).map_err(|error| attempt::report(&error).message().to_owned())
}

/// Ends the process in order.
pub fn end(slot: Slot) -> ! {
    slot.get().ended_well.store(slot.get().extension() == Extension::There, Ordering::Release);
    // SAFETY: outside a transaction; the regular end of a background worker.
    unsafe { compat::exit() }
}

impl Feeder {
    /// Shows others whether this feeder is needed, and ends it where it is not, or where it was asked to.
    pub(in crate::worker::feeder) fn leave_if_due(&mut self, worker: Option<&Worker>, now: Instant) {
        let Some(worker) = worker else { return };
        worker.sessions.store(self.sessions.len() as u32, Ordering::Relaxed);
        worker.set_idle(self.sessions.is_empty());
        if self.task == Task::Landlord {
            return;
        }
        if !self.sessions.is_empty() {
            self.idle_from = now;
        }
        if let Some(close) = worker.leave_code() {
            self.settle_wal();
            self.leave(close);
        }
        if now >= self.idle_from + guc::feeder_idle_timeout() {
            self.settle_wal();
            // A client that comes at this moment may have another feeder at once.
            self.leave(CloseCode::Restart.code());
        }
    }

    /// When this feeder may have to leave by itself.
    pub(in crate::worker::feeder) fn leave_at(&self) -> Option<Instant> {
        let idle = self.task != Task::Landlord && self.sessions.is_empty();
        idle.then(|| self.idle_from + guc::feeder_idle_timeout())
    }

    /// Looks after the log and the slot and ends the process. What is in the log is not read, and what was announced stays so.
    pub(in crate::worker::feeder) fn visit(&mut self, worker: Option<&Worker>) -> ! {
        loop {
            process::exit_if_asked();
            let now = Instant::now();
            let asked = worker.is_some_and(Worker::is_leaving);
            self.slot.get().rotate.store(false, Ordering::Release);
            // Nobody is owed anything that was committed before this.
            self.last = process::transaction(|s| {
                // SAFETY: `s` is active.
                unsafe { snapshot::copy(s) }
            });
            self.upkeep_at = self.upkeep(now);
            self.tend_capture(now);
            if self.wal.is_some() {
                // What is captured from the WAL comes into the log, and the server may remove it.
                self.let_go_of_wal();
                // What the slot holds back all the same, it would when nobody looks.
                self.switch.look_again();
                self.tend_capture(Instant::now());
            }
            if asked || self.upkeep_at > now + AGAIN || now >= self.began + VISIT {
                self.leave(CloseCode::Restart.code());
            }
            process::wait(None, 0, self.upkeep_at.saturating_duration_since(Instant::now()).as_millis() as u64 + 1);
        }
    }

    /// Brings everything into the log, and the slot to where it holds back no more than transactions that run for long.
    fn let_go_of_wal(&mut self) {
        for _ in 0..RELEASES {
            switch::note_running_transactions();
            let _ = self.guarded_tick(&mut Vec::new(), false);
            self.settle_wal();
            // A transaction that runs holds back what was written before the note that came before it.
            if self.wal.as_ref().is_none_or(|wal| wal.lag() < guc::max_slot_lag_bytes() / 8) {
                return;
            }
            process::wait(None, 0, RELEASE_MS);
        }
    }

    /// Says goodbye and ends the process.
    pub(in crate::worker::feeder) fn leave(&mut self, close: u16) -> ! {
        let database = self.slot.get();
        database.interested.store(false, Ordering::SeqCst);
        if self.suspects.is_some() {
            // The next feeder has to ask what this one has not found out.
            database.gap.store(true, Ordering::SeqCst);
        }
        self.send(&FromFeeder::Goodbye { close }, &[]);
        let until = Instant::now() + FAREWELL;
        loop {
            self.flush();
            let Some(link) = self.link.as_ref().filter(|link| link.has_output()) else { break };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            process::wait(Some(link.fd()), pg_sys::WL_SOCKET_WRITEABLE, left.as_millis() as u64 + 1);
        }
        for worker in shmem::workers().filter(|w| w.is(Kind::QueryWorker) && w.database() == self.database) {
            worker.ask_to_leave();
        }
        end(self.slot)
    }
}
