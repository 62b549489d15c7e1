//! Compressed WebSocket messages: who gets them, what clients may send so, and what becomes of bad ones.

mod support;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use support::{Gateway, one_live};

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// A client that reads and writes frames by itself.
struct Raw {
    stream: TcpStream,
    /// The head of the handshake's answer.
    head: String,
}

impl Raw {
    fn connect(gateway: &Gateway, extensions: &str) -> Self {
        let mut stream = gateway.tcp();
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: rte.v1\r\n{extensions}\r\n"
        );
        stream.write_all(request.as_bytes()).expect("write");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("head");
            head.push(byte[0]);
        }
        Self { stream, head: String::from_utf8(head).expect("text") }
    }

    fn send(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first];
        match payload.len() {
            len @ 0..126 => frame.push(0x80 | len as u8),
            len @ 126..0x1_0000 => {
                frame.push(0xfe);
                frame.extend((len as u16).to_be_bytes());
            }
            len => {
                frame.push(0xff);
                frame.extend((len as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame).expect("send");
    }

    fn send_deflated(&mut self, text: &str) {
        self.send(0xc1, &deflate(text.as_bytes()));
    }

    /// The first byte of the next frame, and its payload.
    fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; 2];
        self.stream.read_exact(&mut header).expect("frame");
        let len = match header[1] {
            126 => {
                let mut len = [0; 2];
                self.stream.read_exact(&mut len).expect("length");
                usize::from(u16::from_be_bytes(len))
            }
            127 => {
                let mut len = [0; 8];
                self.stream.read_exact(&mut len).expect("length");
                u64::from_be_bytes(len) as usize
            }
            len => usize::from(len),
        };
        let mut payload = vec![0; len];
        self.stream.read_exact(&mut payload).expect("payload");
        (header[0], payload)
    }

    /// The next message of this type, and the bytes that it took where it was compressed.
    fn expect(&mut self, kind: &str) -> (Value, Option<usize>) {
        let (first, payload) = self.frame();
        let (text, deflated) = match first {
            0x81 => (payload, None),
            0xc1 => (inflate(&payload), Some(payload.len())),
            other => panic!("{other:x}"),
        };
        let message: Value = serde_json::from_slice(&text).expect("json");
        assert_eq!(message["type"], kind, "{message}");
        (message, deflated)
    }

    /// The code of a close frame; messages before it are dropped.
    fn closed(&mut self) -> u16 {
        loop {
            if let (0x88, payload) = self.frame() {
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    }
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 1024);
    Compress::new(Compression::default(), false).compress_vec(bytes, &mut out, FlushCompress::Sync).expect("deflate");
    out.truncate(out.len() - TAIL.len());
    out
}

fn inflate(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 << 20);
    let input = [payload, &TAIL].concat();
    Decompress::new(false).decompress_vec(&input, &mut out, FlushDecompress::Sync).expect("inflate");
    out
}

fn rows(count: usize) -> Vec<Value> {
    (0..count).map(|n| json!({"op": "insert", "row": [n, format!("item {n}")]})).collect()
}

