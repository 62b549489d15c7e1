//! Tokens and questions about them, between clients, feeder and query workers.

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rte_protocol::bridge::{FromFeeder, FromWorker, SessionId, ToFeeder, ToWorker};
use rte_protocol::wire::ErrorCode;
use serde_json::json;
use support::{Client, Feeder, Gateway, one_live};

const QUESTION: &[u8] = b"signed question";

fn refuse(feeder: &mut Feeder, session: SessionId) {
    let (code, message) = (ErrorCode::Unauthorized, "the token has expired".into());
    feeder.send(&FromFeeder::Refused { session, close: 4401, code, message, hint: None });
}

/// A client that has said hello, of which the feeder knows and has not answered.
fn knocking(gateway: &Gateway, feeder: &mut Feeder) -> (Client, SessionId) {
    let mut client = gateway.client();
    client.send(&json!({"type": "hello", "token": "t"}));
    let ToFeeder::Open { session, .. } = feeder.next_of_session() else { panic!("no session") };
    (client, session)
}

#[test]
fn a_renewed_token_goes_on_with_its_role() {
    let gateway = Gateway::start();
    let (mut feeder, mut client, session) = one_live(&gateway);
    for role in ["editor", "viewer"] {
        client.send(&json!({"type": "auth", "token": role}));
        assert_eq!(feeder.next_of_session(), ToFeeder::Auth { session, token: role.into() });
        feeder.send(&FromFeeder::Renewed { session, role: role.into() });
        gateway.wait_for("the role", |g| g.report(1)[0].role == role);
    }
    feeder.tick(20, 1, 1);
    client.expect("changes");
    client.commit();
}

#[test]
fn a_token_is_answered_before_the_last_that_came_is_shown_and_none_is_before_welcome() {
    let gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    let (mut client, session) = knocking(&gateway, &mut feeder);
    client.send(&json!({"type": "auth", "token": "early"}));
    assert_eq!(client.expect("error")["code"], "UNEXPECTED_MESSAGE");
    feeder.send(&FromFeeder::Opened {
        session,
        role: "web".into(),
        tables: vec![],
        monitor: false,
        expires_in_ms: None,
    });
    client.expect("welcome");
    for token in ["x", "y", "z"] {
        client.send(&json!({"type": "auth", "token": token}));
    }
    client.send(&json!({"type": "auth"}));
    assert_eq!(client.expect("error")["code"], "BAD_MESSAGE");
    for token in ["x", "z"] {
        assert_eq!(feeder.next_of_session(), ToFeeder::Auth { session, token: token.into() });
        feeder.send(&FromFeeder::Renewed { session, role: "web".into() });
    }
    drop(client);
    assert_eq!(feeder.next_of_session(), ToFeeder::Close { session });
}

#[test]
fn a_session_whose_token_expires_or_fails_is_closed_with_4401() {
    let gateway = Gateway::start();
    let (mut feeder, mut client, session) = one_live(&gateway);
    refuse(&mut feeder, session);
    client.refused("UNAUTHORIZED", 4401);
    assert_eq!(feeder.next_of_session(), ToFeeder::Close { session });

    let mut client = gateway.client();
    client.hello(&[]);
    let (session, _) = feeder.open();
    client.expect("welcome");
    client.send(&json!({"type": "auth", "token": "bad"}));
    feeder.until(|m| matches!(m, ToFeeder::Auth { .. }));
    refuse(&mut feeder, session);
    client.refused("UNAUTHORIZED", 4401);
}

#[test]
fn nothing_of_a_tick_reaches_a_session_after_it_was_refused() {
    let gateway = Gateway::start();
    let (mut feeder, mut client, session) = one_live(&gateway);
    refuse(&mut feeder, session);
    feeder.tick(20, 1, 1);
    client.expect("error");
    assert_eq!(client.see(), support::Seen::Closed(4401));
}

