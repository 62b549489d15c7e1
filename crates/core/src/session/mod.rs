//! The session machine: what one client's connection has asked for, and what it may be sent when.
//!
//! Decides: which messages are in order, which subscriptions exist, when a subscription that joins goes live, which
//! frames are sent, kept or held. Leaves to others: sockets, queues, time, who may see what. Invariant: at every
//! `commit` that it lets out, each subscription whose snapshot is done is at exactly that commit's snapshot, and the
//! commit's cursor names exactly these.
//!
//! Events go in through methods, [`Action`]s come out in order; the caller carries them out in that order. Frames are
//! opaque and shared (`F` is a handle that is cheap to clone). Pure, single thread.

mod join;
mod requests;
mod subscription;
#[cfg(test)]
mod tests;
mod verify;

use crate::held::{Held, Stem};
use crate::snapshot::Snapshot;
use join::Join;
use rte_protocol::bridge::{JobId, SessionId, ShapeId, SubscriptionReport, ToFeeder};
use rte_protocol::wire::{CloseCode, ErrorCode, Limits, ServerMessage, TableInfo};
use std::rc::Rc;
use subscription::{ShapeUse, State, Sub};
use verify::Verification;

/// A handle to an encoded frame.
pub trait Frame: Clone {
    /// Bytes that it will take in a queue.
    fn bytes(&self) -> usize;
}

/// A closed tick of a database.
#[derive(Debug)]
pub struct Tick {
    /// What every live subscription is at after it.
    pub snapshot: Snapshot,
    /// The place that clients store, without what each of them holds.
    pub cursor: Stem,
    /// When it was made, as clients are told.
    pub time: Box<str>,
}

/// What the caller has to do, in order.
#[derive(Debug)]
pub enum Action<F> {
    /// Send a small message.
    Text(String),
    /// Send a shared frame.
    Frame(F),
    /// Send the commit of this tick to a client that holds this.
    Commit(Rc<Tick>, Rc<Held>),
    /// Find the feeder of this tenant, then call [`Session::attach`] or [`Session::refuse`].
    Resolve { tenant: Option<String> },
    /// Tell the feeder.
    Feeder(ToFeeder),
    /// From here on call [`Session::changes`] for frames of the shape.
    Watch(ShapeId),
    /// Frames of the shape no longer concern this session.
    Unwatch(ShapeId),
    /// Nobody waits for the job any more.
    CancelJob(JobId),
    /// Close the connection after what was sent.
    Close(CloseCode),
}

/// What to do with a frame of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Send it now; its tick's commit must follow.
    Send,
    /// It was kept for later, nothing is to be sent.
    Kept,
    /// It does not concern the session.
    Ignore,
}

/// What `welcome` says besides the feeder's answer.
#[derive(Debug, Clone)]
pub struct Welcome {
    pub session: String,
    pub tenant: String,
    pub server: String,
    pub heartbeat_ms: u64,
    pub limits: Limits,
    pub expires_in_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing came yet.
    New,
    /// `hello` came; the tenant's feeder is looked for.
    Resolving,
    /// The feeder was asked.
    Opening,
    /// `welcome` was sent.
    Open,
    /// A close was decided; everything after is ignored.
    Closed,
}

/// A frame or a commit that waits for the end of a catch-up.
#[derive(Debug)]
enum Behind<F> {
    Changes(ShapeId, F),
    Commit(Rc<Tick>),
}

/// One client's session.
#[derive(Debug)]
pub struct Session<F> {
    id: SessionId,
    /// The client's address, for the feeder's logs.
    peer: Box<str>,
    phase: Phase,
    max_subscriptions: usize,
    /// Next number of a subscription; with the client's id it makes the id on the bridge, never reused.
    next_number: u32,
    subs: Vec<Sub>,
    /// Shapes in use, few.
    shapes: Vec<ShapeUse<F>>,
    /// Jobs whose subscriptions are not all live yet.
    joins: Vec<Join>,
    /// What `hello` asked of the feeder, until it is known.
    open: Option<Box<ToFeeder>>,
    /// Errors about `hello`'s subscriptions, sent after `welcome`.
    deferred: Vec<String>,
    /// A catch-up is awaited or under way: ticks are held behind it.
    resuming: bool,
    /// Subscriptions of a `hello` with a cursor that the feeder has not answered. The client may hold copies of them at that
    /// cursor, so no commit may move it on before each copy is either continued or given up.
    unanswered: u32,
    behind: Vec<Behind<F>>,
    /// What the live subscriptions come to; none when one has come or gone since.
    holding: Option<Rc<Held>>,
    /// A token was sent to the feeder, which has not answered.
    renewing: bool,
    /// The last token that came meanwhile.
    next_token: Option<String>,
    /// What the client asked about one of its copies.
    verification: Option<Verification>,
    /// Number of the last one.
    last_request: u32,
    /// Frames of the open tick were sent, or its snapshot is a verification's: its commit must follow.
    dirty: bool,
    /// Bytes of kept frames and of those that wait behind a catch-up.
    kept_bytes: usize,
}

