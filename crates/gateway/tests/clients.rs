//! Clients that misbehave, are slow or go away.

mod support;

use rte_protocol::bridge::{ToFeeder, ToGateway, ToWorker};
use rte_protocol::wire::ServerMessage;
use serde_json::json;
use std::io::{Read, Write};
use support::{Gateway, Seen, one_live};
use tungstenite::Message;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};

#[test]
fn a_slow_client_is_closed_with_4409_and_the_others_go_on() {
    let gateway = Gateway::with(|c| {
        c.client_queue_bytes = 100_000;
        c.io_threads = 1;
    });
    let (mut feeder, mut slow, _) = one_live(&gateway);
    let row = "x".repeat(200_000);
    let mut ticks = 10;
    // The client reads nothing until the gateway gives it up.
    while gateway.figure("slow_consumers_total") == 0 {
        ticks += 1;
        assert!(ticks < 2_000, "the queue is bounded");
        feeder.changes(&[(1, json!([{"op": "insert", "row": [row]}]))]);
        feeder.commit(ticks);
    }
    assert_eq!(slow.closed(), 4409);
    assert!(gateway.figure("queue_high_water_bytes") < 1_000_000);
    let mut other = gateway.client();
    other.hello(&[]);
    feeder.open();
    other.expect("welcome");
    other.send(&json!({"type": "ping", "at": 1}));
    other.expect("pong");
}

#[test]
fn a_client_that_stops_amid_a_snapshot_holds_its_worker_back_and_is_closed() {
    let gateway = Gateway::with(|c| c.stall_timeout_ms = 400);
    let mut feeder = gateway.feeder();
    let mut client = gateway.client();
    client.hello(&["a"]);
    let (session, ids) = feeder.open();
    feeder.subscribed(session, &ids[0], 1, false);
    feeder.job(1, session, &[&ids[0]]);
    let mut worker = gateway.worker();
    let job = worker.take();
    worker.begin(job, 10);
    let rows = json!([["x".repeat(100_000)]]).to_string();
    worker.stream.set_write_timeout(Some(support::PATIENCE)).expect("time-out");
    let mut cancel = worker.stream.try_clone().expect("clone");
    let writer = std::thread::spawn(move || {
        // Held back long before this much; the cancel frees it.
        let sent = (0..300).take_while(|_| {
            let mut out = Vec::new();
            let head = rte_protocol::bridge::FromWorker::Rows {
                job,
                index: 0,
                rows: 1,
                done: false,
                total: None,
                parts: None,
            };
            rte_protocol::bridge::frame::write(&mut out, &head, &[rows.as_bytes()]).expect("frame");
            worker.stream.write_all(&out).is_ok()
        });
        sent.count()
    });
    let told: ToWorker = support::read_frame(&mut cancel).expect("cancel").0;
    assert_eq!(told, ToWorker::Cancel { job });
    assert_eq!(client.closed(), 4409);
    assert!(writer.join().expect("writer") > 100, "the rest is read and dropped");
    assert!(gateway.figure("queue_high_water_bytes") < 1_000_000);
}

#[test]
fn a_half_open_handshake_is_closed() {
    let gateway = Gateway::with(|c| c.hello_timeout_ms = 200);
    let mut silent = gateway.tcp();
    let mut half = gateway.tcp();
    half.write_all(b"GET /ws HTTP/1.1\r\nHost: x\r\n").expect("write");
    for stream in [&mut silent, &mut half] {
        assert_eq!(stream.read(&mut [0; 16]).expect("end"), 0);
    }
    // Upgraded, but without a hello.
    let mut mute = gateway.client();
    assert_eq!(mute.closed(), 4408);
}

#[test]
fn a_head_without_end_is_refused() {
    let gateway = Gateway::start();
    let mut stream = gateway.tcp();
    stream.write_all(b"GET / HTTP/1.1\r\n").expect("write");
    let line = format!("x: {}\r\n", "y".repeat(1000));
    for _ in 0..20 {
        let _ = stream.write_all(line.as_bytes());
    }
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("answer");
    assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
}

