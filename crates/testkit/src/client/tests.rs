//! The strictness of the copy, without a server.

use super::copy::{Copy, Silent, State};
use super::frame::Frame;

fn feed(copy: &mut Copy, frames: &[&str]) -> Result<(), String> {
    frames.iter().try_for_each(|f| copy.take(Frame::read(f)?, &mut Silent))
}

const SUBSCRIBED: &str = r#"{"type":"subscribed","id":"a","shape":"s1","table":"public.t","key":["id"],
    "columns":[{"name":"id","type":"int4","nullable":false},{"name":"v","type":"text","nullable":true}],"resumed":false}"#;
const COMMIT: &str = r#"{"type":"commit","cursor":"c1","time":"2026-01-01T00:00:00Z"}"#;

fn joined() -> Copy {
    let mut copy = Copy::default();
    copy.ask("a", "t", None);
    feed(&mut copy, &[SUBSCRIBED, r#"{"type":"snapshot","id":"a","rows":[[1,"x"]],"done":false}"#, COMMIT])
        .expect("joining");
    assert_eq!(copy.subscriptions["a"].state, State::Joining(false));
    feed(
        &mut copy,
        &[
            r#"{"type":"changes","shape":"s1","changes":[{"op":"update","key":[2],"set":{"v":"newer"}}]}"#,
            r#"{"type":"snapshot","id":"a","rows":[[2,"y"]],"done":true}"#,
        ],
    )
    .expect("done");
    assert!(copy.subscriptions["a"].rows.is_empty(), "a snapshot counts from its commit");
    feed(&mut copy, &[COMMIT]).expect("commit");
    assert!(copy.all_live());
    copy
}

#[test]
fn changes_while_joining_go_on_top_of_the_snapshot() {
    let copy = joined();
    assert_eq!(copy.subscriptions["a"].value(&["2"], "v"), Some("\"newer\""));
    assert_eq!(copy.subscriptions["a"].value(&["1"], "v"), Some("\"x\""));
}

#[test]
fn nothing_changes_before_the_commit() {
    let mut copy = joined();
    feed(
        &mut copy,
        &[r#"{"type":"changes","shape":"s1","changes":[{"op":"truncate"},{"op":"insert","row":[3,null]}]}"#],
    )
    .expect("changes");
    assert_eq!(copy.subscriptions["a"].rows.len(), 2);
    feed(&mut copy, &[COMMIT]).expect("commit");
    assert_eq!(copy.subscriptions["a"].rows.len(), 1);
}

#[test]
fn every_breach_is_found() {
    for bad in [
        r#"{"type":"changes","shape":"s2","changes":[]}"#,
        r#"{"type":"changes","shape":"s1","changes":[{"op":"insert","row":[1]}]}"#,
        r#"{"type":"changes","shape":"s1","changes":[{"op":"delete","key":[1,2]}]}"#,
        r#"{"type":"changes","shape":"s1","changes":[{"op":"delete"}]}"#,
        r#"{"type":"changes","shape":"s1","changes":[{"op":"update","key":[1],"set":{"id":2}}]}"#,
        r#"{"type":"changes","shape":"s1","changes":[{"op":"update","key":[1],"set":{"w":2}}]}"#,
        r#"{"type":"snapshot","id":"a","rows":[],"done":true}"#,
        r#"{"type":"unsubscribed","id":"b"}"#,
        r#"{"type":"resync","id":"b","reason":"x"}"#,
        r#"{"type":"news"}"#,
        SUBSCRIBED,
    ] {
        assert!(feed(&mut joined(), &[bad]).is_err(), "{bad}");
    }
}

#[test]
fn a_resync_replaces_the_copy() {
    let mut copy = joined();
    feed(
        &mut copy,
        &[
            r#"{"type":"resync","id":"a","reason":"schema_changed"}"#,
            COMMIT,
            SUBSCRIBED,
            r#"{"type":"snapshot","id":"a","rows":[[9,"z"]],"done":true}"#,
        ],
    )
    .expect("resync");
    assert_eq!(copy.subscriptions["a"].rows.len(), 2, "the old rows stay until the commit");
    feed(&mut copy, &[COMMIT]).expect("commit");
    assert_eq!(copy.subscriptions["a"].rows.len(), 1);
    assert_eq!(copy.counts.resyncs, ["schema_changed"]);
}

#[test]
fn what_was_not_live_does_not_resume() {
    let mut copy = joined();
    copy.ask("b", "t", None);
    assert_eq!(copy.disconnected(), ["a"]);
    assert_eq!(copy.subscriptions["b"].state, State::Asked(false));
    feed(&mut copy, &[&SUBSCRIBED.replace("\"resumed\":false", "\"resumed\":true"), COMMIT]).expect("resumed");
    assert_eq!(copy.subscriptions["a"].rows.len(), 2);
    assert_eq!(copy.counts.resumed, 1);
}
