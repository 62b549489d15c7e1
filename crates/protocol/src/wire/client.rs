//! Client → server messages.

use super::number;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Every message that a client may send.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// First message of a connection.
    Hello(Hello),
    /// Asks for one more shape.
    Subscribe(Subscription),
    /// Ends a subscription.
    Unsubscribe { id: String },
    /// A fresh token, before the old one expires.
    Auth(Auth),
    /// A transaction of the client's.
    Mutate(Mutate),
    /// A message to a channel.
    Publish(Publish),
    /// Enters a channel.
    Join(Channel),
    /// Leaves a channel.
    Leave(Channel),
    /// Asks for the integrity hash of a subscription.
    Verify(Verify),
    /// The cursor that the client has applied and stored; for lag figures only.
    Ack { cursor: String },
    /// Answered by `pong` with the same `at`.
    Ping(Ping),
}

/// `hello`: who the client is, where it stands, what it wants.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Hello {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Name or domain of the tenant; none means the landlord database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientInfo>,
    /// The last cursor that the client has applied; opaque.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    pub subscriptions: Vec<Subscription>,
}

/// Names a client for lag figures and logs; decides nothing.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct ClientInfo {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A subscription: a shape under a name that the client chose.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
pub struct Subscription {
    /// Unique in the connection.
    pub id: String,
    /// `orders` or `public.orders`.
    pub table: String,
    /// Names of columns; none means all that are registered and granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// An SQL expression over the columns, `$1…` for parameters.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Vec<Value>>,
    /// Where the copy cannot go on from the cursor, no snapshot is wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resume_only: bool,
    /// What an old copy comes to: of a snapshot only the parts that differ are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub have: Option<Have>,
}

/// An old copy, hashed by parts as `verified` does it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
pub struct Have {
    /// 1 to [`Verify::MAX_PARTS`].
    pub parts: u32,
    /// One for each part, sixteen hexadecimal digits.
    pub hashes: Vec<String>,
    /// Names of the columns that are hashed; none means all of the subscription's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
}

impl Have {
    /// What is wrong with it, if something is.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        if !(1..=Verify::MAX_PARTS).contains(&self.parts) || self.hashes.len() != self.parts as usize {
            return Some("`have` must be of 1 to 4096 parts, with a hash of each");
        }
        if self.numbers().is_none() {
            return Some("a hash in `have` must be sixteen hexadecimal digits");
        }
        self.columns.as_ref().is_some_and(Vec::is_empty).then_some("`columns` of `have` must name a column")
    }

    /// The hashes as numbers; none where one is not written as it must be.
    #[must_use]
    pub fn numbers(&self) -> Option<Vec<u64>> {
        let number = |hash: &String| {
            let digits = hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit());
            digits.then(|| u64::from_str_radix(hash, 16).ok()).flatten()
        };
        self.hashes.iter().map(number).collect()
    }
}

/// `auth`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Auth {
    pub token: String,
}

/// `mutate`: one transaction; `id` is the idempotency key.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Mutate {
    pub id: String,
    pub changes: Vec<Value>,
}

/// `publish`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Publish {
    pub channel: String,
    pub event: String,
    #[serde(default)]
    pub payload: Value,
}

/// `join` and `leave`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Channel {
    pub channel: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence: Option<Value>,
}

/// `verify`: what the subscription's rows come to at one of the next commits.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
pub struct Verify {
    /// Of a subscription whose copy is ready.
    pub id: String,
    /// Into how many parts the rows are divided, by their keys: 1 to [`Verify::MAX_PARTS`]; none means one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<u32>,
    /// Names of the columns that are compared; none means all of the subscription's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Numbers of the parts, from 0, whose rows are wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub want: Vec<u32>,
}

impl Verify {
    /// Largest number of parts.
    pub const MAX_PARTS: u32 = 4096;
}

/// `ping`; `at` comes back as it was.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
pub struct Ping {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Value>,
}

