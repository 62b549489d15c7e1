//! Clients without WebSockets: the same messages, bounds and ends over events and over polls.

mod support;

use rte_protocol::bridge::{FromWorker, ToFeeder, ToGateway};
use rte_protocol::wire::changes_frame;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use support::fallback::{Down, HttpClient, Response, post, request};
use support::{Client, Feeder, Gateway, Seen, Worker, one_live};

/// What all kinds of clients can.
trait Talks {
    fn say(&mut self, message: &Value);
    fn hear(&mut self) -> Seen;
}

impl Talks for Client {
    fn say(&mut self, message: &Value) {
        self.send(message);
    }

    fn hear(&mut self) -> Seen {
        self.see()
    }
}

impl Talks for HttpClient {
    fn say(&mut self, message: &Value) {
        self.send(message);
    }

    fn hear(&mut self) -> Seen {
        self.see()
    }
}

/// Both kinds of clients without a WebSocket.
fn both(gateway: &Gateway) -> [HttpClient; 2] {
    [HttpClient::events(gateway), HttpClient::poll(gateway)]
}

/// What a gateway needs for clients to go live.
struct Stage {
    feeder: Feeder,
    worker: Worker,
    jobs: u64,
}

impl Stage {
    fn new(gateway: &Gateway) -> Self {
        Self { feeder: gateway.feeder(), worker: gateway.worker(), jobs: 0 }
    }

    /// Lets a client in that has asked for one subscription: it goes live at tick 10, with three rows.
    fn let_in(&mut self) -> u64 {
        self.jobs += 1;
        let (session, ids) = self.feeder.open();
        self.feeder.subscribed(session, &ids[0], 1, false);
        self.feeder.job(self.jobs, session, &[&ids[0]]);
        let taken = self.worker.take();
        self.worker.begin(taken, 10);
        self.worker.rows(taken, 0, &json!([[1], [2]]), false);
        self.worker.rows(taken, 0, &json!([[3]]), true);
        self.worker.send(&FromWorker::End { job: taken });
        self.feeder.until(|m| *m == ToFeeder::NeedTick);
        self.feeder.commit(10);
        session
    }

    /// Brings a client to where it is live.
    fn live(&mut self, mut client: HttpClient) -> (HttpClient, u64) {
        client.hello(&["a"]);
        let session = self.let_in();
        client.expect("welcome");
        while client.next()["type"] != "commit" {}
        (client, session)
    }
}

/// A feeder with one client without a WebSocket that is live.
fn live(gateway: &Gateway, client: HttpClient) -> (Feeder, HttpClient, u64) {
    let mut stage = Stage::new(gateway);
    let (client, session) = stage.live(client);
    (stage.feeder, client, session)
}

#[test]
fn every_transport_gives_the_same_messages_in_the_same_order() {
    let gateway = Gateway::start();
    let mut stage = Stage::new(&gateway);
    let [events, poll] = both(&gateway);
    let mut clients: [Box<dyn Talks>; 3] = [Box::new(gateway.client()), Box::new(events), Box::new(poll)];
    for client in &mut clients {
        client.say(&json!({"type": "hello", "subscriptions": [{"id": "a", "table": "t"}]}));
        stage.let_in();
    }
    let feeder = &mut stage.feeder;
    for tick in 11..40 {
        let rows: Vec<Value> = (0..tick % 7).map(|n| json!({"op": "insert", "row": [tick * 10 + n]})).collect();
        feeder.changes(&[(1, json!(rows)), (2, json!([{"op": "truncate"}]))]);
        feeder.commit(tick);
    }
    let heard = clients.map(|mut client| {
        let mut heard = Vec::new();
        loop {
            match client.hear() {
                Seen::Message(m) if m["cursor"].as_str().is_some_and(|c| c.starts_with("c39.")) => return heard,
                Seen::Message(mut m) if m["type"] == "welcome" => {
                    m["session"].take();
                    heard.push(m);
                }
                Seen::Message(m) => heard.push(m),
                other => panic!("{other:?}"),
            }
        }
    });
    // Those who came first hear commits of the others' joins; from their own commit on all hear the same.
    let kinds =
        |heard: &[Value]| heard.iter().map(|m| m["type"].as_str().expect("type").to_owned()).collect::<Vec<_>>();
    let ticks = |heard: &[Value]| {
        let at = heard.iter().position(|m| m["type"] == "changes").expect("changes");
        heard[at..].to_vec()
    };
    for other in &heard[1..] {
        assert_eq!(ticks(&heard[0]), ticks(other));
        assert_eq!(kinds(&heard[0])[..6], kinds(other)[..6]);
        assert_eq!(heard[0][..5], other[..5]);
    }
    assert!(ticks(&heard[0]).len() >= 50);
}

