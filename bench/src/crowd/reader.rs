//! The thread of a crowd: connects, reads, and connects again.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use super::member::{Member, Outcome};
use super::{Count, Endpoint, Party, Shared, lock};
use crate::{clock, websocket};

/// Handshakes at once: more would only wait in the listener's queue.
const IN_FLIGHT: usize = 128;
/// Addresses of loopback that clients come from.
const SOURCES: u8 = 16;

struct Place {
    member: Member,
    stream: Option<TcpStream>,
}

pub struct Reader {
    endpoint: Endpoint,
    party: Party,
    shared: Arc<Shared>,
    poll: Poll,
    places: Vec<Place>,
    /// Who is to connect, and not before when.
    waiting: VecDeque<(Instant, usize)>,
    in_flight: usize,
    /// Connections begun so far.
    begun: u64,
}

impl Reader {
    pub fn new(endpoint: Endpoint, party: Party, shared: Arc<Shared>) -> io::Result<Self> {
        let member = || Member::new(endpoint.speech, party.count, party.come_back == Some(true));
        let places = (0..party.size).map(|_| Place { member: member(), stream: None }).collect();
        let now = Instant::now();
        let waiting = (0..party.size as usize).map(|n| (now, n)).collect();
        Ok(Self { endpoint, party, shared, poll: Poll::new()?, places, waiting, in_flight: 0, begun: 0 })
    }

    pub fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; websocket::READ];
        let mut batch = Batch::default();
        while !self.shared.stop.load(Ordering::SeqCst) {
            self.connect_those_due();
            let wait = Duration::from_millis(if self.waiting.is_empty() { 20 } else { 5 });
            if self.poll.poll(&mut events, Some(wait)).is_err() {
                continue;
            }
            for event in &events {
                self.read(event.token().0, &mut buffer, &mut batch);
            }
            batch.hand_over(&self.shared);
        }
    }

    fn connect_those_due(&mut self) {
        let now = Instant::now();
        while self.in_flight < IN_FLIGHT && self.waiting.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, n)) = self.waiting.pop_front() else { return };
            self.in_flight += 1;
            match self.connect(n) {
                Ok(stream) => self.places[n].stream = Some(stream),
                Err(_) => self.ended(n),
            }
        }
    }

    /// On loopback a connection is there at once, or not at all.
    fn connect(&mut self, n: usize) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let source = Ipv4Addr::new(127, 0, 1, 1 + (n % usize::from(SOURCES)) as u8);
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, self.endpoint.port));
        socket.connect_timeout(&server.into(), Duration::from_millis(500))?;
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(socket.into());
        self.begun += 1;
        let path = self.endpoint.path.replace("{n}", &format!("{:x}-{}", fastrand::u64(..), self.begun));
        let request = websocket::request(self.endpoint.port, &path, self.endpoint.protocol.as_deref());
        stream.write_all(request.as_bytes())?;
        self.poll.registry().register(&mut stream, Token(n), Interest::READABLE)?;
        Ok(stream)
    }

    fn read(&mut self, n: usize, buffer: &mut [u8], batch: &mut Batch) {
        loop {
            let Some(stream) = &mut self.places[n].stream else { return };
            match stream.read(buffer) {
                Ok(0) => return self.ended(n),
                Ok(size) => {
                    let now = clock::now();
                    let place = &mut self.places[n];
                    let was_connected = place.member.is_connected();
                    let outcome = place.member.take(&buffer[..size], self.party.hello.of(n));
                    if !was_connected && place.member.is_connected() {
                        self.in_flight -= 1;
                    }
                    batch.bytes += size as u64;
                    if self.heed(n, outcome, now, batch) {
                        return self.ended(n);
                    }
                    // Less than there was room for: no need to be told that there is no more.
                    if size < buffer.len() {
                        return;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.ended(n),
            }
        }
    }

    /// Returns whether the connection is over.
    fn heed(&mut self, n: usize, outcome: Outcome, now: u64, batch: &mut Batch) -> bool {
        batch.changes += outcome.changes;
        batch.live += u64::from(outcome.live);
        batch.copies += outcome.copies;
        batch.delays.extend(outcome.oldest.iter().map(|(mark, count)| (now.saturating_sub(*mark), *count)));
        if self.party.count == Count::Arrivals {
            batch.delays.extend(outcome.marks.iter().map(|mark| (now.saturating_sub(*mark), 1)));
            batch.arrivals.extend(outcome.marks.into_iter().map(|mark| (mark, now)));
        }
        if !outcome.answer.is_empty()
            && let Some(stream) = &mut self.places[n].stream
            && stream.write_all(&outcome.answer).is_err()
        {
            return true;
        }
        if let Some(refusal) = outcome.refusal {
            lock(&self.shared.refusal).get_or_insert(refusal);
            if self.party.come_back.is_none() {
                return true;
            }
        }
        outcome.ended
    }

    fn ended(&mut self, n: usize) {
        let place = &mut self.places[n];
        if !place.member.is_connected() {
            self.in_flight -= 1;
        }
        place.stream = None;
        if self.party.come_back.is_none() {
            self.shared.closed.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if place.member.is_live() {
            self.shared.live.fetch_sub(1, Ordering::SeqCst);
        }
        place.member.reset();
        // Spread, as clients do who do not want to come back all at once.
        self.waiting.push_back((Instant::now() + Duration::from_millis(fastrand::u64(20..120)), n));
    }
}

/// What one round of reading has found, handed over together.
#[derive(Default)]
struct Batch {
    changes: u64,
    bytes: u64,
    live: u64,
    copies: u64,
    arrivals: Vec<(u64, u64)>,
    delays: Vec<(u64, u64)>,
}

impl Batch {
    fn hand_over(&mut self, shared: &Shared) {
        if !self.arrivals.is_empty() {
            lock(&shared.arrivals).append(&mut self.arrivals);
        }
        if !self.delays.is_empty() {
            let mut delays = lock(&shared.delays);
            for (delay, count) in self.delays.drain(..) {
                delays.saturating_record_n(delay, count);
            }
        }
        shared.bytes.fetch_add(std::mem::take(&mut self.bytes), Ordering::Relaxed);
        shared.count.fetch_add(std::mem::take(&mut self.changes), Ordering::SeqCst);
        shared.copies.fetch_add(std::mem::take(&mut self.copies), Ordering::SeqCst);
        shared.live.fetch_add(std::mem::take(&mut self.live), Ordering::SeqCst);
    }
}
