//! Joining and resuming, as a client sees them.

mod support;

use rte_protocol::bridge::{FromFeeder, FromWorker, ToFeeder};
use rte_protocol::wire::changes_frame;
use serde_json::json;
use support::{Gateway, one_live};

#[test]
fn join_is_exact_with_ticks_in_between() {
    let gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    feeder.commit(5);
    let mut client = gateway.client();
    client.hello(&["a"]);
    let (session, ids) = feeder.open();
    let welcome = client.expect("welcome");
    assert_eq!((&welcome["tenant"], &welcome["role"]), (&json!("main"), &json!("web")));
    feeder.subscribed(session, &ids[0], 7, false);
    let subscribed = client.expect("subscribed");
    assert_eq!((&subscribed["id"], &subscribed["shape"]), (&json!("a"), &json!("s7")));
    // Before the snapshot: it will have seen this one.
    feeder.tick(10, 7, 1);
    feeder.job(1, session, &[&ids[0]]);
    feeder.until(|m| matches!(m, ToFeeder::NeedWorker { waiting: 1 }));
    let mut worker = gateway.worker();
    let job = worker.take();
    worker.begin(job, 12);
    feeder.until(|m| *m == ToFeeder::NeedTick);
    worker.rows(job, 0, &json!([[1], [2]]), false);
    let snapshot = client.expect("snapshot");
    assert_eq!((&snapshot["rows"], &snapshot["done"]), (&json!([[1], [2]]), &json!(false)));
    // A tick that does not contain the snapshot, and one that does.
    feeder.tick(11, 7, 2);
    feeder.tick(20, 7, 3);
    worker.rows(job, 0, &json!([[4]]), true);
    worker.send(&FromWorker::End { job });
    assert_eq!(client.expect("snapshot")["done"], false);
    let done = client.expect("snapshot");
    assert_eq!((&done["rows"], &done["done"]), (&json!([]), &json!(true)));
    // What the snapshot had not seen whole: the tick at 20 alone.
    assert_eq!(client.expect("changes")["changes"][0]["row"], json!([3]));
    assert_eq!(client.commit().0, "c20");
    feeder.tick(30, 7, 5);
    assert_eq!(client.expect("changes")["changes"][0]["row"], json!([5]));
    assert_eq!(client.commit().0, "c30");
}