#[test]
fn a_question_goes_to_a_worker_of_the_database_and_its_answer_to_the_feeder() {
    let gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    let mut elsewhere = gateway.worker_of(2);
    let (mut client, session) = knocking(&gateway, &mut feeder);
    feeder.ask(7, session, QUESTION);
    assert_eq!(feeder.next(), ToFeeder::NeedWorker { waiting: 1 });
    let mut worker = gateway.worker();
    assert_eq!(worker.take_any(), (7, QUESTION.to_vec()));
    let answer = b"\x00\xffsigned answer";
    worker.answer(7, answer);
    let expected = ToFeeder::Answer { session, job: 7, answer: STANDARD.encode(answer) };
    assert_eq!(feeder.next_of_session(), expected);
    feeder.send(&FromFeeder::Opened {
        session,
        role: "web".into(),
        tables: vec![],
        monitor: false,
        expires_in_ms: None,
    });
    client.expect("welcome");
    // The worker is free for the next, and nothing went to another database's.
    feeder.ask(8, session, QUESTION);
    assert_eq!(worker.take_any().0, 8);
    elsewhere.stream.set_nonblocking(true).expect("nonblocking");
    assert!(support::read_frame::<ToWorker>(&mut elsewhere.stream).is_none());
}

#[test]
fn a_question_goes_before_the_snapshots_that_wait() {
    let gateway = Gateway::start();
    let (mut feeder, _client, session) = one_live(&gateway);
    gateway.wait_for("no workers", |g| g.figure("workers") == 0);
    let (_late, knocker) = knocking(&gateway, &mut feeder);
    feeder.send(&FromFeeder::Resync { session, id: "0:a".into(), reason: "schema_changed".into() });
    feeder.subscribed(session, "0:a", 2, false);
    feeder.job(12, session, &["0:a"]);
    feeder.ask(13, knocker, QUESTION);
    feeder.until(|m| matches!(m, ToFeeder::NeedWorker { waiting: 2 }));
    let mut worker = gateway.worker();
    assert_eq!(worker.take_any(), (13, QUESTION.to_vec()));
    worker.answer(13, b"yes");
    assert_eq!(worker.take(), 12);
}

#[test]
fn a_question_whose_worker_dies_or_fails_has_failed_and_is_not_put_again() {
    let gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    let (mut client, session) = knocking(&gateway, &mut feeder);
    feeder.ask(1, session, QUESTION);
    let mut worker = gateway.worker();
    assert_eq!(worker.take_any().0, 1);
    drop(worker);
    assert_eq!(feeder.next_of_session(), ToFeeder::AskFailed { session, job: 1 });

    let mut worker = gateway.worker();
    for (job, message) in [
        (2, FromWorker::Failed { job: 2, code: ErrorCode::Internal, message: "secret".into(), hint: None }),
        (3, FromWorker::End { job: 3 }),
    ] {
        feeder.ask(job, session, QUESTION);
        assert_eq!(worker.take_any().0, job, "the first is not put to anybody else");
        worker.send(&message);
        assert_eq!(feeder.next_of_session(), ToFeeder::AskFailed { session, job });
    }
    refuse(&mut feeder, session);
    client.refused("UNAUTHORIZED", 4401);
}

#[test]
fn what_a_worker_says_of_a_question_besides_its_answer_concerns_nobody() {
    let gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    let (mut client, session) = knocking(&gateway, &mut feeder);
    feeder.ask(1, session, QUESTION);
    let mut worker = gateway.worker();
    worker.take_any();
    worker.begin(1, 10);
    worker.rows(1, 0, &json!([[1]]), true);
    worker.answer(1, b"yes");
    let answered = |m: ToFeeder| matches!(m, ToFeeder::Answer { job: 1, .. });
    loop {
        match feeder.next() {
            ToFeeder::NeedWorker { .. } => {}
            other => break assert!(answered(other), "no tick for a question"),
        }
    }
    feeder.send(&FromFeeder::Opened {
        session,
        role: "web".into(),
        tables: vec![],
        monitor: false,
        expires_in_ms: None,
    });
    client.expect("welcome");
}

