//! Between the gateway and a query worker. One job at a time: what the gateway does not read yet holds
//! the worker back, which is the back-pressure of snapshots.

use super::JobId;
use crate::wire::ErrorCode;
use serde::{Deserialize, Serialize};

/// Gateway → query worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum ToWorker {
    /// The body is the feeder's blob, whose authenticity the worker checks.
    Job { job: JobId },
    /// Nobody waits for the job any more.
    Cancel { job: JobId },
}

/// Query worker → gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum FromWorker {
    /// The snapshot of all of the job's shapes is taken, and what it sees is flushed.
    Begin { job: JobId, snapshot: String },
    /// Rows of the job's subscription number `index` (as in `ids` of the feeder's `Job`): the body is a
    /// JSON array of arrays. Each subscription ends with exactly one `done`.
    Rows { job: JobId, index: u32, rows: u32, done: bool, total: Option<u64> },
    /// All subscriptions of the job are done, and the worker is idle.
    End { job: JobId },
    /// The answer to an `Ask`: the body goes to the feeder as it is; the worker is idle.
    Answer { job: JobId },
    /// The job ended early, and the worker is idle. The session's subscriptions in it that are not done fail.
    Failed { job: JobId, code: ErrorCode, message: String, hint: Option<String> },
}
