//! Reads the WAL from a slot on, and gives what the plugin gathered.
//!
//! It holds one decoding context for as long as it lives, as a walsender does. It never asks for a record that is not on
//! disk as a whole, so it never waits: the position to read to is flushed, and of a record that crosses it only the beginning
//! is there, which is tried again the next time. An error while decoding ends the process, which gives the slot back; the next
//! one begins where the change log ends. Main thread of a feeder only.

use super::plugin::{self, Roots, Transaction};
use super::{PLUGIN, caches, position};
use crate::compat;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use std::ffi::{CStr, CString};

/// Records between two looks at whether the process is asked to end.
const LOOK: u32 = 4_096;

/// Why a slot cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    #[error("there is no such slot")]
    Missing,
    #[error("the slot is not one of ours: {0}")]
    Foreign(String),
    #[error("the server has removed what the slot needs")]
    Invalidated,
    #[error("the WAL cannot be decoded: {0}")]
    Unreadable(String),
    /// Not lost: to be tried again in a moment.
    #[error("another process reads the slot")]
    Busy,
}

/// An open slot.
pub struct Decoder {
    context: *mut pg_sys::LogicalDecodingContext,
    /// Where the page reader says that it met the end; it lives as long as the context.
    _end: Box<pg_sys::ReadLocalXLogPageNoWaitPrivate>,
}

impl Decoder {
    /// Acquires a slot and begins behind what the change log holds, or where the slot says where that is later. Raises an error
    /// where that cannot be, and may have acquired the slot then.
    ///
    /// # Safety
    /// In a transaction: outside one Postgres would take the process for a walsender, whose snapshots hold back no VACUUM.
    /// This process reads no slot.
    ///
    /// # Errors
    /// There is no such slot that could be read.
    pub unsafe fn open(name: &str) -> Result<Self, Lost> {
        examine(name)?;
        let slot = CString::new(name).map_err(|_| Lost::Missing)?;
        plugin::allow_here();
        plugin::restart();
        caches::listen();
        // SAFETY: the caller's promise. The context is made in memory that lives as long as the process, and so is what
        // the reader refers to.
        unsafe {
            compat::acquire_slot(&slot);
            let start = position::recorded(name);
            let previous = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            let mut routine = compat::flushed_wal();
            let (options, routine) = (std::ptr::null_mut(), &raw mut routine);
            let context = pg_sys::CreateDecodingContext(start, options, false, routine, None, None, None);
            pg_sys::MemoryContextSwitchTo(previous);
            let mut end = Box::new(pg_sys::ReadLocalXLogPageNoWaitPrivate { end_of_wal: false });
            let reader = (*context).reader;
            (*reader).private_data = (&raw mut *end).cast();
            pg_sys::XLogBeginRead(reader, (*pg_sys::MyReplicationSlot).data.restart_lsn);
            Ok(Self { context, _end: end })
        }
    }

    /// Says which tables are registered.
    pub fn set_roots(&mut self, roots: Roots) {
        plugin::set_roots(roots);
    }

