//! What the threads say to each other. Bodies are shared by reference count; whoever hands on much takes a
//! [`Credit`], so that channels stay bounded in bytes by their readers.

use crate::databases::Database;
use crate::deflate::Shared;
use crate::directory::FeederId;
use crate::flow::{Credit, Flow};
use crate::http::answer::Header;
use crate::limits::Permit;
use crate::requests::Posted;
use crate::wire::ConnectionId;
use bytes::Bytes;
use rte_protocol::bridge::{ConnectionReport, GatewayConfig, JobId, SessionId, ShapeFrame, Tenant, ToFeeder};
use rte_protocol::wire::{Column, ErrorCode, TableInfo};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use tokio::sync::{mpsc, oneshot};

/// Changes of the open tick.
#[derive(Debug)]
pub struct ChangesPart {
    pub frames: Vec<ShapeFrame>,
    pub body: Bytes,
    /// The frames compressed.
    pub deflated: Shared,
    /// Back when the last thread has put it into its queues.
    pub _credit: Credit,
}

/// A tick was closed.
#[derive(Debug)]
pub struct CommitPart {
    pub snapshot: rte_core::Snapshot,
    pub cursor: String,
    pub time: String,
    /// The same in microseconds since the Unix epoch, where it can be read.
    pub made_us: Option<i64>,
    pub _credit: Credit,
}

/// A part of what sessions have missed.
#[derive(Debug)]
pub struct CatchUpPart {
    pub sessions: Vec<SessionId>,
    pub frames: Vec<u32>,
    pub body: Bytes,
    pub cursor: String,
    pub time: String,
    /// A commit closes it.
    pub last: bool,
    pub _credit: Credit,
}

/// What concerns one session.
#[derive(Debug)]
pub enum SessionEvent {
    Opened {
        role: String,
        tables: Vec<TableInfo>,
        monitor: bool,
        expires_in_ms: Option<u64>,
    },
    Refused {
        close: u16,
        code: ErrorCode,
        message: String,
        hint: Option<String>,
    },
    Subscribed {
        id: String,
        shape: u32,
        table: String,
        key: Vec<String>,
        columns: Vec<Column>,
        resumed: bool,
        partial: bool,
        digest: Option<u64>,
    },
    Renewed {
        role: String,
    },
    /// A question about the session was put to the query workers.
    Ask {
        job: JobId,
    },
    Resync {
        id: String,
        reason: String,
    },
    NotResumed {
        id: String,
        reason: String,
    },
    Ended {
        id: String,
        code: ErrorCode,
        message: String,
        hint: Option<String>,
    },
    Error {
        id: Option<String>,
        code: ErrorCode,
        message: String,
        hint: Option<String>,
    },
    Job {
        job: JobId,
        ids: Vec<String>,
    },
    Begin {
        job: JobId,
        snapshot: rte_core::Snapshot,
    },
    Rows {
        job: JobId,
        index: u32,
        rows: u32,
        body: Bytes,
        done: bool,
        total: Option<u64>,
        parts: Option<Vec<u32>>,
        credit: Credit,
    },
    JobEnded {
        job: JobId,
    },
    JobFailed {
        job: JobId,
        code: ErrorCode,
        message: String,
        hint: Option<String>,
    },
    /// Others are far ahead of it with the job's rows: it gets no more of them, and what waits of them is dropped.
    LeftBehind {
        job: JobId,
        flow: Arc<Flow>,
    },
    /// The worker is gone, and rows of the job were sent.
    JobLost,
    /// A verification was queued.
    Verify {
        job: JobId,
        request: u32,
    },
    /// The open tick has its snapshot.
    Verifying {
        job: JobId,
    },
    /// Rows of the wanted parts.
    Repair {
        job: JobId,
        rows: u32,
        body: Bytes,
        done: bool,
        credit: Credit,
    },
    /// What all rows come to; `parts` is a JSON array or empty.
    Verified {
        job: JobId,
        hash: String,
        rows: u64,
        parts: Bytes,
    },
    VerifyFailed {
        request: u32,
        code: ErrorCode,
        message: String,
        hint: Option<String>,
    },
}

