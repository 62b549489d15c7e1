//! Server → client messages.
//!
//! `changes` and `snapshot` carry rows that Postgres' side has already encoded; [`changes_frame`] and
//! [`snapshot_parts`] put text around them without parsing it again.

use super::ErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Every message that a server sends, for those who read them (clients in Rust, tests) and for
/// writing the small ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    Welcome {
        /// A uuid.
        session: String,
        tenant: String,
        role: String,
        /// `whagons_rte x.y.z`
        server: String,
        heartbeat_ms: u64,
        limits: Limits,
        /// How long the token is good for, by the server's clock.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_in_ms: Option<u64>,
        /// The registered tables that the role may read.
        #[serde(default)]
        tables: Vec<TableInfo>,
    },
    Subscribed {
        id: String,
        shape: String,
        /// `schema.name`
        table: String,
        key: Vec<String>,
        columns: Vec<Column>,
        resumed: bool,
        /// The snapshot that follows has only the parts in which the copy that the client told of differs.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        partial: bool,
    },
    Snapshot {
        id: String,
        rows: Vec<Vec<Value>>,
        done: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
        /// Of a partial one, in the first message: which parts it has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parts: Option<Vec<u32>>,
    },
    Changes {
        shape: String,
        changes: Vec<Value>,
    },
    Commit {
        cursor: String,
        /// ISO 8601, UTC, microseconds.
        time: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mutations: Option<Vec<String>>,
    },
    Resync {
        id: String,
        reason: String,
    },
    Unsubscribed {
        id: String,
    },
    /// Right before a `commit`: the copy as it is with that commit is what `verified` speaks of.
    Verifying {
        id: String,
    },
    /// Rows of the parts that were wanted, as of the commit after `verifying`; before `verified`.
    Repair {
        id: String,
        rows: Vec<Vec<Value>>,
        done: bool,
    },
    Verified {
        id: String,
        /// Of the commit after `verifying`.
        cursor: String,
        /// Sixteen hexadecimal digits.
        hash: String,
        rows: u64,
        /// Hash and number of rows of each part, where more than one was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parts: Option<Vec<(String, u64)>>,
    },
    Pong {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Value>,
    },
    Error {
        code: ErrorCode,
        message: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
}

/// The bounds that a client should know, in `welcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Largest text frame that a client may send, bytes.
    pub max_frame_bytes: u64,
    /// Subscriptions per connection.
    pub max_subscriptions: u32,
    /// Outgoing bytes that may wait before the connection is closed with 4409.
    pub client_queue_bytes: u64,
}

/// A registered table that the session's role may read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableInfo {
    /// `schema.name`
    pub name: String,
    /// Names of the key columns.
    pub key: Vec<String>,
}

/// A column of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// Postgres' short name of the type: `int8`, `timestamptz`, `text[]`.
    #[serde(rename = "type")]
    pub type_name: String,
    pub nullable: bool,
}

impl ServerMessage {
    /// The text frame.
    #[must_use]
    pub fn to_text(&self) -> String {
        // Every variant is strings, numbers and serde_json values: serialisation cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A `changes` frame around an array that is already JSON (`[{…},{…}]`).
#[must_use]
pub fn changes_frame(shape: &str, changes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(changes.len() + shape.len() + 48);
    out.extend_from_slice(b"{\"type\":\"changes\",\"shape\":\"");
    out.extend_from_slice(shape.as_bytes());
    out.extend_from_slice(b"\",\"changes\":");
    out.extend_from_slice(changes);
    out.push(b'}');
    out
}

/// What stands before and after the rows (`[[…],[…]]`) of a `snapshot` frame.
#[must_use]
pub fn snapshot_parts(id: &str, done: bool, total: Option<u64>, parts: Option<&[u32]>) -> (Vec<u8>, Vec<u8>) {
    let id = serde_json::to_string(id).unwrap_or_default();
    let head = format!("{{\"type\":\"snapshot\",\"id\":{id},\"rows\":");
    let mut tail = format!(",\"done\":{done}");
    if let Some(total) = total {
        tail.push_str(&format!(",\"total\":{total}"));
    }
    if let Some(parts) = parts {
        tail.push_str(",\"parts\":");
        tail.push_str(&serde_json::to_string(parts).unwrap_or_default());
    }
    tail.push('}');
    (head.into_bytes(), tail.into_bytes())
}

/// What stands before and after the rows (`[[…],[…]]`) of a `repair` frame.
#[must_use]
pub fn repair_parts(id: &str, done: bool) -> (Vec<u8>, Vec<u8>) {
    let id = serde_json::to_string(id).unwrap_or_default();
    let head = format!("{{\"type\":\"repair\",\"id\":{id},\"rows\":");
    (head.into_bytes(), format!(",\"done\":{done}}}").into_bytes())
}

/// What stands before and after the end of the cursor in a `commit` frame; `cursor` is its beginning, and its end needs no
/// quoting in JSON.
#[must_use]
pub fn commit_parts(cursor: &str, time: &str) -> (Vec<u8>, Vec<u8>) {
    let cursor = serde_json::to_string(cursor).unwrap_or_default();
    let time = serde_json::to_string(time).unwrap_or_default();
    let head = format!("{{\"type\":\"commit\",\"cursor\":{}", cursor.strip_suffix('"').unwrap_or_default());
    (head.into_bytes(), format!("\",\"time\":{time}}}").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn composed_frames_read_back_as_messages() {
        let frame = changes_frame("s1", br#"[{"op":"truncate"}]"#);
        let m: ServerMessage = serde_json::from_slice(&frame).expect("changes");
        assert!(matches!(m, ServerMessage::Changes { shape, changes } if shape == "s1" && changes.len() == 1));

        let (head, tail) = snapshot_parts("a\"b", true, Some(3), Some(&[0, 7]));
        let text = [head.as_slice(), b"[[1],[2]]", &tail].concat();
        let m: ServerMessage = serde_json::from_slice(&text).expect("snapshot");
        assert!(matches!(m, ServerMessage::Snapshot { id, rows, done: true, total: Some(3), parts: Some(parts) }
                if id == "a\"b" && rows.len() == 2 && parts == [0, 7]));

        let (head, tail) = repair_parts("a\"b", false);
        let text = [head.as_slice(), b"[[1],[2]]", &tail].concat();
        let m: ServerMessage = serde_json::from_slice(&text).expect("repair");
        assert!(matches!(m, ServerMessage::Repair { id, rows, done: false } if id == "a\"b" && rows.len() == 2));

        let (head, tail) = commit_parts("a\"b", "now");
        let text = [head.as_slice(), b".c", &tail].concat();
        let m: ServerMessage = serde_json::from_slice(&text).expect("commit");
        let expected = ServerMessage::Commit { cursor: "a\"b.c".into(), time: "now".into(), mutations: None };
        assert_eq!(m, expected);
    }
}
