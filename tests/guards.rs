//! Whoever comes too often, too slowly, under a wrong name or with too much gets a defined answer, and costs nobody
//! else. `docs/SECURITY.md` names each guard with its setting.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use rte_testkit::{Client, Cluster, Response, Sql, alone, assert_equal, get, patience, request, rss_kb, wait_until};
use tungstenite::Message;

fn start(settings: &[(&str, &str)]) -> (Cluster, Sql) {
    let builder = settings.iter().fold(Cluster::builder(), |builder, (name, value)| builder.conf(name, value));
    let cluster = builder.ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    sql.run("INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 100) i");
    (cluster, sql)
}

fn connect(cluster: &Cluster) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", cluster.rte_port)).expect("connect");
    stream.set_read_timeout(Some(patience())).expect("time-out");
    stream.set_write_timeout(Some(patience())).expect("time-out");
    stream
}

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: rte.v1\r\n";

/// A connection that has upgraded, and the answer's head.
fn upgraded(cluster: &Cluster, headers: &str) -> (TcpStream, String) {
    let mut stream = connect(cluster);
    stream
        .write_all(format!("GET /ws HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}{headers}\r\n").as_bytes())
        .expect("head");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("the answer to the handshake");
        head.push(byte[0]);
    }
    (stream, String::from_utf8(head).expect("text"))
}

