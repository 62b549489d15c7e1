//! The hub of one I/O thread: its connections, who of them watches which shape, and the way of a tick into their
//! queues and sockets.
//!
//! Decides nothing about rows. Invariant: what a feeder said is carried out in its order for every connection; the
//! frames of a tick are encoded once per thread, and a connection's are written together. Single thread, never waits.

mod clients;
mod commits;
mod delivery;
mod figures;
mod guards;
mod messages;
mod monitors;
mod report;
mod requests;
mod sending;
mod sweep;
mod tenants;

use crate::connection::{Conn, ConnState, Input, UrlClaims};
use crate::control::Log;
use crate::databases::{Database, Table};
use crate::deflate::{Deflater, Inflater};
use crate::directory::{Directory, FeederId};
use crate::event::{IoThreads, ToBridge, ToIo};
use crate::frame::{Form, OutFrame};
use crate::limits::Permit;
use crate::metrics::Metrics;
use crate::queue::OutQueue;
use crate::rate::Bucket;
use crate::websocket::WebSocketIn;
use crate::wire::{ConnectionId, Wire, event_heartbeat};
use rte_core::session::{Action, Session, Tick};
use rte_protocol::bridge::{GatewayConfig, SessionId, ShapeId, ToFeeder};
use rte_protocol::wire::CloseCode;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use commits::{Commits, Holdings};
use figures::Gauges;
use messages::close_code;
use monitors::Question;
pub use monitors::Verdict;
use sending::{over, write};
pub use sweep::interval as sweep_interval;

/// Bytes of a tick in one queue that are written before its commit: clients stage them anyway.
const EARLY: usize = 64 * 1024;
/// How long a closing connection may take to drain.
const LINGER: Duration = Duration::from_secs(3);

/// What the threads share.
#[derive(Debug, Clone)]
pub struct Shared {
    pub metrics: Arc<Metrics>,
    pub log: Log,
    pub bridge: mpsc::UnboundedSender<ToBridge>,
    /// All I/O threads, this one too.
    pub io: IoThreads,
    /// Number of this thread and of all.
    pub thread: (u64, u64),
}

/// A shape that connections of this thread watch.
#[derive(Debug)]
struct Shape {
    /// Their slots.
    members: Vec<usize>,
    table: Arc<Table>,
}

/// A feeder, as this thread sees it.
#[derive(Debug)]
struct Feeder {
    database: u32,
    shapes: HashMap<ShapeId, Shape>,
    /// The last tick and the commits that were made of it.
    latest: Option<Commits>,
    tick_open: bool,
    /// Connections that have frames of the open tick.
    in_tick: Vec<usize>,
    /// Connections whose sessions want every commit.
    waiting: Vec<usize>,
    /// Bytes of clients' messages that it has not taken yet.
    under_way: Arc<AtomicUsize>,
    figures: Arc<Database>,
    /// What this thread has last added to them.
    gauges: Gauges,
}

/// Figures of a batch, added to the process' once per batch.
#[derive(Debug, Default)]
struct Counted {
    deliveries: u64,
    commits: u64,
    bytes: u64,
    writes: u64,
    received: u64,
    rows: u64,
    /// Largest queue.
    high_water: usize,
}

/// The hub.
#[derive(Debug)]
pub struct Hub {
    pub config: Arc<GatewayConfig>,
    pub shared: Shared,
    conns: Vec<Option<Rc<Conn>>>,
    free: Vec<usize>,
    sessions: HashMap<SessionId, usize>,
    next_session: u64,
    /// Connections whose clients speak by requests.
    by_id: HashMap<ConnectionId, usize>,
    feeders: HashMap<FeederId, Feeder>,
    directory: Directory,
    /// Tenants whose database is waited for, and when it was last asked for.
    asked: HashMap<Rc<str>, Instant>,
    holdings: Holdings,
    /// Connections with something to write.
    to_flush: Vec<usize>,
    /// The time of the batch.
    pub now: Instant,
    counted: Counted,
    gauges: Gauges,
    /// Ticks of the batch, to be told how old they are once they are written: their feeder, and when they were made.
    written: Vec<(FeederId, i64)>,
    /// Questions about tokens, each a session of a feeder.
    questions: HashMap<SessionId, Question>,
    /// The table of the subscription that is being made: whoever begins to watch a shape does so now.
    subscribing: Arc<Table>,
    /// Reused by every call.
    actions: Vec<Action<OutFrame>>,
    scratch: Box<[u8]>,
    deflater: Rc<RefCell<Deflater>>,
    inflater: Inflater,
    ping: OutFrame,
    heartbeat: OutFrame,
    /// Somebody's hello waits for its feeder to take more.
    held_back: bool,
    pub stopping: bool,
}