#[test]
fn binary_and_malformed_messages_are_answered_and_the_connection_stays() {
    let gateway = Gateway::start();
    let (_feeder, mut client, _) = one_live(&gateway);
    client.socket.send(Message::binary(vec![1, 2])).expect("send");
    assert_eq!(client.expect("error")["code"], "BINARY_FRAME");
    for (text, code) in [
        ("nonsense", "BAD_MESSAGE"),
        ("{\"type\":\"subscribe\",\"id\":\"7\"}", "BAD_MESSAGE"),
        ("{\"type\":\"nonsense\"}", "UNKNOWN_TYPE"),
        ("{\"type\":\"hello\"}", "UNEXPECTED_MESSAGE"),
        ("{\"type\":\"publish\",\"channel\":\"c\",\"event\":\"e\"}", "NOT_SUPPORTED"),
    ] {
        client.text(text);
        assert_eq!(client.expect("error")["code"], code, "{text}");
    }
    client.send(&json!({"type": "ping", "at": 5}));
    assert_eq!(client.expect("pong")["at"], 5);
}

#[test]
fn what_is_not_websocket_closes_with_4400_and_what_is_too_large_with_4413() {
    let gateway = Gateway::start();
    let _feeder = gateway.feeder();
    let mut client = gateway.client();
    client.text(&format!("{{\"type\":\"hello\",\"x\":\"{}\"}}", "y".repeat(70_000)));
    assert_eq!(client.closed(), 4413);

    let mut client = gateway.client();
    // A continuation of nothing.
    let header = FrameHeader { opcode: OpCode::Data(Data::Continue), ..FrameHeader::default() };
    client.socket.send(Message::Frame(Frame::from_payload(header, vec![1].into()))).expect("send");
    assert_eq!(client.closed(), 4400);

    let mut client = gateway.client();
    client.send(&json!({"type": "ping"}));
    assert_eq!(client.expect("error")["code"], "UNEXPECTED_MESSAGE");
    assert_eq!(client.closed(), 4400);
}

