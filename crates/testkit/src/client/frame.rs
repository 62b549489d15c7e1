//! Server frames as the strict client reads them: borrowed, with values as raw text.
//!
//! The messages of `rte-protocol` are for writing them and for reading small ones; a second reader finds
//! what a shared one would forgive.

use rte_protocol::wire::Column;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

use super::verify::Verified;
use crate::json::canonical;

/// A value: its canonical JSON text.
pub type Json = Box<str>;
/// Values in the order of the subscription's columns.
pub type Row = Vec<Json>;

#[derive(Debug)]
pub enum Frame {
    Welcome(serde_json::Value),
    Subscribed(Subscribed),
    Snapshot {
        id: String,
        rows: Vec<Row>,
        done: bool,
        /// Of a partial one, in its first frame.
        parts: Option<Vec<u32>>,
    },
    Changes {
        shape: String,
        changes: Vec<Change>,
    },
    Commit {
        cursor: String,
        time: String,
    },
    Resync {
        id: String,
        reason: String,
    },
    Unsubscribed {
        id: String,
    },
    Verifying {
        id: String,
    },
    /// With the bytes of its frame.
    Repair {
        id: String,
        rows: Vec<Row>,
        done: bool,
        bytes: usize,
    },
    Verified(Verified),
    Pong(serde_json::Value),
    Error(Failure),
}

#[derive(Debug, Clone, Deserialize)]
pub struct Subscribed {
    pub id: String,
    pub shape: String,
    pub table: String,
    pub key: Vec<String>,
    pub columns: Vec<Column>,
    pub resumed: bool,
    #[serde(default)]
    pub partial: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Insert(Row),
    Update { key: Json, width: usize, set: Vec<(String, Json)> },
    Delete { key: Json, width: usize },
    Truncate,
}

/// An `error` message.
#[derive(Debug, Clone, Deserialize)]
pub struct Failure {
    pub code: String,
    pub message: String,
    #[serde(default)]
    pub hint: Option<String>,
    #[serde(default)]
    pub id: Option<String>,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
struct RawSnapshot<'a> {
    id: String,
    #[serde(borrow)]
    rows: Vec<Vec<&'a RawValue>>,
    done: bool,
    #[serde(default)]
    parts: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct RawChanges<'a> {
    shape: String,
    #[serde(borrow)]
    changes: Vec<RawChange<'a>>,
}

#[derive(Deserialize)]
struct RawChange<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(borrow, default)]
    row: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    key: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    set: Option<BTreeMap<String, &'a RawValue>>,
}

#[derive(Deserialize)]
struct Commit {
    cursor: String,
    time: String,
}

#[derive(Deserialize)]
struct Named {
    id: String,
    #[serde(default)]
    reason: String,
}

impl Frame {
    /// Reads one text frame.
    pub fn read(text: &str) -> Result<Self, String> {
        let bad = |e: serde_json::Error| format!("{e}: {}", head(text));
        let kind = serde_json::from_str::<Head>(text).map_err(bad)?.kind;
        Ok(match kind.as_ref() {
            "welcome" => Self::Welcome(serde_json::from_str(text).map_err(bad)?),
            "subscribed" => Self::Subscribed(serde_json::from_str(text).map_err(bad)?),
            "snapshot" => {
                let raw: RawSnapshot = serde_json::from_str(text).map_err(bad)?;
                let rows = raw.rows.iter().map(|r| row(r)).collect();
                Self::Snapshot { id: raw.id, rows, done: raw.done, parts: raw.parts }
            }
            "changes" => {
                let raw: RawChanges = serde_json::from_str(text).map_err(bad)?;
                let changes = raw.changes.into_iter().map(Change::read).collect::<Result<_, _>>()?;
                Self::Changes { shape: raw.shape, changes }
            }
            "commit" => {
                let Commit { cursor, time } = serde_json::from_str(text).map_err(bad)?;
                Self::Commit { cursor, time }
            }
            "resync" => {
                let Named { id, reason } = serde_json::from_str(text).map_err(bad)?;
                Self::Resync { id, reason }
            }
            "unsubscribed" => Self::Unsubscribed { id: serde_json::from_str::<Named>(text).map_err(bad)?.id },
            "verifying" => Self::Verifying { id: serde_json::from_str::<Named>(text).map_err(bad)?.id },
            "repair" => {
                let raw: RawSnapshot = serde_json::from_str(text).map_err(bad)?;
                let rows = raw.rows.iter().map(|r| row(r)).collect();
                Self::Repair { id: raw.id, rows, done: raw.done, bytes: text.len() }
            }
            "verified" => Self::Verified(serde_json::from_str(text).map_err(bad)?),
            "pong" => Self::Pong(serde_json::from_str(text).map_err(bad)?),
            "error" => Self::Error(serde_json::from_str(text).map_err(bad)?),
            other => return Err(format!("unknown message type {other:?}")),
        })
    }
}

impl Change {
    fn read(raw: RawChange) -> Result<Self, String> {
        let key = |values: &[&RawValue]| key_text(row(values).iter());
        match (raw.op.as_ref(), raw.row, raw.key, raw.set) {
            ("insert", Some(values), None, None) => Ok(Self::Insert(row(&values))),
            ("update", None, Some(values), Some(set)) => Ok(Self::Update {
                key: key(&values),
                width: values.len(),
                set: set.into_iter().map(|(name, value)| (name, canonical(value.get()))).collect(),
            }),
            ("delete", None, Some(values), None) => Ok(Self::Delete { key: key(&values), width: values.len() }),
            ("truncate", None, None, None) => Ok(Self::Truncate),
            (op, ..) => Err(format!("a change {op:?} with the wrong fields")),
        }
    }
}

fn row(values: &[&RawValue]) -> Row {
    values.iter().map(|v| canonical(v.get())).collect()
}

/// The text under which a copy keeps a row.
pub fn key_text<'a>(values: impl Iterator<Item = &'a Json>) -> Json {
    let mut out = String::from("[");
    for (i, value) in values.enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(value);
    }
    out.push(']');
    out.into_boxed_str()
}

fn head(text: &str) -> String {
    text.chars().take(200).collect()
}
