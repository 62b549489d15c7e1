//! Tenants, as their clients and the landlord's feeder see them.

mod support;

use rte_protocol::bridge::{FromFeeder, ToFeeder};
use rte_protocol::wire::ErrorCode;
use serde_json::json;
use std::time::{Duration, Instant};
use support::{Feeder, Gateway};

/// A landlord's feeder that has said who is a tenant, and the gateway has heard it.
fn landlord(gateway: &Gateway, tenants: &[(&str, Option<&str>, &str)]) -> Feeder {
    let mut feeder = gateway.feeder();
    feeder.tenants(tenants);
    // Nobody is unknown before the list has come to the thread of the connection.
    for _ in 0..gateway.config.io_threads {
        gateway.client_of("nobody").refused("UNKNOWN_TENANT", 4404);
    }
    feeder
}

#[test]
fn a_tenant_is_found_by_its_name_or_its_domain_and_no_other_is() {
    let gateway = Gateway::start();
    let _landlord = landlord(&gateway, &[("blue", Some("Blue.Example"), "b"), ("red", None, "r")]);
    let mut blue = gateway.feeder_of(2, "b");
    for path in ["/ws?tenant=blue", "/ws?domain=blue.example", "/ws?domain=BLUE.example"] {
        let mut client = gateway.client_at(path, &[]).expect("upgrade");
        client.hello(&[]);
        blue.open_of("blue");
        assert_eq!(client.expect("welcome")["tenant"], "blue", "{path}");
    }
    // What hello says goes before the URL.
    let mut client = gateway.client_at("/ws?tenant=red", &[]).expect("upgrade");
    client.send(&json!({"type": "hello", "tenant": "blue.EXAMPLE"}));
    blue.open_of("blue");
    assert_eq!(client.expect("welcome")["tenant"], "blue");
    // Names are exact, and the name of a database is none.
    for tenant in ["Blue", "b", "", "blue' OR 'a'='a"] {
        gateway.client_of(tenant).refused("UNKNOWN_TENANT", 4404);
    }
}

#[test]
fn the_landlords_clients_name_no_tenant_or_its_database() {
    let gateway = Gateway::start();
    let mut landlord = landlord(&gateway, &[("blue", None, "b")]);
    let mut client = gateway.client();
    client.hello(&[]);
    landlord.open_of("");
    assert_eq!(client.expect("welcome")["tenant"], "main");
    let mut client = gateway.client_of("main");
    landlord.open_of("");
    assert_eq!(client.expect("welcome")["tenant"], "main");
}

#[test]
fn a_tenant_in_the_landlords_database_is_told_from_the_landlord() {
    let gateway = Gateway::start();
    let mut landlord = landlord(&gateway, &[("green", None, "main")]);
    let mut client = gateway.client_of("green");
    landlord.open_of("green");
    assert_eq!(client.expect("welcome")["tenant"], "green");
}

#[test]
fn the_landlord_is_told_of_those_who_wait_until_their_feeder_comes() {
    let gateway = Gateway::with(|c| c.tenant_wait_ms = 60_000);
    let mut landlord = landlord(&gateway, &[("blue", None, "b"), ("red", None, "r")]);
    let start = Instant::now();
    let mut client = gateway.client_of("blue");
    for _ in 0..3 {
        assert_eq!(landlord.needed(), "blue");
    }
    assert!(start.elapsed() > Duration::from_secs(1), "it is asked again after a while, not without end");
    // Another tenant's feeder is not theirs.
    let mut red = gateway.feeder_of(3, "r");
    let mut other = gateway.client_of("red");
    red.open_of("red");
    other.expect("welcome");
    client.send(&json!({"type": "subscribe", "id": "a", "table": "t"}));
    let mut blue = gateway.feeder_of(2, "b");
    let session = blue.open_of("blue");
    client.expect("welcome");
    assert!(matches!(blue.next_of_session(), ToFeeder::Subscribe { session: s, .. } if s == session));
}

#[test]
fn nobody_is_asked_for_twice_by_many_who_wait_at_once() {
    let gateway = Gateway::with(|c| {
        c.tenant_wait_ms = 60_000;
        c.io_threads = 1;
    });
    let mut landlord = landlord(&gateway, &[("blue", None, "b")]);
    let mut clients: Vec<_> = (0..20).map(|_| gateway.client_of("blue")).collect();
    gateway.wait_for("all hellos", |g| g.figure("received_total") >= 21);
    // The landlord's own client comes after them.
    let mut own = gateway.client();
    own.hello(&[]);
    let mut asked = 0;
    while let ToFeeder::NeedDatabase { .. } = landlord.next_of_session() {
        asked += 1;
    }
    assert!((1..5).contains(&asked), "{asked}");
    let mut blue = gateway.feeder_of(2, "b");
    for _ in 0..clients.len() {
        blue.open_of("blue");
    }
    clients.iter_mut().for_each(|c| _ = c.expect("welcome"));
}

