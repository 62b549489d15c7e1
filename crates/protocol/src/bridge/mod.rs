//! The bridge: what gateway and workers say to each other over a Unix socket.
//!
//! The gateway listens, workers connect. The first frame of a worker is an [`Attach`]. A [`frame`] is a
//! JSON head and an opaque body, so that rows and encoded changes pass through without being parsed.
//!
//! Order matters: what a feeder sends is handled in the order it was sent. A subscription is live from
//! the position of its `Subscribed` on; a `Commit` closes the tick of all `Changes` before it.

mod control;
mod feeder;
pub mod frame;
mod worker;

pub use control::{Attempt, GatewayConfig, LogLevel, SandboxMode, SandboxReport, ToGateway, ToLauncher};
pub use feeder::{FromFeeder, ShapeFrame, Tenant, ToFeeder};
pub use worker::{FromWorker, ToWorker};

use serde::{Deserialize, Serialize};

/// Names a client's connection inside one gateway process; never reused by it.
pub type SessionId = u64;
/// Names a snapshot job inside one feeder process.
pub type JobId = u64;
/// Names a shape inside one feeder process; `s<number>` on the wire.
pub type ShapeId = u32;

/// The first frame that a peer sends to the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "peer", rename_all = "snake_case")]
pub enum Attach {
    /// The feeder of a database; its frames are [`FromFeeder`], the answers [`ToFeeder`].
    /// A second feeder of the same database replaces the first.
    Feeder { database: u32, name: String, pid: u32 },
    /// A query worker of a database; frames [`FromWorker`] and [`ToWorker`].
    Worker { database: u32, pid: u32 },
    /// A backend that reads a report (one [`Report`] frame comes back, then the gateway closes).
    Observer { what: ReportKind, database: u32 },
}

/// What an observer may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportKind {
    Connections,
}

/// The answer to an observer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub connections: Vec<ConnectionReport>,
}

/// One open connection of a database, for the view `rte.connections`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConnectionReport {
    /// The uuid of `welcome`.
    pub session: String,
    pub tenant: String,
    pub role: String,
    pub address: String,
    /// `websocket`, `events` or `poll`.
    pub transport: String,
    pub client_id: Option<String>,
    pub client_name: Option<String>,
    /// Microseconds since the Unix epoch.
    pub connected_at_us: i64,
    pub subscriptions: Vec<SubscriptionReport>,
    pub queued_bytes: u64,
    pub sent_bytes: u64,
    pub sent_commits: u64,
    /// The cursor of the last commit that was put into the connection's queue.
    pub sent_cursor: Option<String>,
    /// The cursor of the client's last `ack`.
    pub acked_cursor: Option<String>,
}

/// One subscription of a connection, for the view `rte.subscriptions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubscriptionReport {
    pub id: String,
    pub table: String,
    pub shape: String,
    /// `joining` or `live`.
    pub state: String,
}