#[test]
fn what_is_posted_is_carried_out_once_and_in_order() {
    let gateway = Gateway::start();
    let mut stage = Stage::new(&gateway);
    for client in both(&gateway) {
        let (mut client, _) = stage.live(client);
        let ping = |at: u32| json!({"type": "ping", "at": at}).to_string();
        client.send_all(&[ping(1), String::new(), ping(2)]);
        let n = client.n;
        assert_eq!(client.post(n, &ping(3)).status, 204);
        // A repetition, of whatever text, has no effect; a gap and the past are refused.
        assert_eq!(client.post(n, &ping(99)).status, 204);
        assert_eq!(client.post(n + 2, &ping(98)).status, 409);
        assert_eq!(client.post(n - 1, &ping(97)).status, 409);
        assert_eq!(client.post(u64::MAX, &ping(96)).status, 409);
        assert_eq!(client.post(n + 1, "").status, 204);
        assert_eq!(client.post(n + 2, &format!("{}\r\n", ping(4))).status, 204);
        for at in 1..=4 {
            assert_eq!(client.expect("pong")["at"], at);
        }
        client.n = n + 3;
        client.send_all(&["nonsense".to_owned(), "[1]".to_owned(), ping(5)]);
        assert_eq!(client.expect("error")["code"], "BAD_MESSAGE");
        assert_eq!(client.expect("error")["code"], "BAD_MESSAGE");
        assert_eq!(client.expect("pong")["at"], 5);
    }
}

#[test]
fn nobody_speaks_as_a_connection_whose_id_he_does_not_know() {
    let gateway = Gateway::with(|c| c.max_failed_tokens = 5);
    let (_feeder, mut client, _) = live(&gateway, HttpClient::events(&gateway));
    let foreign = format!("{:032x}", u128::from_str_radix(&client.id, 16).expect("hex") ^ 2);
    for _ in 0..5 {
        assert_eq!(post(gateway.port, &foreign, 0, "{}").status, 404);
    }
    // Past the bound it is not even told, whichever way it asks.
    assert_eq!(post(gateway.port, &foreign, 0, "{}").status, 429);
    assert_eq!(request(&gateway, "GET", &format!("/poll?connection={foreign}"), "", "").status, 429);
    assert_eq!(gateway.figure("failed_ids_total"), 7);
    // Who knows his own goes on, and new ones are let in.
    client.send(&json!({"type": "ping"}));
    client.expect("pong");
    HttpClient::poll(&gateway);
    // An id of events is none to be polled.
    assert_eq!(client.ask().status, 429);
    for id in ["", "0", "zz", &foreign.to_uppercase().replace('0', "A")[..31]] {
        assert_eq!(post(gateway.port, id, 0, "{}").status, 400, "{id}");
    }
}

#[test]
fn bodies_are_bounded_in_size_and_time_and_count_only_when_they_are_whole() {
    let gateway = Gateway::with(|c| {
        c.hello_timeout_ms = 1000;
        c.max_frame_bytes = 2000;
    });
    let (_feeder, mut client, _) = live(&gateway, HttpClient::events(&gateway));
    let n = client.n;
    assert_eq!(client.post(n, &"x".repeat(2001)).status, 413);
    let target = format!("POST /send?connection={}&n={n} HTTP/1.1\r\nHost: localhost\r\n", client.id);
    let ask = |rest: &str| {
        let mut stream = gateway.tcp();
        stream.write_all(format!("{target}{rest}").as_bytes()).expect("write");
        stream
    };
    // Refused by what it says, before anything of it has come.
    assert_eq!(Response::read(ask("Content-Length: 99999999999\r\n\r\n")).status, 413);
    assert_eq!(Response::read(ask("\r\n")).status, 411);
    assert_eq!(Response::read(ask("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")).status, 411);
    assert_eq!(Response::read(ask("Content-Length: 5\r\nContent-Length: 6\r\n\r\n")).status, 400);
    // Half of a body, and then the end, or nothing more.
    let ping = json!({"type": "ping", "at": 1}).to_string();
    let half = format!("Content-Length: {}\r\n\r\n{ping}", ping.len() + 5);
    let cut = ask(&half);
    cut.shutdown(std::net::Shutdown::Write).expect("shutdown");
    let mut rest = Vec::new();
    (&cut).read_to_end(&mut rest).expect("end");
    assert!(rest.is_empty(), "{rest:?}");
    assert_eq!(Response::read(ask(&half)).status, 408);
    // None of it was carried out.
    client.send(&json!({"type": "ping", "at": 2}));
    assert_eq!(client.expect("pong")["at"], 2);
}

