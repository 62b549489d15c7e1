//! The executor's receiver: each row becomes a JSON array in a chunk, each full chunk a frame. Nothing is
//! kept of a row, so memory stays flat whatever the table's size.

use super::link::{Link, LinkError};
use crate::access::{drift, reads};
use crate::encode::{ValueEncoder, append_null};
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use rte_protocol::bridge::frame::MAX_FRAME;
use rte_protocol::bridge::{FromWorker, JobId};
use std::cell::Cell;

/// A chunk is sent when it has grown past this.
pub(super) const CHUNK: usize = 96 * 1024;

/// A frame, less its head.
pub(super) const LARGEST: usize = MAX_FRAME - 4096;

/// Why the rows of a table stopped before their end.
pub(super) enum Stop {
    /// Access may have changed since the snapshot was taken.
    Drifted,
    Cancelled,
    Lost(LinkError),
}

/// Postgres calls through `base`, which therefore comes first.
#[repr(C)]
pub(super) struct Receiver<'a> {
    base: pg_sys::DestReceiver,
    link: &'a mut Link,
    job: JobId,
    index: u32,
    table: Oid,
    /// Told with the first chunk.
    total: Option<u64>,
    /// Whether a chunk was sent: what was decided before the first row is not looked at any more.
    begun: bool,
    /// Set once rows of the job were sent.
    sent: &'a Cell<bool>,
    encoders: Vec<ValueEncoder>,
    /// What encoding a row allocates; reset after each.
    row_context: pg_sys::MemoryContext,
    chunk: Vec<u8>,
    rows: u32,
    stop: Option<Stop>,
}

impl<'a> Receiver<'a> {
    pub(super) fn new(
        link: &'a mut Link,
        job: JobId,
        index: u32,
        table: Oid,
        total: Option<u64>,
        sent: &'a Cell<bool>,
    ) -> Self {
        // SAFETY: under the transaction's context, with which it goes.
        let row_context = unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopTransactionContext,
                c"rte row".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        };
        let base = pg_sys::DestReceiver {
            receiveSlot: Some(receive),
            rStartup: Some(startup),
            rShutdown: Some(shutdown),
            rDestroy: Some(shutdown),
            // Any but DestNone and DestSPI, of which SPI has ideas of its own.
            mydest: pg_sys::CommandDest::DestTuplestore,
        };
        let chunk = Vec::with_capacity(CHUNK + CHUNK / 4);
        Self {
            base,
            link,
            job,
            index,
            table,
            total,
            begun: false,
            sent,
            encoders: Vec::new(),
            row_context,
            chunk,
            rows: 0,
            stop: None,
        }
    }

    /// What the executor wants. Valid while the receiver is not moved.
    pub(super) fn as_dest(&mut self) -> *mut pg_sys::DestReceiver {
        (&raw mut *self).cast()
    }

    /// Sends the rest, and that it is the last.
    pub(super) fn finish(mut self) -> Result<(), Stop> {
        match self.stop.take() {
            Some(stop) => Err(stop),
            None => self.flush(true),
        }
    }

    fn flush(&mut self, done: bool) -> Result<(), Stop> {
        self.chunk.extend_from_slice(if self.rows == 0 { b"[]" } else { b"]" });
        if self.chunk.len() > LARGEST {
            ereport!(ERROR, PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, "a row is too large for a frame");
        }
        if has_drifted(self.table, self.begun) {
            return Err(Stop::Drifted);
        }
        self.begun = true;
        self.sent.set(self.sent.get() || self.rows > 0);
        let total = self.total.take();
        let head = FromWorker::Rows { job: self.job, index: self.index, rows: self.rows, done, total, parts: None };
        self.link.send(&head, &self.chunk).map_err(Stop::Lost)?;
        self.rows = 0;
        self.chunk.clear();
        if self.chunk.capacity() > 8 * CHUNK {
            self.chunk = Vec::with_capacity(CHUNK + CHUNK / 4);
        }
        match self.link.is_cancelled(self.job) {
            Ok(false) => Ok(()),
            Ok(true) => Err(Stop::Cancelled),
            Err(lost) => Err(Stop::Lost(lost)),
        }
    }

    /// Appends a row.
    ///
    /// # Safety
    /// `values` and `nulls` are a row of the descriptor that the executor started with.
    unsafe fn append(&mut self, values: &[pg_sys::Datum], nulls: &[bool]) {
        self.chunk.extend_from_slice(if self.rows == 0 { b"[[" } else { b",[" });
        for (i, ((encoder, value), null)) in self.encoders.iter_mut().zip(values).zip(nulls).enumerate() {
            if i > 0 {
                self.chunk.push(b',');
            }
            if *null {
                append_null(&mut self.chunk);
            } else {
                // SAFETY: the encoder was made for this column.
                unsafe { encoder.append(&mut self.chunk, *value) };
            }
        }
        self.chunk.push(b']');
        self.rows += 1;
    }
}

/// Whether what decided on the rows of a table may be newer than they are; in [`reads::observe`]. `begun`: its first rows were
/// sent. Privileges and policies of the table itself are looked at before the first row, and not again.
pub(super) fn has_drifted(table: Oid, begun: bool) -> bool {
    drift::of_tables(|other| {
        if begun {
            reads::is_read(other) && reads::root_of(other) != table
        } else {
            other == table || reads::is_read(other)
        }
    })
}

/// Looks at the columns before the first row.
#[pg_guard]
unsafe extern "C-unwind" fn startup(dest: *mut pg_sys::DestReceiver, _operation: i32, desc: pg_sys::TupleDesc) {
    // SAFETY: the executor hands back the receiver that it was given, and a descriptor that outlives the call.
    let (receiver, desc) = unsafe { (&mut *dest.cast::<Receiver<'_>>(), pgrx::PgTupleDesc::from_pg_unchecked(desc)) };
    receiver.encoders = desc.iter().map(|a| ValueEncoder::new(a.atttypid, a.atttypmod)).collect();
}

/// Takes a row; `false` ends the scan.
#[pg_guard]
unsafe extern "C-unwind" fn receive(slot: *mut pg_sys::TupleTableSlot, dest: *mut pg_sys::DestReceiver) -> bool {
    // SAFETY: the receiver that the executor was given, and a slot with a row of the descriptor that
    // `startup` saw. After the attributes are read, the slot's arrays hold as many values.
    unsafe {
        let receiver = &mut *dest.cast::<Receiver<'_>>();
        let columns = receiver.encoders.len();
        if usize::try_from((*slot).tts_nvalid).is_ok_and(|valid| valid < columns) {
            pg_sys::slot_getsomeattrs_int(slot, columns as i32);
        }
        let values = std::slice::from_raw_parts((*slot).tts_values, columns);
        let nulls = std::slice::from_raw_parts((*slot).tts_isnull, columns);
        let before = pg_sys::MemoryContextSwitchTo(receiver.row_context);
        receiver.append(values, nulls);
        pg_sys::MemoryContextSwitchTo(before);
        if !(*receiver.row_context).isReset {
            pg_sys::MemoryContextReset(receiver.row_context);
        }
        if receiver.chunk.len() >= CHUNK
            && let Err(stop) = receiver.flush(false)
        {
            receiver.stop = Some(stop);
        }
        receiver.stop.is_none()
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn shutdown(_dest: *mut pg_sys::DestReceiver) {}
