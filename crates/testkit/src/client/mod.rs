//! A strict client of `rte.v1`: blocking, one thread, moved on by whoever waits for something.
//!
//! Whatever breaks the contract panics at once with the frame that did. Errors that the server answers
//! are kept for the test to look at, and [`Client::assert_clean`] says that there were none.

mod copy;
mod frame;
#[cfg(test)]
mod tests;
mod transport;
mod verify;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::{Error, Message};

pub use copy::{Copy, Counts, Silent, State, Subscription, Watch};
pub use frame::{Failure, Frame, Row};
use transport::Socket;
pub use transport::Transport;
pub use verify::{Ask, Verdict, hash};

use crate::wait::{patience, wait_until};

/// How a client says hello.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    pub name: String,
    pub token: Option<String>,
    pub tenant: Option<String>,
    /// Receive buffer of the socket stays as the system makes it; frames are read only when asked.
    pub extra: Option<Value>,
    pub transport: Transport,
    /// The token goes with the request that opens the connection, not with hello.
    pub token_in_header: bool,
}

/// The server has closed, or the connection broke (`code` is none).
#[derive(Debug, Clone)]
pub struct Closed {
    pub code: Option<u16>,
    pub reason: String,
}

/// What one look at the socket brought.
#[derive(Debug)]
pub enum Step {
    /// A frame was taken; with `true`, it was a commit.
    Frame(bool),
    /// Nothing came in time.
    Quiet,
    Closed(Closed),
}

/// A client and its copy.
pub struct Client {
    pub options: ClientOptions,
    pub copy: Copy,
    pub welcome: Option<Value>,
    /// The `error` messages so far.
    pub errors: Vec<Failure>,
    pub pongs: Vec<Value>,
    pub closed: Option<Closed>,
    /// From each loss of the connection that the server was to blame for until all was live again.
    pub outages: Vec<Duration>,
    lost: Option<Instant>,
    port: u16,
    socket: Option<Socket>,
    watch: Box<dyn Watch>,
}

impl Client {
    /// Connects and says hello without subscriptions.
    ///
    /// # Panics
    /// When the server does not welcome it.
    #[must_use]
    #[track_caller]
    pub fn connect(port: u16, name: &str) -> Self {
        let mut client = Self::new(port, name);
        client.join();
        client
    }

    /// A client that is not connected yet.
    #[must_use]
    pub fn new(port: u16, name: &str) -> Self {
        Self {
            options: ClientOptions { name: name.into(), ..ClientOptions::default() },
            copy: Copy::default(),
            welcome: None,
            errors: Vec::new(),
            pongs: Vec::new(),
            closed: None,
            outages: Vec::new(),
            lost: None,
            port,
            socket: None,
            watch: Box::new(Silent),
        }
    }

    /// Has every row change and every commit told to `watch`.
    pub fn watch(&mut self, watch: impl Watch + 'static) {
        self.watch = Box::new(watch);
    }

    /// Connects, resumes what is live and asks for the rest; waits for `welcome`.
    ///
    /// # Panics
    /// When the server does not welcome it.
    #[track_caller]
    pub fn join(&mut self) {
        if let Err(closed) = self.try_join() {
            panic!("{}: not welcome: {closed:?}, errors {:?}", self.options.name, self.errors);
        }
    }

    /// Like [`Client::join`], but refusal is an answer.
    ///
    /// # Errors
    /// How the connection ended.
    pub fn try_join(&mut self) -> Result<(), Closed> {
        self.drop_socket();
        let resumed = self.copy.disconnected();
        self.open()?;
        let hello = self.hello(&resumed);
        self.send(&hello);
        let end = Instant::now() + patience();
        while self.welcome.is_none() {
            match self.step(Duration::from_millis(200)) {
                Step::Closed(closed) => return Err(closed),
                _ if Instant::now() > end => panic!("{}: no welcome", self.options.name),
                _ => {}
            }
        }
        let rest: Vec<Value> = self.copy.subscriptions.values().filter(|s| !resumed.contains(&s.id)).map(ask).collect();
        for mut subscribe in rest {
            subscribe["type"] = "subscribe".into();
            self.send(&subscribe);
        }
        Ok(())
    }

    /// Opens the connection and says nothing.
    ///
    /// # Errors
    /// How the connection ended.
    pub fn open(&mut self) -> Result<(), Closed> {
        self.closed = None;
        self.welcome = None;
        let token = self.options.token.as_deref().filter(|_| self.options.token_in_header);
        let opened = Socket::open(self.options.transport, self.port, token);
        let socket = opened.map_err(|reason| Closed { code: None, reason })?;
        self.socket = Some(socket);
        Ok(())
    }

