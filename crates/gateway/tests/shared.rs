//! One reading for all who wait for the same rows.

mod support;

use rte_protocol::bridge::{FromFeeder, FromWorker, SessionId, ToFeeder, ToWorker};
use rte_protocol::wire::ErrorCode;
use serde_json::json;
use support::{Client, Feeder, Gateway};

/// Clients of the same shape, whose jobs have the numbers from 1 on.
fn waiting(gateway: &Gateway, count: u64) -> (Feeder, Vec<(Client, SessionId, String)>) {
    let mut feeder = gateway.feeder();
    feeder.commit(5);
    let clients = (1..=count).map(|job| {
        let mut client = gateway.client();
        client.hello(&["a"]);
        let (session, ids) = feeder.open();
        client.expect("welcome");
        feeder.subscribed(session, &ids[0], 7, false);
        client.expect("subscribed");
        feeder.job_of(job, session, &[&ids[0]], &[7]);
        feeder.until(|m| matches!(m, ToFeeder::NeedWorker { waiting } if u64::from(*waiting) == job));
        (client, session, ids[0].clone())
    });
    let clients = clients.collect();
    (feeder, clients)
}

/// The rest of a snapshot of one row, up to the commit at which it counts.
fn goes_live(client: &mut Client, row: u64, cursor: &str) {
    let snapshot = client.expect("snapshot");
    assert_eq!((&snapshot["rows"], &snapshot["done"]), (&json!([[row]]), &json!(false)));
    assert_eq!(client.expect("snapshot")["done"], true);
    assert_eq!(client.commit().0, cursor);
}

#[test]
fn all_who_wait_get_the_rows_of_one_reading_and_its_snapshot() {
    let gateway = Gateway::start();
    let (mut feeder, mut clients) = waiting(&gateway, 3);
    let mut worker = gateway.worker();
    assert_eq!(worker.take_shared(), (1, vec![2, 3]));
    worker.begin_for(1, 12, &[2, 3]);
    feeder.until(|m| *m == ToFeeder::NeedTick);
    // Does not contain the snapshot: nobody goes live.
    feeder.tick(11, 7, 2);
    worker.rows(1, 0, &json!([[1]]), true);
    for job in 1..=3 {
        feeder.until(|m| *m == ToFeeder::SnapshotTaken { job });
    }
    worker.send(&FromWorker::End { job: 1 });
    feeder.tick(20, 7, 3);
    for (client, ..) in &mut clients {
        assert_eq!(client.expect("snapshot")["rows"], json!([[1]]));
        assert_eq!(client.expect("snapshot")["done"], true);
        assert_eq!(client.expect("changes")["changes"][0]["row"], json!([3]));
        assert_eq!(client.commit().0, "c20");
    }
    assert_eq!((gateway.figure("jobs_total"), gateway.figure("shared_jobs_total")), (1, 2));
}

#[test]
fn for_whom_the_worker_does_not_read_there_is_a_reading_of_its_own() {
    let gateway = Gateway::start();
    let (mut feeder, mut clients) = waiting(&gateway, 4);
    let mut worker = gateway.worker();
    assert_eq!(worker.take_shared(), (1, vec![2, 3, 4]));
    worker.begin_for(1, 10, &[3]);
    worker.rows(1, 0, &json!([[1]]), true);
    worker.send(&FromWorker::End { job: 1 });
    feeder.until(|m| *m == ToFeeder::SnapshotTaken { job: 3 });
    feeder.commit(10);
    goes_live(&mut clients[0].0, 1, "c10");
    goes_live(&mut clients[2].0, 1, "c10");
    for job in [2, 4] {
        assert_eq!(worker.take_shared(), (job, vec![]), "alone, or it might be left out for ever");
        worker.begin_for(job, 10 + job, &[]);
        worker.rows(job, 0, &json!([[job]]), true);
        worker.send(&FromWorker::End { job });
        feeder.until(|m| *m == ToFeeder::SnapshotTaken { job });
        feeder.commit(10 + job);
        goes_live(&mut clients[job as usize - 1].0, job, &format!("c{}", 10 + job));
    }
}

#[test]
fn a_reading_goes_on_for_the_others_until_nobody_is_left() {
    let gateway = Gateway::start();
    let (mut feeder, mut clients) = waiting(&gateway, 3);
    let mut worker = gateway.worker();
    assert_eq!(worker.take_shared(), (1, vec![2, 3]));
    let (gone, session, _) = clients.remove(0);
    drop(gone);
    feeder.until(|m| *m == ToFeeder::Close { session });
    worker.begin_for(1, 10, &[2, 3]);
    worker.rows(1, 0, &json!([[1]]), false);
    for (client, ..) in &mut clients {
        assert_eq!(client.expect("snapshot")["rows"], json!([[1]]));
    }
    drop(clients);
    assert_eq!(worker.next(), ToWorker::Cancel { job: 1 });
}

