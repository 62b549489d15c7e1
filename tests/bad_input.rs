//! Whatever a client sends has a defined answer, and the server's memory stays bounded.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rte_testkit::{Client, Cluster, Sql, State, Step, alone, assert_equal, patience, rss_kb, wait_until};
use serde_json::json;
use tungstenite::Message;

fn start() -> (Cluster, Sql) {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    sql.run("INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 100) i");
    (cluster, sql)
}

#[test]
fn malformed_frames_get_an_error_and_the_connection_lives() {
    let (cluster, mut sql) = start();
    let mut client = cluster.subscriber("c", &["t"]);
    let deep = "[".repeat(100_000);
    let deep_field = format!(r#"{{"type":"ping","at":{}1{}}}"#, "[".repeat(5000), "]".repeat(5000));
    let long_id = format!(r#"{{"type":"subscribe","id":"{}","tabel":"t"}}"#, "x".repeat(100_000));
    for (text, code) in [
        ("", "BAD_MESSAGE"),
        ("null", "BAD_MESSAGE"),
        ("[]", "BAD_MESSAGE"),
        ("{", "BAD_MESSAGE"),
        ("{}", "BAD_MESSAGE"),
        ("}{", "BAD_MESSAGE"),
        (r#"{"type":5}"#, "BAD_MESSAGE"),
        (r#"{"type":null}"#, "BAD_MESSAGE"),
        (r#"{"type":"subscribe"}"#, "BAD_MESSAGE"),
        (r#"{"type":"subscribe","id":7,"table":"t"}"#, "BAD_MESSAGE"),
        (r#"{"type":"subscribe","id":"a","table":["t"]}"#, "BAD_MESSAGE"),
        (r#"{"type":"subscribe","id":"a","table":"t","columns":"id"}"#, "BAD_MESSAGE"),
        (r#"{"type":"subscribe","id":"\ud800","table":"t"}"#, "BAD_MESSAGE"),
        (r#"{"type":"unsubscribe"}"#, "BAD_MESSAGE"),
        (r#"{"type":"ack","cursor":5}"#, "BAD_MESSAGE"),
        ("{\"type\":\"ping\"}{\"type\":\"ping\"}", "BAD_MESSAGE"),
        (&deep, "BAD_MESSAGE"),
        (&deep_field, "BAD_MESSAGE"),
        (&long_id, "BAD_MESSAGE"),
        (r#"{"type":"nonsense","id":"x"}"#, "UNKNOWN_TYPE"),
        (r#"{"type":"HELLO"}"#, "UNKNOWN_TYPE"),
        (r#"{"type":"welcome"}"#, "UNKNOWN_TYPE"),
        (r#"{"type":"hello"}"#, "UNEXPECTED_MESSAGE"),
    ] {
        client.send_raw(Message::text(text));
        let error = client.wait_error(code);
        assert!(error.message.len() < 1000, "an error does not echo the frame");
    }
    client.ping();
    sql.run("UPDATE t SET v = 'after all that'");
    assert_equal(&mut sql, &mut client);
    assert!(client.errors.is_empty(), "one answer each: {:?}", client.errors);
}

#[test]
fn a_binary_frame_gets_an_error() {
    let (cluster, _sql) = start();
    let mut client = cluster.client("c");
    client.send_raw(Message::binary(vec![0_u8, 159, 255]));
    client.wait_error("BINARY_FRAME");
    match client.step(Duration::from_millis(200)) {
        Step::Closed(closed) => assert_eq!(closed.code, Some(4400)),
        _ => client.ping(),
    }
}

#[test]
fn an_oversized_frame_closes_with_4413() {
    let (cluster, mut sql) = start();
    let mut client = cluster.subscriber("c", &["t"]);
    let limit = client.welcome.as_ref().and_then(|w| w["limits"]["max_frame_bytes"].as_u64()).expect("limit") as usize;
    let padded = |len: usize| Message::text(format!(r#"{{"type":"ping","at":0{}}}"#, " ".repeat(len - 24)));
    client.send_raw(padded(limit - 100));
    client.wait_for("the pong", |c| !c.pongs.is_empty());
    client.send_raw(padded(limit + 100));
    assert_eq!(client.wait_closed().code, Some(4413));
    client.resume();
    assert_equal(&mut sql, &mut client);
    // The length in the header is enough; nobody waits for, or keeps, the bytes.
    let mut stream = upgraded(&cluster);
    stream.write_all(&[0x81, 0xff, 0, 0, 0, 0x7f, 0, 0, 0, 0, 1, 2, 3, 4]).expect("header");
    assert_eq!(close_code(&mut stream), Some(4413));
    // Many small fragments are one large message.
    let mut stream = upgraded(&cluster);
    let piece = vec![b' '; 60_000];
    for n in 0..=limit / piece.len() + 1 {
        let mut head = vec![u8::from(n == 0), 0x80 | 126];
        head.extend_from_slice(&60_000_u16.to_be_bytes());
        head.extend_from_slice(&[0; 4]);
        if stream.write_all(&head).and_then(|()| stream.write_all(&piece)).is_err() {
            break;
        }
    }
    assert!(matches!(close_code(&mut stream), Some(4413) | None));
}

#[test]
fn broken_websocket_frames_close_the_connection() {
    let (cluster, _sql) = start();
    for (frame, what) in [
        (&b"\x81\x05hello"[..], "not masked"),
        (b"\xf1\x80\0\0\0\0", "reserved bits"),
        (b"\x83\x80\0\0\0\0", "an unknown opcode"),
        (b"\x81\x82\0\0\0\0\xc3\x28", "text that is not UTF-8"),
        (b"\x09\x80\0\0\0\0", "a fragmented ping"),
        (b"\x80\x80\0\0\0\0", "a continuation of nothing"),
        (&[&b"\x89\xfe\x00\x80\0\0\0\0"[..], &[0; 128]].concat(), "a long ping"),
    ] {
        let mut stream = upgraded(&cluster);
        stream.write_all(frame).expect(what);
        let code = close_code(&mut stream);
        assert!(matches!(code, Some(1002 | 1007 | 4400) | None), "{what}: {code:?}");
    }
    assert!(cluster.healthy());
}

#[test]
fn hello_comes_first_and_in_time() {
    let cluster = Cluster::builder().conf("rte.hello_timeout", "1s").ready();
    let mut silent = Client::new(cluster.rte_port, "silent");
    silent.open().expect("open");
    let mut early = Client::new(cluster.rte_port, "early");
    early.open().expect("open");
    early.send(&json!({"type": "subscribe", "id": "a", "table": "kit_barrier"}));
    let answer = early.raw(patience()).map(|m| m.to_string()).unwrap_or_default();
    assert!(answer.contains("UNEXPECTED_MESSAGE"), "{answer}");
    let half = TcpStream::connect(("127.0.0.1", cluster.rte_port)).expect("connect");
    let mut drip = TcpStream::connect(("127.0.0.1", cluster.rte_port)).expect("connect");
    drip.write_all(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgr").expect("half a request");
    assert_eq!(silent.wait_closed().code, Some(4408));
    for mut stream in [half, drip] {
        stream.set_read_timeout(Some(patience())).expect("timeout");
        let mut bytes = Vec::new();
        assert!(!matches!(stream.read_to_end(&mut bytes), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock));
    }
    let _ = cluster.client("welcome all the same");
}

#[test]
fn half_open_handshakes_keep_nobody_out() {
    let (cluster, mut sql) = start();
    let gateway = cluster.worker("gateway");
    let before = rss_kb(gateway);
    let open: Vec<TcpStream> = (0..800)
        .filter_map(|n| {
            let mut stream = TcpStream::connect(("127.0.0.1", cluster.rte_port)).ok()?;
            if n % 2 == 0 {
                stream.write_all(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nX: ").ok()?;
            }
            Some(stream)
        })
        .collect();
    assert!(open.len() > 500);
    let mut client = cluster.subscriber("c", &["t"]);
    assert_equal(&mut sql, &mut client);
    let grown = rss_kb(gateway).saturating_sub(before);
    println!("{} half-open handshakes: gateway grew by {grown} KiB", open.len());
    assert!(grown < 64 * 1024, "{grown} KiB");
}

#[test]
fn http_nonsense_is_answered_or_closed() {
    let (cluster, _sql) = start();
    let huge = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(10_000));
    for text in [
        "\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "BREW /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET /missing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: x\r\n\r\n",
        "POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",
        &huge,
        &many,
    ] {
        let answer = rte_testkit::request(cluster.rte_port, text);
        let head: String = text.chars().take(40).collect();
        if let Some(answer) = answer {
            assert!((400..600).contains(&answer.status), "{head:?}: {answer:?}");
            assert!(!answer.body.contains("root:"), "{answer:?}");
        }
    }
    assert!(cluster.healthy());
}

#[test]
fn ten_thousand_subscriptions_have_an_answer_each() {
    let _alone = alone();
    let (cluster, mut sql) = start();
    let gateway = cluster.worker("gateway");
    let before = rss_kb(gateway);
    let mut client = cluster.client("c");
    let limit =
        client.welcome.as_ref().and_then(|w| w["limits"]["max_subscriptions"].as_u64()).expect("limit") as usize;
    client.subscribe_barrier();
    for n in 1..10_000 {
        client.subscribe(&format!("s{n}"), "t");
    }
    client.wait_for("all answers", |c| {
        c.copy.subscriptions.values().all(|s| matches!(s.state, State::Live | State::Ended))
    });
    let live = client.copy.subscriptions.values().filter(|s| s.state == State::Live).count();
    assert_eq!(live, limit);
    assert_eq!(client.errors.len(), 10_000 - limit);
    assert!(client.errors.iter().all(|e| e.code == "TOO_MANY_SUBSCRIPTIONS"));
    client.copy.subscriptions.retain(|_, s| s.state == State::Live);
    sql.run("UPDATE t SET v = 'to all'");
    assert_equal(&mut sql, &mut client);
    println!("gateway grew by {} KiB", rss_kb(gateway).saturating_sub(before));
    assert!(rss_kb(gateway).saturating_sub(before) < 64 * 1024);
}

#[test]
fn ten_thousand_subscriptions_work_where_they_are_allowed() {
    let _alone = alone();
    let cluster = Cluster::builder().conf("rte.max_subscriptions", "10000").ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    sql.run("INSERT INTO t VALUES (1, 'a')");
    let mut client = cluster.client("c");
    client.subscribe_barrier();
    let start = std::time::Instant::now();
    for n in 1..10_000 {
        client.subscribe(&format!("s{n}"), "t");
        if n % 1000 == 0 {
            client.wait_live();
        }
    }
    client.wait_live();
    println!("10,000 subscriptions one by one took {:?}", start.elapsed());
    sql.run("UPDATE t SET v = 'to all'");
    let mark = sql.barrier();
    client.wait_barrier(mark);
    assert!((1..10_000).all(|n| client.sub(&format!("s{n}")).value(&["1"], "v") == Some("\"to all\"")));
    client.resume();
    client.wait_live();
    client.assert_clean();
}

#[test]
fn a_cursor_that_is_not_ours_is_an_error_and_then_a_snapshot() {
    let (cluster, mut sql) = start();
    let mut client = cluster.subscriber("c", &["t"]);
    let good = client.copy.cursor.clone().expect("cursor");
    let other = Cluster::builder().fresh().ready();
    other.sql().table("t", "id int PRIMARY KEY, v text");
    let foreign = other.subscriber("foreign", &["t"]).copy.cursor.expect("cursor");
    let middle = good.len() / 2;
    let swapped: String = good[..middle].chars().rev().chain(good[middle..].chars()).collect();
    let forged = [
        foreign,
        good[..good.len() - 1].to_owned(),
        good[..middle].to_owned(),
        format!("{good}A"),
        swapped,
        String::new(),
        "A".repeat(60),
        "A".repeat(500_000),
        "\u{0}'; DROP TABLE t; --".to_owned(),
        "0/0".to_owned(),
        "10:20:".to_owned(),
    ];
    for (n, cursor) in forged.into_iter().enumerate() {
        let refused = client.copy.counts.refused_resumes;
        client.leave();
        sql.run(&format!("UPDATE t SET v = 'round {n}' WHERE id = 1"));
        client.copy.cursor = Some(cursor);
        client.resume();
        client.wait_live();
        client.wait_error("INVALID_CURSOR");
        assert!(client.errors.is_empty(), "{:?}", client.errors);
        assert_eq!(client.copy.counts.refused_resumes, refused + 2, "fresh snapshots of both");
        assert_equal(&mut sql, &mut client);
    }
    assert!(client.copy.counts.resyncs.is_empty());
}

#[test]
fn text_is_never_sql() {
    let (cluster, mut sql) = start();
    let mut client = cluster.client("\"; DROP TABLE t; --");
    let evil = [
        "t; DROP TABLE t",
        "t'; DROP TABLE t; --",
        "\"t\"; DROP TABLE t",
        "t\u{0}",
        "(SELECT 1)",
        "public.\"t",
        "a.b.c.d",
        "",
        "t WHERE true",
        "$1",
    ];
    for table in evil {
        client.subscribe("x", table);
        client.wait_error("UNKNOWN_TABLE");
    }
    for column in ["id; DROP TABLE t", "*", "ctid", "xmin", "tableoid", "(SELECT 1)", "id\"", "\u{0}", ""] {
        client.subscribe_columns("x", "t", &[column]);
        client.wait_error("UNKNOWN_COLUMN");
    }
    client.copy.subscriptions.clear();
    let ids = ["\"'\\\u{1}😀", "'; DROP TABLE t; --", "${x}", "</script>"];
    for id in ids {
        client.subscribe(id, "t");
    }
    client.subscribe_barrier();
    client.wait_live();
    sql.run("UPDATE t SET v = 'x'");
    assert_equal(&mut sql, &mut client);
    let mut stranger = Client::new(cluster.rte_port, "x");
    stranger.options.tenant = Some("'; DROP TABLE t; --".into());
    assert_eq!(stranger.try_join().expect_err("no such tenant").code, Some(4404));
    for token in ["'; DROP TABLE t; --", "a.b.c", ""] {
        stranger.options.tenant = None;
        stranger.options.token = Some(token.into());
        let _ = stranger.try_join();
    }
    assert!(cluster.healthy());
}

/// A connection after the handshake and hello, in raw bytes.
fn upgraded(cluster: &Cluster) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.rte_port)).expect("connect");
    stream.set_read_timeout(Some(patience())).expect("timeout");
    stream
        .write_all(
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: rte.v1\r\n\r\n",
        )
        .expect("request");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("the answer to the handshake");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

/// The code of the close frame that ends what the server sends; all its other frames here are small.
fn close_code(stream: &mut TcpStream) -> Option<u16> {
    let mut bytes = Vec::new();
    if let Err(e) = stream.read_to_end(&mut bytes) {
        assert!(e.kind() != std::io::ErrorKind::WouldBlock, "the server did not close");
    }
    let mut rest = &bytes[..];
    while let [first, len, tail @ ..] = rest {
        let (len, tail) = match (*len, tail) {
            (126, [a, b, tail @ ..]) => (usize::from(u16::from_be_bytes([*a, *b])), tail),
            (len, tail) => (usize::from(len), tail),
        };
        if first & 0x0f == 8 {
            return tail.first_chunk::<2>().map(|code| u16::from_be_bytes(*code));
        }
        rest = tail.get(len..)?;
    }
    None
}

/// Memory of the gateway while `load` runs, at its highest.
fn peak(gateway: i32, mut load: impl FnMut() -> bool) -> u64 {
    let mut peak = rss_kb(gateway);
    wait_until("the load", || {
        peak = peak.max(rss_kb(gateway));
        load().then_some(())
    });
    peak
}

#[test]
fn a_client_that_never_reads_is_closed_and_resumes_without_loss() {
    let _alone = alone();
    let cluster = Cluster::builder().conf("rte.client_queue_size", "1MB").ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    let mut deaf = cluster.subscriber("deaf", &["t"]);
    let mut lively = cluster.subscriber("lively", &["t"]);
    let gateway = cluster.worker("gateway");
    let before = rss_kb(gateway);
    let mut id = 0;
    let highest = peak(gateway, || {
        id += 1;
        sql.run(&format!("INSERT INTO t VALUES ({}, repeat(md5({id}::text), 16384))", id % 20 * 1000 + id));
        while matches!(lively.step(Duration::from_millis(1)), Step::Frame(_)) {}
        id == 200
    });
    println!("100 MB to a client that does not read: gateway grew by {} KiB at most", highest.saturating_sub(before));
    assert!(highest.saturating_sub(before) < 96 * 1024, "{} KiB", highest - before);
    let closed = deaf.wait_closed();
    assert!(matches!(closed.code, Some(4409) | None), "{closed:?}");
    deaf.come_back();
    for client in [&mut deaf, &mut lively] {
        client.carry_on("live", |c| c.copy.all_live());
        let mark = sql.barrier();
        client.carry_on("the barrier", |c| c.at_barrier(mark));
        assert_equal(&mut sql, client);
        client.assert_clean();
    }
}

#[test]
fn a_snapshot_that_nobody_reads_holds_nothing_up() {
    let _alone = alone();
    let cluster = Cluster::builder().conf("rte.stall_timeout", "3s").conf("rte.client_queue_size", "1MB").ready();
    let mut sql = cluster.sql();
    sql.table("big", "id int PRIMARY KEY, v text");
    sql.table("t", "id int PRIMARY KEY, v text");
    sql.run("INSERT INTO big SELECT i, repeat(md5(i::text), 300) FROM generate_series(1, 20000) i");
    let gateway = cluster.worker("gateway");
    let before = rss_kb(gateway);
    let mut deaf: Vec<Client> = (0..4)
        .map(|n| {
            let mut client = cluster.client(&format!("deaf {n}"));
            client.subscribe("big", "big");
            client
        })
        .collect();
    // More of them than there are query workers, and others are served all the same.
    let highest = peak(gateway, || {
        let mut client = cluster.client("lively");
        client.subscribe("t", "t");
        client.subscribe_barrier();
        client.wait_live();
        sql.run("INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t");
        assert_equal(&mut sql, &mut client);
        sql.number("SELECT count(*) FROM rte.connections") <= 1
    });
    println!("gateway grew by {} KiB at most", highest.saturating_sub(before));
    assert!(highest.saturating_sub(before) < 96 * 1024);
    assert!(deaf.iter_mut().all(|c| matches!(c.wait_closed().code, Some(4408 | 4409) | None)));
    let mut reader = cluster.subscriber("reader", &["big"]);
    assert_equal(&mut sql, &mut reader);
}
