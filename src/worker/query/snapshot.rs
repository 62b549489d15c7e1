//! A snapshot job to its last row: one transaction, one snapshot, one role.

use super::failure::Failure;
use super::link::{Link, LinkError};
use super::others::{self, Other};
use super::parts::{Division, Task};
use super::rows::{Receiver, Stop};
use super::{Outcome, abort};
use crate::access::read::{NotReadable, Reading};
use crate::access::reads;
use crate::job::{OldCopy, SnapshotJob};
use crate::worker::process;
use crate::{access, snapshot};
use pgrx::pg_sys;
use rte_protocol::bridge::{FromWorker, JobId};
use std::cell::Cell;

/// Snapshots that are taken anew where access changed before a row was sent.
const AGAIN: usize = 5;

/// Why a job did not come to its end, while its transaction is still open.
pub(super) enum Interrupted {
    Failed(Failure),
    Stopped(Stop),
}

impl From<Failure> for Interrupted {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<NotReadable> for Interrupted {
    fn from(why: NotReadable) -> Self {
        Self::Failed(match why {
            NotReadable::Table => Failure::unknown_table(),
            NotReadable::Column => Failure::unknown_column(),
        })
    }
}

impl From<Stop> for Interrupted {
    fn from(stop: Stop) -> Self {
        Self::Stopped(stop)
    }
}

impl From<LinkError> for Interrupted {
    fn from(lost: LinkError) -> Self {
        Self::Stopped(Stop::Lost(lost))
    }
}

/// Reads the job's tables and sends their rows. Postgres' errors are raised.
pub(super) fn run(link: &mut Link, job: JobId, work: &SnapshotJob, others: &[Other]) -> Outcome {
    if let Err(failure) = process::transaction(|_| check_role(work.identity.role())) {
        return Outcome::Failed(failure);
    }
    let sent = Cell::new(false);
    for _ in 0..AGAIN {
        match read(link, job, work, others, &sent) {
            Err(Interrupted::Stopped(Stop::Drifted)) if !sent.get() => abort(),
            read => return end(read),
        }
    }
    end(read(link, job, work, others, &sent))
}

fn end(read: Result<(), Interrupted>) -> Outcome {
    match read {
        Ok(()) => {
            commit();
            Outcome::Done
        }
        Err(interrupted) => interrupted.end(),
    }
}

impl Interrupted {
    /// Ends the transaction.
    pub(super) fn end(self) -> Outcome {
        abort();
        match self {
            Self::Failed(failure) => Outcome::Failed(failure),
            Self::Stopped(Stop::Drifted) => Outcome::Failed(Failure::drifted()),
            Self::Stopped(Stop::Cancelled) => Outcome::Cancelled,
            Self::Stopped(Stop::Lost(lost)) => Outcome::Lost(lost),
        }
    }
}

/// Opens a transaction that reads, and locks its tables. Only then its one snapshot is to be taken: a schema change that was
/// waited for is seen by it, or a rewritten table would look empty.
///
/// A table that somebody holds locked is not waited for, because others want their snapshots from this worker; nothing was
/// sent yet, so the job can be done another time.
pub(super) fn begin<'a>(tables: impl IntoIterator<Item = &'a Reading>) -> Result<(), Failure> {
    // SAFETY: no transaction is open; the two settings are made before the first snapshot is taken.
    unsafe {
        pg_sys::StartTransactionCommand();
        pg_sys::XactIsoLevel = pg_sys::XACT_REPEATABLE_READ as i32;
        pg_sys::XactReadOnly = true;
        for table in tables {
            if !access::read::lock(pg_sys::Oid::from(table.relation)) {
                return Err(Failure::not_ready());
            }
        }
    }
    Ok(())
}

/// Takes the one snapshot of a transaction that was begun.
pub(super) fn take() {
    access::drift::begin();
    // SAFETY: in a transaction whose tables are locked.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
}

pub(super) fn commit() {
    // SAFETY: ends what `begin` opened, after `take`.
    unsafe {
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
    }
}

fn read(
    link: &mut Link,
    job: JobId,
    work: &SnapshotJob,
    others: &[Other],
    sent: &Cell<bool>,
) -> Result<(), Interrupted> {
    begin(&work.tables)?;
    take();
    snapshot::flush_what_is_visible();
    // SAFETY: the transaction's snapshot, an MVCC one; during recovery no job is handed out.
    let taken = unsafe { snapshot::copy(pg_sys::GetActiveSnapshot()) };
    let others = others::admitted(others, work);
    link.send(&FromWorker::Begin { job, snapshot: taken.to_string(), others }, &[])?;
    if let (Some(have), [table]) = (&work.have, &*work.tables) {
        return read_differing(link, work, table, have, sent);
    }
    for (index, table) in work.tables.iter().enumerate() {
        let prepared = table.prepare_as(&work.identity)?;
        #[allow(clippy::cast_possible_truncation, reason = "a job of 1 MiB has fewer tables")]
        let (index, oid) = (index as u32, pg_sys::Oid::from(table.relation));
        let mut receiver = Receiver::new(link, job, index, oid, prepared.total, sent);
        let run = || {
            // SAFETY: the receiver stays where it is during the call.
            unsafe { prepared.run(&work.identity, receiver.as_dest()) };
            receiver.finish()
        };
        reads::observe(oid, run).0?;
    }
    Ok(())
}

/// The rows of the parts in which a client's old copy differs. They are read twice, once to find out which: so nothing is kept
/// of them, however many they are.
fn read_differing(
    link: &mut Link,
    work: &SnapshotJob,
    table: &Reading,
    have: &OldCopy,
    sent: &Cell<bool>,
) -> Result<(), Interrupted> {
    let OldCopy { hashed, key, hashes } = have;
    #[allow(clippy::cast_possible_truncation, reason = "up to 4096")]
    let parts = hashes.len() as u32;
    let what = Division { job: work.job, table, identity: &work.identity, hashed, key, parts, sent };
    let differing = what.read(link, Task { sums: true, want: &[], tells: true }, |rows| {
        let pairs = rows.parts().iter().zip(hashes);
        let differing = (0..).zip(pairs).filter(|(_, (own, theirs))| own.number() != **theirs);
        let differing: Vec<u32> = differing.map(|(part, _)| part).collect();
        if differing.is_empty() {
            rows.send_rows(true)?;
        }
        Ok(differing)
    })?;
    if differing.is_empty() {
        return Ok(());
    }
    what.read(link, Task { sums: false, want: &differing, tells: true }, |rows| rows.send_rows(true))
}

/// Postgres' privileges must be what decides, so the role must be subject to them. Whether it may bypass row-level
/// security was for the feeder to decide, and is an attribute that Postgres knows.
pub(super) fn check_role(role: pg_sys::Oid) -> Result<(), Failure> {
    // SAFETY: catalog look-ups inside a transaction.
    let (exists, exempt) = unsafe { (!pg_sys::GetUserNameFromId(role, true).is_null(), pg_sys::superuser_arg(role)) };
    match (exists, exempt) {
        (false, _) => Err(Failure::forbidden("the session's role does not exist")),
        (true, true) => Err(Failure::forbidden("the session's role is a superuser")),
        (true, false) => Ok(()),
    }
}
