//! HTTP on the socket port, and who may upgrade.

mod support;

use std::io::Read as _;
use support::fallback::request;
use support::{Gateway, one_live};
use tungstenite::Error;

fn status(result: Result<support::Client, Error>) -> u16 {
    match result {
        Ok(_) => 101,
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn health_says_whether_a_feeder_is_there() {
    let gateway = Gateway::start();
    let (code, text) = gateway.get("/health");
    assert_eq!(code, 503);
    assert!(text.ends_with("{\"status\":\"starting\"}"), "{text}");
    let _feeder = gateway.feeder();
    gateway.wait_for("the feeder", |g| g.get("/health").0 == 200);
    assert!(gateway.get("/health").1.ends_with("{\"status\":\"ok\"}"));
}

#[test]
fn figures_and_the_pages_are_served() {
    let gateway = Gateway::start();
    let (mut feeder, mut client, _) = one_live(&gateway);
    feeder.tick(20, 1, 1);
    client.expect("changes");
    client.expect("commit");
    gateway.wait_for("the figures", |g| g.figure("deliveries_total") == 1);
    assert_eq!((gateway.figure("connections"), gateway.figure("ticks_total")), (1, 2));
    let (code, text) = gateway.get("/metrics");
    assert_eq!(code, 200);
    assert!(text.contains("\nrte_deliveries_total 1\n"), "{text}");
    let behind_a_proxy = "GET /stats HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n";
    assert_eq!(gateway.http(behind_a_proxy).0, 403);
    for page in ["/", "/tables", "/compare"] {
        let (code, text) = gateway.get(page);
        assert_eq!(code, 200, "{page}");
        assert!(text.contains("Content-Security-Policy: default-src 'none'"), "{page}: {text}");
        assert!(text.contains("Referrer-Policy: no-referrer"), "{page}: {text}");
    }
    assert_eq!(gateway.get("/client.map").0, 404);
    assert_eq!(gateway.http("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").0, 405);
    assert_eq!(gateway.http("nonsense\r\n\r\n").0, 400);
    assert_eq!(gateway.get("/ws").0, 426);
}

#[test]
fn the_client_is_served_to_pages_of_every_origin_and_asked_for_by_its_tag() {
    let gateway = Gateway::start();
    for (path, file) in [
        ("/client.js", include_str!("../../../client/bundle/client.js")),
        ("/client-memory.js", include_str!("../../../client/bundle/client-memory.js")),
    ] {
        let ask = |headers: &str| request(&gateway, "GET", path, headers, "");
        let plain = ask("Origin: https://anywhere.example\r\n");
        assert_eq!(plain.status, 200);
        assert!(plain.body == file.as_bytes(), "{path}");
        for header in [
            "Access-Control-Allow-Origin: *",
            "Content-Type: text/javascript; charset=utf-8",
            "Cache-Control: no-cache",
            "Vary: Accept-Encoding",
        ] {
            assert!(plain.head.contains(header), "{header}: {}", plain.head);
        }
        assert_eq!(plain.head.matches("Access-Control-Allow-Origin").count(), 1, "{}", plain.head);
        let small = ask("Accept-Encoding: gzip, br\r\n");
        assert!(small.head.contains("Content-Encoding: gzip"), "{}", small.head);
        let mut unpacked = String::new();
        flate2::read::GzDecoder::new(small.body.as_slice()).read_to_string(&mut unpacked).expect("gzip");
        assert!(unpacked == file && small.body.len() < file.len(), "{path}");
        let tag = plain.head.lines().find_map(|line| line.strip_prefix("ETag: ")).expect("a tag");
        assert!(small.head.contains(tag));
        let known = ask(&format!("Accept-Encoding: gzip\r\nIf-None-Match: \"x\", {tag}\r\n"));
        assert_eq!((known.status, known.body.len()), (304, 0));
        assert!(!known.head.contains("Content-Length"), "{}", known.head);
        assert_eq!(request(&gateway, "POST", path, "", "").status, 405);
    }
}

#[test]
fn origins_are_the_same_or_allowed_or_refused() {
    let gateway = Gateway::with(|c| c.allowed_origins = vec!["https://app.example".into()]);
    let own = format!("http://127.0.0.1:{}", gateway.port);
    assert_eq!(status(gateway.client_at("/ws", &[("Origin", &own)])), 101);
    assert_eq!(status(gateway.client_at("/ws", &[("Origin", "https://app.example")])), 101);
    assert_eq!(status(gateway.client_at("/ws", &[("Origin", "https://evil.example")])), 403);
    assert_eq!(status(gateway.client_at("/ws", &[("Origin", "null")])), 403);
    assert_eq!(status(gateway.client_at("/ws", &[])), 101);
    assert_eq!(status(gateway.client_at("/other", &[])), 404);
    let ask =
        |origin: &str| gateway.http(&format!("GET /health HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\r\n")).1;
    assert!(ask("https://app.example").contains("Access-Control-Allow-Origin: https://app.example"));
    assert!(!ask("https://evil.example").contains("Access-Control-Allow-Origin"));
}

#[test]
fn an_upgrade_needs_the_subprotocol() {
    let gateway = Gateway::start();
    let (code, text) = gateway.http(
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: other\r\n\r\n",
    );
    assert_eq!(code, 400);
    assert!(text.contains("rte.v1"), "{text}");
}

#[test]
fn connections_past_the_limits_are_refused_before_the_upgrade() {
    let gateway = Gateway::with(|c| c.max_connections = 2);
    let first = gateway.client();
    let _second = gateway.client();
    assert_eq!(status(gateway.client_at("/ws", &[])), 503);
    assert_eq!(gateway.get("/health").0, 503);
    drop(first);
    gateway.wait_for("room", |g| g.figure("connections") < 2);
    let _third = gateway.client();

    let gateway = Gateway::with(|c| c.max_connections_per_address = 1);
    let _first = gateway.client();
    assert_eq!(status(gateway.client_at("/ws", &[])), 429);
}

#[test]
fn a_port_that_is_taken_ends_the_gateway_with_a_hint() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut config = support::config("unused.sock".into());
    config.port = taken.local_addr().expect("address").port();
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().expect("pair");
    assert_eq!(rte_gateway::run(theirs, config), rte_gateway::EXIT_SOCKET);
    let mut lines = String::new();
    while let Some((line, _)) = support::read_frame::<rte_protocol::bridge::ToLauncher>(&mut ours) {
        lines += &format!("{line:?}\n");
    }
    assert!(lines.contains("rte.port"), "{lines}");
}
