//! Who comes back with an old copy gets what of it differs, and nothing else; and has afterwards what any other has.

use crate::scene::{ROWS, Writers, crowd, parts, scene, verify};
use rte_testkit::{Client, Cluster, Signal, State, kill, rounds, seed, wait_until};
use serde_json::{Value, json};

/// Waits until the writers have done so much more.
fn wait_for(writers: &Writers, more: u64) {
    let done = writers.done();
    wait_until("the writers go on", || (writers.done() > done + more).then_some(()));
}

fn told(clients: &mut [Client], parts: u32) {
    clients.iter_mut().for_each(|c| c.copy.subscriptions.get_mut("s").expect("s").have_parts = parts);
}

#[test]
fn whatever_chooses_the_rows_an_old_copy_is_compared_with_those() {
    let seed = seed("partial shapes");
    let (cluster, _sql) = scene(Cluster::builder());
    let mut clients = crowd(&cluster);
    told(&mut clients, 64);
    for round in 0..rounds(3) {
        clients.iter_mut().for_each(Client::leave);
        let writers = Writers::start(&cluster, 2, seed + 10 * round as u64);
        wait_for(&writers, 20);
        writers.stop();
        for client in &mut clients {
            client.come_back_anew();
            client.wait_live();
            let (verdict, _) = verify(client, "s", &parts(16));
            assert!(verdict.is_equal(), "{}: {verdict:?}", client.options.name);
        }
    }
    for client in &clients {
        assert_eq!(client.copy.counts.partial, rounds(3) as u64, "{}", client.options.name);
        client.assert_clean();
    }
}

#[test]
fn an_old_copy_becomes_the_servers_under_load_by_what_differs() {
    let seed = seed("partial");
    let (cluster, _sql) = scene(Cluster::builder());
    let writers = Writers::start(&cluster, 3, seed);
    let mut clients = crowd(&cluster);
    for round in 0..rounds(6) {
        told(&mut clients, [1, 64, 500, 4096][round % 4]);
        clients.iter_mut().for_each(Client::leave);
        wait_for(&writers, 20);
        for client in &mut clients {
            client.come_back_anew();
        }
        for client in &mut clients {
            client.wait_live();
            let (verdict, _) = verify(client, "s", &parts(16));
            assert!(verdict.is_equal(), "{}: {verdict:?}", client.options.name);
        }
    }
    writers.stop();
    for client in &clients {
        assert_eq!(client.copy.counts.partial, rounds(6) as u64, "{}", client.options.name);
        client.assert_clean();
    }
}

#[test]
fn only_the_rows_of_parts_that_differ_are_sent() {
    let (cluster, mut sql) = scene(Cluster::builder());
    let mut client = cluster.client("c");
    client.subscribe("s", "t");
    client.wait_live();
    client.copy.subscriptions.get_mut("s").expect("s").have_parts = 200;
    let sent = |client: &mut Client| {
        let before = client.copy.counts.snapshot_rows;
        client.come_back_anew();
        client.wait_live();
        assert!(verify(client, "s", &parts(16)).0.is_equal());
        client.copy.counts.snapshot_rows - before
    };
    assert_eq!(sent(&mut client), 0, "nothing differs");
    sql.run("UPDATE t SET n = n + 1 WHERE id = 7");
    let one = sent(&mut client);
    assert!((1..40).contains(&one), "{one} rows for one that differs");
    sql.run("DELETE FROM t WHERE id = 8");
    assert!(sent(&mut client) < 40);
    sql.run("INSERT INTO t VALUES (100000, 'ann', 1, 1, '', '{}', now())");
    assert!((1..40).contains(&sent(&mut client)));
    sql.run("UPDATE t SET n = n + 1");
    assert_eq!(sent(&mut client), ROWS as u64, "everything differs");
    sql.run("DELETE FROM t");
    assert_eq!(sent(&mut client), 0, "nothing is left");
    assert!(client.sub("s").rows.is_empty());
    assert_eq!(client.copy.counts.partial, 6);
    client.assert_clean();
}

