//! The jobs that a feeder hands to a query worker, through the gateway and signed so that the gateway
//! can neither make nor alter one; and the answers of workers, signed likewise. Pure data.

use crate::access::identity::Identity;
use crate::access::read::Reading;
use serde::{Deserialize, Serialize};

/// What is asked of a query worker.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Job {
    Snapshot(SnapshotJob),
    Verify(VerifyJob),
    Authenticate(AuthenticateJob),
}

impl Job {
    /// Its number and the oid of its database; a worker of another one refuses.
    pub fn place(&self) -> (u64, u32) {
        match self {
            Self::Snapshot(job) => (job.job, job.database),
            Self::Verify(job) => (job.job, job.database),
            Self::Authenticate(job) => (job.job, job.database),
        }
    }
}

/// A snapshot to be read for a session: all tables under one repeatable-read snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotJob {
    pub job: u64,
    /// Oid of the database; a worker of another one refuses.
    pub database: u32,
    /// As whom the tables are read.
    pub identity: Identity,
    /// In the order of the subscriptions of the bridge's `Job`.
    pub tables: Vec<Reading>,
    /// What the client has of the only table: of its rows those are sent whose parts differ.
    pub have: Option<OldCopy>,
}

/// An old copy of a client's, hashed by parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldCopy {
    /// Places, among the reading's columns, of those that are hashed.
    pub hashed: Vec<u16>,
    /// Places of the key's columns, in the key's order.
    pub key: Vec<u16>,
    /// One for each part.
    pub hashes: Vec<u64>,
}

/// The rows of a session's subscription to be hashed, under a snapshot that a tick adopts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyJob {
    pub job: u64,
    pub database: u32,
    /// As whom the table is read.
    pub identity: Identity,
    /// As for the subscription's snapshot.
    pub table: Reading,
    /// Places, among the reading's columns, of those that are hashed.
    pub hashed: Vec<u16>,
    /// Places of the key's columns, in the key's order.
    pub key: Vec<u16>,
    pub parts: u32,
    /// The parts whose rows are wanted.
    pub want: Vec<u32>,
}

/// What a worker says of a snapshot that it has exported for a verification; signed by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    pub job: u64,
    /// The snapshot's name, for its import.
    pub name: String,
    /// The snapshot, in `pg_snapshot`'s text form.
    pub snapshot: String,
}

/// A token to be shown to `rte.authenticate_function`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthenticateJob {
    pub job: u64,
    pub database: u32,
    /// The session that asks; the answer is for it alone.
    pub session: u64,
    /// Random, so that no answer to an earlier question fits this one.
    pub nonce: [u8; 16],
    pub token: String,
    /// As the directory knows it; none in the landlord database.
    pub tenant: Option<String>,
    pub client: JobClient,
}

/// What a client says of itself, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JobClient {
    pub id: Option<String>,
    pub name: Option<String>,
    pub address: String,
}

/// What the function said, bound to the question.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub session: u64,
    pub nonce: [u8; 16],
    /// None: not let in. Why is in the server's log.
    pub login: Option<AnswerLogin>,
}

/// As whom a client is let in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerLogin {
    pub role: String,
    /// A JSON object.
    pub claims: String,
}