impl<F: Frame> Session<F> {
    #[must_use]
    pub fn new(id: SessionId, peer: &str, max_subscriptions: u32) -> Self {
        Self {
            id,
            peer: peer.into(),
            phase: Phase::New,
            max_subscriptions: max_subscriptions as usize,
            next_number: 0,
            subs: Vec::new(),
            shapes: Vec::new(),
            joins: Vec::new(),
            open: None,
            deferred: Vec::new(),
            resuming: false,
            unanswered: 0,
            behind: Vec::new(),
            holding: None,
            renewing: false,
            next_token: None,
            verification: None,
            last_request: 0,
            dirty: false,
            kept_bytes: 0,
        }
    }

    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Whether `hello` has come.
    #[must_use]
    pub fn has_hello(&self) -> bool {
        self.phase != Phase::New
    }

    /// Whether messages of the client must wait: its feeder is not known yet.
    #[must_use]
    pub fn is_resolving(&self) -> bool {
        self.phase == Phase::Resolving
    }

    /// Whether `welcome` was sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Bytes of frames that wait for a snapshot or a catch-up; they count as the connection's queue.
    #[must_use]
    pub const fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Whether every commit must be shown to [`Session::commit`], not only those of ticks that concern it.
    #[must_use]
    pub fn wants_commits(&self) -> bool {
        self.dirty || self.holds() || self.shapes.iter().any(|s| s.joining > 0)
    }

    /// Whether ticks are held for now.
    const fn holds(&self) -> bool {
        self.resuming || self.unanswered > 0
    }

    /// Whether a catch-up is under way.
    #[must_use]
    pub const fn is_resuming(&self) -> bool {
        self.resuming
    }

