//! How many deliveries a second, and how late one is. Not a test: run it by hand, in release, on a quiet machine:
//! `cargo test --release -p rte-gateway --test load -- --ignored --nocapture`.

mod support;

use rte_protocol::bridge::{FromWorker, ToFeeder};
use serde_json::json;
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use support::{Gateway, Seen};

const CLIENTS: usize = 500;

#[test]
#[ignore = "a measurement"]
fn deliveries_per_second_and_latency() {
    deliver(|_| "a".to_owned());
}

#[test]
#[ignore = "a measurement"]
fn deliveries_where_no_two_cursors_are_the_same() {
    deliver(|n| format!("a{n}"));
}

/// `id`: of the subscription of each client, which its cursors name.
fn deliver(id: impl Fn(usize) -> String) {
    let gateway = Gateway::with(|c| {
        c.max_connections = 2_000;
        c.max_connections_per_address = 2_000;
        c.client_queue_bytes = 64 << 20;
        c.io_threads = 1;
    });
    let mut feeder = gateway.feeder();
    let mut worker = gateway.worker();
    let before = resident();
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let mut client = gateway.client();
        client.hello(&[&id(n)]);
        let (session, ids) = feeder.open();
        feeder.subscribed(session, &ids[0], 1, false);
        feeder.job(session, session, &[&ids[0]]);
        let job = worker.take();
        worker.begin(job, 10);
        worker.rows(job, 0, &json!([]), true);
        worker.send(&FromWorker::End { job });
        feeder.until(|m| *m == ToFeeder::NeedTick);
        feeder.commit(10);
        while client.next()["type"] != "commit" {}
        clients.push(client);
    }
    println!("about {} bytes a connection, both ends", (resident() - before) / CLIENTS);

    // Light load: one client waits for each tick.
    let mut first = clients.remove(0);
    let mut late: Vec<Duration> = Vec::new();
    let rest: Vec<_> = clients.iter().map(|c| c.socket.get_ref().try_clone().expect("clone")).collect();
    let drain = std::thread::spawn(move || drain(rest));
    for n in 0..500 {
        let start = Instant::now();
        feeder.tick(11 + n, 1, 1);
        while !matches!(first.see(), Seen::Message(m) if m["type"] == "commit") {}
        late.push(start.elapsed());
        std::thread::sleep(Duration::from_millis(2));
    }
    late.sort();
    println!("tick to first client, {CLIENTS} connected: p50 {:?} p99 {:?}", late[250], late[495]);

    let (start, from) = (Instant::now(), gateway.figure("deliveries_total"));
    let (writes, ticks) = (gateway.figure("writes_total"), 2_000);
    let text = "x".repeat(200);
    for n in 0..ticks {
        feeder.changes(&[(1, json!([{"op": "insert", "row": [n, text]}]))]);
        feeder.commit(1_000 + n);
    }
    let wanted = from + ticks * CLIENTS as u64;
    let own = std::thread::spawn(move || while !matches!(first.see(), Seen::Gone | Seen::Closed(_)) {});
    while gateway.figure("deliveries_total") < wanted {
        std::thread::sleep(Duration::from_millis(5));
    }
    let seconds = start.elapsed().as_secs_f64();
    let writes = gateway.figure("writes_total") - writes;
    println!("{:.0} deliveries/s in {writes} writes", (wanted - from) as f64 / seconds);
    drop(gateway);
    let _ = (own.join(), drain.join());
}

/// Reads what comes to these sockets until all are closed, without looking at it.
fn drain(mut streams: Vec<std::net::TcpStream>) {
    for stream in &streams {
        stream.set_nonblocking(true).expect("nonblocking");
    }
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

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|n| n.parse::<usize>().ok()).unwrap_or(0) * 4096
}

#[test]
#[ignore = "a measurement"]
fn memory_of_an_idle_connection() {
    const IDLE: usize = 400;
    let gateway = Gateway::with(|c| {
        c.max_connections = 2_000;
        c.max_connections_per_address = 2_000;
    });
    let mut feeder = gateway.feeder();
    let request = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Protocol: rte.v1\r\n\r\n";
    let hello = br#"{"type":"hello","subscriptions":[{"id":"a","table":"t"}]}"#;
    // A text frame, masked with zeros.
    let frame = [&[0x81, 0x80 | hello.len() as u8, 0, 0, 0, 0][..], hello].concat();
    let mut streams = Vec::new();
    let mut before = 0;
    for n in 0..IDLE * 2 {
        if n == IDLE {
            before = resident();
        }
        let mut stream = gateway.tcp();
        stream.write_all(request.as_bytes()).expect("write");
        stream.write_all(&frame).expect("write");
        let (session, ids) = feeder.open();
        feeder.subscribed(session, &ids[0], 1, true);
        feeder.catch_up(&[session], &[], "c", true);
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("\"commit\"") {
            let mut buffer = [0; 1024];
            let n = stream.read(&mut buffer).expect("read");
            seen.extend_from_slice(&buffer[..n]);
        }
        streams.push(stream);
    }
    println!("{} bytes an idle connection", (resident() - before) / IDLE);
}