    fn hello(&self, resumed: &[String]) -> Value {
        let subscription = |id: &String| {
            let s = &self.copy.subscriptions[id];
            let mut asked = ask(s);
            if s.resume_only {
                asked["resume_only"] = true.into();
            }
            asked
        };
        let subscriptions: Vec<Value> = resumed.iter().map(subscription).collect();
        let mut hello = json!({"type": "hello", "client": {"name": self.options.name}});
        if !subscriptions.is_empty() {
            hello["cursor"] = json!(self.copy.cursor);
            hello["subscriptions"] = subscriptions.into();
        }
        let token = self.options.token.as_ref().filter(|_| !self.options.token_in_header);
        for (field, value) in [("token", token), ("tenant", self.options.tenant.as_ref())] {
            if let Some(value) = value {
                hello[field] = value.as_str().into();
            }
        }
        if let Some(Value::Object(extra)) = &self.options.extra {
            for (field, value) in extra {
                hello[field] = value.clone();
            }
        }
        hello
    }

    /// Sends a message; a broken connection shows at the next step.
    pub fn send(&mut self, message: &Value) {
        self.send_raw(Message::text(message.to_string()));
    }

    /// Sends any WebSocket message.
    pub fn send_raw(&mut self, message: Message) {
        if let Some(socket) = &mut self.socket {
            socket.send(message);
        }
    }

    /// The next message as it came, unseen by the copy; `None` when nothing comes or the connection ends.
    pub fn raw(&mut self, limit: Duration) -> Option<Message> {
        let socket = self.socket.as_mut()?;
        let end = Instant::now() + limit;
        loop {
            let rest = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            match socket.read(rest) {
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(Message::Close(frame)) => {
                    let (code, reason) = frame
                        .map_or((None, String::new()), |f| (Some(u16::from(f.code)), f.reason.as_str().to_owned()));
                    self.closed = Some(Closed { code, reason });
                }
                Ok(message) => return Some(message),
                Err(Error::Io(e)) if transport::nothing_came(&e) => {
                    if Instant::now() >= end {
                        return None;
                    }
                }
                Err(e) => {
                    self.closed.get_or_insert(Closed { code: None, reason: e.to_string() });
                    self.socket = None;
                    return None;
                }
            }
        }
    }

    /// Takes at most one frame.
    ///
    /// # Panics
    /// When the frame breaks the contract or the watcher's promise.
    pub fn step(&mut self, limit: Duration) -> Step {
        let text = match self.raw(limit) {
            Some(Message::Text(text)) => text,
            Some(other) => panic!("{}: not a text frame: {other:?}", self.options.name),
            None => {
                return match (&self.socket, &self.closed) {
                    (Some(_), _) => Step::Quiet,
                    (None, Some(closed)) => {
                        self.lost.get_or_insert_with(Instant::now);
                        Step::Closed(closed.clone())
                    }
                    (None, None) => Step::Closed(Closed { code: None, reason: "not connected".into() }),
                };
            }
        };
        self.watch.frame(&text);
        let frame = Frame::read(&text).unwrap_or_else(|e| panic!("{}: bad frame: {e}", self.options.name));
        match &frame {
            Frame::Welcome(welcome) => {
                assert!(self.welcome.is_none(), "{}: a second welcome", self.options.name);
                self.welcome = Some(welcome.clone());
            }
            Frame::Error(failure) => self.errors.push(failure.clone()),
            Frame::Pong(pong) => self.pongs.push(pong.clone()),
            _ => assert!(self.welcome.is_some(), "{}: before welcome: {frame:?}", self.options.name),
        }
        let commit = matches!(frame, Frame::Commit { .. });
        if let Err(breach) = self.copy.take(frame, &mut *self.watch) {
            let head: String = text.chars().take(400).collect();
            panic!("{}: {breach}\nafter {:?}\nframe {head}", self.options.name, self.copy.counts);
        }
        if commit && self.copy.all_live() {
            self.outages.extend(self.lost.take().map(|lost| lost.elapsed()));
        }
        Step::Frame(commit)
    }

    /// Subscribes to all columns of a table.
    pub fn subscribe(&mut self, id: &str, table: &str) {
        self.copy.ask(id, table, None);
        self.send(&json!({"type": "subscribe", "id": id, "table": table}));
    }

