//! Rows by parts: what those of each part come to, and the rows of some.
//!
//! A row belongs to a part by its key, and is hashed in its canonical form, both as `rte_core::integrity` has it. Rows are read
//! as for a subscription's snapshot, under the snapshot that is active. Decides nothing about which parts: a verification and
//! a snapshot of what differs from an old copy do. Nothing is kept of a row. Main thread, in a transaction that has locked the
//! table.

use super::link::Link;
use super::rows::{CHUNK, LARGEST, Stop, has_drifted};
use super::snapshot::Interrupted;
use super::timeout;
use crate::access::identity::Identity;
use crate::access::read::{self, Reading};
use crate::access::reads;
use crate::compat;
use crate::encode::{ValueEncoder, append_null};
use crate::scratch::Scratch;
use pgrx::pg_sys::{self, Datum};
use pgrx::prelude::*;
use rte_core::integrity::{Canonical, SetHash, append_array, part_of};
use rte_protocol::bridge::{FromWorker, JobId};
use std::cell::Cell;

/// Rows between two looks whether anybody still waits. The clock of `rte.statement_timeout` begins anew with each.
const LOOK: u64 = 4096;

/// Which rows, and how they are divided.
pub(super) struct Division<'a> {
    pub job: JobId,
    pub table: &'a Reading,
    /// As whom they are read.
    pub identity: &'a Identity,
    /// Places, among the reading's columns, of those that are hashed.
    pub hashed: &'a [u16],
    /// Places of the key's columns, in the key's order.
    pub key: &'a [u16],
    pub parts: u32,
    /// Set once something of them was sent.
    pub sent: &'a Cell<bool>,
}

impl Division<'_> {
    /// Reads all rows once, and does with them what the task says; then `end`, which sends the rest.
    pub(super) fn read<R>(
        &self,
        link: &mut Link,
        task: Task<'_>,
        end: impl FnOnce(&mut Rows<'_>) -> Result<R, Interrupted>,
    ) -> Result<R, Interrupted> {
        let mut rows = Rows::new(link, self, task)?;
        let prepared = self.table.prepare_as(self.identity)?;
        let run = || {
            prepared.for_each_row(self.identity, &mut |values, nulls| rows.take(values, nulls));
            match rows.stop.take() {
                Some(why) => Err(why),
                None => end(&mut rows),
            }
        };
        reads::observe(pg_sys::Oid::from(self.table.relation), run).0
    }
}

/// What is done with rows.
pub(super) struct Task<'a> {
    /// They are hashed.
    pub sums: bool,
    /// Those of these parts are sent, as soon as there are enough for a frame.
    pub want: &'a [u32],
    /// The first say which parts that are.
    pub tells: bool,
}

/// Takes rows, one by one.
pub(super) struct Rows<'a> {
    link: &'a mut Link,
    what: &'a Division<'a>,
    encoders: Vec<ValueEncoder>,
    canonical: Canonical,
    scratch: Scratch,
    /// The row's values as they are sent, and as they are hashed.
    values: Vec<Vec<u8>>,
    hashed: Vec<Vec<u8>>,
    array: Vec<u8>,
    sums: bool,
    parts: Vec<SetHash>,
    wanted: Vec<bool>,
    taken: u64,
    /// Rows of wanted parts that were not sent yet.
    chunk: Vec<u8>,
    rows: u32,
    /// Told with the first chunk.
    told: Option<Vec<u32>>,
    /// Whether rows were sent.
    begun: bool,
    stop: Option<Interrupted>,
}

impl<'a> Rows<'a> {
    fn new(
        link: &'a mut Link,
        what: &'a Division<'a>,
        Task { sums, want, tells }: Task<'_>,
    ) -> Result<Self, Interrupted> {
        let encoders = encoders(what.table)?;
        let columns = encoders.len();
        let mut wanted = vec![false; what.parts as usize];
        for part in want {
            if let Some(wanted) = wanted.get_mut(*part as usize) {
                *wanted = true;
            }
        }
        let parts = vec![SetHash::default(); wanted.len()];
        Ok(Self {
            link,
            what,
            encoders,
            canonical: Canonical::default(),
            scratch: Scratch::new(),
            values: vec![Vec::new(); columns],
            hashed: vec![Vec::new(); columns],
            array: Vec::new(),
            sums,
            parts,
            wanted,
            taken: 0,
            chunk: Vec::new(),
            rows: 0,
            told: tells.then(|| want.to_vec()),
            begun: false,
            stop: None,
        })
    }

    /// What the rows of each part come to.
    pub(super) fn parts(&self) -> &[SetHash] {
        &self.parts
    }

    /// Takes a row; `false` ends the query.
    fn take(&mut self, values: &[Datum], nulls: &[bool]) -> bool {
        if let Err(why) = self.take_row(values, nulls) {
            self.stop = Some(why);
        }
        self.stop.is_none()
    }

