//! What the machine gives without anybody's product: a loop that only writes bytes to sockets, a commit, a NOTIFY.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use postgres::fallible_iterator::FallibleIterator;
use rte_testkit::Cluster;
use serde::Deserialize;

use crate::clock;
use crate::crowd::{Count, Crowd, Endpoint, Hello, Party, Speech, no_delays};
use crate::load::ms;
use crate::peer::{end_with_parent, free_port, ready};
use crate::process::cpu_seconds;
use crate::results::{Case, Found, grouped};
use crate::rig;
use crate::say;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    clients: Vec<u64>,
    /// Changes that go out in one write.
    in_a_write: Vec<u64>,
    /// Changes a second of a light load, each to everybody in a write of its own.
    light: u64,
    /// Bytes of a change.
    bytes: usize,
    seconds: f64,
    /// Commits and notifications that are timed.
    commits: u64,
    rounds: usize,
}

pub fn run(sizes: &Sizes, found: &mut Found) -> Result<(), String> {
    for &clients in &sizes.clients {
        for &in_a_write in &sizes.in_a_write {
            let changes = if in_a_write == 1 { "1 change".to_owned() } else { format!("{in_a_write} changes") };
            let case = Case::new(format!("{} clients, {changes} in a write", grouped(clients)), in_a_write as f64);
            for _ in 0..sizes.rounds {
                writes(sizes, [clients, in_a_write, 0], &case, found)?;
            }
        }
        let case = Case::new(format!("{} clients, {} changes a second", grouped(clients), sizes.light), 0.0);
        for _ in 0..sizes.rounds {
            writes(sizes, [clients, 1, sizes.light], &case, found)?;
        }
    }
    let cluster = rig::plain(&[]);
    rig::create_feed(&mut cluster.sql(), 100);
    for _ in 0..sizes.rounds {
        commits(&cluster, sizes.commits, found)?;
        notifications(&cluster, sizes.commits, found)?;
    }
    Ok(())
}

/// A process that writes to so many clients, so many changes in a write, so often a second (0: at full speed).
fn writes(sizes: &Sizes, numbers: [u64; 3], case: &Case, found: &mut Found) -> Result<(), String> {
    let [clients, in_a_write, a_second] = numbers;
    let port = free_port();
    let mut command = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
    command
        .args(["serve", "limit"])
        .args([u64::from(port), clients, in_a_write, sizes.bytes as u64, a_second].map(|n| n.to_string()));
    let writer = Writer(ready(command)?);
    let endpoint = Endpoint { port, path: "/".into(), protocol: None, speech: Speech::Frames };
    let crowd = Crowd::join(&endpoint, Party::new(clients, Count::Frames, Hello::Nothing))?;
    std::thread::sleep(Duration::from_millis(300));
    let pid = writer.0.id() as i32;
    let (before, cpu, start) = (crowd.count(), cpu_seconds(pid), Instant::now());
    std::thread::sleep(Duration::from_secs_f64(sizes.seconds));
    let (count, cpu, took) = (crowd.count() - before, cpu_seconds(pid) - cpu, start.elapsed().as_secs_f64());
    found.record("epoll", case, "per_s", count as f64 / took);
    found.record("epoll", case, "cpu", cpu * 1e6 / count as f64);
    say(&format!("limits: {}: {:.0} deliveries/s", case.name, count as f64 / took));
    Ok(())
}

struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One session that commits one row after the other.
fn commits(cluster: &Cluster, count: u64, found: &mut Found) -> Result<(), String> {
    let mut sql = cluster.sql();
    let update = sql.prepare("UPDATE feed SET body = $1 WHERE id = $2").map_err(|e| e.to_string())?;
    let mut delays = no_delays();
    for _ in 0..count {
        let sent = clock::mark();
        sql.execute(&update, &[&rig::body(sent), &fastrand::i32(1..=100)]).map_err(|e| e.to_string())?;
        delays.saturating_record(clock::now().saturating_sub(sent));
    }
    let case = Case::new("a commit of one row, until it is acknowledged", 0.0);
    found.record("bare", &case, "p50", ms(&delays, 0.5));
    found.record("bare", &case, "p99", ms(&delays, 0.99));
    Ok(())
}

