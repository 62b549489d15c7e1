//! The hub of one I/O thread: its connections, who of them watches which shape, and the way of a tick into their
//! queues and sockets.
//!
//! Decides nothing about rows. Invariant: what a feeder said is carried out in its order for every connection; the
//! frames of a tick are encoded once per thread, and a connection's are written together. Single thread, never waits.

use crate::connection::{Conn, ConnState, UrlClaims};
use crate::control::Log;
use crate::directory::{Directory, FeederId, Place};
use crate::event::{CatchUpPart, ChangesPart, CommitPart, ToBridge, ToIo};
use crate::limits::Permit;
use crate::metrics::Metrics;
use crate::queue::{OutFrame, OutQueue};
use crate::websocket::WebSocketIn;
use rte_core::session::{Action, Delivery, Session, Tick};
use rte_protocol::bridge::{ConnectionReport, GatewayConfig, SessionId, ShapeId, ToFeeder};
use rte_protocol::wire::{CloseCode, ErrorCode};
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Bytes of a tick in one queue that are written before its commit: clients stage them anyway.
const EARLY: usize = 64 * 1024;
/// Above this much in its queue, a client is not read from.
const PAUSE: usize = 256 * 1024;
/// How long a closing connection may take to drain.
pub const LINGER: Duration = Duration::from_secs(3);

/// What the threads share.
#[derive(Debug, Clone)]
pub struct Shared {
    pub metrics: Arc<Metrics>,
    pub log: Log,
    pub bridge: mpsc::UnboundedSender<ToBridge>,
    /// Number of this thread and of all.
    pub thread: (u64, u64),
}

/// A feeder, as this thread sees it.
#[derive(Debug)]
struct Feeder {
    database: u32,
    shapes: HashMap<ShapeId, Vec<usize>>,
    latest: Option<Rc<Tick<OutFrame>>>,
    tick_open: bool,
    /// Connections that have frames of the open tick.
    in_tick: Vec<usize>,
    /// Connections whose sessions want every commit.
    waiting: Vec<usize>,
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
    feeders: HashMap<FeederId, Feeder>,
    directory: Directory,
    /// Connections with something to write.
    to_flush: Vec<usize>,
    /// The time of the batch.
    pub now: Instant,
    counted: Counted,
    pub(crate) gauges: (u64, u64),
    /// Reused by every call.
    actions: Vec<Action<OutFrame>>,
    scratch: Box<[u8]>,
    ping: OutFrame,
    pub stopping: bool,
}

impl Hub {
    pub fn new(config: Arc<GatewayConfig>, shared: Shared) -> Self {
        Self {
            config,
            shared,
            conns: Vec::new(),
            free: Vec::new(),
            sessions: HashMap::new(),
            next_session: 0,
            feeders: HashMap::new(),
            directory: Directory::default(),
            to_flush: Vec::new(),
            now: Instant::now(),
            counted: Counted::default(),
            gauges: (0, 0),
            actions: Vec::new(),
            scratch: vec![0; 16 * 1024].into(),
            ping: OutFrame::ping(),
            stopping: false,
        }
    }

