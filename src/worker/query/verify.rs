//! A verification: what the rows of a subscription come to, under a snapshot that a tick of the feeder has too.
//!
//! The transaction locks its table, waits for the feeder's word, takes its snapshot and exports it. Once a tick has adopted
//! it (which needs this transaction open), the rows are read under it as for the subscription's snapshot, hashed, and those
//! of wanted parts sent. Where no tick could, all of it is done again; how often is the feeder's to decide. The exported
//! snapshot goes with the transaction. Nothing is kept of a row. Main thread.

use super::failure::Failure;
use super::link::{Link, Word};
use super::rows::{CHUNK, Stop, has_drifted};
use super::snapshot::{Interrupted, begin, check_role, commit, take};
use super::{Outcome, abort, timeout};
use crate::access::{read, reads};
use crate::encode::{ValueEncoder, append_null};
use crate::job::{Export, VerifyJob};
use crate::scratch::Scratch;
use crate::worker::process;
use crate::{compat, snapshot};
use pgrx::pg_sys::{self, Datum};
use rte_core::cursor;
use rte_core::integrity::{Canonical, SetHash, append_array, part_of};
use rte_protocol::bridge::FromWorker;
use std::ffi::CStr;
use std::time::Duration;

/// Patience with a feeder that says nothing: it answers between ticks.
const PATIENCE: Duration = Duration::from_secs(5);
/// Rows between two looks whether anybody still waits. The clock of `rte.statement_timeout` begins anew with each.
const LOOK: u64 = 4096;

/// Whether a tick has the snapshot.
enum Turn {
    Done,
    Again,
}

/// Hashes the rows of the job's table. Postgres' errors are raised.
pub(super) fn run(link: &mut Link, work: &VerifyJob, key: &[u8]) -> Outcome {
    if let Err(failure) = process::transaction(|_| check_role(work.identity.role())) {
        return Outcome::Failed(failure);
    }
    loop {
        match attempt(link, work, key) {
            Ok(Turn::Done) => {
                commit();
                return Outcome::Done;
            }
            Ok(Turn::Again) => abort(),
            Err(interrupted) => {
                return match interrupted.end() {
                    Outcome::Failed(_) => Outcome::Failed(Failure::not_verified()),
                    end => end,
                };
            }
        }
    }
}

fn attempt(link: &mut Link, work: &VerifyJob, key: &[u8]) -> Result<Turn, Interrupted> {
    let job = work.job;
    begin([&work.table])?;
    link.send(&FromWorker::Ready { job }, &[])?;
    if !says(link, job, Word::Export)? {
        return Ok(Turn::Again);
    }
    take();
    link.send(&FromWorker::Exported { job }, &cursor::sign(key, export(job)))?;
    if !says(link, job, Word::Adopted)? {
        return Ok(Turn::Again);
    }
    snapshot::flush_what_is_visible();
    let mut hasher = Hasher::new(link, work)?;
    let prepared = work.table.prepare_as(&work.identity)?;
    let run = || {
        prepared.for_each_row(&work.identity, &mut |values, nulls| hasher.take(values, nulls));
        hasher.finish()
    };
    reads::observe(pg_sys::Oid::from(work.table.relation), run).0?;
    Ok(Turn::Done)
}

/// Waits for this word; `false` where another attempt is asked for.
fn says(link: &mut Link, job: u64, expected: Word) -> Result<bool, Interrupted> {
    match link.word(job, PATIENCE)? {
        Some(word) if word == expected => Ok(true),
        Some(Word::Again) => Ok(false),
        Some(Word::Cancel) => Err(Stop::Cancelled.into()),
        _ => Err(Failure::not_verified().into()),
    }
}

/// Exports the active snapshot, for the feeder's import.
fn export(job: u64) -> Vec<u8> {
    // SAFETY: the transaction's snapshot, an MVCC one, active; during recovery no job is handed out. The name is a C string.
    let (name, taken) = unsafe {
        let active = pg_sys::GetActiveSnapshot();
        (CStr::from_ptr(pg_sys::ExportSnapshot(active)), snapshot::copy(active))
    };
    let export = Export { job, name: name.to_string_lossy().into_owned(), snapshot: taken.to_string() };
    serde_json::to_vec(&export).unwrap_or_default()
}

/// Takes rows, one by one.
struct Hasher<'a> {
    link: &'a mut Link,
    work: &'a VerifyJob,
    encoders: Vec<ValueEncoder>,
    canonical: Canonical,
    scratch: Scratch,
    /// The row's values as they are sent, and as they are hashed.
    values: Vec<Vec<u8>>,
    hashed: Vec<Vec<u8>>,
    array: Vec<u8>,
    parts: Vec<SetHash>,
    wanted: Vec<bool>,
    taken: u64,
    /// Rows of wanted parts that were not sent yet.
    chunk: Vec<u8>,
    rows: u32,
    /// Whether rows were sent.
    begun: bool,
    stop: Option<Interrupted>,
}