#[test]
fn who_waits_too_long_for_a_database_is_sent_away_with_a_code() {
    let gateway = Gateway::with(|c| c.tenant_wait_ms = 300);
    let mut landlord = landlord(&gateway, &[("blue", None, "b")]);
    let mut client = gateway.client_of("blue");
    assert_eq!(landlord.needed(), "blue");
    client.refused("TENANT_NOT_READY", 1013);
    // Who comes back has its time anew.
    let mut client = gateway.client_of("blue");
    let mut blue = gateway.feeder_of(2, "b");
    blue.open_of("blue");
    client.expect("welcome");
}

#[test]
fn who_waits_for_a_tenant_that_can_not_be_served_is_told_why() {
    let gateway = Gateway::with(|c| c.tenant_wait_ms = 60_000);
    let mut landlord = landlord(&gateway, &[("blue", None, "b"), ("red", None, "r")]);
    let mut red = gateway.client_of("red");
    assert_eq!(landlord.needed(), "red");
    for _ in 0..2 {
        let mut blue = gateway.client_of("blue");
        // At once, also for the second, though the first has just asked.
        while landlord.needed() != "blue" {}
        landlord.send(&FromFeeder::TenantUnavailable {
            tenant: "blue".into(),
            close: 1013,
            code: ErrorCode::TenantNotReady,
            message: "the database is being created".into(),
            hint: None,
        });
        assert_eq!(blue.expect("error")["message"], "the database is being created");
        assert_eq!(blue.closed(), 1013);
    }
    let mut feeder = gateway.feeder_of(3, "r");
    feeder.open_of("red");
    red.expect("welcome");
}

#[test]
fn a_hello_waits_until_the_landlord_has_said_who_is_a_tenant() {
    let gateway = Gateway::start();
    let (mut blue, mut nobody) = (gateway.client_of("blue"), gateway.client_of("nobody"));
    let mut feeder = gateway.feeder_of(2, "b");
    gateway.wait_for("both hellos", |g| g.figure("received_total") == 2);
    let mut landlord = gateway.feeder();
    landlord.tenants(&[("blue", None, "b")]);
    feeder.open_of("blue");
    blue.expect("welcome");
    nobody.refused("UNKNOWN_TENANT", 4404);
}

#[test]
fn without_a_landlord_nobody_is_called_unknown_and_known_tenants_go_on() {
    let gateway = Gateway::with(|c| c.hello_timeout_ms = 300);
    gateway.client_of("blue").refused("NOT_READY", 1013);

    let landlord = landlord(&gateway, &[("blue", None, "b")]);
    let mut feeder = gateway.feeder_of(2, "b");
    let mut before = gateway.client_of("blue");
    feeder.open_of("blue");
    before.expect("welcome");
    drop(landlord);
    gateway.wait_for("the landlord to be gone", |g| g.figure("feeders") == 1);
    before.lives();
    let mut client = gateway.client_of("blue");
    feeder.open_of("blue");
    client.expect("welcome");
    gateway.client_of("nobody").refused("NOT_READY", 1013);
}

#[test]
fn the_clients_of_a_tenant_that_is_gone_renamed_or_moved_are_closed_and_no_others() {
    let gateway = Gateway::start();
    let all = [("gone", None, "b"), ("renamed", Some("r"), "b"), ("moved", None, "b"), ("stays", Some("s"), "b")];
    let mut landlord = landlord(&gateway, &all);
    let mut feeder = gateway.feeder_of(2, "b");
    let mut own = gateway.client();
    own.hello(&[]);
    landlord.open_of("");
    own.expect("welcome");
    let mut clients: Vec<_> = ["gone", "renamed", "moved", "stays"]
        .iter()
        .map(|tenant| {
            let mut client = gateway.client_of(tenant);
            feeder.open_of(tenant);
            client.expect("welcome");
            client
        })
        .collect();
    landlord.tenants(&[("new name", Some("r"), "b"), ("moved", None, "c"), ("stays", Some("other"), "b")]);
    for client in &mut clients[..3] {
        client.refused("UNKNOWN_TENANT", 4404);
        assert!(matches!(feeder.next_of_session(), ToFeeder::Close { .. }));
    }
    clients[3].lives();
    own.lives();
}

