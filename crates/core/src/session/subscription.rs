//! A subscription's life, and the shapes that a session's subscriptions use.
//!
//! On the bridge a subscription is named `number:id`, where the number is never reused: an answer to a subscription
//! that the client has ended meanwhile can not be taken for one to its successor of the same id. Pure.

use super::{Action, Frame, Session, Tick, error};
use rte_protocol::bridge::{JobId, ShapeId, SubscriptionReport, ToFeeder};
use rte_protocol::wire::{Column, ErrorCode, ServerMessage};
use std::rc::Rc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The feeder was asked.
    Requested,
    /// The client ended it before the feeder has answered; it counts until then.
    Abandoned,
    /// Registered; its snapshot is awaited or under way.
    Joining {
        job: Option<JobId>,
    },
    Live,
    /// Its copy could not be continued; a new `Subscribed` follows.
    Resyncing,
}

#[derive(Debug)]
pub(super) struct Sub {
    pub number: u32,
    /// The client's name for it.
    pub id: Box<str>,
    pub state: State,
    pub shape: Option<ShapeId>,
    /// What the feeder calls its contents, for the cursors of the connection.
    pub digest: Option<u64>,
    /// It came with a `hello` that had a cursor, and is not answered.
    pub from_hello: bool,
    /// `schema.name` once the feeder has answered.
    table: Box<str>,
}

impl Sub {
    pub fn new(number: u32, id: &str, table: &str) -> Self {
        Self {
            number,
            id: id.into(),
            state: State::Requested,
            shape: None,
            digest: None,
            from_hello: false,
            table: table.into(),
        }
    }

    /// Whether the client knows it.
    pub fn is_the_clients(&self) -> bool {
        self.state != State::Abandoned
    }

    pub fn report(&self) -> SubscriptionReport {
        SubscriptionReport {
            id: self.id.to_string(),
            table: self.table.to_string(),
            shape: self.shape.map(shape_text).unwrap_or_default(),
            state: if self.state == State::Live { "live" } else { "joining" }.to_owned(),
        }
    }
}

fn shape_text(shape: ShapeId) -> String {
    format!("s{shape}")
}

/// The name on the bridge.
pub(super) fn bridge_id(number: u32, id: &str) -> String {
    format!("{number}:{id}")
}

/// The number in a name on the bridge.
pub(super) fn number_of(bridge_id: &str) -> Option<u32> {
    bridge_id.split_once(':')?.0.parse().ok()
}

/// A frame that waits for the snapshot of a subscription that joins.
#[derive(Debug)]
pub(super) struct Kept<F> {
    pub frame: F,
    /// None while its tick is open.
    pub tick: Option<Rc<Tick>>,
}

/// How a session uses a shape.
#[derive(Debug)]
pub(super) struct ShapeUse<F> {
    pub shape: ShapeId,
    pub live: u32,
    pub joining: u32,
    /// All frames since the first of those that join now; in order.
    pub kept: Vec<Kept<F>>,
    /// Some of the kept were also sent, for one that was live. A client may have applied them to the rows that it
    /// stages for the others, so all of them must be sent again, or what undid them would be missing.
    pub kept_and_sent: bool,
}

impl<F: Frame> ShapeUse<F> {
    pub fn keep(&mut self, frame: F) {
        self.kept.push(Kept { frame, tick: None });
    }

    /// Forgets what was kept; answers its bytes.
    pub fn drop_kept(&mut self) -> usize {
        self.kept_and_sent = false;
        std::mem::take(&mut self.kept).iter().map(|k| k.frame.bytes()).sum()
    }

    pub fn close_tick(&mut self, tick: &Rc<Tick>) {
        for kept in self.kept.iter_mut().rev().take_while(|k| k.tick.is_none()) {
            kept.tick = Some(tick.clone());
        }
    }
}

impl<F: Frame> Session<F> {
    pub(super) fn position(&self, bridge_id: &str) -> Option<usize> {
        let number = number_of(bridge_id)?;
        self.subs.iter().position(|s| s.number == number)
    }

    /// The feeder has registered a subscription: frames of the shape concern it from here on. It goes on from the client's
    /// cursor, or joins, perhaps with a snapshot that is partial.
    #[allow(clippy::too_many_arguments, reason = "the fields of the bridge message")]
    pub fn subscribed(
        &mut self,
        id: &str,
        shape: ShapeId,
        table: String,
        key: Vec<String>,
        columns: Vec<Column>,
        (resumed, partial): (bool, bool),
        digest: Option<u64>,
        out: &mut Vec<Action<F>>,
    ) {
        let Some(at) = self.position(id) else { return };
        match self.subs[at].state {
            State::Requested | State::Resyncing => {}
            // The client has ended it; the feeder has been told.
            State::Abandoned => {
                self.remove(at, out);
                return;
            }
            State::Joining { .. } | State::Live => return,
        }
        let asked_in_hello = self.subs[at].from_hello;
        let sub = &mut self.subs[at];
        sub.from_hello = false;
        sub.shape = Some(shape);
        sub.digest = digest;
        sub.table = table.as_str().into();
        sub.state = if resumed { State::Live } else { State::Joining { job: None } };
        self.resuming |= resumed;
        self.holding = None;
        let id = sub.id.to_string();
        let used = match self.shapes.iter_mut().position(|s| s.shape == shape) {
            Some(at) => &mut self.shapes[at],
            None => {
                out.push(Action::Watch(shape));
                if self.shapes.is_empty() {
                    self.shapes.reserve_exact(1);
                }
                self.shapes.push(ShapeUse { shape, live: 0, joining: 0, kept: Vec::new(), kept_and_sent: false });
                let last = self.shapes.len() - 1;
                &mut self.shapes[last]
            }
        };
        if resumed {
            used.live += 1;
        } else {
            used.joining += 1;
        }
        let message = ServerMessage::Subscribed { id, shape: shape_text(shape), table, key, columns, resumed, partial };
        out.push(Action::Text(message.to_text()));
        if asked_in_hello {
            self.answered(out);
        }
    }

