//! Between the gateway and a query worker. One job at a time: what the gateway does not read yet holds
//! the worker back, which is the back-pressure of snapshots.

use super::JobId;
use crate::wire::ErrorCode;
use serde::{Deserialize, Serialize};

/// Gateway → query worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum ToWorker {
    /// The body is the feeder's blob, whose authenticity the worker checks; then those of `others`, jobs of other sessions that wait
    /// for the same rows, each with the bytes of its blob.
    Job { job: JobId, others: Vec<(JobId, u32)> },
    /// Nobody waits for the job any more.
    Cancel { job: JobId },
    /// The worker is to take and export the snapshot of a verification now.
    Export { job: JobId },
    /// A tick has adopted the exported snapshot, and its commit is on its way.
    Adopted { job: JobId },
    /// The exported snapshot came too late: another one is wanted.
    Again { job: JobId },
}

/// Query worker → gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum FromWorker {
    /// The snapshot of all of the job's shapes is taken, and what it sees is flushed. What follows is for these other jobs too, whose
    /// sessions may see the same; the rest of them are to be read another time.
    Begin { job: JobId, snapshot: String, others: Vec<JobId> },
    /// Rows of the job's subscription number `index` (as in `ids` of the feeder's `Job`): the body is a
    /// JSON array of arrays. Each subscription ends with exactly one `done`. Of a verification they are the rows of the
    /// wanted parts, with `index` 0. Of a partial snapshot the first says which `parts` they are of.
    Rows { job: JobId, index: u32, rows: u32, done: bool, total: Option<u64>, parts: Option<Vec<u32>> },
    /// A verification has locked its table and waits for `Export`. Comes again after `Again`.
    Ready { job: JobId },
    /// The snapshot of a verification is taken and exported; the body goes to the feeder as it is, signed. `Adopted` or
    /// `Again` follows.
    Exported { job: JobId },
    /// What the rows of a verification come to. The body is the JSON array of its parts, `[["<hash>",<rows>],…]`, or empty
    /// where there is one part. `End` follows.
    Verified { job: JobId, hash: String, rows: u64 },
    /// All subscriptions of the job are done, and the worker is idle.
    End { job: JobId },
    /// The answer to an `Ask`: the body goes to the feeder as it is; the worker is idle.
    Answer { job: JobId },
    /// The job ended early, and the worker is idle. The session's subscriptions in it that are not done fail.
    Failed { job: JobId, code: ErrorCode, message: String, hint: Option<String> },
}
