//! What a connection's messages travel over: a WebSocket, an endless answer of events, or the answers to polls.
//!
//! Decides how whatever is no message of the contract looks in each: the beginning, a sign of life, the end. How messages
//! are framed is the queue's; what a client says by requests is [`crate::requests`]'. I/O threads.

use crate::frame::{Form, OutFrame};
use crate::http::answer::{Header, head};
use rte_protocol::wire::CloseCode;
use serde_json::json;
use std::fmt;
use tokio::net::TcpStream;

/// How messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    WebSocket,
    /// Server-sent events, and requests for what the client says.
    Events,
    /// Long-poll, and requests likewise.
    Poll,
}

impl Transport {
    /// The name that views show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Events => "events",
            Self::Poll => "poll",
        }
    }
}

/// A connection's way to its client.
#[derive(Debug)]
pub enum Wire {
    /// One socket, both ways.
    WebSocket(TcpStream),
    /// The socket of the answer.
    Events(TcpStream),
    /// Each poll brings its own socket.
    Poll,
}

impl Wire {
    pub const fn transport(&self) -> Transport {
        match self {
            Self::WebSocket(_) => Transport::WebSocket,
            Self::Events(_) => Transport::Events,
            Self::Poll => Transport::Poll,
        }
    }

    /// The socket that the queue is written to at any time.
    pub const fn stream(&self) -> Option<&TcpStream> {
        match self {
            Self::WebSocket(stream) | Self::Events(stream) => Some(stream),
            Self::Poll => None,
        }
    }

    /// How the queue has its messages.
    pub const fn form(&self) -> Form {
        match self {
            Self::WebSocket(_) => Form::Frame,
            Self::Events(_) => Form::Event,
            Self::Poll => Form::Bare,
        }
    }
}

/// Names a connection that its client speaks to by requests, and is all that it takes to speak as it: 128 bits of chance, but
/// that the remainder by the number of I/O threads says in which one it lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(u128);

impl ConnectionId {
    /// A new one of this thread.
    ///
    /// # Errors
    /// Where the system has no chance to give.
    pub fn new((thread, threads): (u64, u64)) -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        let chance = u128::from_ne_bytes(bytes);
        // At the upper end the remainder may not fit: down instead.
        let base = (chance - chance % u128::from(threads)).min(u128::MAX - u128::from(threads));
        Ok(Self(base - base % u128::from(threads) + u128::from(thread)))
    }

    /// Reads what a request says.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| u128::from_str_radix(text, 16).ok().map(Self)).flatten()
    }

    /// The thread that it would live in.
    pub fn thread(self, threads: usize) -> usize {
        usize::try_from(self.0 % threads as u128).unwrap_or_default()
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// It is a secret.
impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionId")
    }
}

/// What the client of a new connection is told.
pub fn opened(id: ConnectionId, heartbeat_ms: u64) -> String {
    json!({"connection": id.to_string(), "heartbeat_ms": heartbeat_ms}).to_string()
}

/// The beginning of an answer of events.
pub fn begin_events(headers: &[Header], id: ConnectionId, heartbeat_ms: u64) -> OutFrame {
    let mut begin = head(200, "text/event-stream", headers, None);
    begin += &format!("event: open\ndata: {}\n\n", opened(id, heartbeat_ms));
    OutFrame::raw(begin.into())
}

/// Headers that keep what is between from collecting events, or from compressing them, which comes to the same.
pub const UNBUFFERED: [(&str, &str); 2] = [("Cache-Control", "no-store, no-transform"), ("X-Accel-Buffering", "no")];

/// A sign of life between events.
pub fn event_heartbeat() -> OutFrame {
    OutFrame::raw((&b":\n\n"[..]).into())
}

/// The last event.
pub fn close_event(code: CloseCode) -> OutFrame {
    OutFrame::raw(format!("event: close\ndata: {}\n\n", close_json(code)).into())
}

/// How the end is told where there are no close frames.
pub fn close_json(code: CloseCode) -> String {
    json!({"code": code.code(), "reason": reason(code)}).to_string()
}

const fn reason(code: CloseCode) -> &'static str {
    match code {
        CloseCode::Normal => "closed",
        CloseCode::GoingAway => "the server stops",
        CloseCode::Restart => "the server restarts",
        CloseCode::TryAgainLater => "not ready or too busy",
        CloseCode::Protocol => "the protocol was broken",
        CloseCode::Unauthorized => "the token is missing, wrong or expired",
        CloseCode::Forbidden => "not allowed",
        CloseCode::NoSuchTenant => "no such tenant",
        CloseCode::Timeout => "nothing was heard in time",
        CloseCode::SlowConsumer => "too slow a consumer",
        CloseCode::FrameTooLarge => "a message was too large",
        CloseCode::TooMany => "too many messages or wrong tokens",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_chance_and_says_its_thread() {
        for threads in [1, 2, 3, 7, 64] {
            for thread in 0..threads {
                let (a, b) = (ConnectionId::new((thread, threads)), ConnectionId::new((thread, threads)));
                let (a, b) = (a.expect("id"), b.expect("id"));
                assert_ne!(a, b);
                assert_eq!(a.thread(threads as usize) as u64, thread);
                assert_eq!(ConnectionId::parse(&a.to_string()), Some(a));
            }
        }
    }

    #[test]
    fn an_id_is_written_in_one_way() {
        let id = "00000000000000000000000000000abc";
        assert_eq!(ConnectionId::parse(id), Some(ConnectionId(0xabc)));
        for text in ["", "abc", &id[1..], &id.to_uppercase(), &format!("+{}", &id[1..]), &format!("{id}0"), "é"] {
            assert_eq!(ConnectionId::parse(text), None, "{text}");
        }
        assert_eq!(format!("{:?}", ConnectionId(1)), "ConnectionId");
    }
}
