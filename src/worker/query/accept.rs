//! Whether a job is one that the feeder of this database made, and this worker one that may do it. Main thread.

use super::failure::Failure;
use crate::access::role;
use crate::job::Job;
use crate::secret;
use crate::worker::process;
use pgrx::pg_sys;
use rte_core::cursor;
use rte_protocol::bridge::JobId;

/// Why a job is not done.
pub(super) enum Refused {
    Failed(Failure),
    /// This worker is connected as a role that it should not be connected as any more.
    Outdated,
}

/// The job, and the key that it is signed with; looked at in a transaction of its own. Raises Postgres' errors.
pub(super) fn accept(job: JobId, blob: &[u8]) -> Result<(Job, Vec<u8>), Refused> {
    const FOREIGN: Refused = Refused::Failed(Failure::forbidden("the job was not made by this database"));
    let (key, connected) = process::transaction(|_| (secret::server_key(), is_connected_rightly()));
    if !connected {
        return Err(Refused::Outdated);
    }
    // Anybody can sign with the key of an extension that is not there.
    if key.is_empty() {
        return Err(FOREIGN);
    }
    match verified(job, blob, &key) {
        Some(work) => Ok((work, key)),
        None => Err(FOREIGN),
    }
}

/// What a blob says, if the feeder of this database made it for this job.
pub(super) fn verified(job: JobId, blob: &[u8], key: &[u8]) -> Option<Job> {
    let work: Job = serde_json::from_slice(cursor::verify(key, blob).ok()?).ok()?;
    // SAFETY: a global of this process that is set once.
    let here = unsafe { pg_sys::MyDatabaseId }.to_u32();
    (work.place() == (job, here)).then_some(work)
}

fn is_connected_rightly() -> bool {
    // SAFETY: reads a global of this process.
    let connected = unsafe { pg_sys::GetSessionUserId() };
    match role::authenticator() {
        Ok(Some(authenticator)) => connected == authenticator,
        Ok(None) => connected.to_u32() == pg_sys::BOOTSTRAP_SUPERUSERID,
        Err(_) => false,
    }
}
