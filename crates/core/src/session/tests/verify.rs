//! Promises about verifications.

use super::promises::{Actions, Nothing, open, say, texts};
use crate::held::Stem;
use crate::session::{Action, Session, Tick};
use crate::snapshot::Snapshot;
use rte_protocol::bridge::ToFeeder;
use rte_protocol::wire::{Column, ErrorCode};
use std::rc::Rc;

fn tick(cursor: &str) -> Rc<Tick> {
    Rc::new(Tick { snapshot: Snapshot::new(100, vec![]), cursor: Stem::new(cursor), time: "t".into() })
}

fn column() -> Vec<Column> {
    vec![Column { name: "id".into(), type_name: "int4".into(), nullable: false }]
}

/// A session with a subscription `a` that is live.
fn live() -> Session<Nothing> {
    let mut session = open(5);
    let mut out = say(&mut session, r#"{"type":"subscribe","id":"a","table":"t"}"#);
    session.subscribed("0:a", 1, "t".into(), vec!["id".into()], column(), (false, false), None, &mut out);
    session.job(1, &["0:a".into()], &mut out);
    session.begin(1, Snapshot::new(10, vec![]));
    session.rows_done(1, 0, Some(&tick("c0")), &mut out);
    assert!(out.iter().any(|a| matches!(a, Action::Commit(..))));
    session
}

/// Asks, and has job 7 ordered.
fn ask(session: &mut Session<Nothing>) -> Actions {
    let mut out = say(session, r#"{"type":"verify","id":"a","parts":2}"#);
    let [Action::Feeder(ToFeeder::Verify { request, id, parts: 2, .. })] = &out[..] else { panic!("{out:?}") };
    assert_eq!(id, "0:a");
    let request = *request;
    out.clear();
    session.verify_job(7, request, &mut out);
    assert!(out.is_empty());
    out
}

#[test]
fn verifying_comes_right_before_its_commit_and_verified_names_that_commits_cursor() {
    let mut session = live();
    let mut out = ask(&mut session);
    session.verified(7, "h".into(), 3, b"", None, &mut out);
    assert!(out.is_empty(), "before any commit");
    assert!(!session.wants_commits());
    session.commit(&tick("c1"), &mut out);
    assert!(out.is_empty(), "a tick that concerns nobody");
    session.verifying(7);
    assert!(session.wants_commits());
    assert!(!session.bare_commit(&tick("c1"), &mut out), "the commit before");
    session.changes(1, &Nothing);
    session.commit(&tick("c2"), &mut out);
    let [Action::Text(text), Action::Commit(tick, held)] = &out[..] else { panic!("{out:?}") };
    assert_eq!(text, r#"{"type":"verifying","id":"a"}"#);
    let cursor = tick.cursor.with(held);
    assert_eq!(session.repair_for(7), Some("a"));
    assert_eq!(session.repair_for(8), None);
    let mut out = Vec::new();
    session.verified(7, "h".into(), 3, br#"[["x",1],["y",2]]"#, Some(&self::tick("c2")), &mut out);
    let [Action::Text(text)] = &out[..] else { panic!("{out:?}") };
    let expected = serde_json::json!(
        {"type": "verified", "id": "a", "cursor": cursor, "hash": "h", "rows": 3, "parts": [["x", 1], ["y", 2]]}
    );
    assert_eq!(serde_json::from_str::<serde_json::Value>(text).expect("JSON"), expected);
    let mut out = Vec::new();
    session.job_ended(7, &mut out);
    assert!(out.is_empty(), "it was answered");
    ask(&mut session);
}

#[test]
fn a_repair_is_followed_by_a_commit_at_once_or_with_the_open_tick() {
    for open_tick in [false, true] {
        let mut session = live();
        let mut out = say(&mut session, r#"{"type":"verify","id":"a","want":[0]}"#);
        session.verify_job(7, 1, &mut out);
        session.verifying(7);
        session.commit(&tick("c1"), &mut out);
        out.clear();
        let now = (!open_tick).then(|| tick("c1"));
        session.verified(7, "h".into(), 3, b"", now.as_ref(), &mut out);
        if open_tick {
            assert!(session.wants_commits() && out.len() == 1, "{out:?}");
            session.commit(&tick("c2"), &mut out);
        }
        assert!(matches!(out[..], [Action::Text(_), Action::Commit(..)]), "{out:?}");
        assert!(!session.wants_commits());
    }
}

#[test]
fn what_cannot_be_verified_is_refused_by_its_code() {
    let mut session = live();
    say(&mut session, r#"{"type":"subscribe","id":"b","table":"t"}"#);
    for (text, code, id) in [
        (r#"{"type":"verify","id":"x"}"#, ErrorCode::UnknownSubscription, Some("x")),
        (r#"{"type":"verify","id":"b"}"#, ErrorCode::NotReady, None),
        (r#"{"type":"verify","id":"a","parts":0}"#, ErrorCode::BadMessage, Some("a")),
        (r#"{"type":"verify","id":"a","parts":4097}"#, ErrorCode::BadMessage, Some("a")),
        (r#"{"type":"verify","id":"a","want":[1]}"#, ErrorCode::BadMessage, Some("a")),
        (r#"{"type":"verify","id":"a","columns":[]}"#, ErrorCode::BadMessage, Some("a")),
    ] {
        let out = texts(&say(&mut session, text));
        assert_eq!((out[0]["code"].as_str(), out[0]["id"].as_str()), (Some(code.as_str()), id), "{text}");
    }
    let mut out = Vec::new();
    session.subscribed("1:b", 2, "t".into(), vec!["id".into()], column(), (false, false), None, &mut out);
    let out = texts(&say(&mut session, r#"{"type":"verify","id":"b"}"#));
    assert_eq!((out[0]["code"].as_str(), out[0]["id"].as_str()), (Some("NOT_READY"), Some("b")), "it joins");
    ask(&mut session);
    let out = texts(&say(&mut session, r#"{"type":"verify","id":"a"}"#));
    assert_eq!(out[0]["code"], "TOO_MANY_REQUESTS");
}

#[test]
fn a_resync_ends_a_verification_by_an_error_before_it() {
    let mut session = live();
    let mut out = ask(&mut session);
    session.verifying(7);
    session.resync("0:a", "access_changed".into(), &mut out);
    assert!(matches!(out[0], Action::CancelJob(7)), "{out:?}");
    let said = texts(&out);
    assert_eq!((said[0]["code"].as_str(), said[0]["id"].as_str()), (Some("NOT_READY"), Some("a")));
    assert_eq!(said[1]["type"], "resync");
    // The commit that was due is let out, and says nothing of it.
    out.clear();
    session.commit(&tick("c1"), &mut out);
    assert!(texts(&out).is_empty());
    assert_eq!(session.repair_for(7), None);
    session.verified(7, "h".into(), 3, b"", None, &mut out);
    assert!(texts(&out).is_empty());
}

#[test]
fn nothing_comes_for_a_verification_after_unsubscribed() {
    let mut session = live();
    ask(&mut session);
    let mut out = say(&mut session, r#"{"type":"unsubscribe","id":"a"}"#);
    assert!(out.iter().any(|a| matches!(a, Action::CancelJob(7))), "{out:?}");
    assert_eq!(texts(&out).len(), 1);
    out.clear();
    session.job_failed(7, ErrorCode::NotReady, "cancelled", None, &mut out);
    assert!(out.is_empty(), "{out:?}");
}

#[test]
fn each_verification_has_one_end() {
    let mut session = live();
    let mut out = ask(&mut session);
    session.job_failed(7, ErrorCode::NotReady, "interrupted", None, &mut out);
    let said = texts(&out);
    assert_eq!((said.len(), said[0]["code"].as_str(), said[0]["id"].as_str()), (1, Some("NOT_READY"), Some("a")));
    out.clear();
    session.verify_failed(1, ErrorCode::NotReady, "too busy", None, &mut out);
    assert!(out.is_empty(), "it has ended");
    // An answer to the one before is not taken for one to this.
    say(&mut session, r#"{"type":"verify","id":"a"}"#);
    session.verify_failed(1, ErrorCode::NotReady, "too busy", None, &mut out);
    session.verify_job(8, 1, &mut out);
    assert!(matches!(out[..], [Action::CancelJob(8)]), "{out:?}");
    out.clear();
    session.verify_job(9, 2, &mut out);
    session.verify_failed(2, ErrorCode::UnknownColumn, "no such column", None, &mut out);
    assert!(matches!(out[0], Action::CancelJob(9)), "{out:?}");
    assert_eq!(texts(&out)[0]["code"], "UNKNOWN_COLUMN");
}
