//! A verification: what the rows of a subscription come to, under a snapshot that a tick of the feeder has too.
//!
//! The transaction locks its table, waits for the feeder's word, takes its snapshot and exports it. Once a tick has adopted
//! it (which needs this transaction open), the rows are read under it as for the subscription's snapshot, hashed, and those
//! of wanted parts sent. Where no tick could, all of it is done again; how often is the feeder's to decide. The exported
//! snapshot goes with the transaction. Nothing is kept of a row. Main thread.

use super::failure::Failure;
use super::link::{Link, Word};
use super::parts::{Division, Task};
use super::rows::Stop;
use super::snapshot::{Interrupted, begin, check_role, commit, take};
use super::{Outcome, abort};
use crate::job::{Export, VerifyJob};
use crate::snapshot;
use crate::worker::process;
use pgrx::pg_sys;
use rte_core::cursor;
use rte_core::integrity::SetHash;
use rte_protocol::bridge::FromWorker;
use std::cell::Cell;
use std::ffi::CStr;
use std::time::Duration;

/// Patience with a feeder that says nothing: it answers between ticks.
const PATIENCE: Duration = Duration::from_secs(5);

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
    let VerifyJob { identity, table, hashed, key, parts, want, .. } = work;
    let what = Division { job, table, identity, hashed, key, parts: *parts, sent: &Cell::new(false) };
    what.read(link, Task { sums: true, want, tells: false }, |rows| {
        if !want.is_empty() {
            rows.send_rows(true)?;
        }
        let parts = rows.parts();
        let mut whole = SetHash::default();
        parts.iter().for_each(|part| whole.merge(part));
        let mut body = Vec::new();
        if parts.len() > 1 {
            let parts: Vec<(String, u64)> = parts.iter().map(|part| (part.to_string(), part.rows())).collect();
            body = serde_json::to_vec(&parts).unwrap_or_default();
        }
        let head = FromWorker::Verified { job, hash: whole.to_string(), rows: whole.rows() };
        rows.say(&head, &body)
    })?;
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