impl<'a> Hasher<'a> {
    fn new(link: &'a mut Link, work: &'a VerifyJob) -> Result<Self, Interrupted> {
        let encoders = encoders(work)?;
        let columns = encoders.len();
        let wanted: Vec<bool> = (0..work.parts).map(|part| work.want.contains(&part)).collect();
        let parts = vec![SetHash::default(); wanted.len()];
        Ok(Self {
            link,
            work,
            encoders,
            canonical: Canonical::default(),
            scratch: Scratch::new(),
            values: vec![Vec::new(); columns],
            hashed: vec![Vec::new(); columns],
            array: Vec::new(),
            parts,
            wanted,
            taken: 0,
            chunk: Vec::new(),
            rows: 0,
            begun: false,
            stop: None,
        })
    }

    /// Takes a row; `false` ends the query.
    fn take(&mut self, values: &[Datum], nulls: &[bool]) -> bool {
        if let Err(why) = self.take_row(values, nulls) {
            self.stop = Some(why);
        }
        self.stop.is_none()
    }

    fn take_row(&mut self, values: &[Datum], nulls: &[bool]) -> Result<(), Interrupted> {
        self.scratch.with(|| {
            for (place, encoder) in self.encoders.iter_mut().enumerate() {
                let out = &mut self.values[place];
                out.clear();
                if nulls[place] {
                    append_null(out);
                } else {
                    // SAFETY: the encoder was made for this column.
                    unsafe { encoder.append(out, values[place]) };
                }
            }
        });
        for place in self.work.hashed.iter().chain(&self.work.key) {
            let place = usize::from(*place);
            self.hashed[place].clear();
            if self.canonical.append(&self.values[place], &mut self.hashed[place]).is_err() {
                pgrx::error!("a value of relation {} is no JSON", self.work.table.relation);
            }
        }
        let canonical = |places: &[u16], array: &mut Vec<u8>| {
            array.clear();
            append_array(array, places.iter().map(|place| &*self.hashed[usize::from(*place)]));
        };
        canonical(&self.work.key, &mut self.array);
        let part = part_of(&self.array, self.work.parts) as usize;
        canonical(&self.work.hashed, &mut self.array);
        self.parts[part].add(&self.array);
        if self.wanted[part] {
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

    /// Whether what is about to be sent is of the snapshot's moment, rights included.
    fn check_drift(&self) -> Result<(), Interrupted> {
        let table = pg_sys::Oid::from(self.work.table.relation);
        if has_drifted(table, self.begun) { Err(Stop::Drifted.into()) } else { Ok(()) }
    }

    /// Whether anybody still waits.
    fn look(&mut self) -> Result<(), Interrupted> {
        timeout::stop();
        timeout::start();
        if self.link.is_cancelled(self.work.job)? { Err(Stop::Cancelled.into()) } else { Ok(()) }
    }

    fn send_rows(&mut self, done: bool) -> Result<(), Interrupted> {
        self.chunk.extend_from_slice(if self.rows == 0 { b"[]" } else { b"]" });
        self.check_drift()?;
        self.begun = true;
        let head = FromWorker::Rows { job: self.work.job, index: 0, rows: self.rows, done, total: None };
        self.link.send(&head, &self.chunk)?;
        self.rows = 0;
        self.chunk.clear();
        if self.chunk.capacity() > 8 * CHUNK {
            self.chunk = Vec::new();
        }
        self.look()
    }

    /// Sends the rest, and what all of it comes to.
    fn finish(mut self) -> Result<(), Interrupted> {
        if let Some(why) = self.stop.take() {
            return Err(why);
        }
        if !self.work.want.is_empty() {
            self.send_rows(true)?;
        }
        let mut whole = SetHash::default();
        self.parts.iter().for_each(|part| whole.merge(part));
        let mut body = Vec::new();
        if self.parts.len() > 1 {
            let parts: Vec<(String, u64)> = self.parts.iter().map(|part| (part.to_string(), part.rows())).collect();
            body = serde_json::to_vec(&parts).unwrap_or_default();
        }
        self.check_drift()?;
        let head = FromWorker::Verified { job: self.work.job, hash: whole.to_string(), rows: whole.rows() };
        self.link.send(&head, &body)?;
        Ok(())
    }
}

/// For the columns of the job's table, which is locked: as they are now.
fn encoders(work: &VerifyJob) -> Result<Vec<ValueEncoder>, Interrupted> {
    // SAFETY: in a transaction that holds a lock on the table; its descriptor is read before it is closed.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::try_relation_open(pg_sys::Oid::from(work.table.relation), lock);
        if relation.is_null() {
            return Err(read::NotReadable::Table.into());
        }
        let desc = (*relation).rd_att;
        let encoder = |number: &i16| {
            let index = usize::try_from(*number).ok().and_then(|n| n.checked_sub(1))?;
            let a = (index < (*desc).natts as usize).then(|| compat::attribute(desc, index))?;
            (!a.attisdropped).then(|| ValueEncoder::new(a.atttypid, a.atttypmod))
        };
        let encoders: Option<Vec<ValueEncoder>> = work.table.columns.iter().map(encoder).collect();
        pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        encoders.ok_or_else(|| read::NotReadable::Column.into())
    }
}
