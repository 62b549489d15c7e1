//! What the gateway does not let through, and for whom, with a feeder that says what it is told to say.

mod support;

use rte_protocol::bridge::{FromFeeder, ToFeeder, ToGateway};
use rte_protocol::wire::ErrorCode;
use serde_json::json;
use std::io::Write as _;
use std::time::{Duration, Instant};
use support::{Client, Feeder, Gateway, PATIENCE, Seen};

/// Says hello with a token, and answers the session that the feeder is asked about.
fn offer(gateway: &Gateway, feeder: &mut Feeder, token: &str) -> (Client, u64) {
    let mut client = gateway.client();
    client.send(&json!({"type": "hello", "token": token}));
    let ToFeeder::Open { session, .. } = feeder.until(|m| matches!(m, ToFeeder::Open { .. })) else { unreachable!() };
    (client, session)
}

fn refuse(feeder: &mut Feeder, session: u64) {
    let (code, message) = (ErrorCode::Unauthorized, "no".to_owned());
    feeder.send(&FromFeeder::Refused { session, close: 4401, code, message, hint: None });
}

/// Whether a token of this address is still passed on.
fn is_asked(gateway: &Gateway, feeder: &mut Feeder) -> bool {
    let mut client = gateway.client();
    client.send(&json!({"type": "hello", "token": "x"}));
    // Whoever is not passed on has an answer before one who is let in.
    let mut witness = gateway.client();
    witness.hello(&[]);
    let mut asked = false;
    loop {
        if let ToFeeder::Open { session, token, .. } = feeder.next() {
            if token.is_none() {
                feeder.send(&FromFeeder::Opened {
                    session,
                    role: "web".into(),
                    tables: vec![],
                    monitor: false,
                    expires_in_ms: None,
                });
                break;
            }
            asked = true;
            feeder.send(&FromFeeder::Opened {
                session,
                role: "web".into(),
                tables: vec![],
                monitor: false,
                expires_in_ms: None,
            });
        }
    }
    witness.expect("welcome");
    if asked {
        client.expect("welcome");
    } else {
        assert_eq!(client.expect("error")["code"], "TOO_MANY_REQUESTS");
        assert_eq!(client.closed(), 4429);
    }
    asked
}

#[test]
fn only_tokens_that_were_wrong_when_they_were_offered_count() {
    // One I/O thread, so that what comes first is handled first.
    let gateway = Gateway::with(|c| {
        c.max_failed_tokens = 2;
        c.io_threads = 1;
    });
    let mut feeder = gateway.feeder();
    // Expired on an open connection, any number of times.
    for _ in 0..5 {
        let (mut client, session) = offer(&gateway, &mut feeder, "good");
        feeder.send(&FromFeeder::Opened {
            session,
            role: "web".into(),
            tables: vec![],
            monitor: false,
            expires_in_ms: None,
        });
        client.expect("welcome");
        refuse(&mut feeder, session);
        assert_eq!(client.closed(), 4401);
    }
    // None offered, and none accepted without.
    for _ in 0..5 {
        let mut client = gateway.client();
        client.hello(&[]);
        let ToFeeder::Open { session, .. } = feeder.until(|m| matches!(m, ToFeeder::Open { .. })) else {
            unreachable!()
        };
        refuse(&mut feeder, session);
        assert_eq!(client.closed(), 4401);
    }
    assert!(is_asked(&gateway, &mut feeder));
    // Wrong ones, the second by `auth`.
    let (mut client, session) = offer(&gateway, &mut feeder, "bad");
    refuse(&mut feeder, session);
    assert_eq!(client.closed(), 4401);
    assert!(is_asked(&gateway, &mut feeder));
    let (mut client, session) = offer(&gateway, &mut feeder, "good");
    feeder.send(&FromFeeder::Opened {
        session,
        role: "web".into(),
        tables: vec![],
        monitor: false,
        expires_in_ms: None,
    });
    client.expect("welcome");
    client.send(&json!({"type": "auth", "token": "bad"}));
    feeder.until(|m| matches!(m, ToFeeder::Auth { .. }));
    refuse(&mut feeder, session);
    assert_eq!(client.closed(), 4401);
    assert!(!is_asked(&gateway, &mut feeder));
    assert_eq!(gateway.figure("failed_tokens_total"), 2);
}

