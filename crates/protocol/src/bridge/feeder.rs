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
    ///
    /// `tenant` is the name that the directory knows, empty for the landlord database.
    Open {
        session: SessionId,
        tenant: String,
        token: Option<String>,
        client: Option<ClientInfo>,
        /// The client's address, for logs and views.
        peer: String,
        cursor: Option<String>,
        subscriptions: Vec<Subscription>,
    },
    /// One more subscription, answered likewise.
    Subscribe { session: SessionId, subscription: Subscription },
    /// A fresh token of a session that is let in. Answered by `Renewed` or `Refused`.
    Auth { session: SessionId, token: String },
    /// What a query worker answered to an `Ask` of this feeder: base64, signed by the worker.
    Answer { session: SessionId, job: JobId, answer: String },
    /// No worker could answer an `Ask`.
    AskFailed { session: SessionId, job: JobId },
    /// Clients of this tenant wait and no feeder of its database is attached. Only to the landlord's feeder. Sent again now and
    /// then while they wait; answered by the attachment of the feeder or by `TenantUnavailable`.
    NeedDatabase { tenant: String },
    /// An operator asked for the tenants to be read again. Only to the landlord's feeder; not answered, but a changed list is
    /// sent as `Tenants`.
    ReloadTenants,
    /// Ends a subscription; not answered (the gateway has told the client).
    Unsubscribe { session: SessionId, id: String },
    /// The connection is gone; jobs for it may be dropped.
    Close { session: SessionId },
    /// A snapshot was taken or a client waits: make a tick now and send its `Commit` even if empty.
    NeedTick,
    /// The snapshot of a job was taken before this was sent, and will not be taken again.
    SnapshotTaken { job: JobId },
    /// The snapshot of these subscriptions could not be read. Each is answered by `Resync`, `Subscribed` and another
    /// `Job` where it is worth another try (the table was redefined meanwhile), else by `Ended`.
    SnapshotFailed { session: SessionId, ids: Vec<String>, code: ErrorCode, message: String, hint: Option<String> },
    /// The session could not keep up with others for whom the same snapshot was read. Each of these subscriptions is answered by
    /// `Resync`, `Subscribed` and another `Job` that is not shared.
    LeftBehind { session: SessionId, ids: Vec<String> },
    /// A client's `verify`, of a subscription that is live. Answered by `Verify` or `VerifyFailed` with the same `request`,
    /// which counts the session's requests.
    Verify { session: SessionId, request: u32, id: String, parts: u32, columns: Option<Vec<String>>, want: Vec<u32> },
    /// A worker waits for the word to take the snapshot of a verification.
    VerifyReady { session: SessionId, job: JobId },
    /// The snapshot of a verification was exported: what the worker says of it is base64, signed by the worker.
    Exported { session: SessionId, job: JobId, export: String },
    /// This many jobs wait and no query worker is idle.
    NeedWorker { waiting: u32 },
}

/// Feeder → gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum FromFeeder {
    /// The session is let in. The gateway makes `welcome` of it.
    Opened {
        session: SessionId,
        role: String,
        tables: Vec<TableInfo>,
        /// Whether the role may see the server's figures.
        monitor: bool,
        /// How long its token is good for.
        expires_in_ms: Option<u64>,
    },
    /// The session is not let in, or not any more: an `error`, then a close with `close`.
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
        /// Not resumed: the first rows of the job say which parts they are of.
        partial: bool,
        /// Names what the subscription reads, for the cursors of its connection: a hash of its id as the client chose it
        /// (without the number that it has on the bridge), table, columns and predicate. None where it cannot be resumed.
        digest: Option<u64>,
    },
    /// The fresh token was accepted.
    Renewed { session: SessionId, role: String },
    /// A question to a query worker about a session, such as whose a token is: the body is opaque to the gateway. The worker's
    /// answer comes back as `Answer`, or `AskFailed`; neither comes where the session has gone. Before the snapshots that wait.
    /// `job` is of the same numbers as in `Job`.
    Ask { job: JobId, session: SessionId },
    /// All tenants; replaces what was known. Only from the landlord's feeder, before any session is opened and whenever they change.
    /// Sessions of a tenant that is gone, or has another database now, are closed with 4404.
    Tenants { tenants: Vec<Tenant> },
    /// The clients that wait for this tenant are refused: an `error`, then a close with `close`.
    TenantUnavailable { tenant: String, close: u16, code: ErrorCode, message: String, hint: Option<String> },
    /// The feeder is about to leave on purpose: its sessions are closed with this code, new ones wait for its successor. 1012
    /// where the next one may start at once, 1013 where its place is for others.
    Goodbye { close: u16 },
    /// What resumed sessions have missed: the body is `changes` frames, their lengths in `frames`,
    /// closed by a `commit` with `cursor` and `time`. May come in parts; only the last has `last`.
    CatchUp { sessions: Vec<SessionId>, frames: Vec<u32>, cursor: String, time: String, last: bool },
    /// A snapshot to be read for a session: the body is opaque to the gateway, which hands it to a
    /// query worker of this database. `ids` are the subscriptions in it, `shapes` what they read: jobs of equal shapes that wait at the
    /// same time may be read at once. None: it is read for this session alone.
    Job { job: JobId, session: SessionId, ids: Vec<String>, shapes: Vec<ShapeId> },
    /// A verification for a query worker: the body is opaque to the gateway.
    Verify { job: JobId, session: SessionId, request: u32 },
    /// The worker of a verification is to export its snapshot now.
    Export { job: JobId },
    /// The snapshot came too late.
    ExportAgain { job: JobId },
    /// The tick in progress has the verification's snapshot: `verifying` goes to the client right before its `Commit`.
    Verifying { job: JobId, session: SessionId },
    /// That tick is closed: the worker reads on.
    Adopted { job: JobId },
    /// A verification is given up.
    VerifyFailed { session: SessionId, request: u32, code: ErrorCode, message: String, hint: Option<String> },
    /// The subscription's copy can no longer be continued. `resync` goes to the client; `Subscribed` and
    /// a `Job` follow. Frames of its old shape no longer concern it.
    Resync { session: SessionId, id: String, reason: String },
    /// A subscription that was to be resumed and nothing else is not: `resync` and `unsubscribed` go to the client.
    NotResumed { session: SessionId, id: String, reason: String },
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

/// A tenant that has a database of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    pub name: String,
    /// Another name that clients may use, usually a host name; compared without case.
    pub domain: Option<String>,
    pub database: String,
}

/// Where a shape's frame lies in the body of `Changes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShapeFrame {
    pub shape: ShapeId,
    pub len: u32,
    /// Number of changes in it, for figures.
    pub changes: u32,
}
