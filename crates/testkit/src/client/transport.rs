//! How a client's messages travel: a WebSocket, server-sent events, or long polls; the last two with requests for what the
//! client says. Each reads as a WebSocket does: messages, a close, then the end.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

use crate::wait::patience;

/// Which way a client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    #[default]
    WebSocket,
    Events,
    Poll,
}

/// An open way.
pub(super) enum Socket {
    WebSocket(Box<WebSocket<TcpStream>>),
    Http(Http),
}

impl Socket {
    /// Opens one. `token`: for the request's header.
    pub fn open(transport: Transport, port: u16, token: Option<&str>) -> Result<Self, String> {
        match transport {
            Transport::WebSocket => websocket(port, token).map(|socket| Self::WebSocket(Box::new(socket))),
            Transport::Events | Transport::Poll => Http::open(transport, port, token).map(Self::Http),
        }
    }

    pub fn send(&mut self, message: Message) {
        match self {
            // A broken connection shows at the next look.
            Self::WebSocket(socket) => drop(socket.send(message)),
            Self::Http(http) => match message {
                Message::Text(text) => http.post(text.as_str()),
                other => panic!("there is no way for {other:?} without a WebSocket"),
            },
        }
    }

    /// The next message, or what a WebSocket says where there is none within the time or at all.
    pub fn read(&mut self, limit: Duration) -> Result<Message, Error> {
        match self {
            Self::WebSocket(socket) => {
                let _ = socket.get_mut().set_read_timeout(Some(limit));
                socket.read()
            }
            Self::Http(http) => http.read(limit),
        }
    }
}

fn connect(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience()))?;
    stream.set_write_timeout(Some(patience()))?;
    Ok(stream)
}

fn websocket(port: u16, token: Option<&str>) -> Result<WebSocket<TcpStream>, String> {
    let stream = connect(port).map_err(|e| e.to_string())?;
    let mut request = format!("ws://127.0.0.1:{port}/ws").into_client_request().map_err(|e| e.to_string())?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("rte.v1"));
    if let Some(token) = token {
        let bearer = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|e| e.to_string())?;
        request.headers_mut().insert("Authorization", bearer);
    }
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let (socket, answer) =
        tungstenite::client::client_with_config(request, stream, Some(config)).map_err(|e| e.to_string())?;
    assert_eq!(
        answer.headers().get("Sec-WebSocket-Protocol").and_then(|h| h.to_str().ok()),
        Some("rte.v1"),
        "the answer to the handshake names the contract"
    );
    Ok(socket)
}

#[derive(Deserialize)]
struct Opened {
    connection: String,
    heartbeat_ms: u64,
}

#[derive(Deserialize)]
struct Close {
    code: u16,
    reason: String,
}

#[derive(Deserialize)]
struct Polled<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
    #[serde(default)]
    close: Option<Close>,
}

/// A connection whose client speaks by requests.
pub(super) struct Http {
    port: u16,
    opened: Opened,
    /// Numbers of the next request and the next poll.
    next: (u64, u64),
    last_post: Instant,
    /// The answer of events; of polls the one that is under way.
    answer: Option<Incoming>,
    events: bool,
    came: VecDeque<Message>,
    broken: bool,
}

/// An answer that is being read.
struct Incoming {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Incoming {
    fn begin(port: u16, request: &str) -> std::io::Result<Self> {
        let mut stream = connect(port)?;
        stream.write_all(request.as_bytes())?;
        Ok(Self { stream, bytes: Vec::new() })
    }

    /// Reads once; false at the end.
    fn read(&mut self, limit: Duration) -> std::io::Result<bool> {
        self.stream.set_read_timeout(Some(limit.max(Duration::from_millis(1))))?;
        let mut chunk = vec![0; 64 * 1024];
        let n = self.stream.read(&mut chunk)?;
        self.bytes.extend_from_slice(&chunk[..n]);
        Ok(n > 0)
    }

    /// Takes the text up to the next empty line, where it is whole.
    fn block(&mut self, end: &str) -> Option<String> {
        let at = self.bytes.windows(end.len()).position(|w| w == end.as_bytes())?;
        let rest = self.bytes.split_off(at + end.len());
        let mut block = std::mem::replace(&mut self.bytes, rest);
        block.truncate(at);
        Some(String::from_utf8(block).unwrap_or_else(|e| panic!("{e}")))
    }

    fn next_block(&mut self, end: &str) -> Result<String, String> {
        loop {
            if let Some(block) = self.block(end) {
                return Ok(block);
            }
            if !self.read(patience()).map_err(|e| e.to_string())? {
                return Err("the answer was cut".into());
            }
        }
    }

    /// The whole answer: status and body.
    fn whole(mut self) -> Result<(u16, Vec<u8>), String> {
        while self.read(patience()).map_err(|e| e.to_string())? {}
        self.parts()
    }

    fn parts(mut self) -> Result<(u16, Vec<u8>), String> {
        let head = self.block("\r\n\r\n").ok_or("the answer was cut")?;
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
        if length.is_some_and(|length| length != self.bytes.len()) {
            return Err("the answer was cut".into());
        }
        Ok((status(&head)?, self.bytes))
    }
}

fn status(head: &str) -> Result<u16, String> {
    head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| format!("no status: {head:?}"))
}