#[test]
fn clients_are_held_back_while_their_feeder_does_not_keep_up() {
    let gateway = Gateway::with(|c| {
        c.max_frame_bytes = 1 << 20;
        c.hello_timeout_ms = 600_000;
        c.heartbeat_ms = 600_000;
        // Sweeps come at a tenth of it.
        c.stall_timeout_ms = 100;
        c.max_subscriptions = 10_000;
    });
    let mut feeder = gateway.feeder();
    let mut client = gateway.client();
    client.hello(&[]);
    let (_, _) = feeder.open();
    client.expect("welcome");
    // Much more than may be under way to it, and nobody reads its socket.
    let (hellos, each) = (6, 4);
    let text = |kind: &str, id: usize| {
        let filter = "x".repeat(900_000);
        let field = if kind == "hello" { "cursor" } else { "where" };
        json!({"type": kind, "id": id.to_string(), "table": "t", field: filter})
    };
    let floods: Vec<_> = (0..hellos)
        .map(|n| {
            let client = gateway.client();
            let messages: Vec<String> =
                (0..each).map(|m| text(if m == 0 { "hello" } else { "subscribe" }, n * each + m).to_string()).collect();
            std::thread::spawn(move || {
                let mut client = client;
                for message in messages {
                    client.text(&message);
                }
                client
            })
        })
        .collect();
    // Until no more is taken from the clients.
    let (mut received, mut since) = (0, Instant::now());
    let start = Instant::now();
    while received < 5 || since.elapsed() < Duration::from_millis(500) {
        assert!(start.elapsed() < PATIENCE * 3, "{received} messages were taken");
        let now = gateway.figure("received_total");
        if now != received {
            (received, since) = (now, Instant::now());
        }
    }
    println!("{received} messages were taken while the feeder took none");
    assert!(received < 18, "8 MB are under way, and what was being read");
    let opened = std::thread::spawn(move || {
        let (mut opened, mut subscribed) = (0, 0);
        while opened < hellos || subscribed < hellos * (each - 1) {
            match feeder.next() {
                ToFeeder::Open { session, .. } => {
                    opened += 1;
                    feeder.send(&FromFeeder::Opened {
                        session,
                        role: "web".into(),
                        tables: vec![],
                        monitor: false,
                        expires_in_ms: None,
                    });
                }
                ToFeeder::Subscribe { .. } => subscribed += 1,
                _ => {}
            }
        }
        feeder
    });
    let mut clients: Vec<Client> = floods.into_iter().map(|flood| flood.join().expect("flood")).collect();
    for client in &mut clients {
        client.expect("welcome");
    }
    let _feeder = opened.join().expect("everything came");
    client.send(&json!({"type": "ping", "at": 1}));
    loop {
        match client.see() {
            Seen::Message(m) if m["type"] == "pong" => break,
            Seen::Message(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_flood_in_one_write_is_answered_once() {
    let mut gateway = Gateway::with(|c| c.max_messages_per_second = 10);
    let mut feeder = gateway.feeder();
    let mut client = gateway.client();
    client.hello(&[]);
    feeder.open();
    client.expect("welcome");
    let ping = b"\x81\x8f\0\0\0\0{\"type\":\"ping\"}";
    client.socket.get_mut().write_all(&ping.repeat(1000)).expect("flood");
    // The hello was one of a hundred.
    for _ in 0..99 {
        client.expect("pong");
    }
    assert_eq!(client.expect("error")["code"], "TOO_MANY_REQUESTS");
    assert_eq!(client.closed(), 4429);
    // A bound that is lifted counts for who is connected, too.
    let mut client = gateway.client();
    client.hello(&[]);
    feeder.open();
    client.expect("welcome");
    let mut config = gateway.config.clone();
    config.max_messages_per_second = 0;
    gateway.order(&ToGateway::Reload { config: Box::new(config) });
    let start = Instant::now();
    let mut heard = 0;
    while heard < 1000 {
        assert!(start.elapsed() < PATIENCE);
        client.send(&json!({"type": "ping"}));
        match client.see() {
            Seen::Message(m) if m["type"] == "pong" => heard += 1,
            _ => {
                // Not yet lifted: the next one sees it.
                client = gateway.client();
                client.hello(&[]);
                feeder.open();
                client.expect("welcome");
            }
        }
    }
}
