//! One connection: its way to the client, queue, session and clocks, and the task that waits for its socket.
//!
//! The task wakes for what the client sends, and for a socket that was full and takes bytes again; never for a
//! delivery, which the hub writes itself. I/O threads only.

use crate::directory::{FeederId, Home};
use crate::frame::OutFrame;
use crate::hub::Hub;
use crate::limits::Permit;
use crate::queue::OutQueue;
use crate::rate::Bucket;
use crate::requests::Requests;
use crate::websocket::WebSocketIn;
use crate::wire::Wire;
use rte_core::Held;
use rte_core::session::{Session, Tick};
use rte_protocol::bridge::{JobId, ShapeId};
use rte_protocol::wire::ClientInfo;
use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Instant, SystemTime};

/// What the request said before the first message.
#[derive(Debug, Default)]
pub struct UrlClaims {
    pub token: Option<String>,
    pub tenant: Option<String>,
}

/// A connection.
#[derive(Debug)]
pub struct Conn {
    /// Its place in the hub.
    pub slot: usize,
    pub peer: SocketAddr,
    pub wire: Wire,
    pub state: RefCell<ConnState>,
    pub connected_at: SystemTime,
    pub permit: Permit,
}

/// How a client speaks.
#[derive(Debug)]
pub enum Input {
    WebSocket {
        reader: WebSocketIn,
        /// What waits until the session's feeder is known.
        backlog: Vec<u8>,
    },
    Requests(Box<Requests>),
}

/// What changes in a connection's life.
#[derive(Debug)]
pub struct ConnState {
    pub session: Session<OutFrame>,
    pub queue: OutQueue,
    pub input: Input,
    pub claims: Option<Box<UrlClaims>>,
    /// How often it has spoken.
    pub messages: Bucket,
    /// A token was offered and not judged yet.
    pub token_offered: bool,
    /// Its feeder has not taken what is under way to it, so it is not read from.
    pub held_back: bool,
    pub feeder: Option<FeederId>,
    /// The tenant that `hello` asked for, until its feeder is found.
    pub wanted: Option<Box<str>>,
    /// The tenant and database that it belongs to, once they are known.
    pub home: Option<Home>,
    /// Shapes that it watches and its place among their members.
    pub watching: Vec<(ShapeId, u32)>,
    pub uuid: Box<str>,
    pub role: Box<str>,
    pub client: Option<Box<ClientInfo>>,
    pub sent_bytes: u64,
    /// Those of them that the figures of its database know.
    pub told_bytes: u64,
    pub sent_commits: u64,
    /// The last commit and what it said to be held.
    pub sent: Option<(Rc<Tick>, Rc<Held>)>,
    pub acked: Option<Box<str>>,
    /// A question about it that the query workers have, and since when.
    pub asking: Option<(JobId, Instant)>,
    /// The open tick has put frames into its queue.
    pub in_tick: bool,
    /// It is in the list of those that must see every commit.
    pub in_waiting: bool,
    /// It is in the list of those to be flushed.
    pub in_flush: bool,
    /// The socket was full at the last attempt.
    pub blocked: bool,
    /// Nothing is read: its answers are not drained, or its feeder is not known yet.
    pub paused: bool,
    /// A close frame is in the queue or sent; what comes in is dropped.
    pub closing: Option<Instant>,
    /// The writing half is shut.
    pub shut: bool,
    /// The task ends and removes the connection.
    pub ended: bool,
    pub waker: Option<Waker>,
    /// When it was accepted, or said hello.
    pub since: Instant,
    pub last_received: Instant,
    pub last_ping: Instant,
    pub last_commit: Instant,
    /// When the socket last took bytes, or the queue ceased to be empty.
    pub last_progress: Instant,
}

/// Why the task wakes.
enum Wake {
    Readable,
    Writable,
    /// A request of which a part waited may be gone on with.
    Request,
    Ended,
}

impl ConnState {
    pub fn wake(&mut self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// The client's requests, where it speaks by them.
    pub fn requests(&mut self) -> Option<&mut Requests> {
        match &mut self.input {
            Input::WebSocket { .. } => None,
            Input::Requests(requests) => Some(requests),
        }
    }
}

impl Conn {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Wake> {
        let mut state = self.state.borrow_mut();
        if !state.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        if state.ended {
            return Poll::Ready(Wake::Ended);
        }
        let requests = match &state.input {
            Input::WebSocket { .. } => None,
            Input::Requests(requests) => Some(requests),
        };
        let poller = requests.and_then(|r| r.poller.as_ref()).map(|p| &p.stream);
        if let Some(stream) = self.wire.stream().or(poller) {
            if state.blocked && stream.poll_write_ready(cx).is_ready() {
                return Poll::Ready(Wake::Writable);
            }
            // Where the client speaks by requests, all that is to be read is the end.
            if (!state.paused || requests.is_some()) && stream.poll_read_ready(cx).is_ready() {
                return Poll::Ready(Wake::Readable);
            }
        }
        if !state.paused && requests.is_some_and(|r| r.is_busy()) {
            return Poll::Ready(Wake::Request);
        }
        Poll::Pending
    }
}

/// Serves a connection until it ends.
pub async fn serve(hub: Rc<RefCell<Hub>>, conn: Rc<Conn>) {
    loop {
        match poll_fn(|cx| conn.poll(cx)).await {
            Wake::Readable => hub.borrow_mut().readable(&conn),
            Wake::Writable => hub.borrow_mut().writable(&conn),
            Wake::Request => hub.borrow_mut().go_on(&conn),
            Wake::Ended => break,
        }
    }
    hub.borrow_mut().remove(&conn);
}