    /// Subscribes to some columns.
    pub fn subscribe_columns(&mut self, id: &str, table: &str, columns: &[&str]) {
        self.copy.ask(id, table, Some(columns.iter().map(|c| (*c).to_owned()).collect()));
        self.send(&json!({"type": "subscribe", "id": id, "table": table, "columns": columns}));
    }

    /// Subscribes to the rows for which a condition holds; without names, to all columns.
    pub fn subscribe_where(
        &mut self,
        id: &str,
        table: &str,
        columns: Option<&[&str]>,
        condition: &str,
        params: &[Value],
    ) {
        self.copy.ask(id, table, columns.map(|names| names.iter().map(|c| (*c).to_owned()).collect()));
        if let Some(s) = self.copy.subscriptions.get_mut(id) {
            s.condition = Some((condition.to_owned(), params.to_vec()));
            let mut subscribe = ask(s);
            subscribe["type"] = "subscribe".into();
            self.send(&subscribe);
        }
    }

    /// Asks anew for a subscription that the server has ended, telling of the rows that it has if it is to.
    ///
    /// # Panics
    /// When there is no such subscription.
    pub fn subscribe_again(&mut self, id: &str) {
        let s = self.copy.subscriptions.get_mut(id).expect("a subscription");
        s.state = State::Asked(false);
        let mut subscribe = ask(s);
        subscribe["type"] = "subscribe".into();
        self.send(&subscribe);
    }

    /// Comes back without the cursor: with a snapshot, or what of it differs.
    pub fn come_back_anew(&mut self) {
        self.leave();
        self.copy.cursor = None;
        self.come_back();
    }

    /// Shows a fresh token on the open connection, and keeps it for the next.
    pub fn renew(&mut self, token: &str) {
        self.options.token = Some(token.to_owned());
        self.send(&json!({"type": "auth", "token": token}));
    }

    /// Asks for a comparison.
    pub fn ask_to_verify(&mut self, id: &str, ask: &Ask) {
        self.copy.verification = Some(verify::Verification::new(id, ask));
        let mut message = json!({"type": "verify", "id": id});
        if ask.parts > 0 {
            message["parts"] = ask.parts.into();
        }
        if let Some(columns) = &ask.columns {
            message["columns"] = json!(columns);
        }
        if !ask.want.is_empty() {
            message["want"] = json!(ask.want);
        }
        self.send(&message);
    }

    /// Compares a copy with what the server has, and repairs the wanted parts.
    ///
    /// # Errors
    /// The server's answer.
    ///
    /// # Panics
    /// After [`patience`], or when the connection ends first.
    #[track_caller]
    pub fn verify(&mut self, id: &str, ask: &Ask) -> Result<Verdict, Failure> {
        self.ask_to_verify(id, ask);
        self.wait_for("a verdict", |c| c.copy.verification.is_none());
        match self.copy.verdicts.pop() {
            Some(verdict) => Ok(verdict),
            None => Err(self.errors.pop().unwrap_or_else(|| panic!("neither a verdict nor an error"))),
        }
    }

    /// Asks for the end of a subscription.
    pub fn unsubscribe(&mut self, id: &str) {
        if let Some(s) = self.copy.subscriptions.get_mut(id) {
            s.state = State::Ending;
        }
        self.send(&json!({"type": "unsubscribe", "id": id}));
    }