    /// A connection that has been upgraded. `rest` is input that came with the request.
    pub fn add(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: Permit,
        claims: UrlClaims,
        rest: &[u8],
    ) -> Rc<Conn> {
        self.now = Instant::now();
        let now = self.now;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() - 1
        });
        let (thread, threads) = self.shared.thread;
        let id = self.next_session * threads + thread;
        self.next_session += 1;
        let max_frame = usize::try_from(self.config.max_frame_bytes).unwrap_or(usize::MAX);
        let state = ConnState {
            session: Session::new(id, &peer.to_string(), self.config.max_subscriptions),
            queue: OutQueue::default(),
            ws: WebSocketIn::new(max_frame),
            backlog: Vec::new(),
            claims: (claims.token.is_some() || claims.tenant.is_some()).then(|| Box::new(claims)),
            feeder: None,
            watching: Vec::new(),
            uuid: Box::default(),
            tenant: Box::default(),
            role: Box::default(),
            client: None,
            sent_bytes: 0,
            sent_commits: 0,
            sent_tick: None,
            acked: None,
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
        let conn = Rc::new(Conn {
            slot,
            peer,
            stream,
            state: RefCell::new(state),
            connected_at: SystemTime::now(),
            _permit: permit,
        });
        self.sessions.insert(id, slot);
        self.conns[slot] = Some(conn.clone());
        if !rest.is_empty() {
            self.input(&conn, &mut conn.state.borrow_mut(), rest);
        }
        if self.stopping {
            self.close(&conn, &mut conn.state.borrow_mut(), CloseCode::Restart);
        }
        self.flush_all();
        conn
    }

    /// The connection's task has ended.
    pub fn remove(&mut self, conn: &Rc<Conn>) {
        let mut state = conn.state.borrow_mut();
        self.detach(conn, &mut state);
        self.sessions.remove(&state.session.id());
        state.queue.clear();
        self.conns[conn.slot] = None;
        self.free.push(conn.slot);
    }

    /// The session is over for the feeder: nothing of it reaches the connection any more.
    fn detach(&mut self, conn: &Conn, state: &mut ConnState) {
        while let Some((shape, _)) = state.watching.last().copied() {
            self.unwatch(conn, state, shape);
        }
        if let Some(feeder) = state.feeder.take() {
            let session = state.session.id();
            self.tell(ToBridge::Feeder { feeder, message: ToFeeder::Close { session } });
            self.tell(ToBridge::SessionGone { feeder, session });
        }
        state.in_tick = false;
        self.sessions.remove(&state.session.id());
    }

    fn tell(&self, message: ToBridge) {
        let _ = self.shared.bridge.send(message);
    }

    // ---- what clients send

    /// The socket has something to read.
    pub fn readable(&mut self, conn: &Rc<Conn>) {
        self.now = Instant::now();
        let mut scratch = std::mem::take(&mut self.scratch);
        let read = conn.stream.try_read(&mut scratch);
        let mut state = conn.state.borrow_mut();
        match read {
            Ok(0) => self.end(&mut state),
            Ok(n) => {
                state.last_received = self.now;
                // What a closing client still says is dropped.
                if state.closing.is_none() {
                    self.input(conn, &mut state, &scratch[..n]);
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.end(&mut state),
        }
        drop(state);
        self.scratch = scratch;
        self.flush_all();
    }

    fn input(&mut self, conn: &Rc<Conn>, state: &mut ConnState, mut input: &[u8]) {
        let mut output = Vec::new();
        while state.closing.is_none() && !state.ended {
            if state.session.is_resolving() {
                state.backlog.extend_from_slice(input);
                break;
            }
            let incoming = state.ws.next(&mut input, &mut output);
            if !output.is_empty() {
                let frame = OutFrame::raw(std::mem::take(&mut output).into());
                self.push(conn, state, frame);
            }
            let Some(incoming) = incoming else { break };
            self.counted.received += 1;
            self.incoming(conn, state, incoming);
        }
        self.pace_reading(state);
    }

    /// The client is not read from while its answers are not drained or its feeder is not known.
    fn pace_reading(&mut self, state: &mut ConnState) {
        let answers = state.queue.total() > PAUSE && !state.queue.has_paced();
        let paused = state.closing.is_none() && (answers || state.session.is_resolving());
        if state.paused && !paused {
            state.wake();
        }
        state.paused = paused;
    }

    pub(crate) fn carry_out(&mut self, conn: &Rc<Conn>, state: &mut ConnState, mut actions: Vec<Action<OutFrame>>) {
        for action in actions.drain(..) {
            if state.closing.is_some() {
                continue;
            }
            match action {
                Action::Text(text) => self.push(conn, state, OutFrame::text(text.into(), 0)),
                Action::Frame(frame) => self.push(conn, state, frame),
                Action::Commit(tick) => self.push_commit(conn, state, tick, false),
                Action::Resolve { tenant } => self.resolve(conn, state, tenant.as_deref()),
                Action::Feeder(message) => {
                    if let Some(feeder) = state.feeder {
                        self.tell(ToBridge::Feeder { feeder, message });
                    }
                }
                Action::Watch(shape) => self.watch(conn, state, shape),
                Action::Unwatch(shape) => self.unwatch(conn, state, shape),
                Action::CancelJob(job) => {
                    if let Some(feeder) = state.feeder {
                        self.tell(ToBridge::CancelJob { feeder, job });
                    }
                }
                Action::Close(code) => self.close(conn, state, code),
            }
        }
        // Calls nest (resolving leads to attaching); the longest-lived buffer is kept.
        if self.actions.capacity() < actions.capacity() {
            self.actions = actions;
        }
    }

    pub(crate) fn take_actions(&mut self) -> Vec<Action<OutFrame>> {
        std::mem::take(&mut self.actions)
    }

    /// Looks for the session's feeder. Where it is not there yet, the hello waits.
    fn resolve(&mut self, conn: &Rc<Conn>, state: &mut ConnState, tenant: Option<&str>) {
        state.since = self.now;
        state.tenant = tenant.unwrap_or(&self.config.landlord_database).into();
        match self.directory.find(tenant, &self.config.landlord_database) {
            Place::At(feeder) => self.attach(conn, state, feeder),
            Place::NotYet => {}
            Place::Unknown => {
                let hint = Some("a tenant is the name of a database that has registered tables");
                self.refuse(conn, state, CloseCode::NoSuchTenant, ErrorCode::UnknownTenant, "no such tenant", hint);
            }
        }
    }

    fn attach(&mut self, conn: &Rc<Conn>, state: &mut ConnState, feeder: FeederId) {
        state.feeder = Some(feeder);
        let mut actions = self.take_actions();
        state.session.attach(&mut actions);
        self.carry_out(conn, state, actions);
    }

    pub(crate) fn refuse(
        &mut self,
        conn: &Rc<Conn>,
        state: &mut ConnState,
        close: CloseCode,
        code: ErrorCode,
        message: &str,
        hint: Option<&str>,
    ) {
        let mut actions = self.take_actions();
        state.session.refuse(close, code, message, hint, &mut actions);
        self.carry_out(conn, state, actions);
    }

    // ---- shapes

    fn watch(&mut self, conn: &Conn, state: &mut ConnState, shape: ShapeId) {
        let Some(feeder) = state.feeder.and_then(|f| self.feeders.get_mut(&f)) else { return };
        let members = feeder.shapes.entry(shape).or_default();
        let place = u32::try_from(members.len()).unwrap_or(u32::MAX);
        members.push(conn.slot);
        state.watching.push((shape, place));
    }

    /// Sessions that join or resume must see every commit.
    pub(crate) fn note_waiting(&mut self, conn: &Conn, state: &mut ConnState) {
        if !state.in_waiting
            && state.session.wants_commits()
            && let Some(feeder) = state.feeder.and_then(|f| self.feeders.get_mut(&f))
        {
            state.in_waiting = true;
            feeder.waiting.push(conn.slot);
        }
    }

    fn unwatch(&mut self, conn: &Conn, state: &mut ConnState, shape: ShapeId) {
        let Some(at) = state.watching.iter().position(|(s, _)| *s == shape) else { return };
        let (_, place) = state.watching.swap_remove(at);
        let Some(feeder) = state.feeder.and_then(|f| self.feeders.get_mut(&f)) else { return };
        let Some(members) = feeder.shapes.get_mut(&shape) else { return };
        members.swap_remove(place as usize);
        if members.is_empty() {
            feeder.shapes.remove(&shape);
            return;
        }
        let Some(moved) = members.get(place as usize).copied() else { return };
        if moved != conn.slot
            && let Some(moved) = &self.conns[moved]
            && let Some(watched) = moved.state.borrow_mut().watching.iter_mut().find(|(s, _)| *s == shape)
        {
            watched.1 = place;
        }
    }

    // ---- what feeders send

    /// Carries out an event of the bridge's. What it puts into queues is written by [`Hub::flush_all`].
    pub fn event(&mut self, event: ToIo) {
        match event {
            ToIo::FeederUp { feeder, database, name } => self.feeder_up(feeder, database, &name),
            ToIo::FeederDown { feeder } => self.feeder_down(feeder),
            ToIo::Changes { feeder, part } => self.changes(feeder, &part),
            ToIo::Commit { feeder, part } => self.commit(feeder, &part),
            ToIo::CatchUp { feeder, part } => self.catch_up(feeder, &part),
            ToIo::Session { feeder, session, event } => self.session_event(feeder, session, event),
            ToIo::Config(config) => self.config = config,
            ToIo::Report { database, reply } => {
                let _ = reply.send(self.report(database));
            }
            ToIo::Shutdown { restart } => self.shutdown(restart),
            // The thread has taken it out before.
            ToIo::Socket { .. } => {}
        }
    }

    fn feeder_up(&mut self, feeder: FeederId, database: u32, name: &str) {
        self.directory.up(name, feeder);
        let entry = Feeder {
            database,
            shapes: HashMap::new(),
            latest: None,
            tick_open: false,
            in_tick: Vec::new(),
            waiting: Vec::new(),
        };
        self.feeders.insert(feeder, entry);
        for slot in 0..self.conns.len() {
            let Some(conn) = self.conns[slot].clone() else { continue };
            let mut state = conn.state.borrow_mut();
            if state.closing.is_some() || !state.session.is_resolving() {
                continue;
            }
            let tenant = state.tenant.clone();
            if self.directory.find(Some(&tenant), &self.config.landlord_database) == Place::At(feeder) {
                self.attach(&conn, &mut state, feeder);
                let backlog = std::mem::take(&mut state.backlog);
                self.input(&conn, &mut state, &backlog);
            }
        }
    }

    fn feeder_down(&mut self, feeder: FeederId) {
        self.directory.down(feeder);
        for slot in 0..self.conns.len() {
            let Some(conn) = self.conns[slot].clone() else { continue };
            let mut state = conn.state.borrow_mut();
            if state.feeder == Some(feeder) {
                self.close(&conn, &mut state, CloseCode::Restart);
            }
        }
        self.feeders.remove(&feeder);
    }

    fn changes(&mut self, id: FeederId, part: &ChangesPart) {
        let Some(feeder) = self.feeders.get_mut(&id) else { return };
        feeder.tick_open = true;
        let mut start = 0;
        for frame in &part.frames {
            let end = start + frame.len as usize;
            let range = start..end;
            start = end;
            let Some(feeder) = self.feeders.get_mut(&id) else { return };
            let Some(members) = feeder.shapes.get_mut(&frame.shape) else { continue };
            if end > part.body.len() {
                return;
            }
            let encoded = OutFrame::text(part.body.slice(range), frame.changes);
            // Taken out while it is walked: closing a slow connection takes it out of its shapes.
            let members = std::mem::take(members);
            let mut overfull = Vec::new();
            for slot in &members {
                let Some(conn) = &self.conns[*slot] else { continue };
                let mut state = conn.state.borrow_mut();
                match state.session.changes(frame.shape, &encoded) {
                    Delivery::Ignore => {}
                    Delivery::Kept => {
                        if over(&self.config, &state) {
                            overfull.push(conn.clone());
                        }
                    }
                    Delivery::Send => {
                        if state.queue.counted() >= EARLY && !state.blocked {
                            write(&mut self.counted, self.now, conn, &mut state);
                        }
                        if over(&self.config, &state) {
                            overfull.push(conn.clone());
                            continue;
                        }
                        if state.queue.is_empty() {
                            state.last_progress = self.now;
                        }
                        state.queue.push(encoded.clone());
                        self.counted.deliveries += u64::from(frame.changes);
                        if !state.in_tick {
                            state.in_tick = true;
                            feeder.in_tick.push(*slot);
                        }
                    }
                }
            }
            feeder.shapes.insert(frame.shape, members);
            for conn in overfull {
                self.slow(&conn, &mut conn.state.borrow_mut());
            }
        }
    }

    fn commit(&mut self, id: FeederId, part: &CommitPart) {
        let Some(feeder) = self.feeders.get_mut(&id) else { return };
        let tick = Rc::new(Tick {
            snapshot: part.snapshot.clone(),
            cursor: part.cursor.as_str().into(),
            frame: OutFrame::text(part.text.clone(), 0),
        });
        feeder.tick_open = false;
        feeder.latest = Some(tick.clone());
        let mut in_tick = std::mem::take(&mut feeder.in_tick);
        let mut waiting = std::mem::take(&mut feeder.waiting);
        for slot in in_tick.drain(..) {
            let Some(conn) = self.conns[slot].clone() else { continue };
            let mut state = conn.state.borrow_mut();
            state.in_tick = false;
            self.commit_one(&conn, &mut state, &tick);
        }
        waiting.retain(|slot| {
            let Some(conn) = self.conns[*slot].clone() else { return false };
            let mut state = conn.state.borrow_mut();
            if state.feeder != Some(id) || state.closing.is_some() {
                return false;
            }
            self.commit_one(&conn, &mut state, &tick);
            state.in_waiting = state.session.wants_commits();
            state.in_waiting
        });
        if let Some(feeder) = self.feeders.get_mut(&id) {
            feeder.in_tick = in_tick;
            waiting.append(&mut feeder.waiting);
            feeder.waiting = waiting;
        }
    }

    fn commit_one(&mut self, conn: &Rc<Conn>, state: &mut ConnState, tick: &Rc<Tick<OutFrame>>) {
        let mut actions = self.take_actions();
        state.session.commit(tick, &mut actions);
        self.carry_out(conn, state, actions);
    }

    fn catch_up(&mut self, id: FeederId, part: &CatchUpPart) {
        let mut start = 0;
        let mut frames = Vec::with_capacity(part.frames.len());
        for len in &part.frames {
            let end = start + *len as usize;
            if end > part.body.len() {
                return;
            }
            frames.push(OutFrame::text(part.body.slice(start..end), 0));
            start = end;
        }
        let commit = part.commit.as_ref().map(|text| {
            Rc::new(Tick {
                snapshot: rte_core::Snapshot::default(),
                cursor: part.cursor.as_str().into(),
                frame: OutFrame::text(text.clone(), 0),
            })
        });
        for session in &part.sessions {
            let Some(conn) = self.of_session(*session) else { continue };
            let mut state = conn.state.borrow_mut();
            if state.feeder != Some(id) || !state.session.is_resuming() {
                continue;
            }
            if state.queue.is_empty() {
                state.last_progress = self.now;
            }
            for frame in &frames {
                state.queue.push_paced(frame.clone());
            }
            self.flush_later(&conn, &mut state);
            if let Some(commit) = &commit {
                self.push_commit(&conn, &mut state, commit.clone(), true);
                let mut actions = self.take_actions();
                state.session.catch_up_ended(&mut actions);
                self.carry_out(&conn, &mut state, actions);
            }
        }
    }

    pub(crate) fn of_session(&self, session: SessionId) -> Option<Rc<Conn>> {
        self.sessions.get(&session).and_then(|slot| self.conns[*slot].clone())
    }

    /// The last tick of a feeder, where none is open.
    pub(crate) fn closed_tick(&self, feeder: FeederId) -> Option<Rc<Tick<OutFrame>>> {
        self.feeders.get(&feeder).filter(|f| !f.tick_open).and_then(|f| f.latest.clone())
    }

    // ---- queues and sockets

    /// Puts a frame that counts into the queue; past the bound the connection is closed.
    pub(crate) fn push(&mut self, conn: &Rc<Conn>, state: &mut ConnState, frame: OutFrame) {
        if state.closing.is_some() {
            return;
        }
        if over(&self.config, state) && !state.blocked {
            write(&mut self.counted, self.now, conn, state);
        }
        if over(&self.config, state) {
            self.slow(conn, state);
            return;
        }
        if state.queue.is_empty() {
            state.last_progress = self.now;
        }
        self.counted.deliveries += u64::from(frame.changes());
        state.queue.push(frame);
        self.flush_later(conn, state);
    }

    pub(crate) fn push_paced(&mut self, conn: &Rc<Conn>, state: &mut ConnState, frame: OutFrame, rows: u32) {
        if state.queue.is_empty() {
            state.last_progress = self.now;
        }
        self.counted.rows += u64::from(rows);
        state.queue.push_paced(frame);
        self.flush_later(conn, state);
    }

    pub(crate) fn push_commit(
        &mut self,
        conn: &Rc<Conn>,
        state: &mut ConnState,
        tick: Rc<Tick<OutFrame>>,
        paced: bool,
    ) {
        if paced {
            self.push_paced(conn, state, tick.frame.clone(), 0);
        } else {
            self.push(conn, state, tick.frame.clone());
        }
        state.last_commit = self.now;
        state.sent_commits += 1;
        state.sent_tick = Some(tick);
        self.counted.commits += 1;
    }

    pub(crate) fn push_ping(&mut self, conn: &Rc<Conn>, state: &mut ConnState) {
        if !over(&self.config, state) {
            let ping = self.ping.clone();
            self.push(conn, state, ping);
        }
    }

    fn flush_later(&mut self, conn: &Conn, state: &mut ConnState) {
        if !state.in_flush && !state.blocked {
            state.in_flush = true;
            self.to_flush.push(conn.slot);
        }
    }

    /// Writes what the batch has put into queues: one write per connection where its socket takes it.
    pub fn flush_all(&mut self) {
        let mut list = std::mem::take(&mut self.to_flush);
        for slot in list.drain(..) {
            let Some(conn) = self.conns[slot].clone() else { continue };
            let mut state = conn.state.borrow_mut();
            state.in_flush = false;
            if !state.blocked {
                self.write_out(&conn, &mut state);
            }
        }
        self.to_flush = list;
        self.add_figures();
    }

    /// A socket that was full takes bytes again.
    pub fn writable(&mut self, conn: &Rc<Conn>) {
        self.now = Instant::now();
        let mut state = conn.state.borrow_mut();
        state.blocked = false;
        self.write_out(conn, &mut state);
        drop(state);
        self.add_figures();
    }

    fn write_out(&mut self, conn: &Rc<Conn>, state: &mut ConnState) {
        self.shared.metrics.high_water(state.queue.total());
        write(&mut self.counted, self.now, conn, state);
        if state.closing.is_some() && state.queue.is_empty() && !state.shut && !state.ended {
            state.shut = true;
            // Reading goes on until the client closes too, or a reset could eat what it was sent.
            let _ = socket2::SockRef::from(&conn.stream).shutdown(std::net::Shutdown::Write);
        }
        self.pace_reading(state);
    }

    fn add_figures(&mut self) {
        let counted = std::mem::take(&mut self.counted);
        let f = &self.shared.metrics.figures;
        f.deliveries_total.fetch_add(counted.deliveries, Relaxed);
        f.commits_total.fetch_add(counted.commits, Relaxed);
        f.sent_bytes_total.fetch_add(counted.bytes, Relaxed);
        f.writes_total.fetch_add(counted.writes, Relaxed);
        f.received_total.fetch_add(counted.received, Relaxed);
        f.snapshot_rows_total.fetch_add(counted.rows, Relaxed);
    }

    // ---- ends

    /// Closes because the client takes too little.
    pub(crate) fn slow(&mut self, conn: &Rc<Conn>, state: &mut ConnState) {
        if state.closing.is_none() {
            self.shared.metrics.figures.slow_consumers_total.fetch_add(1, Relaxed);
            state.queue.clear();
            self.close(conn, state, CloseCode::SlowConsumer);
        }
    }

    /// Sends a close frame after what is queued, and lets the client some time to answer.
    pub(crate) fn close(&mut self, conn: &Rc<Conn>, state: &mut ConnState, code: CloseCode) {
        if state.closing.is_some() {
            return;
        }
        self.shared.log.debug(format!("connection from {} is closed with {}", conn.peer, code.code()));
        state.queue.push(OutFrame::close(code.code()));
        self.finish(conn, state);
    }

    /// The close frame is in the queue.
    pub(crate) fn finish(&mut self, conn: &Rc<Conn>, state: &mut ConnState) {
        state.closing = Some(self.now);
        self.detach(conn, state);
        self.flush_later(conn, state);
        state.paused = false;
        state.wake();
    }

    /// Ends at once.
    pub(crate) fn end(&mut self, state: &mut ConnState) {
        state.ended = true;
        state.wake();
    }

    fn shutdown(&mut self, restart: bool) {
        self.stopping = true;
        let code = if restart { CloseCode::Restart } else { CloseCode::GoingAway };
        for slot in 0..self.conns.len() {
            let Some(conn) = self.conns[slot].clone() else { continue };
            self.close(&conn, &mut conn.state.borrow_mut(), code);
        }
    }

    /// Every connection, to be looked at by the sweep.
    pub(crate) fn each(&mut self, mut look: impl FnMut(&mut Self, &Rc<Conn>, &mut ConnState)) {
        for slot in 0..self.conns.len() {
            let Some(conn) = self.conns[slot].clone() else { continue };
            look(self, &conn, &mut conn.state.borrow_mut());
        }
    }

    pub fn open_connections(&self) -> usize {
        self.conns.len() - self.free.len()
    }

    fn report(&self, database: u32) -> Vec<ConnectionReport> {
        let mut out = Vec::new();
        for conn in self.conns.iter().flatten() {
            let state = conn.state.borrow();
            let of_database = state.feeder.and_then(|f| self.feeders.get(&f)).is_some_and(|f| f.database == database);
            if !of_database || !state.session.is_open() {
                continue;
            }
            let micros = conn.connected_at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
            out.push(ConnectionReport {
                session: state.uuid.to_string(),
                tenant: state.tenant.to_string(),
                role: state.role.to_string(),
                address: conn.peer.to_string(),
                client_id: state.client.as_ref().and_then(|c| c.id.clone()),
                client_name: state.client.as_ref().and_then(|c| c.name.clone()),
                connected_at_us: i64::try_from(micros).unwrap_or_default(),
                subscriptions: state.session.report(),
                queued_bytes: (state.queue.total() + state.session.kept_bytes()) as u64,
                sent_bytes: state.sent_bytes,
                sent_commits: state.sent_commits,
                sent_cursor: state.sent_tick.as_ref().map(|t| t.cursor.to_string()),
                acked_cursor: state.acked.as_ref().map(ToString::to_string),
            });
        }
        out
    }
}

/// Whether nothing more may be put into the queue.
fn over(config: &GatewayConfig, state: &ConnState) -> bool {
    (state.queue.counted() + state.session.kept_bytes()) as u64 > config.client_queue_bytes
}

/// Writes to the socket what it takes.
fn write(counted: &mut Counted, now: Instant, conn: &Conn, state: &mut ConnState) {
    if state.queue.is_empty() || state.ended {
        return;
    }
    match state.queue.write_to(&conn.stream) {
        Ok(written) => {
            counted.writes += 1;
            counted.bytes += written.bytes as u64;
            state.sent_bytes += written.bytes as u64;
            if written.bytes > 0 {
                state.last_progress = now;
            }
            state.blocked = written.blocked;
            if written.blocked {
                state.wake();
            }
        }
        Err(_) => {
            state.ended = true;
            state.wake();
        }
    }
}