/// Why a text frame is not a client message. Each carries the `id` of the message where one could be
/// read, so that the answer names it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ParseError {
    #[error("the frame is not a JSON object")]
    NotAnObject,
    #[error("the message has no \"type\"")]
    NoType { id: Option<String> },
    #[error("unknown message type")]
    UnknownType { kind: String, id: Option<String> },
    #[error("{message}")]
    Field { message: String, id: Option<String> },
}

const KINDS: [&str; 11] =
    ["hello", "subscribe", "unsubscribe", "auth", "mutate", "publish", "join", "leave", "verify", "ack", "ping"];

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(default)]
    id: Option<Value>,
}

impl ClientMessage {
    /// Reads one text frame.
    ///
    /// # Errors
    /// [`ParseError`]; the connection stays open in each case.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if !text.trim_start().starts_with('{') {
            return Err(ParseError::NotAnObject);
        }
        let head: Head = match serde_json::from_str(text) {
            Ok(head) => head,
            Err(e) if e.is_data() => {
                return Err(ParseError::Field { message: "\"type\" must be a string".into(), id: None });
            }
            Err(_) => return Err(ParseError::NotAnObject),
        };
        let id = match head.id {
            Some(Value::String(s)) => Some(s),
            _ => None,
        };
        let Some(kind) = head.kind else { return Err(ParseError::NoType { id }) };
        if !KINDS.contains(&kind.as_ref()) {
            let kind = kind.chars().take(64).collect();
            return Err(ParseError::UnknownType { kind, id });
        }
        let inexact = match kind.as_ref() {
            "subscribe" => serde_json::from_str::<Params>(text).is_ok_and(|s| s.are_inexact()),
            "hello" => {
                serde_json::from_str::<AllParams>(text).is_ok_and(|h| h.subscriptions.iter().any(Params::are_inexact))
            }
            _ => false,
        };
        if inexact {
            let message = "a number in `params` has more digits than are kept; write it as a string".to_owned();
            return Err(ParseError::Field { message, id });
        }
        serde_json::from_str(text).map_err(|e| ParseError::Field { message: field_message(&e), id })
    }
}

/// The parameters of a `subscribe` as they are written.
#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

/// Those of a `hello`.
#[derive(Deserialize)]
struct AllParams<'a> {
    #[serde(borrow, default)]
    subscriptions: Vec<Params<'a>>,
}

impl Params<'_> {
    fn are_inexact(&self) -> bool {
        self.params.is_some_and(|params| number::inexact(params.get()).is_some())
    }
}

