//! A client without WebSockets: server-sent events or long-poll, and requests.

use super::{Gateway, PATIENCE, Seen};
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};

/// An answer that was read to its end.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn read(mut stream: impl Read) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("read");
        let at = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("{bytes:?}"));
        let head = String::from_utf8(bytes[..at].to_vec()).expect("head");
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("status");
        Self { status, head, body: bytes[at + 4..].to_vec() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

pub fn request(gateway: &Gateway, method: &str, path: &str, headers: &str, body: &str) -> Response {
    let mut stream = gateway.tcp();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).expect("write");
    stream.write_all(body.as_bytes()).expect("write");
    Response::read(stream)
}

/// How messages come.
pub enum Down {
    Events(BufReader<TcpStream>),
    Poll(VecDeque<Seen>),
}

pub struct HttpClient {
    port: u16,
    pub id: String,
    pub n: u64,
    /// The number of the next poll.
    pub polls: Cell<u64>,
    pub down: Down,
    /// Events that were no messages: comments.
    pub heartbeats: u32,
}

impl HttpClient {
    pub fn events(gateway: &Gateway) -> Self {
        Self::events_at(gateway, "/events", "")
    }

    pub fn events_at(gateway: &Gateway, path: &str, headers: &str) -> Self {
        let mut stream = gateway.tcp();
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).expect("write");
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).expect("status");
        assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
        let mut head = String::new();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).expect("head");
            head += &line;
        }
        assert!(head.contains("Content-Type: text/event-stream"), "{head}");
        let down = Down::Events(reader);
        let mut client = Self { port: gateway.port, id: String::new(), n: 0, polls: Cell::new(0), down, heartbeats: 0 };
        let (kind, data) = client.event().expect("open");
        assert_eq!(kind, "open");
        client.opened(&serde_json::from_str(&data).expect("json"));
        client
    }

    pub fn poll(gateway: &Gateway) -> Self {
        Self::poll_at(gateway, "/poll", "")
    }

    pub fn poll_at(gateway: &Gateway, path: &str, headers: &str) -> Self {
        let opened = request(gateway, "POST", path, headers, "");
        assert_eq!(opened.status, 200, "{opened:?}");
        let down = Down::Poll(VecDeque::new());
        let mut client = Self { port: gateway.port, id: String::new(), n: 0, polls: Cell::new(0), down, heartbeats: 0 };
        client.opened(&opened.json());
        client
    }

    fn opened(&mut self, opened: &Value) {
        self.id = opened["connection"].as_str().expect("connection").to_owned();
        assert!(self.id.len() == 32 && self.id.bytes().all(|b| b.is_ascii_hexdigit()), "{}", self.id);
        assert!(opened["heartbeat_ms"].is_u64(), "{opened}");
    }

    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        stream
    }

    /// An event that is no comment: its kind and its data.
    fn event(&mut self) -> Option<(String, String)> {
        let Down::Events(reader) = &mut self.down else { panic!("no events") };
        let (mut kind, mut data) = (String::new(), Vec::new());
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    panic!("nothing came")
                }
                Err(_) => return None,
            }
            let line = line.strip_suffix('\n').expect("a whole line");
            assert!(!line.contains('\r'), "{line:?}");
            match line.split_once(':') {
                None if line.is_empty() && kind.is_empty() && data.is_empty() => {}
                None if line.is_empty() => return Some((kind, data.join("\n"))),
                Some(("", _)) => self.heartbeats += 1,
                Some(("event", value)) => value.trim_start().clone_into(&mut kind),
                Some(("data", value)) => data.push(value.strip_prefix(' ').expect("a space").to_owned()),
                _ => panic!("{line:?}"),
            }
        }
    }

    /// One poll.
    pub fn ask(&self) -> Response {
        Response::read(self.begin_poll())
    }

    pub fn ask_as(&self, n: u64) -> Response {
        Response::read(self.begin_poll_as(n))
    }

    /// Begins a poll and does not wait for its answer.
    pub fn begin_poll(&self) -> TcpStream {
        let n = self.polls.get();
        self.polls.set(n + 1);
        self.begin_poll_as(n)
    }

    pub fn begin_poll_as(&self, n: u64) -> TcpStream {
        let mut stream = self.tcp();
        let head = format!("GET /poll?connection={}&n={n} HTTP/1.1\r\nHost: localhost\r\n\r\n", self.id);
        stream.write_all(head.as_bytes()).expect("write");
        stream
    }

    /// Two polls of the same number: one of them ends the other, which the first answer is of; then it waits.
    pub fn two_polls(&self) -> Receiver<Response> {
        let (answer, answers) = channel();
        let n = self.polls.get();
        self.polls.set(n + 1);
        for stream in [self.begin_poll_as(n), self.begin_poll_as(n)] {
            let answer = answer.clone();
            std::thread::spawn(move || answer.send(Response::read(stream)));
        }
        let first = answers.recv().expect("answer");
        assert_eq!((first.status, first.json()), (200, json!({"messages": []})));
        answers
    }

    pub fn send(&mut self, message: &Value) {
        self.send_all(&[message.to_string()]);
    }

    pub fn send_all(&mut self, messages: &[String]) {
        let posted = self.post(self.n, &messages.join("\n"));
        assert_eq!((posted.status, posted.body.len()), (204, 0), "{posted:?}");
        self.n += 1;
    }

    pub fn post(&self, n: u64, body: &str) -> Response {
        post(self.port, &self.id, n, body)
    }

    pub fn hello(&mut self, subscriptions: &[&str]) {
        let subscriptions: Vec<Value> = subscriptions.iter().map(|id| json!({"id": id, "table": "t"})).collect();
        self.send(&json!({"type": "hello", "subscriptions": subscriptions}));
    }

    pub fn see(&mut self) -> Seen {
        if let Down::Events(_) = self.down {
            let message = |data: &str| serde_json::from_str::<Value>(data).expect("json");
            return match self.event() {
                None => Seen::Gone,
                Some((kind, data)) if kind.is_empty() => Seen::Message(message(&data)),
                Some((kind, data)) => {
                    assert_eq!(kind, "close");
                    closed(&message(&data))
                }
            };
        }
        loop {
            if let Down::Poll(seen) = &mut self.down
                && let Some(seen) = seen.pop_front()
            {
                return seen;
            }
            let answer = self.ask();
            if answer.status == 404 {
                return Seen::Gone;
            }
            assert_eq!(answer.status, 200, "{answer:?}");
            let mut answer = answer.json();
            let Value::Array(messages) = answer["messages"].take() else { panic!("{answer}") };
            let Down::Poll(seen) = &mut self.down else { unreachable!() };
            seen.extend(messages.into_iter().map(Seen::Message));
            if answer.get("close").is_some() {
                seen.push_back(closed(&answer["close"]));
            }
        }
    }

    pub fn next(&mut self) -> Value {
        match self.see() {
            Seen::Message(m) => m,
            other => panic!("{other:?}"),
        }
    }

    pub fn expect(&mut self, kind: &str) -> Value {
        let message = self.next();
        assert_eq!(message["type"], kind, "{message}");
        message
    }

    /// Drops messages until the connection is closed; answers the code.
    pub fn closed(&mut self) -> u16 {
        loop {
            match self.see() {
                Seen::Message(_) => {}
                Seen::Closed(code) => return code,
                Seen::Gone => return 0,
            }
        }
    }
}

fn closed(close: &Value) -> Seen {
    assert!(close["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{close}");
    Seen::Closed(u16::try_from(close["code"].as_u64().expect("code")).expect("code"))
}

pub fn post(port: u16, id: &str, n: u64, body: &str) -> Response {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
    let head = format!(
        "POST /send?connection={id}&n={n} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).expect("write");
    Response::read(stream)
}