/// A masked text frame, the mask being zero.
fn frame(text: &str) -> Vec<u8> {
    let mut out = vec![0x81];
    match text.len() {
        len @ 0..126 => out.push(0x80 | len as u8),
        len => {
            out.push(0x80 | 126);
            out.extend_from_slice(&u16::try_from(len).expect("short").to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(text.as_bytes());
    out
}

/// Everything that the server still sends; none where it does not close.
fn rest(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        _ => Some(bytes),
    }
}

/// Whether the last of the bytes is a close frame with this code.
fn closes_with(bytes: &[u8], code: u16) -> bool {
    bytes.ends_with(&[&[0x88, 2][..], &code.to_be_bytes()].concat())
}

/// Sends a batch again and again while the server takes it, reading what it says, and answers how often it went and the
/// end of what came.
fn flood(mut stream: TcpStream, batch: &[u8], times: usize) -> (usize, Vec<u8>) {
    let mut reading = stream.try_clone().expect("clone");
    let reader = std::thread::spawn(move || {
        let mut tail = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = reading.read(&mut chunk) {
            tail.extend_from_slice(&chunk[..n]);
            let surplus = tail.len().saturating_sub(64 * 1024);
            tail.drain(..surplus);
        }
        tail
    });
    let mut sent = 0;
    while sent < times && stream.write_all(batch).is_ok() {
        sent += 1;
    }
    let _ = stream.shutdown(Shutdown::Write);
    (sent, reader.join().expect("reader"))
}

/// Memory that a process may write to, in KiB, used or not.
fn data_kb(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = text.lines().find_map(|l| l.strip_prefix("VmData:")).expect("VmData");
    line.trim().trim_end_matches(" kB").parse().expect("number")
}

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").count()
}

#[test]
fn a_million_subscribe_messages_end_in_4429_and_cost_nobody_anything() {
    let _alone = alone();
    let (cluster, mut sql) = start(&[]);
    let gateway = cluster.worker("gateway");
    let mut other = cluster.subscriber("other", &["t"]);
    let before = rss_kb(gateway);
    let (mut stream, _) = upgraded(&cluster, "");
    stream.write_all(&frame(r#"{"type":"hello"}"#)).expect("hello");
    let subscribe = |n: usize| frame(&format!(r#"{{"type":"subscribe","id":"s{n}","table":"t"}}"#));
    let batch: Vec<u8> = (0..1000).flat_map(subscribe).collect();
    let (sent, answers) = flood(stream, &batch, 1000);
    println!("{sent} thousand messages were sent; the gateway grew by {} KiB", rss_kb(gateway).saturating_sub(before));
    let text = String::from_utf8_lossy(&answers);
    assert!(text.contains("TOO_MANY_REQUESTS") && text.contains("rte.max_messages_per_second"), "{text}");
    assert!(closes_with(&answers, 4429));
    assert!(rss_kb(gateway).saturating_sub(before) < 64 * 1024);
    sql.run("UPDATE t SET v = 'meanwhile'");
    assert_equal(&mut sql, &mut other);
    other.assert_clean();
}

#[test]
fn pings_are_messages_too() {
    let (cluster, _sql) = start(&[("rte.max_messages_per_second", "50")]);
    let (stream, _) = upgraded(&cluster, "");
    let (_, answers) = flood(stream, &b"\x89\x80\0\0\0\0".repeat(1000), 100);
    assert!(closes_with(&answers, 4429), "{:?}", &answers[answers.len().saturating_sub(8)..]);
    // Who speaks within the bound is heard: 500 at once.
    let mut client = cluster.client("c");
    for _ in 0..400 {
        client.ping();
    }
    client.assert_clean();
}

#[test]
fn an_address_that_comes_too_often_is_told_so_and_may_come_again() {
    let (cluster, _sql) = start(&[]);
    cluster.conf("rte.max_handshakes_per_second", "20");
    cluster.reload();
    let refused = wait_until("a refusal", || get(cluster.rte_port, "/health").filter(|answer| answer.status != 200));
    assert_eq!(refused.status, 429);
    assert!(refused.head.contains("429 Too Many Requests") && refused.head.contains("Retry-After:"), "{refused:?}");
    // A WebSocket likewise, before it becomes one.
    let upgrade = format!("GET /ws HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n");
    let answer = wait_until("a refusal", || {
        let mut stream = connect(&cluster);
        stream.write_all(upgrade.as_bytes()).ok()?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).ok()?;
        (&head != b"HTTP/1.1 101").then_some(head)
    });
    assert_eq!(&answer, b"HTTP/1.1 429");
    wait_until("room again", || cluster.healthy().then_some(()));
}

#[test]
fn an_address_whose_tokens_are_wrong_is_not_asked_again() {
    let (cluster, mut sql) = start(&[("rte.max_failed_tokens", "3")]);
    let attempt = |token: &str| {
        let mut client = Client::new(cluster.rte_port, "guesser");
        client.options.token = Some(token.into());
        client.try_join().expect_err("a wrong token").code
    };
    for n in 0..3 {
        assert_eq!(attempt(&format!("guess.{n}.x")), Some(4401));
    }
    let mut guesser = Client::new(cluster.rte_port, "guesser");
    guesser.open().expect("open");
    guesser.send_raw(Message::text(r#"{"type":"hello","token":"guess.3.x"}"#));
    let answer = guesser.raw(patience()).map(|m| m.to_string()).unwrap_or_default();
    assert!(answer.contains("TOO_MANY_REQUESTS"), "{answer}");
    assert_eq!(guesser.wait_closed().code, Some(4429));
    // Who offers none is not held up by it.
    let mut client = cluster.subscriber("c", &["t"]);
    assert_equal(&mut sql, &mut client);
    // Nor is anybody once it is allowed.
    cluster.conf("rte.max_failed_tokens", "0");
    cluster.reload();
    wait_until("the feeder's own answer", || (attempt("guess.4.x") == Some(4401)).then_some(()));
}

/// The answer to a request for a host.
fn ask(cluster: &Cluster, host: &str, headers: &str) -> Response {
    let port = cluster.rte_port;
    let text = format!("GET /health HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", host.replace("PORT", &port.to_string()));
    request(port, &text).expect("an answer")
}

#[test]
fn a_name_that_was_bound_to_loopback_later_is_not_served() {
    let (cluster, _sql) = start(&[]);
    let own =
        ["localhost", "localhost:PORT", "LOCALHOST.", "a.localhost:PORT", "127.0.0.1:PORT", "127.8.9.1", "[::1]:PORT"];
    for host in own {
        assert_eq!(ask(&cluster, host, "").status, 200, "{host}");
    }
    let foreign =
        ["evil.example", "evil.example:PORT", "localhost.evil.example", "notlocalhost", "127.0.0.1.evil.example"];
    for host in foreign.into_iter().chain(["192.0.2.1", "[2001:db8::1]", "", "127.0.0.1@evil.example", "0.0.0.0"]) {
        let answer = ask(&cluster, host, "");
        assert_eq!(answer.status, 421, "{host:?}");
        assert!(answer.body.contains("rte.allowed_hosts"), "{answer:?}");
    }
    assert_eq!(ask(&cluster, "localhost\r\nHost: evil.example", "").status, 400);
    // The attack itself: the page's origin and the host agree, for both are the attacker's.
    let port = cluster.rte_port;
    let evil = format!("Host: evil.example:{port}\r\nOrigin: http://evil.example:{port}\r\n");
    for path in ["/ws", "/stats", "/metrics", "/"] {
        let answer = request(port, &format!("GET {path} HTTP/1.1\r\n{evil}{UPGRADE}\r\n")).expect("an answer");
        assert_eq!(answer.status, 421, "{path}");
    }
    // Behind it, the origin still counts.
    let foreign = format!("Host: localhost:{port}\r\nOrigin: http://evil.example\r\n{UPGRADE}");
    assert_eq!(request(port, &format!("GET /ws HTTP/1.1\r\n{foreign}\r\n")).map(|a| a.status), Some(403));
    let (_, head) = upgraded(&cluster, "Origin: http://localhost\r\n");
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
}

#[test]
fn hosts_that_are_allowed_are_served() {
    let (cluster, _sql) = start(&[("rte.allowed_hosts", "shop.example, *.tenants.example")]);
    for host in ["shop.example", "Shop.Example:443", "a.tenants.example", "a.b.tenants.example", "localhost"] {
        assert_eq!(ask(&cluster, host, "").status, 200, "{host}");
    }
    for host in ["tenants.example", "xtenants.example", ".tenants.example", "a.shop.example"] {
        assert_eq!(ask(&cluster, host, "").status, 421, "{host}");
    }
    cluster.conf("rte.allowed_hosts", "*");
    cluster.reload();
    wait_until("any host", || (ask(&cluster, "evil.example", "").status == 200).then_some(()));
    // Elsewhere than on loopback any name is right until names are given.
    let (cluster, _sql) = start(&[("rte.listen_addresses", "0.0.0.0")]);
    assert_eq!(ask(&cluster, "db.example", "").status, 200);
    cluster.conf("rte.allowed_hosts", "db.example");
    cluster.reload();
    wait_until("names count", || (ask(&cluster, "evil.example", "").status == 421).then_some(()));
    assert_eq!(ask(&cluster, "db.example", "").status, 200);
    assert_eq!(ask(&cluster, "localhost", "").status, 421);
}

#[test]
fn a_head_that_comes_byte_by_byte_ends_with_the_time_for_the_whole() {
    let (cluster, mut sql) = start(&[("rte.hello_timeout", "1s")]);
    let gateway = cluster.worker("gateway");
    let open = descriptors(gateway);
    let mut drips: Vec<TcpStream> = (0..200).map(|_| connect(&cluster)).collect();
    let start = Instant::now();
    wait_until("all are listened to", || (descriptors(gateway) >= open + drips.len()).then_some(()));
    while descriptors(gateway) > open {
        assert!(start.elapsed() < patience(), "some are still listened to");
        for drip in &mut drips {
            let _ = drip.write_all(b"X");
        }
    }
    println!("{} drips were cut after {:?}", drips.len(), start.elapsed());
    let mut client = cluster.subscriber("c", &["t"]);
    assert_equal(&mut sql, &mut client);
}

#[test]
fn who_was_refused_and_does_not_go_is_let_go() {
    let (cluster, _sql) = start(&[]);
    let gateway = cluster.worker("gateway");
    let open = descriptors(gateway);
    let mut stayers: Vec<TcpStream> = (0..20).map(|_| connect(&cluster)).collect();
    for (n, stayer) in stayers.iter_mut().enumerate() {
        let bad = if n % 2 == 0 { "nonsense\r\n\r\n" } else { "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n" };
        stayer.write_all(bad.as_bytes()).expect("write");
        let mut answer = [0; 10];
        stayer.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 4");
    }
    wait_until("the sockets are closed", || (descriptors(gateway) <= open).then_some(()));
}

#[test]
fn a_frame_of_50_mb_is_refused_by_its_header() {
    let (cluster, _sql) = start(&[]);
    let header = |len: u64| [&[0x81, 0xff][..], &len.to_be_bytes(), &[0; 4]].concat();
    let (mut stream, _) = upgraded(&cluster, "");
    stream.write_all(&header(50_000_000)).expect("header");
    assert!(closes_with(&rest(&mut stream).expect("the end"), 4413));
    // What is announced below the bound takes memory as it comes, not as it is announced.
    let gateway = cluster.worker("gateway");
    let before = data_kb(gateway);
    let waiting: Vec<TcpStream> = (0..200)
        .map(|_| {
            let (mut stream, _) = upgraded(&cluster, "");
            stream.write_all(&header(1_000_000)).expect("header");
            stream.write_all(b"{").expect("a byte");
            stream
        })
        .collect();
    // All of them have been read once later ones are answered.
    let _ = cluster.client("c");
    let grown = data_kb(gateway).saturating_sub(before);
    println!("{} announced megabytes: {grown} KiB", waiting.len());
    assert!(grown < 100 * 1024, "{grown} KiB");
}

#[test]
fn neither_compression_nor_fragments_make_much_of_little() {
    let (cluster, _sql) = start(&[]);
    // A frame that says that it is compressed, where nothing was agreed to.
    let (mut stream, _) = upgraded(&cluster, "");
    stream.write_all(&[0xc1, 0x80, 0, 0, 0, 0]).expect("frame");
    assert!(closes_with(&rest(&mut stream).expect("the end"), 4400));
    let gateway = cluster.worker("gateway");
    let before = rss_kb(gateway);
    // A space, and then copies of what is before, 258 at a time with two bits each: two megabytes.
    let mut bomb = b"\xec\xc1\x31\x01\0\0\0\xc2\xa0\x2a\xeb\x9f\xd2\x18\x3e\x40\x01".to_vec();
    bomb.resize(2048, 0);
    for _ in 0..100 {
        let (mut stream, head) = upgraded(&cluster, "Sec-WebSocket-Extensions: permessage-deflate\r\n");
        assert!(head.contains("permessage-deflate; server_no_context_takeover; client_no_context_takeover"), "{head}");
        let header = [&[0xc1, 0xfe][..], &(bomb.len() as u16).to_be_bytes(), &[0; 4]].concat();
        stream.write_all(&[header, bomb.clone()].concat()).expect("frame");
        let end = rest(&mut stream).expect("the end");
        assert!(closes_with(&end, 4413), "{end:?}");
    }
    assert!(rss_kb(gateway).saturating_sub(before) < 16 * 1024);
    // Fragments without end or content take no memory.
    let before = rss_kb(gateway);
    let (mut stream, _) = upgraded(&cluster, "");
    stream.write_all(&[0x01, 0x80, 0, 0, 0, 0]).expect("the first");
    let empty = [0x00, 0x80, 0, 0, 0, 0].repeat(10_000);
    for _ in 0..50 {
        stream.write_all(&empty).expect("fragments");
    }
    let mut client = cluster.client("c");
    client.ping();
    assert!(rss_kb(gateway).saturating_sub(before) < 16 * 1024);
}
