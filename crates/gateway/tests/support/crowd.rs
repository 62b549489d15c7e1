//! Many clients that do nothing but take what comes, in a process of their own where they are thousands, and the feeder
//! that lets them all in.

use super::{Feeder, send_frame};
use rte_protocol::bridge::{FromFeeder, SessionId, ToFeeder};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const REQUEST: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Protocol: rte.v1\r\n\r\n";
const HELLO: &[u8] = br#"{"type":"hello","subscriptions":[{"id":"a","table":"t"}]}"#;

/// What the process of a crowd is started with: port, clients, times to come.
const CROWD: &str = "RTE_CROWD";

/// A socket that has asked to be let in.
pub fn connect(port: u16) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    // The upgrade, and a text frame that is masked with zeros.
    let hello = [REQUEST.as_bytes(), &[0x81, 0x80 | HELLO.len() as u8, 0, 0, 0, 0], HELLO].concat();
    stream.write_all(&hello)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Reads what comes to these sockets until all are closed, without looking at it. Allocates nothing.
pub fn drain(mut streams: Vec<TcpStream>) {
    let mut buffer = vec![0; 1 << 16];
    while !streams.is_empty() {
        let mut idle = true;
        streams.retain_mut(|s| match s.read(&mut buffer) {
            Ok(0) => false,
            Ok(_) => {
                idle = false;
                true
            }
            Err(e) => e.kind() == std::io::ErrorKind::WouldBlock,
        });
        if idle {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Starts this test's own program anew as a crowd.
pub fn process(port: u16, clients: usize, times: usize) -> Child {
    Command::new(std::env::current_exe().expect("program"))
        .args(["crowd", "--ignored", "--exact", "--nocapture"])
        .env(CROWD, format!("{port} {clients} {times}"))
        .stdin(Stdio::null())
        .spawn()
        .expect("crowd")
}

/// What that program does then: comes so often as it is closed, all at once, and reads until then.
pub fn run() {
    let Ok(order) = std::env::var(CROWD) else { return };
    let numbers: Vec<usize> = order.split(' ').map(|n| n.parse().expect("number")).collect();
    let [port, clients, times] = numbers[..] else { panic!("{order}") };
    for _ in 0..times {
        let mut streams = Vec::with_capacity(clients);
        while streams.len() < clients {
            match connect(port as u16) {
                Ok(stream) => streams.push(stream),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        drain(streams);
    }
}

impl Feeder {
    /// Lets so many sessions in, each with one live subscription on shape 1; answers how long it took from the first.
    pub fn let_in(&mut self, count: usize) -> Duration {
        let mut start = None;
        for _ in 0..count {
            let opened = self.until(|m| matches!(m, ToFeeder::Open { .. }));
            start.get_or_insert_with(Instant::now);
            let ToFeeder::Open { session, subscriptions, .. } = opened else { unreachable!() };
            self.welcome(session, &subscriptions[0].id);
        }
        start.map(|start| start.elapsed()).unwrap_or_default()
    }

    fn welcome(&mut self, session: SessionId, id: &str) {
        let (role, tables) = ("web".into(), vec![]);
        self.send(&FromFeeder::Opened { session, role, tables, monitor: false, expires_in_ms: None });
        self.subscribed(session, id, 1, true);
        let head = FromFeeder::CatchUp {
            sessions: vec![session],
            frames: vec![],
            cursor: "c".into(),
            time: "t".into(),
            last: true,
        };
        send_frame(&mut self.stream, &head, &[]);
    }
}