#[test]
fn what_ails_the_first_costs_the_others_nothing_and_what_ails_all_is_told_to_all() {
    let gateway = Gateway::start();
    let (mut feeder, mut clients) = waiting(&gateway, 3);
    let mut worker = gateway.worker();
    assert_eq!(worker.take_shared(), (1, vec![2, 3]));
    let fail = |worker: &mut support::Worker, job, code| {
        worker.send(&FromWorker::Failed { job, code, message: "no".into(), hint: None });
    };
    fail(&mut worker, 1, ErrorCode::UnknownTable);
    // They may come in any order.
    let failed = |feeder: &mut Feeder, of: &[(Client, SessionId, String)]| {
        let mut left: Vec<(SessionId, &String)> = of.iter().map(|(_, session, id)| (*session, id)).collect();
        while !left.is_empty() {
            let ToFeeder::SnapshotFailed { session, ids, .. } =
                feeder.until(|m| matches!(m, ToFeeder::SnapshotFailed { .. }))
            else {
                unreachable!()
            };
            let at = left.iter().position(|l| *l == (session, &ids[0])).expect("one that waits");
            left.remove(at);
        }
    };
    failed(&mut feeder, &clients[..1]);
    assert_eq!(worker.take_shared(), (2, vec![3]));
    worker.begin_for(2, 10, &[3]);
    worker.rows(2, 0, &json!([[1]]), false);
    clients[2].0.expect("snapshot");
    fail(&mut worker, 2, ErrorCode::SnapshotFailed);
    failed(&mut feeder, &clients[1..]);
}

#[test]
fn a_worker_that_dies_before_its_first_row_is_replaced_for_all() {
    let gateway = Gateway::start();
    let (mut feeder, mut clients) = waiting(&gateway, 2);
    let mut worker = gateway.worker();
    assert_eq!(worker.take_shared(), (1, vec![2]));
    worker.begin_for(1, 10, &[2]);
    feeder.until(|m| *m == ToFeeder::NeedTick);
    drop(worker);
    let mut worker = gateway.worker();
    assert_eq!(worker.take_shared(), (1, vec![2]));
    worker.begin_for(1, 12, &[2]);
    worker.rows(1, 0, &json!([[1]]), false);
    clients.iter_mut().for_each(|(client, ..)| drop(client.expect("snapshot")));
    drop(worker);
    clients.iter_mut().for_each(|(client, ..)| assert_eq!(client.closed(), 1012));
}

#[test]
fn who_takes_nothing_leaves_the_reading_to_the_others_and_gets_its_own() {
    const PARTS: u64 = 60;
    let gateway = Gateway::start();
    let (mut feeder, mut clients) = waiting(&gateway, 3);
    let mut worker = gateway.worker();
    assert_eq!(worker.take_shared(), (1, vec![2, 3]));
    let row = "x".repeat(1 << 20);
    let (_, slow_session, slow_id) = &clients[1];
    let (slow_session, slow_id) = (*slow_session, slow_id.clone());
    // The worker waits where the gateway does not read on.
    let reading = std::thread::spawn(move || {
        worker.begin_for(1, 10, &[2, 3]);
        for part in 0..PARTS {
            worker.rows(1, 0, &json!([[part, row]]), part + 1 == PARTS);
        }
        worker.send(&FromWorker::End { job: 1 });
        worker
    });
    feeder.until(|m| *m == ToFeeder::NeedTick);
    feeder.commit(10);
    for part in 0..PARTS {
        // In step: neither is far behind the other.
        for n in [0, 2] {
            assert_eq!(clients[n].0.expect("snapshot")["rows"][0][0], part);
        }
    }
    for n in [0, 2] {
        assert_eq!(clients[n].0.expect("snapshot")["done"], true);
        assert_eq!(clients[n].0.commit().0, "c10");
    }
    let mut worker = reading.join().expect("the worker");
    feeder.until(|m| *m == ToFeeder::LeftBehind { session: slow_session, ids: vec![slow_id.clone()] });
    assert_eq!(gateway.figure("left_behind_total"), 1);
    let high_water = gateway.figure("queue_high_water_bytes");
    assert!(high_water < 8 << 20, "{high_water} bytes waited for one client of {PARTS} MB");
    feeder.send(&FromFeeder::Resync { session: slow_session, id: slow_id.clone(), reason: "left_behind".into() });
    feeder.subscribed(slow_session, &slow_id, 8, false);
    feeder.job_of(9, slow_session, &[&slow_id], &[]);
    assert_eq!(worker.take_shared(), (9, vec![]));
    worker.begin_for(9, 20, &[]);
    worker.rows(9, 0, &json!([[9]]), true);
    worker.send(&FromWorker::End { job: 9 });
    feeder.commit(20);
    // Of the first reading it has what was on its way.
    let slow = &mut clients[1].0;
    let mut parts = 0;
    let resync = loop {
        let message = slow.next();
        match message["type"].as_str() {
            Some("snapshot") => {
                assert_eq!(message["rows"][0][0], parts);
                parts += 1;
            }
            _ => break message,
        }
    };
    assert!(parts < PARTS);
    assert_eq!(resync["reason"], "left_behind");
    assert_eq!(slow.expect("subscribed")["shape"], "s8");
    goes_live(slow, 9, "c20");
}