    /// Decodes up to a position that is on disk, or until about `limit` bytes were gathered; tells whether it came so far.
    /// Meanwhile it calls `pulse` now and then. In a transaction.
    ///
    /// # Errors
    /// The WAL cannot be read.
    pub fn decode_to(&mut self, target: u64, limit: usize, pulse: fn()) -> Result<bool, Lost> {
        if self.position() >= target {
            return Ok(true);
        }
        plugin::begin();
        // SAFETY: in a transaction; context and resource owner are put back as they were, which decoding does not do.
        unsafe {
            let (memory, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
            caches::enter();
            // Buffers of the reader live as long as it does.
            pg_sys::MemoryContextSwitchTo((*self.context).context);
            let outcome = self.read_to(target, limit, owner, pulse);
            pg_sys::MemoryContextSwitchTo(memory);
            caches::leave();
            outcome
        }
    }

    /// # Safety
    /// As in [`Self::decode_to`], in the memory context of the decoding context.
    unsafe fn read_to(
        &mut self,
        target: u64,
        limit: usize,
        owner: pg_sys::ResourceOwner,
        pulse: fn(),
    ) -> Result<bool, Lost> {
        // SAFETY: the caller's promise.
        unsafe {
            let reader = (*self.context).reader;
            let mut records = 0;
            while self.position() < target {
                let mut message = std::ptr::null_mut();
                let record = pg_sys::XLogReadRecord(reader, &raw mut message);
                if !message.is_null() {
                    return Err(Lost::Unreadable(CStr::from_ptr(message).to_string_lossy().into_owned()));
                }
                if record.is_null() {
                    // The next one is not on disk as a whole, so it is no commit that anybody can see.
                    return Ok(true);
                }
                compat::LogicalDecodingProcessRecord(self.context, reader);
                pg_sys::MemoryContextSwitchTo((*self.context).context);
                pg_sys::CurrentResourceOwner = owner;
                records += 1;
                if records % LOOK == 0 {
                    pgrx::check_for_interrupts!();
                    pulse();
                }
                if plugin::gathered() >= limit {
                    return Ok(false);
                }
            }
            Ok(true)
        }
    }

    /// What was gathered since the last call, in the order of commits.
    pub fn take(&mut self) -> Vec<Transaction> {
        plugin::take()
    }

    /// Up to where the WAL has been decoded.
    pub fn position(&self) -> u64 {
        // SAFETY: the reader lives as long as this.
        unsafe { (*(*self.context).reader).EndRecPtr }
    }

    /// Tells the slot up to where nothing will be asked for again.
    pub fn confirm(&mut self, position: u64) {
        // SAFETY: this process reads the slot.
        unsafe { pg_sys::LogicalConfirmReceivedLocation(position) };
    }

    /// What the slot was told last.
    pub fn confirmed(&self) -> u64 {
        // SAFETY: this process reads the slot, and alone changes the field.
        unsafe { (*(*self.context).slot).data.confirmed_flush }
    }

    /// Bytes of WAL that the server keeps for the slot.
    pub fn lag(&self) -> u64 {
        // SAFETY: this process reads the slot, and alone changes the field.
        unsafe { pg_sys::GetXLogInsertRecPtr().saturating_sub((*(*self.context).slot).data.restart_lsn) }
    }

    /// Gives the slot up. In a transaction.
    pub fn close(self) {
        // SAFETY: made in `open`, and used by nothing else. Where an error has given the slot back, what it left of the context
        // is not touched any more.
        unsafe {
            if !pg_sys::MyReplicationSlot.is_null() {
                pg_sys::FreeDecodingContext(self.context);
                pg_sys::ReplicationSlotRelease();
                pg_sys::InvalidateSystemCaches();
            }
        }
        plugin::restart();
    }
}

/// Looks at a slot before it is acquired. In a transaction.
fn examine(name: &str) -> Result<(), Lost> {
    let sql = "SELECT s.plugin::text AS plugin, d.oid AS database, s.active_pid, s.wal_status = 'lost' AS lost
               FROM pg_catalog.pg_replication_slots s LEFT JOIN pg_catalog.pg_database d ON d.datname = s.database
               WHERE s.slot_name = $1::pg_catalog.name";
    let found = Spi::connect(|client| -> Result<Result<(), Lost>, pgrx::spi::Error> {
        let rows = client.select(sql, Some(1), &[name.into()])?;
        let Some(row) = rows.into_iter().next() else { return Ok(Err(Lost::Missing)) };
        let plugin = row["plugin"].value::<String>()?.unwrap_or_default();
        // SAFETY: a plain read.
        let own = unsafe { pg_sys::MyDatabaseId };
        Ok(if plugin != PLUGIN || row["database"].value::<Oid>()? != Some(own) {
            Err(Lost::Foreign(plugin))
        } else if row["lost"].value::<bool>()?.unwrap_or(false) {
            Err(Lost::Invalidated)
        } else if row["active_pid"].value::<i32>()?.is_some() {
            Err(Lost::Busy)
        } else {
            Ok(())
        })
    });
    found.unwrap_or_else(|e| pgrx::error!("could not look at the replication slot: {e}"))
}