    /// Takes frames until `found`; the condition is looked at after each.
    ///
    /// # Panics
    /// After [`patience`], or when the connection ends first.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, mut found: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + patience();
        while !found(self) {
            match self.step(Duration::from_millis(100)) {
                Step::Closed(closed) => {
                    if found(self) {
                        return;
                    }
                    panic!("{}: closed ({closed:?}) while waiting for: {what}; {}", self.options.name, self.state());
                }
                _ if Instant::now() > end => {
                    panic!("{}: waited in vain for: {what}; {}", self.options.name, self.state())
                }
                _ => {}
            }
        }
    }

    /// Like [`Client::wait_for`], but comes back with the cursor whenever the connection ends.
    ///
    /// # Panics
    /// After [`patience`].
    #[track_caller]
    pub fn carry_on(&mut self, what: &str, mut found: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + patience();
        while !found(self) {
            if let Step::Closed(_) = self.step(Duration::from_millis(20)) {
                self.come_back();
            }
            assert!(Instant::now() < end, "{}: waited in vain for: {what}; {}", self.options.name, self.state());
        }
    }

    /// Tries to join until the server lets the client in again.
    ///
    /// # Panics
    /// After [`patience`].
    #[track_caller]
    pub fn come_back(&mut self) {
        wait_until("the server to let the client in again", || self.try_join().ok());
    }

    /// Waits until all subscriptions are at the cursor.
    #[track_caller]
    pub fn wait_live(&mut self) {
        self.wait_for("all subscriptions live", |c| c.copy.all_live());
    }

    /// Waits until the subscription of the barrier's table holds the mark.
    #[track_caller]
    pub fn wait_barrier(&mut self, mark: i32) {
        self.wait_for("the barrier", |c| c.at_barrier(mark));
    }

    /// Whether all is live and the barrier's mark has arrived.
    #[must_use]
    pub fn at_barrier(&self, mark: i32) -> bool {
        let key = mark.to_string();
        self.copy.all_live() && self.copy.subscriptions.get(BARRIER).is_some_and(|s| s.row(&[&key]).is_some())
    }

    /// Subscribes to the table that [`crate::Sql::barrier`] marks.
    pub fn subscribe_barrier(&mut self) {
        self.subscribe(BARRIER, BARRIER);
    }

    /// Waits for an `error` message of this code and forgets it.
    #[track_caller]
    pub fn wait_error(&mut self, code: &str) -> Failure {
        self.wait_for(code, |c| c.errors.iter().any(|e| e.code == code));
        let at = self.errors.iter().position(|e| e.code == code).unwrap_or_default();
        self.errors.remove(at)
    }

    /// Waits until the server closes.
    ///
    /// # Panics
    /// After [`patience`].
    #[track_caller]
    pub fn wait_closed(&mut self) -> Closed {
        let end = Instant::now() + patience();
        loop {
            match self.step(Duration::from_millis(100)) {
                Step::Closed(closed) => return closed,
                _ => assert!(Instant::now() < end, "{}: not closed; {}", self.options.name, self.state()),
            }
        }
    }

    /// Sends a ping of the contract and waits for its pong: all frames sent before have been handled.
    #[track_caller]
    pub fn ping(&mut self) {
        let at = json!(self.pongs.len());
        self.send(&json!({"type": "ping", "at": at}));
        self.wait_for("pong", |c| c.pongs.last().is_some_and(|p| p["at"] == at));
    }

    /// Drops the connection without a word.
    pub fn leave(&mut self) {
        self.drop_socket();
        self.lost = None;
    }

    fn drop_socket(&mut self) {
        self.socket = None;
        self.closed = None;
    }

    /// Drops the connection and comes back with the cursor.
    #[track_caller]
    pub fn resume(&mut self) {
        self.join();
    }

    /// The subscription of this id.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn sub(&self, id: &str) -> &Subscription {
        match self.copy.subscriptions.get(id) {
            Some(s) => s,
            None => panic!("{}: no subscription {id:?}", self.options.name),
        }
    }

    /// No errors, no resync, no refused resumption.
    #[track_caller]
    pub fn assert_clean(&self) {
        let Counts { resyncs, refused_resumes, .. } = &self.copy.counts;
        let clean = self.errors.is_empty() && resyncs.is_empty() && *refused_resumes == 0;
        assert!(clean, "{}: errors {:?}, {:?}", self.options.name, self.errors, self.copy.counts);
    }

    fn state(&self) -> String {
        let states: Vec<String> =
            self.copy.subscriptions.values().map(|s| format!("{} {:?} {} rows", s.id, s.state, s.rows.len())).collect();
        format!("{states:?}, errors {:?}, {:?}", self.errors, self.copy.counts)
    }
}

/// Id and name of the barrier's table.
pub(crate) const BARRIER: &str = "kit_barrier";

fn ask(s: &Subscription) -> Value {
    let mut ask = json!({"id": s.id, "table": s.table});
    if let Some(columns) = &s.asked_columns {
        ask["columns"] = json!(columns);
    }
    if let Some((condition, params)) = &s.condition {
        ask["where"] = condition.as_str().into();
        ask["params"] = params.as_slice().into();
    }
    if s.have_parts > 0 && s.state == State::Asked(false) {
        let hashes: Vec<String> = verify::hash(s, s.have_parts, None).iter().map(ToString::to_string).collect();
        ask["have"] = json!({"parts": s.have_parts, "hashes": hashes});
    }
    ask
}