#[test]
fn line_ends_inside_of_embedded_json_arrive() {
    let gateway = Gateway::start();
    let mut stage = Stage::new(&gateway);
    let mut heard = Vec::new();
    for client in both(&gateway) {
        let (mut client, _) = stage.live(client);
        let feeder = &mut stage.feeder;
        let text = changes_frame("s1", b"[{\"op\":\"insert\",\"row\":[{\"a\":\n1,\r\n\"b\":\r[\n\n]}]}]");
        let frames = vec![rte_protocol::bridge::ShapeFrame { shape: 1, len: text.len() as u32, changes: 1 }];
        support::send_frame(&mut feeder.stream, &rte_protocol::bridge::FromFeeder::Changes { frames }, &text);
        feeder.commit(11);
        heard.push(client.expect("changes"));
        client.expect("commit");
    }
    assert_eq!(heard[0]["changes"][0]["row"], json!([{"a": 1, "b": []}]));
    assert_eq!(heard[0], heard[1]);
}

#[test]
fn a_slow_reader_of_events_is_closed_with_4409_and_the_others_go_on() {
    let gateway = Gateway::with(|c| {
        c.client_queue_bytes = 100_000;
        c.io_threads = 1;
    });
    let (mut feeder, mut slow, _) = live(&gateway, HttpClient::events(&gateway));
    let row = "x".repeat(200_000);
    let mut ticks = 10;
    while gateway.figure("slow_consumers_total") == 0 {
        ticks += 1;
        assert!(ticks < 2_000, "the queue is bounded");
        feeder.changes(&[(1, json!([{"op": "insert", "row": [row]}]))]);
        feeder.commit(ticks);
    }
    assert_eq!(slow.closed(), 4409);
    assert!(gateway.figure("queue_high_water_bytes") < 1_000_000);
    let mut other = HttpClient::events(&gateway);
    other.hello(&[]);
    feeder.open();
    other.expect("welcome");
}

#[test]
fn what_waits_between_polls_is_bounded() {
    let gateway = Gateway::with(|c| {
        c.client_queue_bytes = 100_000;
        c.io_threads = 1;
    });
    let (mut feeder, mut slow, _) = live(&gateway, HttpClient::poll(&gateway));
    let mut ticks = 10;
    while gateway.figure("slow_consumers_total") == 0 {
        ticks += 1;
        assert!(ticks < 100, "the queue is bounded");
        feeder.changes(&[(1, json!([{"op": "insert", "row": ["x".repeat(20_000)]}]))]);
        feeder.commit(ticks);
    }
    assert_eq!(slow.closed(), 4409);
    assert!(gateway.figure("queue_high_water_bytes") < 200_000);
    // It was told, so it is gone.
    gateway.wait_for("the end", |g| g.figure("connections") == 0);
    assert_eq!(slow.see(), Seen::Gone);
}

#[test]
fn answers_to_polls_are_bounded_and_lose_nothing() {
    let gateway = Gateway::start();
    let (mut feeder, mut client, _) = live(&gateway, HttpClient::poll(&gateway));
    for tick in 11..=40 {
        feeder.changes(&[(1, json!([{"op": "insert", "row": [tick, "x".repeat(30_000)]}]))]);
        feeder.commit(tick);
    }
    gateway.wait_for("the ticks", |g| g.figure("commits_total") >= 31);
    let (mut largest, mut ticks) = (0, Vec::new());
    while ticks.len() < 30 {
        let answer = client.ask();
        largest = largest.max(answer.body.len());
        let answer = answer.json();
        for message in answer["messages"].as_array().expect("messages") {
            ticks.extend(message["changes"][0]["row"][0].as_u64());
        }
    }
    assert_eq!(ticks, (11..=40).collect::<Vec<_>>());
    assert!((100_000..=1_100_000).contains(&largest), "{largest}");
    client.send(&json!({"type": "ping"}));
    while client.next()["type"] != "pong" {}
}

