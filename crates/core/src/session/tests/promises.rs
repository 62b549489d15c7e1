//! Single promises about requests and bookkeeping.

use crate::held::{LISTED, Stem};
use crate::session::{Action, Frame, Session, Tick, Welcome};
use crate::snapshot::Snapshot;
use rte_protocol::bridge::ToFeeder;
use rte_protocol::wire::{ClientMessage, CloseCode, ErrorCode, Limits};
use serde_json::Value;
use std::rc::Rc;

#[derive(Debug, Clone)]
pub(super) struct Nothing;

impl Frame for Nothing {
    fn bytes(&self) -> usize {
        1
    }
}

pub(super) type Actions = Vec<Action<Nothing>>;

pub(super) fn say(session: &mut Session<Nothing>, text: &str) -> Actions {
    let mut out = Vec::new();
    session.message(ClientMessage::parse(text), &mut out);
    out
}

pub(super) fn texts(actions: &[Action<Nothing>]) -> Vec<Value> {
    let text = |a: &Action<Nothing>| match a {
        Action::Text(t) => serde_json::from_str(t).ok(),
        _ => None,
    };
    actions.iter().filter_map(text).collect()
}

pub(super) fn open(max: u32) -> Session<Nothing> {
    let mut session = Session::new(1, "peer", max);
    let mut out = say(&mut session, r#"{"type":"hello"}"#);
    assert!(matches!(out[..], [Action::Resolve { tenant: None }]));
    session.attach("", &mut out);
    let limits = Limits { max_frame_bytes: 1, max_subscriptions: max, client_queue_bytes: 1 };
    let welcome = Welcome {
        session: "u".into(),
        tenant: "t".into(),
        server: "s".into(),
        heartbeat_ms: 1,
        limits,
        expires_in_ms: None,
    };
    session.opened(welcome, "web".into(), vec![], &mut out);
    session
}

#[test]
fn what_comes_before_hello_closes_and_a_second_hello_does_not() {
    let mut session = Session::new(1, "peer", 5);
    let out = say(&mut session, r#"{"type":"ping"}"#);
    assert_eq!(texts(&out)[0]["code"], ErrorCode::UnexpectedMessage.as_str());
    assert!(matches!(out[1], Action::Close(CloseCode::Protocol)));
    assert!(say(&mut session, r#"{"type":"ping"}"#).is_empty());

    let mut session = open(5);
    let out = say(&mut session, r#"{"type":"hello"}"#);
    assert_eq!(texts(&out)[0]["code"], ErrorCode::UnexpectedMessage.as_str());
    assert_eq!(texts(&say(&mut session, r#"{"type":"ping","at":3}"#))[0]["at"], 3);
}

#[test]
fn subscriptions_are_counted_until_the_feeder_has_answered() {
    let mut session = open(2);
    let subscribe = |id: &str| format!(r#"{{"type":"subscribe","id":"{id}","table":"t"}}"#);
    for id in ["a", "b"] {
        assert!(matches!(say(&mut session, &subscribe(id))[..], [Action::Feeder(ToFeeder::Subscribe { .. })]));
    }
    assert_eq!(texts(&say(&mut session, &subscribe("a")))[0]["code"], "DUPLICATE_SUBSCRIPTION");
    assert_eq!(texts(&say(&mut session, &subscribe("c")))[0]["code"], "TOO_MANY_SUBSCRIPTIONS");
    let out = say(&mut session, r#"{"type":"unsubscribe","id":"a"}"#);
    assert_eq!(texts(&out)[0]["type"], "unsubscribed");
    assert_eq!(texts(&say(&mut session, &subscribe("a")))[0]["code"], "TOO_MANY_SUBSCRIPTIONS");
    let mut out = Vec::new();
    session.subscribed("0:a", 1, "t".into(), vec![], vec![], (false, false), None, &mut out);
    assert!(out.is_empty(), "the answer to the first of this name is nobody's: {out:?}");
    assert!(matches!(say(&mut session, &subscribe("a"))[..], [Action::Feeder(_)]));
}

#[test]
fn refusals_of_hellos_subscriptions_follow_welcome() {
    let mut session = Session::new(1, "peer", 1);
    let hello =
        r#"{"type":"hello","subscriptions":[{"id":"a","table":"t"},{"id":"a","table":"t"},{"id":"b","table":"t"}]}"#;
    let mut out = say(&mut session, hello);
    session.attach("", &mut out);
    let Some(Action::Feeder(ToFeeder::Open { subscriptions, .. })) = out.last() else { panic!("{out:?}") };
    assert_eq!(subscriptions.len(), 1);
    out.clear();
    let limits = Limits { max_frame_bytes: 1, max_subscriptions: 1, client_queue_bytes: 1 };
    let welcome = Welcome {
        session: "u".into(),
        tenant: "t".into(),
        server: "s".into(),
        heartbeat_ms: 1,
        limits,
        expires_in_ms: None,
    };
    session.opened(welcome, "web".into(), vec![], &mut out);
    let out = texts(&out);
    assert_eq!(out[0]["type"], "welcome");
    assert_eq!(
        (&out[1]["code"], &out[2]["code"]),
        (&"DUPLICATE_SUBSCRIPTION".into(), &"TOO_MANY_SUBSCRIPTIONS".into())
    );
}

#[test]
fn what_is_not_supported_says_so_with_its_id() {
    let mut session = open(1);
    let out = texts(&say(&mut session, r#"{"type":"mutate","id":"7","changes":[]}"#));
    assert_eq!((&out[0]["code"], &out[0]["id"]), (&"NOT_SUPPORTED".into(), &"7".into()));
    let out = texts(&say(&mut session, r#"{"type":"what","id":"7"}"#));
    assert_eq!((&out[0]["code"], &out[0]["id"]), (&"UNKNOWN_TYPE".into(), &"7".into()));
}

#[test]
fn one_token_at_a_time_goes_to_the_feeder_then_the_last_that_came_and_none_before_welcome() {
    let auth = r#"{"type":"auth","token":"x"}"#;
    let mut session = Session::new(1, "peer", 1);
    let mut out = say(&mut session, r#"{"type":"hello"}"#);
    session.attach("blue", &mut out);
    assert!(matches!(&out[1], Action::Feeder(ToFeeder::Open { tenant, .. }) if tenant == "blue"), "{out:?}");
    assert_eq!(texts(&say(&mut session, auth))[0]["code"], "UNEXPECTED_MESSAGE");

    let mut session = open(1);
    let sent = |out: &[Action<Nothing>], token: &str| {
        let expected = ToFeeder::Auth { session: 1, token: token.into() };
        matches!(out, [Action::Feeder(message)] if *message == expected)
    };
    assert!(sent(&say(&mut session, auth), "x"));
    for token in ["y", "z"] {
        assert!(say(&mut session, &auth.replace('x', token)).is_empty());
    }
    let mut out = vec![];
    session.renewed(&mut out);
    assert!(sent(&out, "z"), "{out:?}");
    out.clear();
    session.renewed(&mut out);
    assert!(out.is_empty());
    assert!(sent(&say(&mut session, auth), "x"));
}

#[test]
fn a_cursor_names_the_live_subscriptions_however_many_they_are() {
    let tick = |n: u64| {
        let snapshot = Snapshot::new(n, vec![]);
        Rc::new(Tick { snapshot, cursor: Stem::new("c"), time: "t".into() })
    };
    for count in [1, LISTED, LISTED + 1, 100] {
        let mut session = open(200);
        let mut out = vec![];
        let ids: Vec<String> = (0..count).map(|n| format!("{n}:i{n}")).collect();
        for (n, id) in ids.iter().enumerate() {
            let text = format!(r#"{{"type":"subscribe","id":"i{n}","table":"t"}}"#);
            say(&mut session, &text);
            session.subscribed(id, 1, "t".into(), vec![], vec![], (false, false), Some(n as u64), &mut out);
        }
        session.job(1, &ids, &mut out);
        session.begin(1, Snapshot::new(5, vec![]));
        assert!(session.holding().holds_exactly(&[]), "what joins is not held");
        for n in 0..count {
            session.rows_done(1, n as u32, None, &mut out);
        }
        let digests: Vec<u64> = (0..count as u64).collect();
        out.clear();
        session.commit(&tick(5), &mut out);
        let Some(Action::Commit(_, held)) = out.last() else { panic!("{out:?}") };
        assert!(held.holds_exactly(&digests) && held.is_listed() == (count <= LISTED));

        say(&mut session, r#"{"type":"unsubscribe","id":"i0"}"#);
        out.clear();
        assert!(session.bare_commit(&tick(6), &mut out));
        let Some(Action::Commit(_, held)) = out.last() else { panic!("{out:?}") };
        assert!(held.holds_exactly(&digests[1..]), "what is gone is not held");
    }
}

#[test]
fn who_cannot_go_on_knows_it_before_a_commit_moves_the_others_on() {
    let tick = Rc::new(Tick { snapshot: Snapshot::new(9, vec![]), cursor: Stem::new("c"), time: "t".into() });
    let mut session = Session::new(1, "peer", 5);
    let hello = r#"{"type":"hello","cursor":"c","subscriptions":[{"id":"a","table":"t"},
        {"id":"b","table":"t","resume_only":true},{"id":"c","table":"t","resume_only":true}]}"#;
    let mut out = say(&mut session, hello);
    session.attach("", &mut out);
    let limits = Limits { max_frame_bytes: 1, max_subscriptions: 5, client_queue_bytes: 1 };
    let welcome = Welcome {
        session: "u".into(),
        tenant: "t".into(),
        server: "s".into(),
        heartbeat_ms: 1,
        limits,
        expires_in_ms: None,
    };
    session.opened(welcome, "web".into(), vec![], &mut out);
    session.subscribed("0:a", 1, "t".into(), vec![], vec![], (true, false), Some(1), &mut out);
    session.catch_up_ended(&mut out);
    say(&mut session, r#"{"type":"unsubscribe","id":"c"}"#);
    out.clear();
    assert_eq!(session.changes(1, &Nothing), crate::session::Delivery::Kept);
    session.commit(&tick, &mut out);
    session.not_resumed("2:c", "cursor_expired".into(), &mut out);
    assert!(out.is_empty(), "one is not answered, and of one that the client has ended nothing is said: {out:?}");
    session.not_resumed("1:b", "cursor_expired".into(), &mut out);
    let told = texts(&out);
    assert_eq!((&told[0]["type"], &told[0]["reason"]), (&"resync".into(), &"cursor_expired".into()));
    assert_eq!((&told[1]["type"], &told[1]["id"]), (&"unsubscribed".into(), &"b".into()));
    assert!(matches!(out[2..], [Action::Frame(Nothing), Action::Commit(..)]), "{out:?}");
    let again = r#"{"type":"subscribe","id":"b","table":"t"}"#;
    assert!(matches!(say(&mut session, again)[..], [Action::Feeder(ToFeeder::Subscribe { .. })]), "the id is free");
    let wrong = r#"{"type":"subscribe","id":"d","table":"t","resume_only":true}"#;
    assert_eq!(texts(&say(&mut session, wrong))[0]["code"], "BAD_MESSAGE");
}