#[test]
fn a_session_that_closes_takes_its_question_back_wherever_it_is() {
    let gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    let (running, first) = knocking(&gateway, &mut feeder);
    let (waiting, second) = knocking(&gateway, &mut feeder);
    let (mut patient, third) = knocking(&gateway, &mut feeder);
    for (job, session) in [(1, first), (2, second), (3, third)] {
        feeder.ask(job, session, QUESTION);
    }
    let mut worker = gateway.worker();
    assert_eq!(worker.take_any().0, 1);
    drop(waiting);
    assert_eq!(feeder.next_of_session(), ToFeeder::Close { session: second });
    drop(running);
    assert_eq!(feeder.next_of_session(), ToFeeder::Close { session: first });
    assert_eq!(worker.next(), ToWorker::Cancel { job: 1 });
    // The answer was under way; nobody is told of it.
    worker.answer(1, b"late");
    assert_eq!(worker.take_any().0, 3, "what waited is gone");
    worker.answer(3, b"yes");
    assert!(matches!(feeder.next_of_session(), ToFeeder::Answer { job: 3, .. }));
    feeder.send(&FromFeeder::Opened {
        session: third,
        role: "web".into(),
        tables: vec![],
        monitor: false,
        expires_in_ms: None,
    });
    patient.expect("welcome");
}

#[test]
fn a_question_about_a_session_that_has_gone_keeps_no_worker() {
    let gateway = Gateway::start();
    let mut feeder = gateway.feeder();
    let (client, session) = knocking(&gateway, &mut feeder);
    drop(client);
    assert_eq!(feeder.next_of_session(), ToFeeder::Close { session });
    // The feeder had not heard of it when it asked.
    feeder.ask(1, session, QUESTION);
    feeder.until(|m| matches!(m, ToFeeder::NeedWorker { .. }));
    gateway.wait_for("the question to be gone", |g| g.figure("jobs_waiting") == 0);
}

#[test]
fn a_session_that_is_told_to_go_loses_its_question() {
    let gateway = Gateway::start();
    let (mut feeder, mut client, session) = one_live(&gateway);
    gateway.wait_for("no workers", |g| g.figure("workers") == 0);
    client.send(&json!({"type": "auth", "token": "x"}));
    feeder.until(|m| matches!(m, ToFeeder::Auth { .. }));
    feeder.ask(5, session, QUESTION);
    let mut worker = gateway.worker();
    assert_eq!(worker.take_any().0, 5);
    refuse(&mut feeder, session);
    // The client does not have to be gone for that, nor to answer the close.
    assert_eq!(worker.next(), ToWorker::Cancel { job: 5 });
    client.refused("UNAUTHORIZED", 4401);
}

#[test]
fn a_question_that_nobody_answers_in_time_has_failed() {
    let gateway = Gateway::with(|c| c.hello_timeout_ms = 300);
    let mut feeder = gateway.feeder();
    let (mut client, session) = knocking(&gateway, &mut feeder);
    feeder.ask(1, session, QUESTION);
    assert_eq!(feeder.next_of_session(), ToFeeder::AskFailed { session, job: 1 });
    let mut worker = gateway.worker();
    feeder.ask(2, session, QUESTION);
    assert_eq!(worker.take_any().0, 2, "the first is gone");
    assert_eq!(worker.next(), ToWorker::Cancel { job: 2 });
    assert_eq!(feeder.next_of_session(), ToFeeder::AskFailed { session, job: 2 });
    worker.answer(2, b"late");
    // It is the feeder's to say what comes of it.
    feeder.send(&FromFeeder::Opened {
        session,
        role: "web".into(),
        tables: vec![],
        monitor: false,
        expires_in_ms: None,
    });
    client.expect("welcome");
}