    fn take_row(&mut self, values: &[Datum], nulls: &[bool]) -> Result<(), Interrupted> {
        let what = self.what;
        if self.sums {
            self.encode(0..self.encoders.len(), values, nulls);
            self.canonical(what.hashed);
        } else {
            self.encode(what.key.iter().map(|place| usize::from(*place)), values, nulls);
        }
        self.canonical(what.key);
        self.join(what.key);
        let part = part_of(&self.array, what.parts) as usize;
        if self.sums {
            self.join(what.hashed);
            self.parts[part].add(&self.array);
        }
        if self.wanted[part] {
            if !self.sums {
                self.encode(0..self.encoders.len(), values, nulls);
            }
            self.chunk.extend_from_slice(if self.rows == 0 { b"[" } else { b"," });
            append_array(&mut self.chunk, self.values.iter().map(Vec::as_slice));
            self.rows += 1;
            if self.chunk.len() >= CHUNK {
                self.send_rows(false)?;
            }
        }
        self.taken += 1;
        if self.taken.is_multiple_of(LOOK) {
            self.look()?;
        }
        Ok(())
    }

    /// Writes values of a row as they are sent.
    fn encode(&mut self, places: impl Iterator<Item = usize>, values: &[Datum], nulls: &[bool]) {
        let (encoders, out) = (&mut self.encoders, &mut self.values);
        self.scratch.with(|| {
            for place in places {
                let out = &mut out[place];
                out.clear();
                if nulls[place] {
                    append_null(out);
                } else {
                    // SAFETY: the encoder was made for this column.
                    unsafe { encoders[place].append(out, values[place]) };
                }
            }
        });
    }

    /// Makes values canonical.
    fn canonical(&mut self, places: &[u16]) {
        for place in places {
            let place = usize::from(*place);
            self.hashed[place].clear();
            if self.canonical.append(&self.values[place], &mut self.hashed[place]).is_err() {
                pgrx::error!("a value of relation {} is no JSON", self.what.table.relation);
            }
        }
    }

    /// Puts canonical values into an array.
    fn join(&mut self, places: &[u16]) {
        self.array.clear();
        append_array(&mut self.array, places.iter().map(|place| &*self.hashed[usize::from(*place)]));
    }

    /// Whether what is about to be sent is of the snapshot's moment, rights included.
    fn check_drift(&self) -> Result<(), Interrupted> {
        let table = pg_sys::Oid::from(self.what.table.relation);
        if has_drifted(table, self.begun) { Err(Stop::Drifted.into()) } else { Ok(()) }
    }

    /// Whether anybody still waits.
    fn look(&mut self) -> Result<(), Interrupted> {
        timeout::stop();
        timeout::start();
        if self.link.is_cancelled(self.what.job)? { Err(Stop::Cancelled.into()) } else { Ok(()) }
    }

    /// Sends what was not sent yet of the wanted parts.
    pub(super) fn send_rows(&mut self, done: bool) -> Result<(), Interrupted> {
        self.chunk.extend_from_slice(if self.rows == 0 { b"[]" } else { b"]" });
        if self.chunk.len() > LARGEST {
            ereport!(ERROR, PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, "a row is too large for a frame");
        }
        self.check_drift()?;
        self.begun = true;
        self.what.sent.set(true);
        let (job, rows, parts) = (self.what.job, self.rows, self.told.take());
        let head = FromWorker::Rows { job, index: 0, rows, done, total: None, parts };
        self.link.send(&head, &self.chunk)?;
        self.rows = 0;
        self.chunk.clear();
        if self.chunk.capacity() > 8 * CHUNK {
            self.chunk = Vec::new();
        }
        self.look()
    }

    /// Sends something else about the rows.
    pub(super) fn say(&mut self, head: &FromWorker, body: &[u8]) -> Result<(), Interrupted> {
        self.check_drift()?;
        self.link.send(head, body)?;
        Ok(())
    }
}

/// For the columns of the job's table, which is locked: as they are now.
fn encoders(table: &Reading) -> Result<Vec<ValueEncoder>, Interrupted> {
    // SAFETY: in a transaction that holds a lock on the table; its descriptor is read before it is closed.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::try_relation_open(pg_sys::Oid::from(table.relation), lock);
        if relation.is_null() {
            return Err(read::NotReadable::Table.into());
        }
        let desc = (*relation).rd_att;
        let encoder = |number: &i16| {
            let index = usize::try_from(*number).ok().and_then(|n| n.checked_sub(1))?;
            let a = (index < (*desc).natts as usize).then(|| compat::attribute(desc, index))?;
            (!a.attisdropped).then(|| ValueEncoder::new(a.atttypid, a.atttypmod))
        };
        let encoders: Option<Vec<ValueEncoder>> = table.columns.iter().map(encoder).collect();
        pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        encoders.ok_or_else(|| read::NotReadable::Column.into())
    }
}