/// From the acknowledgement of a NOTIFY until a session that listens has it.
fn notifications(cluster: &Cluster, count: u64, found: &mut Found) -> Result<(), String> {
    let failed = |e: postgres::Error| e.to_string();
    let (mut heard, mut sql) = (cluster.sql(), cluster.sql());
    heard.run("LISTEN bench_limit");
    let mut delays = no_delays();
    for _ in 0..count {
        let acknowledged = std::thread::scope(|scope| {
            let send = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(1));
                let sent = sql.batch_execute("NOTIFY bench_limit, 'x'");
                sent.map(|()| clock::now())
            });
            let mut notifications = heard.notifications();
            let came = notifications.timeout_iter(Duration::from_secs(5)).next().map_err(failed)?;
            let at = clock::now();
            let acknowledged = send.join().map_err(|_| "the sender panicked")?.map_err(failed)?;
            came.ok_or("a notification did not come")?;
            Ok::<_, String>(at.saturating_sub(acknowledged))
        })?;
        delays.saturating_record(acknowledged);
    }
    let case = Case::new("NOTIFY, from its acknowledgement to a session that listens", 0.0);
    found.record("bare", &case, "p50", ms(&delays, 0.5));
    found.record("bare", &case, "p99", ms(&delays, 0.99));
    Ok(())
}

/// What `serve limit` does: waits for so many clients, then writes to all of them for as long as it lives. One thread, one
/// epoll, and nothing that a loop does not need.
///
/// # Panics
/// The arguments or the sockets are not as they should be.
pub fn serve(arguments: &[String]) {
    end_with_parent();
    let numbers: Vec<u64> = arguments.iter().map(|a| a.parse().expect("a number")).collect();
    let &[port, clients, in_a_write, bytes, a_second] = numbers.as_slice() else {
        panic!("serve limit wants five numbers")
    };
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port as u16));
    let mut listener = TcpListener::bind(address).expect("a port");
    let mut poll = Poll::new().expect("epoll");
    let all = Token(usize::MAX);
    poll.registry().register(&mut listener, all, Interest::READABLE).expect("epoll");
    println!("ready");
    let mut streams = Vec::new();
    let mut events = Events::with_capacity(1024);
    while streams.len() < clients as usize {
        poll.poll(&mut events, None).expect("epoll");
        while let Ok((mut stream, _)) = listener.accept() {
            stream.set_nodelay(true).expect("a socket");
            shake_hands(&mut stream);
            streams.push(stream);
        }
    }
    let payload = payload(in_a_write, bytes as usize);
    if a_second == 0 {
        write_forever(poll, streams, &payload);
    } else {
        write_at_times(streams, &payload, Duration::from_secs(1) / a_second as u32);
    }
}

fn shake_hands(stream: &mut TcpStream) {
    let mut request = [0; 1024];
    loop {
        match stream.read(&mut request) {
            Ok(_) => break,
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(e) => panic!("{e}"),
        }
    }
    stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").expect("a socket takes its first bytes");
}

/// So many frames of so many bytes each.
fn payload(in_a_write: u64, bytes: usize) -> Vec<u8> {
    let mut frame = vec![0x81, 126];
    frame.extend((bytes as u16).to_be_bytes());
    frame.resize(bytes + 4, b'x');
    frame.repeat(in_a_write as usize)
}

/// All get them at once, again and again after a pause, in which their sockets drain.
fn write_at_times(mut streams: Vec<TcpStream>, payload: &[u8], pause: Duration) {
    let mut next = Instant::now();
    loop {
        next += pause;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        for stream in &mut streams {
            if stream.write_all(payload).is_err() {
                return;
            }
        }
    }
}

/// Whoever can take bytes gets them, in turns.
fn write_forever(mut poll: Poll, mut streams: Vec<TcpStream>, payload: &[u8]) {
    let mut sent = vec![0; streams.len()];
    for (n, stream) in streams.iter_mut().enumerate() {
        poll.registry().register(stream, Token(n), Interest::WRITABLE).expect("epoll");
    }
    let mut events = Events::with_capacity(1024);
    let mut able: VecDeque<usize> = (0..streams.len()).collect();
    let mut is_able = vec![true; streams.len()];
    loop {
        // Each that can take more gets one write; then those are asked for that could not.
        for _ in 0..able.len() {
            let Some(n) = able.pop_front() else { break };
            match streams[n].write(&payload[sent[n]..]) {
                Ok(size) => {
                    sent[n] = (sent[n] + size) % payload.len();
                    able.push_back(n);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => is_able[n] = false,
                Err(_) => return,
            }
        }
        let wait = if able.is_empty() { None } else { Some(Duration::ZERO) };
        poll.poll(&mut events, wait).expect("epoll");
        for n in events.iter().map(|event| event.token().0) {
            if is_able.get(n) == Some(&false) {
                is_able[n] = true;
                able.push_back(n);
            }
        }
    }
}
