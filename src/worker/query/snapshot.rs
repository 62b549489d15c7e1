//! A snapshot job to its last row: one transaction, one snapshot, one role.

use super::failure::Failure;
use super::link::{Link, LinkError};
use super::rows::{Receiver, Stop};
use super::table::Query;
use super::{Outcome, abort};
use crate::job::SnapshotJob;
use crate::worker::process;
use crate::{compat, snapshot};
use pgrx::pg_sys;
use pgrx::prelude::*;
use rte_protocol::bridge::{FromWorker, JobId};

/// Why a job did not come to its end, while its transaction is still open.
enum Interrupted {
    Failed(Failure),
    Stopped(Stop),
}

impl From<Failure> for Interrupted {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
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
pub(super) fn run(link: &mut Link, job: JobId, work: &SnapshotJob) -> Outcome {
    if let Err(failure) = process::transaction(|_| check_role(pg_sys::Oid::from(work.role))) {
        return Outcome::Failed(failure);
    }
    match read(link, job, work) {
        Ok(()) => {
            commit();
            Outcome::Done
        }
        Err(interrupted) => {
            abort();
            match interrupted {
                Interrupted::Failed(failure) => Outcome::Failed(failure),
                Interrupted::Stopped(Stop::Cancelled) => Outcome::Cancelled,
                Interrupted::Stopped(Stop::Lost(lost)) => Outcome::Lost(lost),
            }
        }
    }
}

/// Opens a transaction that reads, locks its tables, and only then takes its one snapshot: a schema change that was
/// waited for is seen by it, or a rewritten table would look empty.
///
/// A table that somebody holds locked is not waited for, because others want their snapshots from this worker; nothing was
/// sent yet, so the job can be done another time.
fn begin(work: &SnapshotJob) -> Result<(), Failure> {
    // SAFETY: no transaction is open; the two settings are made before the first snapshot is taken.
    unsafe {
        pg_sys::StartTransactionCommand();
        pg_sys::XactIsoLevel = pg_sys::XACT_REPEATABLE_READ as i32;
        pg_sys::XactReadOnly = true;
        for table in &work.tables {
            if !lock(pg_sys::Oid::from(table.relation)) {
                return Err(Failure::not_ready());
            }
        }
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    }
    Ok(())
}

/// Locks a table and its partitions; `false` where that would have to wait. The lock is kept until the transaction ends.
///
/// # Safety
/// In a transaction.
unsafe fn lock(table: pg_sys::Oid) -> bool {
    let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: the caller's promise; the list's elements are oids. Its other partitions stay while the root is locked.
    unsafe {
        if !pg_sys::ConditionalLockRelationOid(table, mode) {
            return false;
        }
        if pg_sys::get_rel_relkind(table) as u8 != pg_sys::RELKIND_PARTITIONED_TABLE {
            return true;
        }
        let all = compat::find_all_inheritors(table, pg_sys::NoLock as pg_sys::LOCKMODE, core::ptr::null_mut());
        (0..compat::list_length(all)).all(|i| pg_sys::ConditionalLockRelationOid(pg_sys::list_nth_oid(all, i), mode))
    }
}

fn commit() {
    // SAFETY: ends what `begin` opened.
    unsafe {
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
    }
}

fn read(link: &mut Link, job: JobId, work: &SnapshotJob) -> Result<(), Interrupted> {
    begin(work)?;
    snapshot::flush_what_is_visible();
    // SAFETY: the transaction's snapshot, an MVCC one; during recovery no job is handed out.
    let taken = unsafe { snapshot::copy(pg_sys::GetActiveSnapshot()) };
    link.send(&FromWorker::Begin { job, snapshot: taken.to_string() }, &[])?;
    let own = act_as(pg_sys::Oid::from(work.role));
    for (index, table) in work.tables.iter().enumerate() {
        let query = Query::of(table)?;
        #[allow(clippy::cast_possible_truncation, reason = "a job of 1 MiB has fewer tables")]
        select(link, job, index as u32, &query)?;
    }
    // An abort would do that by itself, a commit does not.
    own.restore();
    Ok(())
}

/// Postgres' privileges must be what decides, so the role must be subject to them. Whether it may bypass row-level
/// security was for the feeder to decide, and is an attribute that Postgres knows.
fn check_role(role: pg_sys::Oid) -> Result<(), Failure> {
    // SAFETY: catalog look-ups inside a transaction.
    let (exists, exempt) = unsafe { (!pg_sys::GetUserNameFromId(role, true).is_null(), pg_sys::superuser_arg(role)) };
    match (exists, exempt) {
        (false, _) => Err(Failure::forbidden("the session's role does not exist")),
        (true, true) => Err(Failure::forbidden("the session's role is a superuser")),
        (true, false) => Ok(()),
    }
}

/// Who this process was.
struct Identity(pg_sys::Oid, i32);

impl Identity {
    fn restore(self) {
        // SAFETY: as it was before.
        unsafe { pg_sys::SetUserIdAndSecContext(self.0, self.1) };
    }
}

/// From here on, privileges and policies are the role's, until the identity is restored or the transaction aborts.
fn act_as(role: pg_sys::Oid) -> Identity {
    let restricted = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
    let mut own = Identity(pg_sys::Oid::INVALID, 0);
    // SAFETY: inside a transaction, whose abort restores the identity that it began with.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&raw mut own.0, &raw mut own.1);
        pg_sys::SetUserIdAndSecContext(role, restricted as i32);
    }
    own
}

/// Runs a query and streams its rows.
fn select(link: &mut Link, job: JobId, index: u32, query: &Query) -> Result<(), Interrupted> {
    let mut receiver = Receiver::new(link, job, index, query.total);
    // SAFETY: the SQL is a C string made of quoted names; the receiver stays where it is during the call.
    let result = unsafe {
        pg_sys::SPI_connect();
        let mut options = pg_sys::SPIExecuteOptions { read_only: true, ..Default::default() };
        options.dest = receiver.as_dest();
        let result = pg_sys::SPI_execute_extended(query.sql.as_ptr(), &options);
        pg_sys::SPI_finish();
        result
    };
    if result != pg_sys::SPI_OK_SELECT as i32 {
        ereport!(ERROR, PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("SPI_execute_extended returned {result}"));
    }
    receiver.finish()?;
    Ok(())
}