#[test]
fn a_resumed_client_gets_what_it_missed_and_then_live_ticks() {
    let gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    let mut client = gateway.client();
    client.send(&json!({"type": "hello", "cursor": "c5", "subscriptions": [{"id": "a", "table": "t"}]}));
    let (session, ids) = feeder.open();
    client.expect("welcome");
    feeder.subscribed(session, &ids[0], 1, true);
    assert_eq!(client.expect("subscribed")["resumed"], true);
    // A tick that comes before the end of the catch-up must not overtake it.
    feeder.changes(&[(1, json!([{"op": "insert", "row": [3]}]))]);
    feeder.catch_up(&[session], &[changes_frame("s1", br#"[{"op":"insert","row":[1]}]"#)], "c8", false);
    feeder.catch_up(&[session], &[changes_frame("s1", br#"[{"op":"insert","row":[2]}]"#)], "c9", true);
    feeder.commit(10);
    for (row, cursor) in [(1, None), (2, Some("c9")), (3, Some("c10"))] {
        assert_eq!(client.expect("changes")["changes"][0]["row"], json!([row]));
        if let Some(cursor) = cursor {
            assert_eq!(client.commit().0, cursor);
        }
    }
}

#[test]
fn a_live_subscription_goes_on_while_another_joins_the_same_shape() {
    let gateway = Gateway::start();
    let (mut feeder, mut client, session) = one_live(&gateway);
    client.send(&json!({"type": "subscribe", "id": "b", "table": "t"}));
    let ToFeeder::Subscribe { subscription, .. } = feeder.next_of_session() else { panic!() };
    feeder.subscribed(session, &subscription.id, 1, false);
    client.expect("subscribed");
    feeder.job(2, session, &[&subscription.id]);
    feeder.tick(20, 1, 1);
    client.expect("changes");
    assert_eq!(client.commit().0, "c20");
    let mut worker = gateway.worker();
    let job = worker.take();
    worker.begin(job, 15);
    worker.rows(job, 0, &json!([[9]]), true);
    worker.send(&FromWorker::End { job });
    // The last tick contains the snapshot: live at once, its commit is repeated.
    client.expect("snapshot");
    assert_eq!(client.expect("snapshot")["done"], true);
    client.expect("changes");
    assert_eq!(client.commit().0, "c20");
}

#[test]
fn a_resync_replaces_the_copy() {
    let gateway = Gateway::start();
    let (mut feeder, mut client, session) = one_live(&gateway);
    feeder.send(&FromFeeder::Resync { session, id: "0:a".into(), reason: "schema_changed".into() });
    assert_eq!(client.expect("resync")["reason"], "schema_changed");
    feeder.tick(20, 1, 1);
    feeder.subscribed(session, "0:a", 2, false);
    assert_eq!(client.expect("subscribed")["shape"], "s2");
    feeder.job(2, session, &["0:a"]);
    let mut worker = gateway.worker();
    let job = worker.take();
    worker.begin(job, 20);
    worker.rows(job, 0, &json!([[1]]), true);
    worker.send(&FromWorker::End { job });
    client.expect("snapshot");
    assert_eq!(client.expect("snapshot")["done"], true);
    assert_eq!(client.commit().0, "c20");
}

#[test]
fn a_worker_that_dies_before_its_first_row_is_replaced() {
    let gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    let mut client = gateway.client();
    client.hello(&["a"]);
    let (session, ids) = feeder.open();
    feeder.subscribed(session, &ids[0], 1, false);
    feeder.job(1, session, &[&ids[0]]);
    let mut first = gateway.worker();
    let job = first.take();
    first.begin(job, 10);
    feeder.until(|m| *m == ToFeeder::NeedTick);
    drop(first);
    let mut second = gateway.worker();
    assert_eq!(second.take(), job);
    second.begin(job, 20);
    feeder.until(|m| *m == ToFeeder::NeedTick);
    feeder.commit(15);
    second.rows(job, 0, &json!([[1]]), true);
    second.send(&FromWorker::End { job });
    client.expect("welcome");
    client.expect("subscribed");
    assert_eq!(client.expect("snapshot")["done"], false);
    feeder.commit(20);
    assert_eq!(client.expect("snapshot")["done"], true);
    assert_eq!(client.commit().0, "c20");
}

#[test]
fn a_worker_that_dies_amid_its_rows_sends_the_client_back() {
    let gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    let mut client = gateway.client();
    client.hello(&["a"]);
    let (session, ids) = feeder.open();
    feeder.subscribed(session, &ids[0], 1, false);
    feeder.job(1, session, &[&ids[0]]);
    let mut worker = gateway.worker();
    let job = worker.take();
    worker.begin(job, 10);
    worker.rows(job, 0, &json!([[1]]), false);
    drop(worker);
    assert_eq!(client.closed(), 1012);
    feeder.until(|m| *m == ToFeeder::Close { session });
}

#[test]
fn of_a_failed_snapshot_the_feeder_decides_what_becomes() {
    let gateway = Gateway::start();
    let (mut feeder, mut client, session) = one_live(&gateway);
    client.send(&json!({"type": "subscribe", "id": "b", "table": "t"}));
    let ToFeeder::Subscribe { subscription, .. } = feeder.next_of_session() else { panic!() };
    feeder.subscribed(session, &subscription.id, 2, false);
    feeder.job(2, session, &[&subscription.id]);
    let mut worker = gateway.worker();
    let job = worker.take();
    worker.begin(job, 15);
    let code = rte_protocol::wire::ErrorCode::SnapshotFailed;
    worker.send(&FromWorker::Failed { job, code, message: "no".into(), hint: None });
    client.expect("subscribed");
    let (ids, message) = (vec![subscription.id.clone()], "no".to_owned());
    assert_eq!(feeder.next_of_session(), ToFeeder::SnapshotFailed { session, ids, code, message, hint: None });
    // Another try is a resynchronisation; here it gives up.
    feeder.send(&FromFeeder::Ended { session, id: subscription.id, code, message: "no".into(), hint: None });
    let error = client.expect("error");
    assert_eq!((&error["code"], &error["id"]), (&json!("SNAPSHOT_FAILED"), &json!("b")));
    client.expect("unsubscribed");
    feeder.tick(20, 1, 1);
    client.expect("changes");
    client.expect("commit");
}

#[test]
fn a_job_is_cancelled_when_its_client_goes() {
    let gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    let mut client = gateway.client();
    client.hello(&["a"]);
    let (session, ids) = feeder.open();
    feeder.subscribed(session, &ids[0], 1, false);
    feeder.job(1, session, &[&ids[0]]);
    let mut worker = gateway.worker();
    let job = worker.take();
    drop(client);
    assert_eq!(worker.next(), rte_protocol::bridge::ToWorker::Cancel { job });
    worker.send(&FromWorker::End { job });
    feeder.until(|m| *m == ToFeeder::Close { session });
}

#[test]
fn what_was_unsubscribed_during_a_catch_up_does_not_come_anymore() {
    let gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    let mut client = gateway.client();
    let subscriptions = json!([{"id": "a", "table": "t"}, {"id": "b", "table": "t"}]);
    client.send(&json!({"type": "hello", "cursor": "c5", "subscriptions": subscriptions}));
    let (session, ids) = feeder.open();
    client.expect("welcome");
    feeder.subscribed(session, &ids[0], 1, true);
    // The client holds copies at its cursor: no commit before the feeder has answered for both.
    feeder.tick(8, 1, 0);
    feeder.subscribed(session, &ids[1], 2, true);
    client.expect("subscribed");
    client.expect("subscribed");
    client.send(&json!({"type": "unsubscribe", "id": "a"}));
    client.expect("unsubscribed");
    feeder.until(|m| matches!(m, ToFeeder::Unsubscribe { .. }));
    let frames = [
        changes_frame("s1", br#"[{"op":"insert","row":[1]}]"#),
        changes_frame("s2", br#"[{"op":"insert","row":[2]}]"#),
    ];
    feeder.catch_up(&[session], &frames, "c9", true);
    assert_eq!(client.expect("changes")["shape"], "s2");
    assert_eq!(client.commit().0, "c9");
}

/// Answers the subscriptions of a session and lets them go live at tick `xmax`.
fn live(gateway: &Gateway, feeder: &mut support::Feeder, session: u64, subs: &[(&str, u32)], xmax: u64) {
    for (id, shape) in subs {
        feeder.subscribed(session, id, *shape, false);
    }
    let ids: Vec<&str> = subs.iter().map(|(id, _)| *id).collect();
    feeder.job(xmax, session, &ids);
    let mut worker = gateway.worker();
    let job = worker.take();
    worker.begin(job, xmax);
    feeder.until(|m| *m == ToFeeder::NeedTick);
    for index in 0..subs.len() {
        worker.rows(job, index as u32, &json!([]), true);
    }
    worker.send(&FromWorker::End { job });
    feeder.commit(xmax);
}

#[test]
fn cursors_differ_by_what_their_connections_hold_and_by_nothing_else() {
    let gateway = Gateway::with(|c| c.io_threads = 1);
    let mut feeder = gateway.feeder();
    let mut clients: Vec<_> = (0..3).map(|_| gateway.client()).collect();
    for (client, ids) in clients.iter_mut().zip([&["a"][..], &["a"], &["a", "b"]]) {
        client.hello(ids);
        let (session, ids) = feeder.open();
        let subs: Vec<(&str, u32)> = ids.iter().map(String::as_str).zip([1, 2]).collect();
        live(&gateway, &mut feeder, session, &subs, 10);
        // They go live together or one by one.
        let all: Vec<u64> = subs.iter().map(|(id, shape)| support::digest(id, *shape)).collect();
        loop {
            let message = client.next();
            let held = message["cursor"].as_str().and_then(|text| rte_core::held::split(text).ok());
            if held.is_some_and(|(_, held)| held.holds_exactly(&all)) {
                break;
            }
        }
    }
    feeder.tick(20, 1, 1);
    let mut texts = Vec::new();
    for client in &mut clients {
        client.expect("changes");
        texts.push(client.expect("commit")["cursor"].as_str().expect("cursor").to_owned());
    }
    assert_eq!(texts[0], texts[1], "who holds the same shares the text");
    let (a, b) = (support::digest("0:a", 1), support::digest("1:b", 2));
    for (text, digests) in texts.iter().zip([&[a][..], &[a], &[a, b]]) {
        let (place, held) = rte_core::held::split(text).expect("cursor");
        assert_eq!(place, "c20");
        assert!(held.holds_exactly(digests), "{text}");
    }
    let shown: Vec<_> = gateway.report(1).into_iter().filter_map(|c| c.sent_cursor).collect();
    assert!(texts.iter().all(|text| shown.contains(text)), "{shown:?}");
}

#[test]
fn a_cursor_holds_a_subscription_from_the_commit_at_which_it_goes_live_until_it_ends() {
    let gateway = Gateway::start();
    let (mut feeder, mut client, session) = one_live(&gateway);
    let a = support::digest("0:a", 1);
    client.send(&json!({"type": "subscribe", "id": "b", "table": "t"}));
    feeder.until(|m| matches!(m, ToFeeder::Subscribe { .. }));
    feeder.subscribed(session, "1:b", 2, false);
    client.expect("subscribed");
    feeder.tick(20, 1, 1);
    client.expect("changes");
    assert!(client.commit().1.holds_exactly(&[a]), "it joins");
    feeder.job(2, session, &["1:b"]);
    let mut worker = gateway.worker();
    let job = worker.take();
    worker.begin(job, 20);
    worker.rows(job, 0, &json!([]), true);
    assert_eq!(client.expect("snapshot")["done"], true);
    let (cursor, held) = client.commit();
    assert!(cursor == "c20" && held.holds_exactly(&[a, support::digest("1:b", 2)]), "the same tick holds more");

    feeder.send(&FromFeeder::Resync { session, id: "0:a".into(), reason: "access_changed".into() });
    client.expect("resync");
    feeder.tick(30, 2, 1);
    client.expect("changes");
    assert!(client.commit().1.holds_exactly(&[support::digest("1:b", 2)]), "its copy is given up");
    let code = rte_protocol::wire::ErrorCode::UnknownTable;
    feeder.send(&FromFeeder::Ended { session, id: "0:a".into(), code, message: "gone".into(), hint: None });
    client.expect("error");
    client.expect("unsubscribed");
    feeder.tick(40, 2, 1);
    client.expect("changes");
    assert!(client.commit().1.holds_exactly(&[support::digest("1:b", 2)]));
}

#[test]
fn the_commit_of_a_catch_up_holds_what_was_resumed() {
    let gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    let mut client = gateway.client();
    let subscriptions = json!([{"id": "a", "table": "t"}, {"id": "b", "table": "t"}]);
    client.send(&json!({"type": "hello", "cursor": "c5", "subscriptions": subscriptions}));
    let (session, ids) = feeder.open();
    client.expect("welcome");
    feeder.subscribed(session, &ids[0], 1, true);
    feeder.subscribed(session, &ids[1], 2, false);
    client.expect("subscribed");
    client.expect("subscribed");
    feeder.catch_up(&[session], &[], "c9", true);
    let (cursor, held) = client.commit();
    assert!(cursor == "c9" && held.holds_exactly(&[support::digest(&ids[0], 1)]));
}