#[test]
fn ten_thousand_subscribes_are_bounded() {
    let gateway = Gateway::start();
    let (mut feeder, mut client, _) = one_live(&gateway);
    let reader = std::thread::spawn({
        let stream = client.socket.get_ref().try_clone().expect("clone");
        move || {
            let mut socket = tungstenite::WebSocket::from_raw_socket(stream, tungstenite::protocol::Role::Client, None);
            let mut refused = 0;
            while refused < 10_000 - 19 {
                let Message::Text(text) = socket.read().expect("read") else { continue };
                match serde_json::from_str(&text).expect("json") {
                    ServerMessage::Error { code, .. } => {
                        assert_eq!(code.as_str(), "TOO_MANY_SUBSCRIPTIONS");
                        refused += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            refused
        }
    });
    for i in 0..10_000 {
        client.send(&json!({"type": "subscribe", "id": format!("s{i}"), "table": "t"}));
    }
    assert_eq!(reader.join().expect("reader"), 10_000 - 19);
    // The feeder was asked for as many as there may be, and no more.
    feeder.stream.set_nonblocking(true).expect("nonblocking");
    let mut asked = 0;
    while let Some((message, _)) = support::read_frame::<ToFeeder>(&mut feeder.stream) {
        asked += usize::from(matches!(message, ToFeeder::Subscribe { .. }));
    }
    assert_eq!(asked, 19);
}

#[test]
fn a_client_that_never_reads_its_answers_is_not_read_from() {
    let gateway = Gateway::with(|c| c.client_queue_bytes = 64 << 20);
    let (_feeder, mut client, _) = one_live(&gateway);
    let ping = json!({"type": "ping", "at": "x".repeat(10_000)}).to_string();
    client.socket.get_ref().set_write_timeout(Some(std::time::Duration::from_millis(300))).expect("time-out");
    let sent = (0..10_000).take_while(|_| client.socket.send(Message::text(ping.as_str())).is_ok()).count();
    assert!(sent < 10_000);
    assert!(gateway.figure("queue_high_water_bytes") < 1 << 20);
}

#[test]
fn a_silent_peer_is_closed_after_two_heartbeats_and_a_live_one_is_kept_and_moved_on() {
    let gateway = Gateway::with(|c| c.heartbeat_ms = 300);
    let (mut feeder, mut client, _) = one_live(&gateway);
    let mut silent = gateway.client();
    silent.hello(&[]);
    feeder.open();
    silent.expect("welcome");
    // The live client answers pings by reading, and gets bare commits; the silent one reads nothing meanwhile.
    for _ in 0..6 {
        assert_eq!(client.commit().0, "c10");
    }
    assert_eq!(silent.closed(), 4408);
    feeder.tick(11, 1, 1);
    while client.next()["type"] != "changes" {}
    assert_eq!(client.commit().0, "c11");
}

#[test]
fn a_feeder_that_comes_back_gets_its_clients_back_by_1012() {
    // A client that is quick could meet another thread that has not heard of the end, and be sent back once more.
    let gateway = Gateway::with(|c| c.io_threads = 1);
    let (feeder, mut client, _) = one_live(&gateway);
    drop(feeder);
    assert_eq!(client.closed(), 1012);
    // The hello waits for the next feeder.
    let mut client = gateway.client();
    client.hello(&["a"]);
    client.send(&json!({"type": "subscribe", "id": "b", "table": "t"}));
    let mut feeder = gateway.feeder();
    let (session, ids) = feeder.open();
    assert_eq!(ids.len(), 1);
    client.expect("welcome");
    assert!(matches!(feeder.next_of_session(), ToFeeder::Subscribe { session: s, .. } if s == session));
    // A second feeder of the database replaces the first.
    let mut second = gateway.feeder();
    assert_eq!(client.closed(), 1012);
    let mut client = gateway.client();
    client.hello(&[]);
    second.open();
    client.expect("welcome");
}

#[test]
fn a_missing_feeder_is_waited_for_and_what_the_url_claims_reaches_it() {
    let gateway = Gateway::with(|c| c.hello_timeout_ms = 300);
    let mut client = gateway.client();
    client.hello(&[]);
    assert_eq!(client.expect("error")["code"], "NOT_READY");
    assert_eq!(client.closed(), 1013);

    let mut feeder = gateway.feeder();
    gateway.wait_for("the feeder", |g| g.figure("feeders") == 1);
    let mut client = gateway.client_at("/ws?token=t%20t", &[]).expect("upgrade");
    client.hello(&[]);
    let ToFeeder::Open { session, token, tenant, .. } = feeder.next_of_session() else { panic!() };
    assert_eq!((token.as_deref(), tenant.as_str()), (Some("t t"), ""));
    let code = rte_protocol::wire::ErrorCode::Unauthorized;
    let refused =
        rte_protocol::bridge::FromFeeder::Refused { session, close: 4401, code, message: "no".into(), hint: None };
    feeder.send(&refused);
    assert_eq!(client.expect("error")["code"], "UNAUTHORIZED");
    assert_eq!(client.closed(), 4401);
}

#[test]
fn a_shutdown_says_good_bye() {
    for (restart, code) in [(false, 1001), (true, 1012)] {
        let mut gateway = Gateway::start();
        let (_feeder, mut client, _) = one_live(&gateway);
        gateway.order(&ToGateway::Shutdown { restart });
        assert_eq!(client.closed(), code);
        drop(client);
        assert_eq!(gateway.ended(), rte_gateway::EXIT_OK);
    }
}

#[test]
fn a_launcher_that_is_gone_ends_the_gateway() {
    let mut gateway = Gateway::start();
    let (_feeder, mut client, _) = one_live(&gateway);
    gateway.control.shutdown(std::net::Shutdown::Both).expect("shutdown");
    assert_eq!(client.closed(), 1012);
    drop(client);
    assert_eq!(gateway.ended(), rte_gateway::EXIT_OK);
}

#[test]
fn an_unsubscribed_shape_sends_nothing_more_and_its_id_can_be_used_again() {
    let gateway = Gateway::start();
    let (mut feeder, mut client, session) = one_live(&gateway);
    client.send(&json!({"type": "unsubscribe", "id": "a"}));
    client.expect("unsubscribed");
    assert_eq!(feeder.next_of_session(), ToFeeder::Unsubscribe { session, id: "0:a".into() });
    feeder.tick(20, 1, 1);
    client.send(&json!({"type": "unsubscribe", "id": "a"}));
    assert_eq!(client.expect("error")["code"], "UNKNOWN_SUBSCRIPTION");
    client.send(&json!({"type": "subscribe", "id": "a", "table": "t"}));
    assert!(matches!(feeder.next_of_session(), ToFeeder::Subscribe { .. }));
    client.socket.close(None).expect("close");
    assert!(matches!(client.see(), Seen::Closed(_) | Seen::Gone));
    assert_eq!(feeder.next_of_session(), ToFeeder::Close { session });
}

#[test]
fn an_observer_sees_the_connections_of_its_database() {
    let gateway = Gateway::start();
    let (mut feeder, mut client, _) = one_live(&gateway);
    feeder.tick(11, 1, 1);
    client.expect("changes");
    let cursor = client.expect("commit")["cursor"].as_str().expect("cursor").to_owned();
    client.send(&json!({"type": "ack", "cursor": cursor}));
    client.send(&json!({"type": "ping"}));
    client.expect("pong");
    for (database, count) in [(1, 1), (2, 0)] {
        let connections = gateway.report(database);
        assert_eq!(connections.len(), count);
        if let Some(c) = connections.first() {
            assert_eq!((c.role.as_str(), c.acked_cursor.as_deref()), ("web", Some(cursor.as_str())));
            assert_eq!((c.sent_cursor.as_ref(), c.subscriptions[0].state.as_str()), (Some(&cursor), "live"));
            assert_eq!(c.subscriptions[0].id, "a");
        }
    }
}

#[test]
fn nonsense_on_the_bridge_costs_its_peer_alone() {
    let gateway = Gateway::start();
    let (mut feeder, mut client, session) = one_live(&gateway);
    for bytes in [&b"\xff\xff\xff\xff"[..], b"\x08\0\0\0\xff\0\0\0{}{}", b"\x0a\0\0\0\x06\0\0\0{\"x\":1"] {
        let mut peer = gateway.bridge();
        peer.write_all(bytes).expect("write");
        peer.shutdown(std::net::Shutdown::Write).expect("shutdown");
        assert!(support::read_frame::<ToFeeder>(&mut peer).is_none());
    }
    feeder.tick(20, 1, 1);
    client.expect("changes");
    client.expect("commit");
    // A feeder whose lengths lie is dropped, and its clients come back.
    let head = rte_protocol::bridge::FromFeeder::CatchUp {
        sessions: vec![session],
        frames: vec![u32::MAX],
        cursor: "c".into(),
        time: "t".into(),
        last: true,
    };
    support::send_frame(&mut feeder.stream, &head, b"short");
    assert_eq!(client.closed(), 1012);
}

#[test]
fn a_reload_applies_to_who_comes_next() {
    let mut gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    let mut config = gateway.config.clone();
    config.max_subscriptions = 3;
    gateway.order(&ToGateway::Reload { config: Box::new(config) });
    let start = std::time::Instant::now();
    loop {
        let mut client = gateway.client();
        client.hello(&[]);
        feeder.open();
        if client.expect("welcome")["limits"]["max_subscriptions"] == 3 {
            break;
        }
        assert!(start.elapsed() < support::PATIENCE);
    }
}