impl Hub {
    pub fn new(config: Arc<GatewayConfig>, shared: Shared) -> Self {
        Self {
            directory: Directory::new(&config.landlord_database),
            asked: HashMap::new(),
            deflater: Rc::new(RefCell::new(Deflater::new(config.compression_level, config.compression_min_bytes))),
            inflater: Inflater::default(),
            holdings: Holdings::default(),
            config,
            shared,
            conns: Vec::new(),
            free: Vec::new(),
            sessions: HashMap::new(),
            next_session: 0,
            by_id: HashMap::new(),
            feeders: HashMap::new(),
            to_flush: Vec::new(),
            now: Instant::now(),
            counted: Counted::default(),
            gauges: Gauges::default(),
            written: Vec::new(),
            questions: HashMap::new(),
            subscribing: Arc::default(),
            actions: Vec::new(),
            scratch: vec![0; 16 * 1024].into(),
            ping: OutFrame::ping(),
            heartbeat: event_heartbeat(),
            held_back: false,
            stopping: false,
        }
    }

    /// A WebSocket that has been upgraded, with compression or without. `rest` is input that came with the request.
    pub fn add(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: Permit,
        (claims, deflated): (UrlClaims, bool),
        rest: &[u8],
    ) -> Rc<Conn> {
        let max_frame = usize::try_from(self.config.max_frame_bytes).unwrap_or(usize::MAX);
        let input = Input::WebSocket { reader: WebSocketIn::new(max_frame, deflated), backlog: Vec::new() };
        let conn = self.settle(Wire::WebSocket(stream), input, peer, permit, claims);
        if !rest.is_empty() {
            self.input(&conn, &mut conn.state.borrow_mut(), rest);
        }
        self.begin(&conn);
        conn
    }

    fn new_session(&mut self) -> SessionId {
        let (thread, threads) = self.shared.thread;
        let id = self.next_session * threads + thread;
        self.next_session += 1;
        id
    }

