//! Between the gateway and the feeder of a database.

use super::{JobId, SessionId, ShapeId};
use crate::wire::{ClientInfo, Column, ErrorCode, Subscription, TableInfo};
use serde::{Deserialize, Serialize};

/// Gateway → feeder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum ToFeeder {
    /// A client said `hello`. Answered by `Opened` or `Refused`; then each of the subscriptions by
    /// `Subscribed` or `SessionError` with its id.
    Open {
        session: SessionId,
        token: Option<String>,
        client: Option<ClientInfo>,
        /// The client's address, for logs and views.
        peer: String,
        cursor: Option<String>,
        subscriptions: Vec<Subscription>,
    },
    /// One more subscription, answered likewise.
    Subscribe { session: SessionId, subscription: Subscription },
    /// Ends a subscription; not answered (the gateway has told the client).
    Unsubscribe { session: SessionId, id: String },
    /// The connection is gone; jobs for it may be dropped.
    Close { session: SessionId },
    /// A snapshot was taken or a client waits: make a tick now and send its `Commit` even if empty.
    NeedTick,
    /// The snapshot of these subscriptions could not be read. Each is answered by `Resync`, `Subscribed` and another
    /// `Job` where it is worth another try (the table was redefined meanwhile), else by `Ended`.
    SnapshotFailed { session: SessionId, ids: Vec<String>, code: ErrorCode, message: String, hint: Option<String> },
    /// This many jobs wait and no query worker is idle.
    NeedWorker { waiting: u32 },
}

/// Feeder → gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum FromFeeder {
    /// The session is let in. The gateway makes `welcome` of it.
    Opened { session: SessionId, role: String, tables: Vec<TableInfo> },
    /// The session is not let in: an `error`, then a close with `close`.
    Refused { session: SessionId, close: u16, code: ErrorCode, message: String, hint: Option<String> },
    /// The subscription is registered. From this position on, frames of `shape` concern it.
    /// `resumed`: a `CatchUp` of this session follows before the next `Commit`.
    /// Not `resumed`: a `Job` that names it follows.
    Subscribed {
        session: SessionId,
        id: String,
        shape: ShapeId,
        table: String,
        key: Vec<String>,
        columns: Vec<Column>,
        resumed: bool,
    },
    /// What resumed sessions have missed: the body is `changes` frames, their lengths in `frames`,
    /// closed by a `commit` with `cursor` and `time`. May come in parts; only the last has `last`.
    CatchUp { sessions: Vec<SessionId>, frames: Vec<u32>, cursor: String, time: String, last: bool },
    /// A snapshot to be read for one session: the body is opaque to the gateway, which hands it to a
    /// query worker of this database. `ids` are the subscriptions in it.
    Job { job: JobId, session: SessionId, ids: Vec<String> },
    /// The subscription's copy can no longer be continued. `resync` goes to the client; `Subscribed` and
    /// a `Job` follow. Frames of its old shape no longer concern it.
    Resync { session: SessionId, id: String, reason: String },
    /// The feeder ends a subscription (its table was dropped or unregistered): the client gets `error`
    /// with the code and `unsubscribed`.
    Ended { session: SessionId, id: String, code: ErrorCode, message: String, hint: Option<String> },
    /// An `error` for one session; with `id` where it is about a subscription, which then does not exist.
    SessionError { session: SessionId, id: Option<String>, code: ErrorCode, message: String, hint: Option<String> },
    /// Frames of the tick in progress, once per shape (a shape may come several times). The body is whole
    /// `changes` text frames in the order of `frames`.
    Changes { frames: Vec<ShapeFrame> },
    /// Closes the tick: every live subscription is now at `snapshot` (in `pg_snapshot`'s text form).
    Commit { snapshot: String, cursor: String, time: String },
}

/// Where a shape's frame lies in the body of `Changes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShapeFrame {
    pub shape: ShapeId,
    pub len: u32,
    /// Number of changes in it, for figures.
    pub changes: u32,
}
