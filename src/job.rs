//! The job that a feeder hands to a query worker, through the gateway and signed so that the gateway
//! can neither make nor alter one. Pure data.

use serde::{Deserialize, Serialize};

/// A snapshot to be read as a role: all tables under one repeatable-read snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotJob {
    pub job: u64,
    /// Oid of the database; a worker of another one refuses.
    pub database: u32,
    /// Oid of the role to act as.
    pub role: u32,
    /// In the order of the subscriptions of the bridge's `Job`.
    pub tables: Vec<JobTable>,
}

/// One table of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobTable {
    /// Oid of the table (of the root, where it is partitioned).
    pub relation: u32,
    /// Attribute numbers in the order of the subscription's columns.
    pub columns: Vec<i16>,
}
