//! Many clients in one thread that reads as cheaply as can be, so that the load generator takes little from
//! the two cores that it shares with what it measures.
//!
//! It knows a change when it sees one, by its bytes, and never parses JSON.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use memchr::{memchr_iter, memmem};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rte_testkit::wait_until;

use crate::websocket::{self, Frame, Frames};

/// How a mark looks in a row: an at sign and eight digits.
pub fn mark(number: u64) -> String {
    format!("@{number:08}")
}

/// What counts as a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Marks, and with `true` the time when each has come.
    Marks(bool),
    /// Changes of `rte.v1`.
    Changes,
    /// Frames, of a server that sends one per change.
    Frames,
}

/// Whom the crowd speaks to.
#[derive(Clone, Copy)]
pub enum Server<'a> {
    /// Whagons: subscribe to a table; what has come counts from its commit.
    Ours { table: &'a str },
    /// Whagons, with a `hello` of its own for each client.
    Each { hello: &'a dyn Fn(usize) -> String },
    /// Frames come without asking and count at once.
    Peer,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    live: AtomicU64,
    count: AtomicU64,
    bytes: AtomicU64,
    closed: AtomicU64,
    arrivals: Mutex<Vec<(u64, Instant)>>,
}

/// Connected clients and the thread that reads them.
pub struct Crowd {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    pub size: u64,
}

struct Member {
    stream: TcpStream,
    frames: Frames,
    ours: bool,
    /// The snapshot has come, and the commit from which it counts.
    done: bool,
    live: bool,
    /// Of the tick that has not been committed yet.
    marks: Vec<u64>,
    changes: u64,
}

impl Crowd {
    /// Connects clients and waits until they are live.
    pub fn join(port: u16, size: u64, server: Server, count: Count) -> Self {
        let shared = Arc::<Shared>::default();
        let poll = Poll::new().expect("epoll");
        let hello = |n: usize| match server {
            Server::Ours { table } => {
                Some(format!(r#"{{"type":"hello","subscriptions":[{{"id":"1","table":"{table}"}}]}}"#))
            }
            Server::Each { hello } => Some(hello(n)),
            Server::Peer => None,
        };
        let ours = !matches!(server, Server::Peer);
        let mut members = HashMap::new();
        for n in 0..size as usize {
            let mut stream = websocket::connect(port).expect("a connection");
            if let Some(hello) = hello(n) {
                stream.write_all(&websocket::frame(1, hello.as_bytes())).expect("hello");
            }
            stream.set_nonblocking(true).expect("a socket that does not block");
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(n), Interest::READABLE).expect("epoll");
            let live = !ours;
            let member =
                Member { stream, frames: Frames::default(), ours, done: live, live, marks: Vec::new(), changes: 0 };
            members.insert(Token(n), member);
        }
        if !ours {
            shared.live.store(size, Ordering::SeqCst);
        }
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || read(poll, members, count, &theirs));
        let crowd = Self { shared, thread: Some(thread), size };
        wait_until("the clients are live", || {
            assert_eq!(crowd.closed(), 0, "no client is closed");
            (crowd.shared.live.load(Ordering::SeqCst) == size).then_some(())
        });
        crowd
    }

    /// Changes that have come, over all clients.
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::SeqCst)
    }

    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }

    /// Connections that the server has ended.
    pub fn closed(&self) -> u64 {
        self.shared.closed.load(Ordering::SeqCst)
    }

    /// Waits until this many changes have come in all, and tells whether they have.
    pub fn wait_count(&self, goal: u64, patience: Duration) -> bool {
        rte_testkit::within(patience, || (self.count() >= goal || self.closed() > 0).then_some(())).is_some()
            && self.count() >= goal
    }

    /// The marks and when each came, since the last call.
    pub fn take_arrivals(&self) -> Vec<(u64, Instant)> {
        std::mem::take(&mut self.shared.arrivals.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read(mut poll: Poll, mut members: HashMap<Token, Member>, count: Count, shared: &Shared) {
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; websocket::READ];
    let mut arrivals = Vec::new();
    while !shared.stop.load(Ordering::SeqCst) {
        if poll.poll(&mut events, Some(Duration::from_millis(20))).is_err() {
            continue;
        }
        let mut changes = 0;
        for event in &events {
            let Some(member) = members.get_mut(&event.token()) else { continue };
            loop {
                match member.stream.read(&mut buffer) {
                    Ok(0) => break ended(&mut members, event.token(), shared),
                    Ok(size) => {
                        let now = Instant::now();
                        shared.bytes.fetch_add(size as u64, Ordering::Relaxed);
                        changes += member.take(&buffer[..size], now, count, &mut arrivals, shared);
                        // Less than there was room for: no need to be told that there is no more.
                        if size < buffer.len() {
                            break;
                        }
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break ended(&mut members, event.token(), shared),
                }
            }
        }
        if !arrivals.is_empty() {
            shared.arrivals.lock().unwrap_or_else(PoisonError::into_inner).append(&mut arrivals);
        }
        shared.count.fetch_add(changes, Ordering::SeqCst);
    }
}

fn ended(members: &mut HashMap<Token, Member>, token: Token, shared: &Shared) {
    members.remove(&token);
    shared.closed.fetch_add(1, Ordering::SeqCst);
}

impl Member {
    /// Takes what was read and returns the number of changes that count now.
    fn take(
        &mut self,
        piece: &[u8],
        now: Instant,
        count: Count,
        arrivals: &mut Vec<(u64, Instant)>,
        shared: &Shared,
    ) -> u64 {
        let mut frames = std::mem::take(&mut self.frames);
        let mut counted = 0;
        frames.take(piece, |frame| match frame {
            Frame::Text(text) if self.ours && !text.starts_with(br#"{"type":"changes""#) => {
                if text.starts_with(br#"{"type":"commit""#) {
                    counted += self.commit(now, arrivals, shared);
                } else if text.starts_with(br#"{"type":"snapshot""#) {
                    self.done |= memmem::find(&text[text.len().saturating_sub(64)..], br#""done":true"#).is_some()
                        || memmem::find(&text[..text.len().min(64)], br#""done":true"#).is_some();
                } else if text.starts_with(br#"{"type":"error""#) {
                    panic!("the server answers {}", String::from_utf8_lossy(text));
                }
            }
            Frame::Text(text) => {
                match count {
                    Count::Marks(false) => self.changes += memchr_iter(b'@', text).count() as u64,
                    Count::Marks(true) => self.marks.extend(memchr_iter(b'@', text).filter_map(|at| number(text, at))),
                    Count::Changes => self.changes += memmem::find_iter(text, br#"{"op":"#).count() as u64,
                    Count::Frames => self.changes += 1,
                }
                if !self.ours {
                    counted += self.commit(now, arrivals, shared);
                }
            }
            Frame::Ping(payload) => {
                let _ = self.stream.write(&websocket::frame(10, payload));
            }
            Frame::Close(_) => {}
        });
        self.frames = frames;
        counted
    }

    fn commit(&mut self, now: Instant, arrivals: &mut Vec<(u64, Instant)>, shared: &Shared) -> u64 {
        if self.done && !self.live {
            self.live = true;
            shared.live.fetch_add(1, Ordering::SeqCst);
        }
        let count = std::mem::take(&mut self.changes) + self.marks.len() as u64;
        arrivals.extend(self.marks.drain(..).map(|mark| (mark, now)));
        count
    }
}

fn number(text: &[u8], at: usize) -> Option<u64> {
    std::str::from_utf8(text.get(at + 1..at + 9)?).ok()?.parse().ok()
}