impl Http {
    fn open(transport: Transport, port: u16, token: Option<&str>) -> Result<Self, String> {
        let bearer = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let host = format!("Host: 127.0.0.1:{port}\r\n{bearer}");
        let events = transport == Transport::Events;
        let (opened, answer) = if events {
            let mut answer =
                Incoming::begin(port, &format!("GET /events HTTP/1.1\r\n{host}\r\n")).map_err(|e| e.to_string())?;
            let head = answer.next_block("\r\n\r\n")?;
            if status(&head)? != 200 {
                return Err(head);
            }
            let open = answer.next_block("\n\n")?;
            let data = open.strip_prefix("event: open\ndata: ").unwrap_or_else(|| panic!("not open: {open:?}"));
            (data.as_bytes().to_vec(), Some(answer))
        } else {
            let request = format!("POST /poll HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n");
            match Incoming::begin(port, &request).map_err(|e| e.to_string())?.whole()? {
                (200, body) => (body, None),
                (status, body) => return Err(format!("status {status}: {}", String::from_utf8_lossy(&body))),
            }
        };
        let opened = serde_json::from_slice(&opened).map_err(|e| e.to_string())?;
        let came = VecDeque::new();
        Ok(Self { port, opened, next: (0, 0), last_post: Instant::now(), answer, events, came, broken: false })
    }

    fn post(&mut self, text: &str) {
        let Opened { connection, .. } = &self.opened;
        let request = format!(
            "POST /send?connection={connection}&n={} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: text/plain\r\n\
             Content-Length: {}\r\n\r\n{text}",
            self.next.0,
            self.port,
            text.len()
        );
        self.next.0 += 1;
        self.last_post = Instant::now();
        let answer = Incoming::begin(self.port, &request).map_err(|e| e.to_string()).and_then(Incoming::whole);
        // What was lost the cursor cures: nothing is sent twice.
        self.broken |= !matches!(answer, Ok((204, _)));
    }

    fn read(&mut self, limit: Duration) -> Result<Message, Error> {
        if self.last_post.elapsed() > Duration::from_millis(self.opened.heartbeat_ms / 2) {
            self.post(r#"{"type":"ping"}"#);
        }
        if let Some(message) = self.came.pop_front() {
            return Ok(message);
        }
        let again = || Error::Io(ErrorKind::WouldBlock.into());
        let read = if self.events { self.read_events(limit) } else { self.read_poll(limit) };
        match read {
            // What it was told before counts, a close above all.
            Ok(()) => self.came.pop_front().ok_or_else(again),
            Err(e) if nothing_came(&e) && !self.broken => Err(again()),
            Err(e) => Err(Error::Io(if self.broken { ErrorKind::BrokenPipe.into() } else { e })),
        }
    }

    fn read_events(&mut self, limit: Duration) -> std::io::Result<()> {
        let Some(answer) = &mut self.answer else { return Err(ErrorKind::NotConnected.into()) };
        if !answer.read(limit)? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        while let Some(event) = answer.block("\n\n") {
            let (mut kind, mut data) = (None, Vec::new());
            for line in event.split('\n') {
                match line.split_once(": ") {
                    Some(("event", name)) => kind = Some(name),
                    Some(("data", text)) => data.push(text),
                    _ if line.starts_with(':') || line.is_empty() => {}
                    _ => panic!("not a line of an event: {line:?}"),
                }
            }
            match kind {
                None if data.is_empty() => {}
                None => self.came.push_back(Message::text(data.join("\n"))),
                Some("close") => self.came.push_back(close(serde_json::from_str(&data.join("\n"))?)),
                Some(other) => panic!("an event of an unknown kind {other:?}"),
            }
        }
        Ok(())
    }

    fn read_poll(&mut self, limit: Duration) -> std::io::Result<()> {
        let mut answer = match self.answer.take() {
            Some(answer) => answer,
            None => {
                let n = self.next.1;
                self.next.1 += 1;
                let (connection, port) = (&self.opened.connection, self.port);
                let target = format!("/poll?connection={connection}&n={n}");
                Incoming::begin(port, &format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"))?
            }
        };
        let end = Instant::now() + limit;
        loop {
            match answer.read(end.saturating_duration_since(Instant::now())) {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => {
                    if nothing_came(&e) {
                        self.answer = Some(answer);
                    }
                    return Err(e);
                }
            }
        }
        let (status, body) = answer.parts().map_err(std::io::Error::other)?;
        if status != 200 {
            return Err(std::io::Error::other(format!("status {status}")));
        }
        let polled: Polled = serde_json::from_slice(&body)?;
        self.came.extend(polled.messages.iter().map(|message| Message::text(message.get())));
        self.came.extend(polled.close.map(close));
        Ok(())
    }
}

/// Whether a read ended because its time was over, or because the process was stopped for a moment.
pub(super) fn nothing_came(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn close(close: Close) -> Message {
    Message::Close(Some(CloseFrame { code: close.code.into(), reason: close.reason.into() }))
}
