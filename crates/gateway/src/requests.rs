//! The side of a connection that its client speaks to by requests: what it posts, in its order, and the polls that wait for
//! messages.
//!
//! Decides which request is the next one, and what goes into the answer of a poll; what lines mean is the hub's.
//! Invariant: a request is carried out once, whole and in order, or the connection has ended; messages leave in one answer
//! each. I/O threads only.

use crate::event::Poll;
use crate::frame::OutFrame;
use crate::http::{
    self,
    answer::{Header, head},
};
use crate::limits::Permit;
use crate::queue::{OutQueue, Written};
use crate::websocket::Incoming;
use crate::wire::{ConnectionId, close_json};
use rte_protocol::wire::CloseCode;
use std::io;
use std::time::Instant;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Messages in one answer, about. Larger ones would be parsed in one piece by the client.
const ANSWER: usize = 1 << 20;

/// What became of a `POST /send`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// Carried out, now or before.
    Done,
    /// It is not the next one, or the one before it is still carried out.
    NotNext,
    /// There is no such connection, or not any more.
    Unknown,
}

/// A connection's requests.
#[derive(Debug)]
pub struct Requests {
    pub id: ConnectionId,
    /// The number of the next request.
    next: u64,
    lines: Lines,
    /// Who waits for the request to be carried out.
    pending: Option<oneshot::Sender<Posted>>,
    pub poller: Option<Poller>,
    /// The number of the next poll, where they have numbers.
    next_poll: u64,
    /// When a poll last waited.
    pub unpolled: Instant,
    /// The connection is closed so, once its messages are through.
    pub close: Option<CloseCode>,
}

impl Requests {
    pub fn new(id: ConnectionId, now: Instant) -> Self {
        let lines = Lines::default();
        Self { id, next: 0, lines, pending: None, poller: None, next_poll: 0, unpolled: now, close: None }
    }

    /// A request with this number. Answers whether there is something new to be carried out; who posted hears of it then.
    pub fn take(&mut self, n: u64, body: Vec<u8>, reply: oneshot::Sender<Posted>) -> bool {
        if n == self.next && self.pending.is_none() {
            self.next += 1;
            self.lines = Lines::new(body);
            self.pending = Some(reply);
            return true;
        }
        let repeated = self.next.checked_sub(1) == Some(n);
        match &mut self.pending {
            // The first has lost its answer, or it would not have come again.
            Some(pending) if repeated => {
                let _ = std::mem::replace(pending, reply).send(Posted::NotNext);
            }
            _ => {
                let _ = reply.send(if repeated { Posted::Done } else { Posted::NotNext });
            }
        }
        false
    }

    /// The next message of the request that is carried out. After the last one who posted it is told.
    pub fn next_line(&mut self) -> Option<Incoming> {
        let line = self.lines.next();
        if line.is_none() {
            self.lines = Lines::default();
            self.tell(Posted::Done);
        }
        line
    }

    /// Whether a request is not carried out wholly.
    pub fn is_busy(&self) -> bool {
        self.pending.is_some()
    }

    /// Nothing more is carried out: the connection is closed, and says why by its own way.
    pub fn stop(&mut self, close: CloseCode) {
        self.close = Some(close);
        self.lines = Lines::default();
        self.tell(Posted::Done);
    }

    fn tell(&mut self, posted: Posted) {
        if let Some(pending) = self.pending.take() {
            let _ = pending.send(posted);
        }
    }

    /// Whether a poll of this number may wait for messages: the next one, or that which waits already, come again. One that was
    /// answered and comes again (what is between repeats requests whose answers it has lost) must not get what follows the
    /// answer that was lost.
    pub fn admits_poll(&mut self, n: Option<u64>) -> bool {
        let waits = self.poller.as_ref().is_some_and(|p| !p.answering);
        match n {
            _ if self.is_answering() => false,
            None => true,
            Some(n) if n == self.next_poll => {
                self.next_poll += 1;
                true
            }
            Some(n) => waits && self.next_poll.checked_sub(1) == Some(n),
        }
    }

    /// The poll that waited has gone, with nothing sent to it: it may come again.
    pub fn lose_poll(&mut self, now: Instant) {
        if self.poller.take().is_some_and(|p| p.numbered) {
            self.next_poll = self.next_poll.saturating_sub(1);
        }
        self.unpolled = now;
    }

    /// Whether messages are being written to a poll.
    pub fn is_answering(&self) -> bool {
        self.poller.as_ref().is_some_and(|p| p.answering)
    }

    /// Whether a part of a snapshot or a catch-up is among them.
    pub fn has_paced(&self) -> bool {
        self.poller.as_ref().is_some_and(|p| p.out.has_paced())
    }

    /// Writes messages to the poll that waits, where there are both, or an answer without any where it is to wait no longer.
    pub fn answer(&mut self, queue: &mut OutQueue, now: Instant) -> Option<Answered> {
        let poller = self.poller.as_mut()?;
        if !poller.answering {
            if queue.is_empty() && self.close.is_none() && !poller.asked {
                return None;
            }
            poller.begin(queue, self.close);
        }
        let written = poller.out.write_to(&poller.stream);
        let mut over = false;
        if written.as_ref().is_ok_and(|w| !w.blocked) {
            over = poller.last;
            self.poller = None;
            self.unpolled = now;
        }
        Some(Answered { written, over })
    }
}