/// Why clients that wait for a tenant are refused.
#[derive(Debug)]
pub struct Unavailable {
    pub tenant: String,
    pub close: u16,
    pub code: ErrorCode,
    pub message: String,
    pub hint: Option<String>,
}

/// To an I/O thread.
#[derive(Debug)]
pub enum ToIo {
    Socket {
        stream: TcpStream,
        peer: SocketAddr,
        permit: Permit,
    },
    FeederUp {
        feeder: FeederId,
        database: u32,
        name: Arc<str>,
        under_way: Arc<AtomicUsize>,
        figures: Arc<Database>,
    },
    FeederDown {
        feeder: FeederId,
    },
    Goodbye {
        feeder: FeederId,
        close: u16,
    },
    Tenants(Arc<[Tenant]>),
    TenantUnavailable(Arc<Unavailable>),
    Changes {
        feeder: FeederId,
        part: Arc<ChangesPart>,
    },
    Commit {
        feeder: FeederId,
        part: Arc<CommitPart>,
    },
    CatchUp {
        feeder: FeederId,
        part: Arc<CatchUpPart>,
    },
    Session {
        feeder: FeederId,
        session: SessionId,
        event: SessionEvent,
    },
    Config(Arc<GatewayConfig>),
    Report {
        database: u32,
        reply: oneshot::Sender<Vec<ConnectionReport>>,
    },
    Shutdown {
        restart: bool,
    },
    /// What a client has posted to its connection, which would live in this thread.
    Posted {
        connection: ConnectionId,
        n: u64,
        body: Vec<u8>,
        reply: oneshot::Sender<Posted>,
    },
    /// A poll for a connection that would live in this thread.
    Poll {
        connection: ConnectionId,
        stream: TcpStream,
        poll: Box<Poll>,
    },
}

/// A poll.
#[derive(Debug)]
pub struct Poll {
    /// Its number, where it has one.
    pub n: Option<u64>,
    pub permit: Permit,
    /// Those that its answer has besides.
    pub headers: Vec<Header>,
}

/// To the bridge.
#[derive(Debug)]
pub enum ToBridge {
    /// `bytes` of it count as under way until the feeder's socket has taken them.
    Feeder {
        feeder: FeederId,
        message: ToFeeder,
        bytes: usize,
    },
    CancelJob {
        feeder: FeederId,
        job: JobId,
    },
    SessionGone {
        feeder: FeederId,
        session: SessionId,
    },
    /// The workers have had long enough for a question.
    GiveUpAsk {
        feeder: FeederId,
        job: JobId,
    },
    /// Clients of the tenant wait and no feeder of its database is attached.
    NeedDatabase {
        tenant: Box<str>,
    },
    /// An operator asked for the tenants to be read again.
    ReloadTenants,
}

/// The ways into the I/O threads. A session's id says which thread it lives in.
#[derive(Debug, Clone)]
pub struct IoThreads(pub Arc<[mpsc::UnboundedSender<ToIo>]>);

impl IoThreads {
    /// To all. `make` is called once per thread.
    pub fn all(&self, mut make: impl FnMut() -> ToIo) {
        for thread in self.0.iter() {
            let _ = thread.send(make());
        }
    }

    /// To the thread of a connection.
    pub fn of_connection(&self, connection: ConnectionId, event: ToIo) {
        let _ = self.0[connection.thread(self.0.len())].send(event);
    }

    pub fn session(&self, feeder: FeederId, session: SessionId, event: SessionEvent) {
        let thread = usize::try_from(session % self.0.len() as u64).unwrap_or_default();
        let _ = self.0[thread].send(ToIo::Session { feeder, session, event });
    }
}