    /// The copy of a subscription can no longer be continued; a new `Subscribed` follows.
    pub fn resync(&mut self, id: &str, reason: String, out: &mut Vec<Action<F>>) {
        let Some(at) = self.position(id) else { return };
        if self.subs[at].from_hello && self.subs[at].state == State::Requested {
            // The client came with a cursor that does not serve; it is told why a snapshot follows.
            let id = self.subs[at].id.to_string();
            out.push(Action::Text(ServerMessage::Resync { id, reason }.to_text()));
            return;
        }
        if !matches!(self.subs[at].state, State::Joining { .. } | State::Live) {
            return;
        }
        if let Some(id) = self.drop_verification(self.subs[at].number, out) {
            let message = "the copy of the subscription could not be continued";
            out.push(error(ErrorCode::NotReady, message, Some("ask again after its commit"), Some(&id)));
        }
        self.release(at, out);
        self.subs[at].state = State::Resyncing;
        let id = self.subs[at].id.to_string();
        out.push(Action::Text(ServerMessage::Resync { id, reason }.to_text()));
    }

    /// A subscription that was to go on from the client's cursor, and only so, cannot.
    pub fn not_resumed(&mut self, id: &str, reason: String, out: &mut Vec<Action<F>>) {
        let Some(at) = self.position(id) else { return };
        // The client has to know before a commit that the answer lets out moves its cursor on.
        if self.subs[at].is_the_clients() {
            let id = self.subs[at].id.to_string();
            out.push(Action::Text(ServerMessage::Resync { id: id.clone(), reason }.to_text()));
            out.push(Action::Text(ServerMessage::Unsubscribed { id }.to_text()));
        }
        self.remove(at, out);
    }

    /// The feeder ends a subscription.
    pub fn ended(&mut self, id: &str, code: ErrorCode, message: &str, hint: Option<&str>, out: &mut Vec<Action<F>>) {
        let Some(at) = self.position(id) else { return };
        if let Some(sub) = self.remove(at, out) {
            out.push(error(code, message, hint, Some(&sub)));
            out.push(Action::Text(ServerMessage::Unsubscribed { id: sub }.to_text()));
        }
    }

    /// An error of the feeder's; one that names a subscription ends it.
    pub fn session_error(
        &mut self,
        id: Option<&str>,
        code: ErrorCode,
        message: &str,
        hint: Option<&str>,
        out: &mut Vec<Action<F>>,
    ) {
        let Some(id) = id else {
            out.push(error(code, message, hint, None));
            return;
        };
        let Some(at) = self.position(id) else { return };
        if let Some(sub) = self.remove(at, out) {
            out.push(error(code, message, hint, Some(&sub)));
        }
    }

    /// The client ends a subscription.
    pub(super) fn unsubscribe(&mut self, id: &str, out: &mut Vec<Action<F>>) {
        let Some(at) = self.subs.iter().position(|s| &*s.id == id && s.is_the_clients()) else {
            out.push(error(ErrorCode::UnknownSubscription, "there is no subscription of this id", None, Some(id)));
            return;
        };
        let (number, state) = (self.subs[at].number, self.subs[at].state);
        out.push(Action::Text(ServerMessage::Unsubscribed { id: id.to_owned() }.to_text()));
        out.push(Action::Feeder(ToFeeder::Unsubscribe { session: self.id, id: bridge_id(number, id) }));
        if state == State::Requested {
            self.subs[at].state = State::Abandoned;
        } else {
            self.remove(at, out);
        }
    }

    /// Forgets a subscription; answers its id where the client knew of it.
    pub(super) fn remove(&mut self, at: usize, out: &mut Vec<Action<F>>) -> Option<String> {
        self.release(at, out);
        let sub = self.subs.remove(at);
        if sub.from_hello {
            self.answered(out);
        }
        sub.is_the_clients().then(|| sub.id.into())
    }

    /// The feeder has answered one of `hello`'s.
    fn answered(&mut self, out: &mut Vec<Action<F>>) {
        self.unanswered -= 1;
        self.release_behind(out);
    }

    /// Takes a subscription out of its shape and its job.
    fn release(&mut self, at: usize, out: &mut Vec<Action<F>>) {
        let (number, state) = (self.subs[at].number, self.subs[at].state);
        if state == State::Live {
            self.holding = None;
            self.drop_verification(number, out);
        }
        if let Some(shape) = self.subs[at].shape.take()
            && let Some(at) = self.shapes.iter().position(|s| s.shape == shape)
        {
            let used = &mut self.shapes[at];
            match state {
                State::Joining { .. } => used.joining -= 1,
                _ => used.live -= 1,
            }
            if used.joining == 0 {
                self.kept_bytes -= used.drop_kept();
            }
            if used.joining == 0 && used.live == 0 {
                self.shapes.swap_remove(at);
                out.push(Action::Unwatch(shape));
            }
        }
        if let State::Joining { job: Some(job) } = state {
            self.leave_job(job, number, out);
        }
    }
}