/// What an answer to a poll came to.
#[derive(Debug)]
pub struct Answered {
    pub written: io::Result<Written>,
    /// The client knows of the end.
    pub over: bool,
}

/// A poll.
#[derive(Debug)]
pub struct Poller {
    pub stream: TcpStream,
    headers: Vec<Header>,
    pub since: Instant,
    numbered: bool,
    /// It is to be answered even if there is nothing to say.
    pub asked: bool,
    answering: bool,
    /// The answer says that the connection is closed.
    last: bool,
    out: OutQueue,
    _permit: Permit,
}

impl Poller {
    pub fn new(stream: TcpStream, poll: Poll, now: Instant) -> Self {
        let (out, numbered) = (OutQueue::default(), poll.n.is_some());
        let Poll { headers, permit, .. } = poll;
        Self {
            stream,
            headers,
            since: now,
            numbered,
            asked: false,
            answering: false,
            last: false,
            out,
            _permit: permit,
        }
    }

    /// Answers it without messages, because another one waits in its place. By itself: a socket that has just come takes nothing
    /// yet, and would be dropped unanswered.
    pub async fn dismiss(self) {
        let body = "{\"messages\":[]}";
        let answer = head(200, "application/json", &self.headers, Some(body.len())) + body;
        http::finish(&self.stream, answer.as_bytes()).await;
    }

    fn begin(&mut self, queue: &mut OutQueue, close: Option<CloseCode>) {
        let mut messages = OutQueue::default();
        queue.take_into(&mut messages, ANSWER);
        let close = close.filter(|_| queue.is_empty());
        let before = "{\"messages\":[";
        let after = close.map_or_else(|| "]}".to_owned(), |code| format!("],\"close\":{}}}", close_json(code)));
        let length = before.len() + messages.total() + after.len();
        let head = head(200, "application/json", &self.headers, Some(length)) + before;
        self.out.push(OutFrame::raw(head.into()));
        self.out.append(messages);
        self.out.push(OutFrame::raw(after.into()));
        self.answering = true;
        self.last = close.is_some();
    }
}

/// The messages of a request's body: one JSON object a line.
#[derive(Debug, Default)]
struct Lines {
    body: Vec<u8>,
    at: usize,
}

impl Lines {
    fn new(body: Vec<u8>) -> Self {
        Self { body, at: 0 }
    }
}

impl Iterator for Lines {
    type Item = Incoming;

    fn next(&mut self) -> Option<Incoming> {
        while self.at < self.body.len() {
            let rest = &self.body[self.at..];
            let end = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
            self.at += end + 1;
            match std::str::from_utf8(&rest[..end]).map(str::trim) {
                Ok("") => {}
                Ok(text) => return Some(Incoming::Text(text.to_owned())),
                Err(_) => return Some(Incoming::Violation),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(body: &[u8]) -> Vec<String> {
        let text = |incoming| match incoming {
            Incoming::Text(text) => text,
            other => format!("{other:?}"),
        };
        Lines::new(body.to_vec()).map(text).collect()
    }

    #[test]
    fn each_line_is_a_message_whatever_ends_it() {
        assert_eq!(texts(b""), [""; 0]);
        assert_eq!(texts(b"\n\r\n \n"), [""; 0]);
        assert_eq!(texts(b"{\"a\":1}"), ["{\"a\":1}"]);
        assert_eq!(texts(b"{1}\n{2}\r\n\n{3}\n"), ["{1}", "{2}", "{3}"]);
        assert_eq!(texts(b"{1}\n\xff\n{2}"), ["{1}", "Violation", "{2}"]);
    }

    #[test]
    fn a_request_is_carried_out_once_and_in_order() {
        let mut requests = Requests::new(ConnectionId::new((0, 1)).expect("id"), Instant::now());
        let post = |requests: &mut Requests, n: u64| {
            let (reply, mut answer) = oneshot::channel();
            let new = requests.take(n, b"{}".to_vec(), reply);
            while new && requests.next_line().is_some() {}
            (new, answer.try_recv().ok())
        };
        for (n, expected) in [
            (1, (false, Some(Posted::NotNext))),
            (u64::MAX, (false, Some(Posted::NotNext))),
            (0, (true, Some(Posted::Done))),
            (0, (false, Some(Posted::Done))),
            (2, (false, Some(Posted::NotNext))),
            (1, (true, Some(Posted::Done))),
            (0, (false, Some(Posted::NotNext))),
            (1, (false, Some(Posted::Done))),
        ] {
            assert_eq!(post(&mut requests, n), expected, "{n}");
        }
        // While one is carried out the next one is too early, and its own repetition waits in its place.
        let (reply, mut first) = oneshot::channel();
        assert!(requests.take(2, b"{}\n{}".to_vec(), reply));
        assert!(requests.next_line().is_some() && requests.is_busy());
        assert_eq!(post(&mut requests, 3), (false, Some(Posted::NotNext)));
        assert_eq!(post(&mut requests, 2), (false, None));
        assert_eq!(first.try_recv().ok(), Some(Posted::NotNext));
        while requests.next_line().is_some() {}
        assert!(!requests.is_busy());
        assert_eq!(post(&mut requests, 3), (true, Some(Posted::Done)));
    }
}