/// serde's message without its "at line 1 column n", which means nothing to the reader of a frame.
fn field_message(e: &serde_json::Error) -> String {
    let text = e.to_string();
    match text.rfind(" at line ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_takes_every_field_and_ignores_unknown_ones() {
        let m = ClientMessage::parse(
            r#"{"type":"hello","cursor":"c","future":1,"client":{"id":"i","name":"n"},
               "subscriptions":[{"id":"a","table":"orders","columns":["x"],"where":"x = $1","params":[null,1]}]}"#,
        );
        let Ok(ClientMessage::Hello(h)) = m else { panic!("{m:?}") };
        assert_eq!(h.cursor.as_deref(), Some("c"));
        assert_eq!(h.subscriptions[0].predicate.as_deref(), Some("x = $1"));
        assert_eq!(h.subscriptions[0].params.as_ref().map(Vec::len), Some(2));
    }

    #[test]
    fn what_is_wrong_is_named_with_the_id() {
        assert_eq!(ClientMessage::parse("[]"), Err(ParseError::NotAnObject));
        assert_eq!(ClientMessage::parse("{"), Err(ParseError::NotAnObject));
        assert_eq!(ClientMessage::parse("{}"), Err(ParseError::NoType { id: None }));
        assert_eq!(
            ClientMessage::parse(r#"{"type":"nonsense","id":"7"}"#),
            Err(ParseError::UnknownType { kind: "nonsense".into(), id: Some("7".into()) })
        );
        assert_eq!(
            ClientMessage::parse(r#"{"type":"subscribe","id":"7"}"#),
            Err(ParseError::Field { message: "missing field `table`".into(), id: Some("7".into()) })
        );
        assert!(matches!(ClientMessage::parse(r#"{"type":5}"#), Err(ParseError::Field { .. })));
    }

    #[test]
    fn parameters_that_would_be_changed_are_refused() {
        let subscribe = |params: &str| {
            ClientMessage::parse(&format!(
                r#"{{"type":"subscribe","id":"7","table":"t","where":"n = $1","params":{params}}}"#
            ))
        };
        for params in ["[1.10, 9223372036854775807, null]", r#"["12345678901234567890.123", {"a": [0.1]}]"#, "null"] {
            assert!(subscribe(params).is_ok(), "{params}");
        }
        for params in ["[12345678901234567890.123]", r#"[{"a": [1e-999]}]"#] {
            assert!(matches!(subscribe(params), Err(ParseError::Field { id: Some(id), .. }) if id == "7"), "{params}");
        }
        let hello = r#"{"type":"hello","subscriptions":[{"id":"a","table":"t"},
                       {"id":"b","table":"t","where":"n = $1","params":[0.12345678901234567890]}]}"#;
        assert!(matches!(ClientMessage::parse(hello), Err(ParseError::Field { .. })));
    }

    #[test]
    fn verify_needs_no_more_than_an_id() {
        let m = ClientMessage::parse(r#"{"type":"verify","id":"7"}"#);
        assert_eq!(m, Ok(ClientMessage::Verify(Verify { id: "7".into(), ..Verify::default() })));
        let m = ClientMessage::parse(r#"{"type":"verify","id":"7","parts":64,"columns":["a"],"want":[0,63]}"#);
        let all = Verify { id: "7".into(), parts: Some(64), columns: Some(vec!["a".into()]), want: vec![0, 63] };
        assert_eq!(m, Ok(ClientMessage::Verify(all)));
        for field in [r#""parts":-1"#, r#""parts":1.5"#, r#""want":[-1]"#, r#""want":7"#, r#""columns":"a""#] {
            let m = ClientMessage::parse(&format!(r#"{{"type":"verify","id":"7",{field}}}"#));
            assert!(matches!(m, Err(ParseError::Field { id: Some(id), .. }) if id == "7"), "{field}");
        }
    }

    #[test]
    fn an_old_copy_is_told_by_a_hash_of_each_part() {
        let have = |text: &str| {
            let m = ClientMessage::parse(&format!(r#"{{"type":"subscribe","id":"7","table":"t","have":{text}}}"#));
            match m {
                Ok(ClientMessage::Subscribe(Subscription { have: Some(have), .. })) => have,
                other => panic!("{text}: {other:?}"),
            }
        };
        let two = have(r#"{"parts":2,"hashes":["00000000000000ff","FFffffffffffffff"],"columns":["a"]}"#);
        assert_eq!((two.fault(), two.numbers()), (None, Some(vec![255, u64::MAX])));
        for wrong in [
            r#"{"parts":0,"hashes":[]}"#,
            r#"{"parts":2,"hashes":["00000000000000ff"]}"#,
            r#"{"parts":1,"hashes":["0","0"]}"#,
            r#"{"parts":1,"hashes":["ff"]}"#,
            r#"{"parts":1,"hashes":["+0000000000000ff"]}"#,
            r#"{"parts":1,"hashes":["00000000000000ff"],"columns":[]}"#,
        ] {
            assert!(have(wrong).fault().is_some(), "{wrong}");
        }
        let many = Have { parts: 4097, hashes: vec!["0".repeat(16); 4097], columns: None };
        assert!(many.fault().is_some());
    }

    #[test]
    fn ping_returns_at_as_it_was() {
        let m = ClientMessage::parse(r#"{"type":"ping","at":1.5}"#);
        assert_eq!(m, Ok(ClientMessage::Ping(Ping { at: Some(Value::from(1.5)) })));
    }
}