#[test]
fn columns_that_are_not_compared_make_no_difference_and_come_whole() {
    let (cluster, mut sql) = scene(Cluster::builder());
    let mut client = cluster.client("c");
    client.subscribe("s", "t");
    client.wait_live();
    let hash = |client: &Client| {
        let hashes = rte_testkit::hash(client.sub("s"), 8, Some(&["id".into(), "owner".into()]));
        json!({"parts": 8, "hashes": hashes.iter().map(ToString::to_string).collect::<Vec<_>>(), "columns": ["owner", "id"]})
    };
    let have = hash(&client);
    sql.run("UPDATE t SET n = n + 1");
    let mut raw = cluster.client("raw");
    let ask = |client: &mut Client, have: &Value| {
        client.send(&json!({"type": "subscribe", "id": "s", "table": "t", "have": have}));
        let mut messages = Vec::new();
        while messages.last().is_none_or(|m: &Value| m["type"] != "commit") {
            messages.push(next(client));
        }
        client.send(&json!({"type": "unsubscribe", "id": "s"}));
        assert_eq!(next(client)["type"], "unsubscribed");
        messages
    };
    let messages = ask(&mut raw, &have);
    assert_eq!((&messages[0]["resumed"], &messages[0]["partial"]), (&json!(false), &json!(true)));
    assert_eq!(
        (&messages[1]["parts"], &messages[1]["rows"], &messages[1]["done"]),
        (&json!([]), &json!([]), &json!(false))
    );
    assert_eq!((&messages[2]["rows"], &messages[2]["done"]), (&json!([]), &json!(true)));
    assert_eq!(messages.len(), 4, "{messages:?}");
    sql.run("UPDATE t SET owner = 'zoe' WHERE id = 1");
    let messages = ask(&mut raw, &have);
    let told: Vec<u32> = serde_json::from_value(messages[1]["parts"].clone()).expect("parts");
    assert_eq!(told, [rte_core::integrity::part_of(b"[1]", 8)]);
    let rows: Vec<&Value> = messages.iter().flat_map(|m| m["rows"].as_array().into_iter().flatten()).collect();
    assert!(rows.len() > 100 && rows.iter().all(|row| row.as_array().is_some_and(|row| row.len() == 7)));
}

/// The next message, unseen by the client's copy.
fn next(client: &mut Client) -> Value {
    let message = client.raw(rte_testkit::patience()).expect("a message");
    serde_json::from_str(message.to_text().expect("text")).expect("JSON")
}

#[test]
fn who_wants_nothing_but_to_go_on_is_told_that_it_cannot() {
    let (cluster, mut sql) = scene(Cluster::builder().conf("rte.max_catch_up_size", "64kB"));
    let mut client = cluster.client("c");
    client.subscribe("s", "t");
    client.subscribe("m", "team_member");
    client.wait_live();
    let own = |client: &mut Client| {
        client.copy.subscriptions.get_mut("s").map(|s| (s.resume_only, s.have_parts) = (true, 64))
    };
    own(&mut client);
    // A little: it goes on.
    client.leave();
    sql.run("UPDATE t SET n = n + 1 WHERE id < 5");
    client.resume();
    client.wait_live();
    assert_eq!((client.copy.counts.resumed, client.copy.counts.resyncs.len()), (2, 0));
    // Too much: it does not; the other subscription, which does not mind, gets its snapshot.
    client.leave();
    sql.run("UPDATE t SET note = repeat('x', 100) WHERE id <= 1500; INSERT INTO team_member VALUES ('zoe', 9)");
    client.resume();
    client.wait_for("the end", |c| c.sub("s").state == State::Ended && c.sub("m").state == State::Live);
    assert_eq!(client.copy.counts.resyncs, ["cursor_expired", "cursor_expired"]);
    assert_eq!(client.copy.counts.snapshot_rows, ROWS as u64 + 3 + 4, "no snapshot of it has begun");
    client.subscribe_again("s");
    client.wait_live();
    assert_eq!(client.copy.counts.partial, 1);
    for id in ["s", "m"] {
        assert!(verify(&mut client, id, &parts(16)).0.is_equal());
    }
    // A condition that its cursor knows nothing of.
    client.leave();
    let s = client.copy.subscriptions.get_mut("s").expect("s");
    s.condition = Some(("n > 0".into(), vec![]));
    client.resume();
    client.wait_for("the end", |c| c.sub("s").state == State::Ended);
    assert_eq!(client.copy.counts.resyncs.last().map(String::as_str), Some("not_held"));
    client.subscribe_again("s");
    client.wait_live();
    assert!(verify(&mut client, "s", &parts(16)).0.is_equal());
    // A cursor that is none of this server's.
    client.leave();
    own(&mut client);
    client.copy.cursor = Some("nonsense".into());
    client.resume();
    client.wait_for("the end", |c| c.sub("s").state == State::Ended);
    client.wait_error("INVALID_CURSOR");
    assert_eq!(client.copy.counts.resyncs.last().map(String::as_str), Some("cursor_invalid"));
    client.subscribe_again("s");
    client.wait_live();
    assert!(verify(&mut client, "s", &parts(16)).0.is_equal());
    assert!(client.errors.is_empty(), "{:?}", client.errors);
}