    /// Gives a connection its place.
    fn settle(&mut self, wire: Wire, input: Input, peer: SocketAddr, permit: Permit, claims: UrlClaims) -> Rc<Conn> {
        self.now = Instant::now();
        let now = self.now;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() - 1
        });
        let id = self.new_session();
        let form = match &input {
            Input::WebSocket { reader, .. } if reader.is_deflated() => Form::Deflated(self.deflater.clone()),
            _ => wire.form(),
        };
        let state = ConnState {
            session: Session::new(id, &peer.to_string(), self.config.max_subscriptions),
            queue: OutQueue::new(form),
            input,
            claims: (claims.token.is_some() || claims.tenant.is_some()).then(|| Box::new(claims)),
            messages: Bucket::default(),
            token_offered: false,
            held_back: false,
            feeder: None,
            wanted: None,
            home: None,
            watching: Vec::new(),
            uuid: Box::default(),
            role: Box::default(),
            client: None,
            sent_bytes: 0,
            told_bytes: 0,
            sent_commits: 0,
            sent: None,
            acked: None,
            asking: None,
            in_tick: false,
            in_waiting: false,
            in_flush: false,
            blocked: false,
            paused: false,
            closing: None,
            shut: false,
            ended: false,
            waker: None,
            since: now,
            last_received: now,
            last_ping: now,
            last_commit: now,
            last_progress: now,
        };
        let conn =
            Rc::new(Conn { slot, peer, wire, state: RefCell::new(state), connected_at: SystemTime::now(), permit });
        self.sessions.insert(id, slot);
        self.conns[slot] = Some(conn.clone());
        conn
    }

    /// A connection is in its place, and what it was to say first is in its queue.
    fn begin(&mut self, conn: &Rc<Conn>) {
        if self.stopping {
            self.close(conn, &mut conn.state.borrow_mut(), CloseCode::Restart);
        }
        self.flush_all();
    }

    /// The connection's task has ended.
    pub fn remove(&mut self, conn: &Rc<Conn>) {
        let mut state = conn.state.borrow_mut();
        self.detach(conn, &mut state);
        self.sessions.remove(&state.session.id());
        state.queue.clear();
        if let Some(requests) = state.requests() {
            let id = requests.id;
            self.by_id.remove(&id);
        }
        self.conns[conn.slot] = None;
        self.free.push(conn.slot);
    }

    /// The session is over for the feeder: nothing of it reaches the connection any more.
    fn detach(&mut self, conn: &Conn, state: &mut ConnState) {
        while let Some((shape, _)) = state.watching.last().copied() {
            self.unwatch(conn, state, shape);
        }
        self.tell_sent_bytes(state);
        if let Some(feeder) = state.feeder.take() {
            let session = state.session.id();
            self.tell_feeder(feeder, ToFeeder::Close { session });
            self.tell(ToBridge::SessionGone { feeder, session });
        }
        state.in_tick = false;
        self.sessions.remove(&state.session.id());
    }

    fn tell(&self, message: ToBridge) {
        let _ = self.shared.bridge.send(message);
    }

    /// Carries out an event of the bridge's. What it puts into queues is written by [`Hub::flush_all`].
    pub fn event(&mut self, event: ToIo) {
        match event {
            ToIo::FeederUp { feeder, database, name, under_way, figures } => {
                self.feeder_up(feeder, database, &name, under_way, figures);
            }
            ToIo::FeederDown { feeder } => self.feeder_down(feeder),
            ToIo::Goodbye { feeder, close } => self.leave(feeder, close_code(close)),
            ToIo::Tenants(tenants) => self.tenants(&tenants),
            ToIo::TenantUnavailable(why) => self.tenant_unavailable(&why),
            ToIo::Changes { feeder, part } => self.changes(feeder, &part),
            ToIo::Commit { feeder, part } => self.commit(feeder, &part),
            ToIo::CatchUp { feeder, part } => self.catch_up(feeder, &part),
            ToIo::Session { feeder, session, event } => self.session_event(feeder, session, event),
            ToIo::Config(config) => {
                self.deflater.borrow_mut().set(config.compression_level, config.compression_min_bytes);
                self.config = config;
            }
            ToIo::Report { database, reply } => {
                let _ = reply.send(self.report(database));
            }
            ToIo::Shutdown { restart } => self.shutdown(restart),
            ToIo::Posted { connection, n, body, reply } => self.posted(connection, n, body, reply),
            ToIo::Poll { connection, stream, poll } => self.polled(connection, stream, *poll),
            // The thread has taken it out before.
            ToIo::Socket { .. } => {}
        }
    }

    fn feeder_up(
        &mut self,
        feeder: FeederId,
        database: u32,
        name: &str,
        under_way: Arc<AtomicUsize>,
        figures: Arc<Database>,
    ) {
        self.directory.up(name, feeder);
        let entry = Feeder {
            database,
            shapes: HashMap::new(),
            latest: None,
            tick_open: false,
            in_tick: Vec::new(),
            waiting: Vec::new(),
            under_way,
            figures,
            gauges: Gauges::default(),
        };
        self.feeders.insert(feeder, entry);
        self.place_waiting();
    }

    fn feeder_down(&mut self, feeder: FeederId) {
        self.drop_questions(feeder);
        self.leave(feeder, CloseCode::Restart);
        self.feeders.remove(&feeder);
    }

    /// The feeder serves nobody any more.
    fn leave(&mut self, feeder: FeederId, code: CloseCode) {
        self.directory.down(feeder);
        self.each(|hub, conn, state| {
            if state.feeder == Some(feeder) {
                hub.close(conn, state, code);
            }
        });
    }

    fn of_session(&self, session: SessionId) -> Option<Rc<Conn>> {
        self.sessions.get(&session).and_then(|slot| self.conns[*slot].clone())
    }

    /// The last tick of a feeder, where none is open.
    fn closed_tick(&self, feeder: FeederId) -> Option<Rc<Tick>> {
        self.feeders.get(&feeder).filter(|f| !f.tick_open).and_then(|f| f.latest.as_ref()).map(|c| c.tick.clone())
    }

    fn shutdown(&mut self, restart: bool) {
        self.stopping = true;
        let code = if restart { CloseCode::Restart } else { CloseCode::GoingAway };
        self.each(|hub, conn, state| hub.close(conn, state, code));
    }

    /// Every connection.
    fn each(&mut self, mut look: impl FnMut(&mut Self, &Rc<Conn>, &mut ConnState)) {
        for slot in 0..self.conns.len() {
            let Some(conn) = self.conns[slot].clone() else { continue };
            look(self, &conn, &mut conn.state.borrow_mut());
        }
    }

    pub fn open_connections(&self) -> usize {
        self.conns.len() - self.free.len()
    }
}
