//! Other sessions that wait for the same rows as a job: whether what is read for the one may be told to them.
//!
//! Equal shapes read the same as long as nobody's rights change. They may have changed since the feeder planned them, so each
//! session is looked at again here, under the job's own snapshot and before a row is sent; what changes after that is noticed as it is for
//! the job itself. Who may not see exactly the same is left to a reading of its own, which tells it why. Main thread, in the
//! job's transaction.

use super::snapshot::check_role;
use crate::access::identity::Identity;
use crate::access::read::Reading;
use crate::access::{self, Path, policy};
use crate::attempt::attempt;
use crate::job::{Job, SnapshotJob};
use crate::scratch::Scratch;
use pgrx::pg_sys::{self, Oid};
use rte_protocol::bridge::JobId;
use std::collections::HashMap;

/// A job of another session.
pub(super) struct Other {
    job: JobId,
    identity: Identity,
}

impl Other {
    /// One whose blob was verified; nothing where it is not for the same rows.
    pub(super) fn of(job: JobId, work: Job, first: &SnapshotJob) -> Option<Self> {
        match work {
            Job::Snapshot(SnapshotJob { identity, tables, have: None, .. }) if tables == first.tables => {
                Some(Self { job, identity })
            }
            _ => None,
        }
    }
}

/// The jobs of those who may be told what is read for the first.
pub(super) fn admitted(others: &[Other], first: &SnapshotJob) -> Vec<JobId> {
    if others.is_empty() {
        return Vec::new();
    }
    let mut known: HashMap<&Identity, bool> = HashMap::from([(&first.identity, true)]);
    let mut roles: HashMap<(u32, u32, &str), bool> = HashMap::new();
    // Without policies the role alone decides.
    let by_role = !first.tables.iter().any(|table| policy::applies(Oid::from(table.relation)));
    let own = if by_role { None } else { paths(&first.identity, &first.tables) };
    let mut admitted = Vec::new();
    for Other { job, identity } in others {
        let role = (identity.session_user, identity.role, identity.search_path.as_str());
        let may = *known.entry(identity).or_insert_with(|| {
            let reads = *roles.entry(role).or_insert_with(|| may_read(identity, &first.tables));
            reads && (by_role || own.is_some() && paths(identity, &first.tables) == own)
        });
        if may {
            admitted.push(*job);
        }
    }
    admitted
}

/// The predicates of an identity's rows; nothing where Postgres has to be asked for one of them.
fn paths(identity: &Identity, tables: &[Reading]) -> Option<Vec<Path>> {
    let path = |table: &Reading| {
        let relation = Oid::from(table.relation);
        // SAFETY: a catalog look-up.
        let kind = unsafe { pg_sys::get_rel_relkind(relation) } as u8;
        let path = access::path(identity, relation, kind, table.tenant.as_deref(), table.condition.as_deref()).ok()?;
        matches!(path, Path::Folded(_)).then_some(path)
    };
    tables.iter().map(path).collect()
}

/// Whether an identity may read the columns of all tables.
fn may_read(identity: &Identity, tables: &[Reading]) -> bool {
    // Names are looked up as the role: it has to have USAGE of the schemas.
    let is_there = |table: &Reading| table.prepare_as(identity).is_ok() && table.is_granted(identity.role());
    let may = || check_role(identity.role()).is_ok() && tables.iter().all(is_there);
    Scratch::new().with(|| attempt(may).unwrap_or(false))
}