    /// Subscriptions that the client has, for figures.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.subs.iter().filter(|s| s.is_the_clients()).count()
    }

    /// The subscriptions, for the view.
    #[must_use]
    pub fn report(&self) -> Vec<SubscriptionReport> {
        self.subs.iter().filter(|s| s.is_the_clients()).map(Sub::report).collect()
    }

    /// The tenant's feeder is there: asks it. `tenant` is the name that the directory knows, empty for the landlord.
    pub fn attach(&mut self, tenant: &str, out: &mut Vec<Action<F>>) {
        if self.phase == Phase::Resolving
            && let Some(mut open) = self.open.take()
        {
            self.phase = Phase::Opening;
            if let ToFeeder::Open { tenant: of_session, .. } = &mut *open {
                tenant.clone_into(of_session);
            }
            out.push(Action::Feeder(*open));
        }
    }

    /// Whether a fresh token is with the feeder.
    #[must_use]
    pub const fn is_renewing(&self) -> bool {
        self.renewing
    }

    /// The feeder has accepted a fresh token.
    pub fn renewed(&mut self, out: &mut Vec<Action<F>>) {
        self.renewing = false;
        if let Some(token) = self.next_token.take() {
            self.renew(token, out);
        }
    }

    /// The session is not let in.
    pub fn refuse(
        &mut self,
        close: CloseCode,
        code: ErrorCode,
        message: &str,
        hint: Option<&str>,
        out: &mut Vec<Action<F>>,
    ) {
        if self.phase == Phase::Closed {
            return;
        }
        out.push(error(code, message, hint, None));
        self.close(close, out);
    }

    fn close(&mut self, close: CloseCode, out: &mut Vec<Action<F>>) {
        self.phase = Phase::Closed;
        out.push(Action::Close(close));
    }

    /// The feeder let the session in.
    pub fn opened(&mut self, welcome: Welcome, role: String, tables: Vec<TableInfo>, out: &mut Vec<Action<F>>) {
        if self.phase != Phase::Opening {
            return;
        }
        self.phase = Phase::Open;
        let Welcome { session, tenant, server, heartbeat_ms, limits, expires_in_ms } = welcome;
        let welcome =
            ServerMessage::Welcome { session, tenant, role, server, heartbeat_ms, limits, expires_in_ms, tables };
        out.push(Action::Text(welcome.to_text()));
        out.extend(self.deferred.drain(..).map(Action::Text));
    }

    /// A frame of the open tick. Where the answer is [`Delivery::Send`], the caller sends it.
    pub fn changes(&mut self, shape: ShapeId, frame: &F) -> Delivery {
        let holds = self.holds();
        let Some(used) = self.shapes.iter_mut().find(|s| s.shape == shape) else { return Delivery::Ignore };
        if holds {
            self.kept_bytes += frame.bytes();
            self.behind.push(Behind::Changes(shape, frame.clone()));
            return Delivery::Kept;
        }
        if used.joining > 0 {
            self.kept_bytes += frame.bytes();
            used.keep(frame.clone());
            used.kept_and_sent |= used.live > 0;
        }
        if used.live > 0 {
            self.dirty = true;
            return Delivery::Send;
        }
        Delivery::Kept
    }

    /// The open tick is closed. To be called where the tick concerned the session, or it [wants commits](Self::wants_commits).
    pub fn commit(&mut self, tick: &Rc<Tick>, out: &mut Vec<Action<F>>) {
        if self.holds() {
            // Of commits in a row the last says it all.
            match self.behind.last_mut() {
                Some(Behind::Commit(last)) => *last = tick.clone(),
                _ => self.behind.push(Behind::Commit(tick.clone())),
            }
            return;
        }
        for shape in &mut self.shapes {
            shape.close_tick(tick);
        }
        let went_live = self.go_live(tick, out);
        if self.dirty || went_live {
            self.dirty = false;
            self.let_out(tick, out);
        }
        self.trim();
    }

    /// A commit without changes, to move the client's cursor on. `tick` is the last one, and none is open. Answers
    /// whether one was let out.
    pub fn bare_commit(&mut self, tick: &Rc<Tick>, out: &mut Vec<Action<F>>) -> bool {
        let may = self.phase == Phase::Open && !self.holds() && !self.dirty;
        if may {
            self.go_live(tick, out);
            self.let_out(tick, out);
            self.trim();
        }
        may
    }

    fn let_out(&mut self, tick: &Rc<Tick>, out: &mut Vec<Action<F>>) {
        let held = self.holding();
        self.announce(tick, &held, out);
        out.push(Action::Commit(tick.clone(), held));
    }

    /// What the live subscriptions hold: for the cursor of a commit that is sent now.
    pub fn holding(&mut self) -> Rc<Held> {
        let live = self.subs.iter().filter(|s| s.state == State::Live).filter_map(|s| s.digest);
        self.holding.get_or_insert_with(|| Rc::new(Held::of(live))).clone()
    }

    /// The same as [`Session::holding`] in another's memory: connections that hold the same may share it.
    pub fn share_holding(&mut self, held: &Rc<Held>) {
        if let Some(own) = self.holding.as_mut().filter(|own| *own == held) {
            own.clone_from(held);
        }
    }

    /// The catch-up's last part and its commit are in the queue: what waited behind it follows.
    pub fn catch_up_ended(&mut self, out: &mut Vec<Action<F>>) {
        if self.resuming {
            self.resuming = false;
            // Its frames may have been of shapes that others join.
            for used in self.shapes.iter_mut().filter(|s| s.joining > 0) {
                used.kept_and_sent = true;
            }
            self.release_behind(out);
        }
    }

    /// Sends what had to wait, where it has to wait no more.
    fn release_behind(&mut self, out: &mut Vec<Action<F>>) {
        if self.holds() {
            return;
        }
        for late in std::mem::take(&mut self.behind) {
            match late {
                Behind::Changes(shape, frame) => {
                    self.kept_bytes -= frame.bytes();
                    if self.changes(shape, &frame) == Delivery::Send {
                        out.push(Action::Frame(frame));
                    }
                }
                Behind::Commit(tick) => self.commit(&tick, out),
            }
        }
    }
}

fn error<F>(code: ErrorCode, message: &str, hint: Option<&str>, id: Option<&str>) -> Action<F> {
    Action::Text(error_text(code, message, hint, id))
}

/// An `error` message.
#[must_use]
pub fn error_text(code: ErrorCode, message: &str, hint: Option<&str>, id: Option<&str>) -> String {
    ServerMessage::Error {
        code,
        message: message.to_owned(),
        hint: hint.map(ToOwned::to_owned),
        id: id.map(ToOwned::to_owned),
    }
    .to_text()
}