#[test]
fn large_messages_are_compressed_for_whom_it_was_agreed_with_and_are_the_same_for_all() {
    let gateway = Gateway::start();
    let (mut feeder, mut plain, _) = one_live(&gateway);
    let mut clients: Vec<Raw> = (0..4).map(|_| Raw::connect(&gateway, OFFER)).collect();
    for client in &mut clients {
        let answer =
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n";
        assert!(client.head.contains(answer), "{}", client.head);
        // What a client says may be compressed, too.
        client.send_deflated(r#"{"type":"hello","subscriptions":[{"id":"a","table":"t"}]}"#);
        let (session, ids) = feeder.open();
        assert_eq!(client.expect("welcome").1, None);
        feeder.subscribed(session, &ids[0], 1, true);
        client.expect("subscribed");
        feeder.catch_up(&[session], &[], "c10", true);
        client.expect("commit");
    }
    for (xmax, count) in [(11, 1), (12, 1000), (13, 1), (14, 20_000)] {
        feeder.changes(&[(1, Value::Array(rows(count)))]);
        feeder.commit(xmax);
        let message = plain.expect("changes");
        plain.expect("commit");
        let length = message.to_string().len();
        for client in &mut clients {
            let (seen, deflated) = client.expect("changes");
            assert_eq!(seen, message);
            assert_eq!(deflated.is_some(), count > 1);
            assert!(deflated.is_none_or(|bytes| bytes < length / 2), "{deflated:?} of {length}");
            assert_eq!(client.expect("commit").1, None);
        }
    }
}

#[test]
fn a_snapshot_is_compressed_around_rows_that_others_get_too() {
    let gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    let mut worker = gateway.worker();
    let mut clients = Vec::new();
    for (number, id) in ["one", "other"].into_iter().enumerate() {
        let mut client = Raw::connect(&gateway, OFFER);
        client.send(0x81, json!({"type": "hello", "subscriptions": [{"id": id, "table": "t"}]}).to_string().as_bytes());
        let (session, ids) = feeder.open();
        feeder.subscribed(session, &ids[0], 1, false);
        feeder.job(number as u64, session, &[&ids[0]]);
        let job = worker.take();
        worker.begin(job, 10);
        let rows: Value = (0..2000).map(|n| json!([n, format!("row {n}")])).collect();
        worker.rows(job, 0, &rows, true);
        worker.send(&rte_protocol::bridge::FromWorker::End { job });
        client.expect("welcome");
        client.expect("subscribed");
        let (snapshot, deflated) = client.expect("snapshot");
        assert_eq!((&snapshot["id"], &snapshot["rows"]), (&json!(id), &rows));
        assert!(deflated.is_some());
        clients.push(client);
    }
}

#[test]
fn what_is_compressed_without_agreement_or_wrongly_breaks_the_protocol() {
    let gateway = Gateway::start();
    let hello = deflate(br#"{"type":"ping"}"#);
    for extensions in [
        "",
        "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n",
        "Sec-WebSocket-Extensions: =;,\"\r\n",
    ] {
        let mut client = Raw::connect(&gateway, extensions);
        assert!(!client.head.contains("Extensions"), "{}", client.head);
        client.send(0xc1, &hello);
        assert_eq!(client.closed(), 4400);
    }
    for (first, payload) in [
        (0xc1, &b"no deflate at all"[..]),
        (0xc1, &[0xff; 40]),
        (0xc1, &deflate(b"\xff\xfe no text")),
        (0xc0, &hello),
        (0xc9, b""),
        (0xe1, &hello),
    ] {
        let mut client = Raw::connect(&gateway, OFFER);
        client.send(first, payload);
        assert_eq!(client.closed(), 4400, "{first:x}");
    }
    // What is compressed as agreed and no message of the contract is answered as ever.
    let mut client = Raw::connect(&gateway, OFFER);
    client.send_deflated("[]");
    assert_eq!(client.expect("error").0["code"], "BAD_MESSAGE");
}

#[test]
fn a_message_that_would_fill_memory_is_too_large() {
    let gateway = Gateway::start();
    let mut client = Raw::connect(&gateway, OFFER);
    let bomb = deflate(&vec![b' '; 64 * 1024 + 1]);
    assert!(bomb.len() < 200);
    client.send(0xc1, &bomb);
    assert_eq!(client.closed(), 4413);
    let mut client = Raw::connect(&gateway, OFFER);
    client.send(0xc1, &deflate(&vec![b' '; 64 * 1024]));
    assert_eq!(client.expect("error").0["code"], "BAD_MESSAGE");
}

#[test]
fn nothing_is_agreed_to_where_compression_is_off() {
    let gateway = Gateway::with(|c| c.compression_level = 0);
    assert!(!Raw::connect(&gateway, OFFER).head.contains("Extensions"));
}

#[test]
fn compression_that_is_turned_off_leaves_connections_as_they_are() {
    let mut gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    let mut client = Raw::connect(&gateway, OFFER);
    let mut config = gateway.config.clone();
    config.compression_level = 0;
    gateway.order(&rte_protocol::bridge::ToGateway::Reload { config: Box::new(config) });
    gateway.wait_for("the reload", |g| !Raw::connect(g, OFFER).head.contains("Extensions"));
    client.send_deflated(r#"{"type":"hello","subscriptions":[{"id":"a","table":"t"}]}"#);
    let (session, ids) = feeder.open();
    client.expect("welcome");
    feeder.subscribed(session, &ids[0], 1, true);
    client.expect("subscribed");
    feeder.catch_up(&[session], &[], "c10", true);
    client.expect("commit");
    feeder.changes(&[(1, Value::Array(rows(100)))]);
    feeder.commit(11);
    // Each thread hears of the reload by itself.
    let _ = client.expect("changes");
}

/// A client as applications have it: compresses what it sends, and prints what it gets.
const NODE: &str = r#"
const [, library, port, hello] = process.argv;
const ws = new (require(library))(`ws://127.0.0.1:${port}/ws`, "rte.v1", { perMessageDeflate: { threshold: 0 } });
const say = (line) => process.stdout.write(`${line}\n`);
ws.on("open", () => { say(JSON.stringify({ type: "open", extensions: ws.extensions })); ws.send(hello); });
ws.on("message", (data) => say(data.toString()));
ws.on("close", (code) => say(JSON.stringify({ type: "close", code })));
"#;

#[test]
fn the_library_of_node_understands_what_was_agreed_to() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let library = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../client/node_modules/ws");
    if !library.exists() {
        println!("not run: {} is not installed", library.display());
        return;
    }
    let gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    let subscriptions = [json!({"id": "a", "table": "t", "where": "x".repeat(2000)})];
    let hello = json!({"type": "hello", "subscriptions": subscriptions}).to_string();
    let mut node = Command::new("node")
        .args(["-e", NODE])
        .arg(library)
        .args([gateway.port.to_string(), hello])
        .stdout(Stdio::piped())
        .spawn()
        .expect("node");
    let mut lines = BufReader::new(node.stdout.take().expect("output")).lines();
    let mut expect = |kind: &str| {
        let line = lines.next().expect("a line").expect("text");
        let message: Value = serde_json::from_str(&line).expect("json");
        assert_eq!(message["type"], kind, "{message}");
        message
    };
    assert_eq!(expect("open")["extensions"], "permessage-deflate");
    let (session, ids) = feeder.open();
    expect("welcome");
    feeder.subscribed(session, &ids[0], 1, true);
    expect("subscribed");
    feeder.catch_up(&[session], &[], "c10", true);
    expect("commit");
    for (xmax, count) in [(11, 1), (12, 1000), (13, 30_000), (14, 2)] {
        feeder.changes(&[(1, Value::Array(rows(count)))]);
        feeder.commit(xmax);
        assert_eq!(expect("changes")["changes"], Value::Array(rows(count)));
        expect("commit");
    }
    drop(gateway);
    assert_eq!(expect("close")["code"], 1012);
    assert!(node.wait().expect("end").success());
}
