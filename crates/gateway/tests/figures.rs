//! Figures: what they say of databases, and who may see them.

mod support;

use rte_protocol::bridge::{FromFeeder, ToFeeder};
use rte_protocol::wire::ErrorCode;
use serde_json::{Value, json};
use support::fallback::{HttpClient, Response};
use support::{Gateway, one_live};

/// Asks as somebody who is not of this host.
fn ask(gateway: &Gateway, path: &str, token: Option<&str>) -> Response {
    use std::io::Write as _;
    let bearer = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let mut stream = gateway.tcp();
    let text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 203.0.113.9\r\n{bearer}\r\n");
    stream.write_all(text.as_bytes()).expect("write");
    Response::read(stream)
}

/// Asks with this token while the feeder answers so.
fn ask_and(
    gateway: &Gateway,
    feeder: &mut support::Feeder,
    token: &str,
    answer: impl Fn(u64) -> FromFeeder,
) -> Response {
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(gateway, "/stats", Some(token)));
        let opened = feeder.until(|m| matches!(m, ToFeeder::Open { .. }));
        let ToFeeder::Open { session, token: shown, subscriptions, .. } = opened else { unreachable!() };
        assert_eq!((shown.as_deref(), subscriptions.len()), (Some(token), 0));
        feeder.send(&answer(session));
        let answered = asked.join().expect("answer");
        if let FromFeeder::Opened { .. } = answer(session) {
            assert_eq!(feeder.next_of_session(), ToFeeder::Close { session });
        }
        answered
    })
}

fn opened(monitor: bool) -> impl Fn(u64) -> FromFeeder {
    move |session| FromFeeder::Opened {
        session,
        role: "web".into(),
        tables: vec![],
        monitor,
        expires_in_ms: Some(60_000),
    }
}

fn refused(close: u16, code: ErrorCode) -> impl Fn(u64) -> FromFeeder {
    move |session| FromFeeder::Refused { session, close, code, message: "no".into(), hint: None }
}

#[test]
fn figures_are_for_this_host_and_for_whom_the_database_lets_see_them() {
    let gateway = Gateway::with(|c| c.max_failed_tokens = 2);
    assert_eq!(ask(&gateway, "/stats", None).status, 403);
    assert_eq!(ask(&gateway, "/metrics", None).status, 403);
    // Nobody is there to be asked.
    assert_eq!(ask(&gateway, "/stats", Some("t")).status, 503);
    let mut feeder = gateway.feeder();
    gateway.wait_for("the feeder", |g| g.figure("feeders") == 1);
    let seen = ask_and(&gateway, &mut feeder, "good", opened(true));
    assert_eq!(seen.status, 200);
    assert_eq!(seen.json()["feeders"], 1);
    assert_eq!(ask_and(&gateway, &mut feeder, "other", opened(false)).status, 403);
    assert_eq!(ask_and(&gateway, &mut feeder, "forbidden", refused(4403, ErrorCode::Forbidden)).status, 403);
    assert_eq!(ask_and(&gateway, &mut feeder, "busy", refused(1013, ErrorCode::NotReady)).status, 503);
    assert_eq!(gateway.figure("failed_tokens_total"), 0);
    for _ in 0..2 {
        let wrong = ask_and(&gateway, &mut feeder, "wrong", refused(4401, ErrorCode::Unauthorized));
        assert_eq!(wrong.status, 401);
        assert!(wrong.head.contains("WWW-Authenticate: Bearer"), "{}", wrong.head);
    }
    assert_eq!(ask(&gateway, "/stats", Some("good")).status, 429);
    assert_eq!(gateway.figure("failed_tokens_total"), 2);
    // Other requests ask for no right, with or without a token, and this host needs none.
    assert_eq!(ask(&gateway, "/health", Some("wrong")).status, 200);
    assert_eq!(gateway.figure("sessions"), 0);
}

#[test]
fn a_feeder_that_does_not_answer_about_a_token_is_waited_for_no_longer_than_for_a_hello() {
    let gateway = Gateway::with(|c| c.hello_timeout_ms = 300);
    let mut feeder = gateway.feeder();
    gateway.wait_for("the feeder", |g| g.figure("feeders") == 1);
    assert_eq!(ask(&gateway, "/stats", Some("t")).status, 503);
    let ToFeeder::Open { session, .. } = feeder.next_of_session() else { panic!() };
    assert_eq!(feeder.next_of_session(), ToFeeder::Close { session });
    // Its word comes too late, and does no harm.
    feeder.send(&opened(true)(session));
    // One that goes meanwhile is not waited for at all.
    let gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    gateway.wait_for("the feeder", |g| g.figure("feeders") == 1);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&gateway, "/stats", Some("t")));
        feeder.until(|m| matches!(m, ToFeeder::Open { .. }));
        drop(feeder);
        assert_eq!(asked.join().expect("answer").status, 503);
    });
}