#[test]
fn an_old_copy_that_is_told_wrongly_is_refused() {
    let (cluster, _sql) = scene(Cluster::builder());
    let mut client = cluster.client("c");
    let hash = "0".repeat(16);
    for (have, code) in [
        (json!({"parts": 0, "hashes": []}), "BAD_MESSAGE"),
        (json!({"parts": 2, "hashes": [hash]}), "BAD_MESSAGE"),
        (json!({"parts": 4097, "hashes": vec![&hash; 4097]}), "BAD_MESSAGE"),
        (json!({"parts": 1, "hashes": ["xyz"]}), "BAD_MESSAGE"),
        (json!({"parts": 1, "hashes": [hash], "columns": []}), "BAD_MESSAGE"),
        (json!({"parts": 1}), "BAD_MESSAGE"),
        (json!({"parts": 1, "hashes": [hash], "columns": ["secret"]}), "UNKNOWN_COLUMN"),
    ] {
        client.send(&json!({"type": "subscribe", "id": "x", "table": "t", "have": have}));
        assert_eq!(client.wait_error(code).id.as_deref(), Some("x"), "{have}");
    }
    client.send(&json!({"type": "subscribe", "id": "x", "table": "t", "resume_only": true}));
    assert_eq!(client.wait_error("BAD_MESSAGE").id.as_deref(), Some("x"));
    client.subscribe("x", "t");
    client.wait_live();
    assert!(client.errors.is_empty(), "{:?}", client.errors);
}

#[test]
fn a_locked_table_costs_the_comparison_and_nothing_else() {
    let (cluster, mut sql) = scene(Cluster::builder());
    let mut client = cluster.client("c");
    client.subscribe("s", "t");
    client.wait_live();
    client.copy.subscriptions.get_mut("s").expect("s").have_parts = 64;
    let mut locker = cluster.sql();
    locker.run("BEGIN; LOCK TABLE t");
    client.come_back_anew();
    client.wait_for("the answer", |c| c.sub("s").shape.is_some());
    locker.run("COMMIT");
    client.wait_live();
    sql.run("UPDATE t SET n = 0 WHERE id = 1");
    assert!(verify(&mut client, "s", &parts(16)).0.is_equal());
    assert!(client.errors.is_empty(), "{:?}", client.errors);
}

/// Comes back with old copies again and again while somebody is killed.
fn meddle(victim: impl Fn(&Cluster)) {
    let seed = seed("partial kills");
    let (cluster, _sql) = scene(Cluster::builder());
    let writers = Writers::start(&cluster, 2, seed);
    let mut clients = crowd(&cluster);
    told(&mut clients, 64);
    for _ in 0..rounds(3) {
        clients.iter_mut().for_each(Client::leave);
        wait_for(&writers, 20);
        clients.iter_mut().for_each(Client::come_back_anew);
        victim(&cluster);
        for client in &mut clients {
            client.carry_on("live", |c| c.copy.all_live());
        }
    }
    for client in &mut clients {
        // On a connection that outlived everybody, with the copy that it has.
        client.leave();
        client.come_back();
        client.wait_live();
        assert!(verify(client, "s", &parts(16)).0.is_equal(), "{}", client.options.name);
        assert!(client.copy.counts.partial >= rounds(3) as u64, "{:?}", client.copy.counts);
    }
    writers.stop();
}

#[test]
fn a_query_worker_that_is_ended_in_the_middle_costs_no_row() {
    meddle(|cluster| {
        let mut sql = wait_until("a session", || cluster.try_sql("postgres").ok());
        wait_until("a query worker", || {
            let ended = sql.number(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'whagons_rte query worker'",
            );
            (ended > 0).then_some(())
        });
    });
}

#[test]
fn a_gateway_that_is_killed_in_the_middle_costs_no_row() {
    meddle(|cluster| kill(cluster.worker("gateway"), Signal::KILL));
}

#[test]
fn a_feeder_that_ends_in_the_middle_costs_no_row() {
    meddle(|cluster| kill(cluster.worker("feeder"), Signal::TERM));
}