#[test]
fn who_waits_for_a_tenant_that_goes_is_told_so_and_who_waits_for_one_that_moves_follows() {
    let gateway = Gateway::with(|c| c.tenant_wait_ms = 60_000);
    let mut landlord = landlord(&gateway, &[("gone", None, "b"), ("moved", None, "b")]);
    let (mut gone, mut moved) = (gateway.client_of("gone"), gateway.client_of("moved"));
    let mut needed = [landlord.needed(), landlord.needed()];
    needed.sort();
    assert_eq!(needed, ["gone", "moved"]);
    landlord.tenants(&[("moved", None, "c")]);
    gone.refused("UNKNOWN_TENANT", 4404);
    let mut feeder = gateway.feeder_of(3, "c");
    feeder.open_of("moved");
    moved.expect("welcome");
}

#[test]
fn a_database_is_shown_its_own_connections_with_their_tenants_and_no_others() {
    let gateway = Gateway::start();
    let mut landlord = landlord(&gateway, &[("a", None, "shared"), ("b", None, "shared"), ("c", None, "own")]);
    let (mut shared, mut own) = (gateway.feeder_of(2, "shared"), gateway.feeder_of(3, "own"));
    let mut clients = vec![gateway.client_of("a")];
    shared.open_of("a");
    clients.push(gateway.client_of("b"));
    shared.open_of("b");
    clients.push(gateway.client_of("c"));
    own.open_of("c");
    clients.push(gateway.client_of("main"));
    landlord.open_of("");
    clients.iter_mut().for_each(|c| _ = c.expect("welcome"));
    for (database, tenants) in [(1, vec!["main"]), (2, vec!["a", "b"]), (3, vec!["c"]), (4, vec![])] {
        let mut shown: Vec<_> = gateway.report(database).into_iter().map(|c| c.tenant).collect();
        shown.sort();
        assert_eq!(shown, tenants, "database {database}");
    }
    // Figures name databases, so they are for this host and for whom the landlord's database lets see them.
    let (code, figures) = gateway.http("GET /stats HTTP/1.1\r\nHost: localhost\r\nVia: 1.1 x\r\n\r\n");
    assert_eq!(code, 403);
    assert!(!["\"shared\"", "\"own\"", "\"main\""].iter().any(|name| figures.contains(name)), "{figures}");
}

#[test]
fn only_the_landlords_feeder_may_say_who_is_a_tenant() {
    let gateway = Gateway::start();
    let _landlord = landlord(&gateway, &[("blue", None, "b"), ("red", None, "r")]);
    let (mut blue, mut red) = (gateway.feeder_of(2, "b"), gateway.feeder_of(3, "r"));
    let mut victim = gateway.client_of("red");
    red.open_of("red");
    victim.expect("welcome");
    let mut client = gateway.client_of("blue");
    blue.open_of("blue");
    client.expect("welcome");
    blue.tenants(&[("red", None, "b")]);
    assert_eq!(client.closed(), 1012, "the feeder that said so is given up");
    victim.lives();
    let mut client = gateway.client_of("red");
    red.open_of("red");
    client.expect("welcome");
}

#[test]
fn a_feeder_that_leaves_sends_its_clients_away_with_its_code_and_takes_no_others() {
    let gateway = Gateway::with(|c| {
        c.tenant_wait_ms = 60_000;
        // Another thread might not have heard of it yet, and sent who comes too soon away as well.
        c.io_threads = 1;
    });
    let mut landlord = landlord(&gateway, &[("blue", None, "b"), ("red", None, "r")]);
    let (mut blue, mut red) = (gateway.feeder_of(2, "b"), gateway.feeder_of(3, "r"));
    gateway.wait_for("the feeders", |g| g.figure("feeders") == 3);
    let (mut client, mut other) = (gateway.client_of("blue"), gateway.client_of("red"));
    blue.open_of("blue");
    red.open_of("red");
    client.expect("welcome");
    other.expect("welcome");
    // This one is not let in yet.
    let mut late = gateway.client_of("blue");
    blue.until(|m| matches!(m, ToFeeder::Open { .. }));
    blue.send(&FromFeeder::Goodbye { close: 1013 });
    assert_eq!((client.closed(), late.closed()), (1013, 1013));
    other.lives();
    // Its connection is still there, but who comes now is for the next.
    let mut client = gateway.client_of("blue");
    assert_eq!(landlord.needed(), "blue");
    let mut next = gateway.feeder_of(2, "b");
    next.open_of("blue");
    client.expect("welcome");
    drop(blue);
    client.lives();
}