#[test]
fn figures_are_told_of_each_database() {
    let gateway = Gateway::with(|c| c.heartbeat_ms = 1000);
    let (mut feeder, mut client, _) = one_live(&gateway);
    feeder.tenants(&[("blue", None, "b"), ("green", None, "b"), ("red", None, "r")]);
    let mut other = gateway.feeder_of(2, "b");
    gateway.wait_for("the other feeder", |g| g.figure("feeders") == 2);
    let mut blue = HttpClient::events(&gateway);
    blue.send(&json!({"type": "hello", "tenant": "blue"}));
    other.open_of("blue");
    blue.expect("welcome");
    let now = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%N"]).output().expect("date").stdout;
    let now = format!("{}+00:00", &String::from_utf8(now).expect("text")[..26]);
    feeder.changes(&[(1, json!([{"op": "insert", "row": [1]}, {"op": "insert", "row": [2]}]))]);
    feeder.send(&FromFeeder::Commit { snapshot: "20:20:".into(), cursor: "c20".into(), time: now });
    client.expect("changes");
    client.expect("commit");
    let stats = || ask_local(&gateway, "/stats").json();
    let of = |stats: &Value, tenant: &str| {
        let tenants = stats["tenants"].as_array().expect("tenants");
        tenants.iter().find(|t| t["tenant"] == tenant).unwrap_or_else(|| panic!("{stats}")).clone()
    };
    gateway.wait_for("the sweeps", |_| {
        let stats = stats();
        of(&stats, "")["connections"] == 1
            && of(&stats, "blue, green")["connections"] == 1
            && of(&stats, "")["sent_bytes_total"].as_u64() > Some(0)
    });
    let found = stats();
    let landlord = of(&found, "");
    assert_eq!((&landlord["database"], &landlord["subscriptions"]), (&json!("main"), &json!(1)));
    assert_eq!((&landlord["ticks_total"], &landlord["changes_total"]), (&json!(2), &json!(2)));
    assert_eq!((&landlord["deliveries_total"], &landlord["queue_bytes"]), (&json!(2), &json!(0)));
    assert!(landlord["since_commit_ms"].as_u64().is_some_and(|ms| ms < 10_000), "{landlord}");
    for lag in [&landlord["lag_ms"], &found["lag_ms"]] {
        assert!(lag["p99"].as_f64() >= lag["p50"].as_f64() && lag["p50"].as_f64() >= Some(0.0), "{lag}");
    }
    let table = json!({"tenant": "", "database": "main", "table": "public.t", "watchers": 1, "deliveries_total": 2});
    assert_eq!(found["tables"], json!([table]));
    let other_database = of(&found, "blue, green");
    assert_eq!((&other_database["ticks_total"], &other_database["lag_ms"]), (&json!(0), &Value::Null));
    assert!(found["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{found}");
    let metrics = gateway.get("/metrics").1;
    for line in [
        "rte_database_deliveries_total{database=\"main\",tenant=\"\"} 2\n",
        "rte_database_connections{database=\"b\",tenant=\"blue, green\"} 1\n",
        "rte_database_lag_seconds{database=\"main\",tenant=\"\",quantile=\"0.99\"} ",
        "# TYPE rte_memory_bytes gauge\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    // Those of a table with the last who watches it.
    drop(client);
    gateway.wait_for("nobody to watch", |_| stats()["tables"] == json!([]));
    // Figures of a database go with its feeder.
    drop(other);
    gateway.wait_for("the end of the other", |_| stats()["tenants"].as_array().is_some_and(|t| t.len() == 1));
}

fn ask_local(gateway: &Gateway, path: &str) -> Response {
    support::fallback::request(gateway, "GET", path, "", "")
}

#[test]
fn a_welcome_says_how_long_the_token_is_good_for() {
    let gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    for expires_in_ms in [Some(1234), None] {
        let mut client = gateway.client();
        client.hello(&[]);
        let ToFeeder::Open { session, .. } = feeder.until(|m| matches!(m, ToFeeder::Open { .. })) else { panic!() };
        let (role, tables) = ("web".into(), vec![]);
        feeder.send(&FromFeeder::Opened { session, role, tables, monitor: false, expires_in_ms });
        let welcome = client.expect("welcome");
        assert_eq!(welcome.get("expires_in_ms"), expires_in_ms.map(|ms: u64| json!(ms)).as_ref());
    }
}
