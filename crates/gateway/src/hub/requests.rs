//! Clients that speak by requests: what they post, and polls for what they are sent.
//!
//! A request may come to any I/O thread; it is carried out in that of its connection. What is posted is held to the same
//! bounds as what comes by a WebSocket: who does not take his answers is not listened to, which here is that his request is
//! not answered yet.

use super::clients::must_wait;
use super::{Hub, sweep_interval};
use crate::connection::{Conn, ConnState, Input, UrlClaims};
use crate::event::Poll;
use crate::http::{self, Answer, answer::Header};
use crate::limits::Permit;
use crate::requests::{Poller, Posted, Requests};
use crate::wire::{ConnectionId, Wire, begin_events};
use rte_protocol::wire::CloseCode;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// A poll is answered after so long, for proxies cut what says nothing for a minute.
const POLL: Duration = Duration::from_secs(20);

impl Hub {
    /// A connection whose client speaks by requests. Where there is a `stream` it is an answer of events, with these `headers`; else
    /// polls come.
    pub fn add_by_requests(
        &mut self,
        stream: Option<TcpStream>,
        headers: &[Header],
        peer: SocketAddr,
        permit: Permit,
        claims: UrlClaims,
    ) -> Option<(Rc<Conn>, ConnectionId)> {
        let id = ConnectionId::new(self.shared.thread).ok()?;
        self.now = Instant::now();
        let begin = begin_events(headers, id, self.config.heartbeat_ms);
        let wire = stream.map_or(Wire::Poll, Wire::Events);
        let input = Input::Requests(Box::new(Requests::new(id, self.now)));
        let conn = self.settle(wire, input, peer, permit, claims);
        self.by_id.insert(id, conn.slot);
        if let Wire::Events(_) = conn.wire {
            self.push(&conn, &mut conn.state.borrow_mut(), begin);
        }
        self.begin(&conn);
        Some((conn, id))
    }

    fn of_id(&self, id: ConnectionId) -> Option<Rc<Conn>> {
        self.by_id.get(&id).and_then(|slot| self.conns[*slot].clone())
    }

    /// Something was posted to a connection.
    pub(super) fn posted(&mut self, id: ConnectionId, n: u64, body: Vec<u8>, reply: oneshot::Sender<Posted>) {
        let Some(conn) = self.of_id(id) else {
            let _ = reply.send(Posted::Unknown);
            return;
        };
        let mut state = conn.state.borrow_mut();
        let open = state.closing.is_none() && !state.ended;
        let Some(requests) = state.requests().filter(|_| open) else {
            let _ = reply.send(Posted::Unknown);
            return;
        };
        if requests.take(n, body, reply) {
            state.last_received = self.now;
            self.carry_on(&conn, &mut state);
        }
    }

    /// Carries out what was posted, until it is done or has to wait.
    fn carry_on(&mut self, conn: &Rc<Conn>, state: &mut ConnState) {
        while state.closing.is_none() && !state.ended && !must_wait(state) {
            let Some(incoming) = state.requests().and_then(Requests::next_line) else { break };
            if self.admits(conn, state, &incoming) {
                self.incoming(conn, state, incoming);
            }
            state.held_back = state.feeder.is_some_and(|feeder| self.is_full(feeder));
        }
        self.pace_reading(state);
    }

    /// What was posted need not wait any more.
    pub fn go_on(&mut self, conn: &Rc<Conn>) {
        self.now = Instant::now();
        self.carry_on(conn, &mut conn.state.borrow_mut());
        self.flush_all();
    }

    /// What came while the session's feeder was not known.
    pub(super) fn catch_up_input(&mut self, conn: &Rc<Conn>, state: &mut ConnState) {
        match &mut state.input {
            Input::WebSocket { backlog, .. } => {
                let backlog = std::mem::take(backlog);
                self.input(conn, state, &backlog);
            }
            Input::Requests(_) => self.carry_on(conn, state),
        }
    }

    /// A poll. It waits for messages, instead of one that waited before.
    pub(super) fn polled(&mut self, id: ConnectionId, stream: std::net::TcpStream, poll: Poll) {
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        let conn = self.of_id(id).filter(|conn| matches!(conn.wire, Wire::Poll));
        let Some(conn) = conn else {
            let answer = Answer::unknown_connection(&poll.permit, &self.config);
            return say(stream, poll, answer);
        };
        let mut state = conn.state.borrow_mut();
        if !state.requests().is_some_and(|r| r.admits_poll(poll.n)) {
            let answer = Answer::error(409, "this is not the next poll", Some("open another connection"));
            return say(stream, poll, answer);
        }
        state.blocked = false;
        state.last_received = self.now;
        let poller = Poller::new(stream, poll, self.now);
        let before = state.requests().and_then(|requests| requests.poller.replace(poller));
        if let Some(before) = before {
            tokio::task::spawn_local(before.dismiss());
        }
        self.flush_later(&conn, &mut state);
        // For the task to watch the new socket.
        state.wake();
    }

    /// Looks at the polls of a connection. Answers whether it may live on.
    pub(super) fn look_at_poll(&mut self, conn: &Rc<Conn>, state: &mut ConnState, heartbeat: Duration) -> bool {
        let now = self.now;
        let Some(requests) = state.requests() else { return true };
        let wait = POLL.min(heartbeat / 2).saturating_sub(sweep_interval(&self.config));
        match &requests.poller {
            None => return now.duration_since(requests.unpolled) <= heartbeat * 2,
            Some(poller) if requests.is_answering() || now.duration_since(poller.since) < wait => {}
            Some(_) => self.answer_poll(conn, state),
        }
        true
    }

    /// Lets a poll that waits go without messages.
    fn answer_poll(&mut self, conn: &Rc<Conn>, state: &mut ConnState) {
        if let Some(poller) = state.requests().and_then(|r| r.poller.as_mut()) {
            poller.asked = true;
            self.write_out(conn, state);
        }
    }

    /// The socket of an answer has something to read where nothing was to come: its end, as a rule.
    pub(super) fn gone(&mut self, conn: &Rc<Conn>) {
        let mut state = conn.state.borrow_mut();
        let mut scratch = [0; 512];
        let stream = match (&conn.wire, &state.input) {
            (Wire::Poll, Input::Requests(requests)) => requests.poller.as_ref().map(|p| &p.stream),
            (wire, _) => wire.stream(),
        };
        let Some(read) = stream.map(|stream| stream.try_read(&mut scratch)) else { return };
        match read {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
            // What somebody says behind his request has no meaning.
            Ok(n) if n > 0 && matches!(conn.wire, Wire::Events(_)) => {
                self.close(conn, &mut state, CloseCode::Protocol);
            }
            _ => match state.requests() {
                // What was being written to it is lost.
                Some(requests) if matches!(conn.wire, Wire::Poll) && !requests.is_answering() => {
                    requests.lose_poll(self.now);
                }
                _ => self.end(&mut state),
            },
        }
        drop(state);
        self.flush_all();
    }
}

/// Says a last word to a socket that is no connection's.
fn say(stream: TcpStream, poll: Poll, answer: Answer) {
    let Poll { headers, permit, .. } = poll;
    let answer = headers.into_iter().fold(answer, |answer, (name, value)| answer.with(name, value));
    tokio::task::spawn_local(async move {
        http::finish(&stream, &answer.encode()).await;
        drop(permit);
    });
}