#[test]
fn a_second_poll_ends_the_first_and_a_poll_ends_by_itself() {
    let gateway = Gateway::with(|c| c.heartbeat_ms = 1000);
    let (mut feeder, client, _) = live(&gateway, HttpClient::poll(&gateway));
    let waiting = client.two_polls();
    feeder.tick(11, 1, 7);
    let mut heard = waiting.recv().expect("answer").json().to_string();
    while !heard.contains("changes") {
        heard = client.ask().json().to_string();
    }
    assert!(heard.contains(r#""row":[7]"#), "{heard}");
    let start = Instant::now();
    let mut quiet = false;
    // Bare commits come in between; one poll is answered with nothing before the heartbeat is over.
    while !quiet {
        let began = Instant::now();
        let answer = client.ask().json();
        assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
        quiet = answer["messages"].as_array().is_some_and(Vec::is_empty);
        assert!(start.elapsed() < support::PATIENCE);
    }
}

#[test]
fn who_says_nothing_or_does_not_poll_is_closed_and_events_show_life() {
    let gateway = Gateway::with(|c| c.heartbeat_ms = 300);
    let mut stage = Stage::new(&gateway);
    let (mut mute, _) = stage.live(HttpClient::events(&gateway));
    assert_eq!(mute.closed(), 4408);
    assert!(mute.heartbeats > 0);
    // It speaks, but nobody polls.
    let (mut client, _) = stage.live(HttpClient::poll(&gateway));
    let start = Instant::now();
    while client.post(client.n, "{\"type\":\"ping\"}").status == 204 {
        client.n += 1;
        assert!(start.elapsed() < support::PATIENCE);
    }
    assert!(start.elapsed() >= Duration::from_millis(300));
    // It polls and says nothing: polls are heard.
    let (mut client, _) = stage.live(HttpClient::poll(&gateway));
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1500) {
        assert_eq!(client.ask().status, 200);
    }
    client.send(&json!({"type": "ping"}));
    while client.next()["type"] != "pong" {}
}

#[test]
fn a_connection_without_a_hello_is_closed() {
    let gateway = Gateway::with(|c| c.hello_timeout_ms = 300);
    for mut client in both(&gateway) {
        assert_eq!(client.closed(), 4408);
    }
    for open in [HttpClient::events, HttpClient::poll] {
        let mut client = open(&gateway);
        // The request is carried out; what came of it is told where messages are.
        client.send(&json!({"type": "ping"}));
        assert_eq!(client.expect("error")["code"], "UNEXPECTED_MESSAGE");
        assert_eq!(client.closed(), 4400);
    }
}

#[test]
fn claims_of_the_request_reach_the_feeder_and_its_verdict_the_client() {
    let gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    let clients = [
        HttpClient::events_at(&gateway, "/events?tenant=main", "Authorization: Bearer t1\r\n"),
        HttpClient::poll_at(&gateway, "/poll?domain=main", "Authorization: bearer t1\r\n"),
        HttpClient::events_at(&gateway, "/events?token=t1", ""),
    ];
    for mut client in clients {
        client.hello(&[]);
        let ToFeeder::Open { session, token, .. } = feeder.next_of_session() else { panic!() };
        assert_eq!(token.as_deref(), Some("t1"));
        let code = rte_protocol::wire::ErrorCode::Unauthorized;
        let (message, hint) = ("no".to_owned(), None);
        feeder.send(&rte_protocol::bridge::FromFeeder::Refused { session, close: 4401, code, message, hint });
        assert_eq!(client.expect("error")["code"], "UNAUTHORIZED");
        assert_eq!(client.closed(), 4401);
        feeder.until(|m| matches!(m, ToFeeder::Close { .. }));
    }
    assert_eq!(gateway.figure("failed_tokens_total"), 3);
}

#[test]
fn what_is_posted_waits_for_the_feeder_and_is_answered_when_it_is_carried_out() {
    let gateway = Gateway::start();
    let mut client = HttpClient::poll(&gateway);
    let (port, id) = (gateway.port, client.id.clone());
    let body = "{\"type\":\"hello\"}\n{\"type\":\"ping\",\"at\":1}";
    let posted = std::thread::spawn(move || post(port, &id, 0, body).status);
    // The next one is too early until then.
    gateway.wait_for("the hello", |g| g.figure("received_total") > 0);
    assert_eq!(client.post(1, "").status, 409);
    let mut feeder = gateway.feeder();
    feeder.open();
    assert_eq!(posted.join().expect("post"), 204);
    client.n = 1;
    let first = [client.next(), client.next()];
    assert!(first.iter().any(|m| m["type"] == "welcome") && first.iter().any(|m| m["at"] == 1), "{first:?}");
    client.send(&json!({"type": "ping", "at": 2}));
    assert_eq!(client.expect("pong")["at"], 2);
    drop(feeder);
    assert_eq!(client.closed(), 1012);
    gateway.wait_for("the end", |g| g.figure("connections") == 0);
}

#[test]
fn limits_of_messages_connections_and_addresses_hold_without_websockets() {
    let gateway = Gateway::with(|c| {
        c.max_messages_per_second = 1;
        c.max_connections_per_address = 2;
    });
    let mut feeder = gateway.feeder();
    let mut clients = both(&gateway);
    assert_eq!(request(&gateway, "GET", "/events", "", "").status, 429);
    assert_eq!(request(&gateway, "POST", "/poll", "", "").status, 429);
    for client in &mut clients {
        client.hello(&[]);
        feeder.open();
        client.expect("welcome");
        let pings: Vec<String> = (0..20).map(|_| "{\"type\":\"ping\"}".to_owned()).collect();
        client.send_all(&pings);
        let mut pongs = 0;
        let error = loop {
            match client.next() {
                m if m["type"] == "pong" => pongs += 1,
                m => break m,
            }
        };
        assert_eq!((pongs, error["code"].as_str()), (9, Some("TOO_MANY_REQUESTS")));
        assert_eq!(client.closed(), 4429);
    }
}

#[test]
fn a_client_that_never_reads_its_answers_is_not_listened_to() {
    let gateway = Gateway::with(|c| c.client_queue_bytes = 64 << 20);
    let (_feeder, client, _) = live(&gateway, HttpClient::poll(&gateway));
    let ping = json!({"type": "ping", "at": "x".repeat(10_000)}).to_string();
    let body = vec![ping; 6].join("\n");
    let (port, id, n) = (gateway.port, client.id.clone(), client.n);
    let posts =
        std::thread::spawn(move || (n..n + 100).take_while(|n| post(port, &id, *n, &body).status == 204).count());
    gateway.wait_for("a request that waits", |g| g.figure("received_total") >= 25);
    let mut heard = 0;
    while heard < 600 {
        let answer = client.ask().json();
        heard += answer["messages"].as_array().expect("messages").iter().filter(|m| m["type"] == "pong").count();
    }
    assert_eq!(posts.join().expect("posts"), 100);
    assert!(gateway.figure("queue_high_water_bytes") < 1 << 20);
}

#[test]
fn a_client_that_goes_is_noticed() {
    let gateway = Gateway::start();
    let mut stage = Stage::new(&gateway);
    let (client, session) = stage.live(HttpClient::events(&gateway));
    drop(client);
    assert_eq!(stage.feeder.until(|m| matches!(m, ToFeeder::Close { .. })), ToFeeder::Close { session });
    gateway.wait_for("the end", |g| g.figure("connections") == 0);
    // A poll that goes away costs nothing: another may come.
    let (client, _) = stage.live(HttpClient::poll(&gateway));
    let n = client.polls.get();
    drop(client.begin_poll_as(n));
    stage.feeder.tick(11, 1, 5);
    let mut heard = String::new();
    client.polls.set(n + 1);
    let start = Instant::now();
    while !heard.contains("changes") && start.elapsed() < support::PATIENCE {
        // As something between would: it has no answer, so it asks again.
        let answer = if heard.is_empty() { client.ask_as(n) } else { client.ask() };
        if matches!(answer.status, 404 | 409) {
            // Its messages were on their way when it went: nothing goes on without them.
            return;
        }
        heard += &answer.json().to_string();
    }
    assert!(heard.contains("[5]"), "{heard}");
}

#[test]
fn a_poll_that_comes_again_gets_nothing_that_follows_a_lost_answer() {
    let gateway = Gateway::start();
    let (mut feeder, client, _) = live(&gateway, HttpClient::poll(&gateway));
    feeder.tick(11, 1, 5);
    gateway.wait_for("the tick", |g| g.figure("deliveries_total") == 1);
    let n = client.polls.get();
    let answer = client.ask();
    assert!(String::from_utf8_lossy(&answer.body).contains("[5]"), "{answer:?}");
    feeder.tick(12, 1, 6);
    gateway.wait_for("the tick", |g| g.figure("deliveries_total") == 2);
    for n in [n, n + 2, 0, u64::MAX] {
        assert_eq!(client.ask_as(n).status, 409, "{n}");
    }
    assert!(String::from_utf8_lossy(&client.ask().body).contains("[6]"));
    // One that waits may come again: nothing was sent to it.
    let waiting = client.two_polls();
    feeder.tick(13, 1, 7);
    assert!(String::from_utf8_lossy(&waiting.recv().expect("answer").body).contains("[7]"));
}

#[test]
fn a_shutdown_is_told_without_websockets() {
    for (restart, code) in [(false, 1001), (true, 1012)] {
        let mut gateway = Gateway::start();
        let (_feeder, mut events, _) = live(&gateway, HttpClient::events(&gateway));
        let poll = HttpClient::poll(&gateway);
        let waiting = poll.two_polls();
        gateway.order(&ToGateway::Shutdown { restart });
        assert_eq!(events.closed(), code);
        let answer = waiting.recv().expect("answer");
        assert_eq!(answer.json()["close"]["code"], code, "{answer:?}");
        assert_eq!(gateway.ended(), rte_gateway::EXIT_OK);
    }
}

#[test]
fn the_view_says_how_a_client_is_connected() {
    let gateway = Gateway::start();
    let (mut feeder, _client, _) = one_live(&gateway);
    let mut clients = both(&gateway);
    for client in &mut clients {
        client.hello(&[]);
        feeder.open();
        client.expect("welcome");
    }
    let mut transports: Vec<String> = gateway.report(1).into_iter().map(|c| c.transport).collect();
    transports.sort();
    assert_eq!(transports, ["events", "poll", "websocket"]);
}

#[test]
fn pages_of_allowed_origins_may_talk_without_websockets_and_others_may_not() {
    let gateway = Gateway::with(|c| c.allowed_origins = vec!["https://app.example".into()]);
    let id = HttpClient::poll(&gateway).id;
    let evil = "Origin: https://evil.example\r\n";
    let app = "Origin: https://app.example\r\n";
    let allowed = "Access-Control-Allow-Origin: https://app.example";
    for (method, path) in [
        ("GET", "/events".to_owned()),
        ("POST", "/poll".to_owned()),
        ("GET", format!("/poll?connection={id}")),
        ("POST", format!("/send?connection={id}&n=0")),
    ] {
        assert_eq!(request(&gateway, method, &path, evil, "").status, 403, "{method} {path}");
        let preflight = request(&gateway, "OPTIONS", &path, app, "");
        assert_eq!(preflight.status, 204);
        assert!(preflight.head.contains(allowed), "{}", preflight.head);
        assert!(preflight.head.contains("Access-Control-Allow-Methods: GET, POST"), "{}", preflight.head);
    }
    let client = HttpClient::events_at(&gateway, "/events", app);
    let posted = request(&gateway, "POST", &format!("/send?connection={}&n=0", client.id), app, "{\"type\":\"hello\"}");
    assert!(posted.status == 204 || posted.head.contains(allowed), "{}", posted.head);
    drop(gateway);
}

#[test]
fn a_thousand_clients_of_events_hear_every_tick() {
    const CLIENTS: usize = 1000;
    let gateway = Gateway::with(|c| {
        c.max_connections = 2000;
        c.max_connections_per_address = 2000;
    });
    let mut feeder = gateway.feeder();
    let mut clients: Vec<HttpClient> = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = HttpClient::events(&gateway);
        client.send(&json!({"type": "hello", "cursor": "c10", "subscriptions": [{"id": "a", "table": "t"}]}));
        let (session, ids) = feeder.open();
        feeder.subscribed(session, &ids[0], 1, true);
        feeder.catch_up(&[session], &[], "c10", true);
        client.expect("welcome");
        client.expect("subscribed");
        client.expect("commit");
        clients.push(client);
    }
    for tick in 11..=20 {
        feeder.tick(tick, 1, tick as i64);
    }
    for client in &mut clients {
        for tick in 11..=20 {
            assert_eq!(client.expect("changes")["changes"][0]["row"], json!([tick]));
            client.expect("commit");
        }
    }
    assert_eq!(gateway.figure("deliveries_total"), 10 * CLIENTS as u64);
    assert!(matches!(clients[0].down, Down::Events(_)));
}
