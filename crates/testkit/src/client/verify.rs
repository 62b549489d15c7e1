//! What a client compares: its copy at the commit that `verifying` announces, hashed as the contract says; and the repair
//! of parts, which counts from the first commit after its last rows.

use rte_core::integrity::{Canonical, SetHash, append_array, part_of};
use serde::Deserialize;

use super::copy::Subscription;
use super::frame::{Change, Json, Row};

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// As in the message; 0 leaves it out.
    pub parts: u32,
    pub columns: Option<Vec<String>>,
    pub want: Vec<u32>,
}

/// Both sides of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub cursor: String,
    /// Hash and number of rows: the copy's at that cursor, and the server's.
    pub own: (String, u64),
    pub server: (String, u64),
    /// The same by parts, where there is more than one.
    pub own_parts: Vec<(String, u64)>,
    pub server_parts: Vec<(String, u64)>,
    /// Bytes of the `repair` messages.
    pub repair_bytes: usize,
    /// Rows in them.
    pub repair_rows: usize,
}

impl Verdict {
    /// Whether the copy is what the server has.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.own == self.server && self.own_parts == self.server_parts
    }

    /// Numbers of the parts that differ.
    #[must_use]
    pub fn differing(&self) -> Vec<u32> {
        let pairs = self.own_parts.iter().zip(&self.server_parts);
        (0..).zip(pairs).filter(|(_, (own, server))| own != server).map(|(part, _)| part).collect()
    }
}

/// The server's side, as it comes.
#[derive(Debug, Deserialize)]
pub struct Verified {
    pub id: String,
    cursor: String,
    hash: String,
    rows: u64,
    #[serde(default)]
    parts: Option<Vec<(String, u64)>>,
}

/// A comparison under way.
#[derive(Debug)]
pub struct Verification {
    pub id: String,
    ask: Ask,
    /// `verifying` has come: the next frame is the commit.
    pub due: bool,
    /// The copy at that commit: its cursor and what it comes to by parts.
    own: Option<(String, Vec<SetHash>)>,
    rows: Vec<Row>,
    bytes: usize,
    done: bool,
    /// Changes after that commit.
    since: Vec<Change>,
    verdict: Option<Verdict>,
}

impl Verification {
    pub fn new(id: &str, ask: &Ask) -> Self {
        let ask = ask.clone();
        Self {
            id: id.into(),
            ask,
            due: false,
            own: None,
            rows: Vec::new(),
            bytes: 0,
            done: false,
            since: Vec::new(),
            verdict: None,
        }
    }

    fn parts(&self) -> u32 {
        self.ask.parts.max(1)
    }

    /// A commit is about to be applied: what it brings to the subscription counts as after the comparison, if that was before.
    pub fn before_commit(&mut self, pending: &[Change]) {
        if self.own.is_some() && !self.ask.want.is_empty() {
            self.since.extend_from_slice(pending);
        }
    }

    /// A commit was applied. Gives the verdict once there is one and all that it asks for is done.
    pub fn after_commit(&mut self, cursor: &str, sub: &mut Subscription) -> Option<Verdict> {
        if std::mem::take(&mut self.due) {
            let own = hash(sub, self.parts(), self.ask.columns.as_deref());
            self.own = Some((cursor.to_owned(), own));
        }
        if self.done {
            self.repair(sub);
        }
        self.settled()
    }

    pub fn take_rows(&mut self, rows: Vec<Row>, done: bool, bytes: usize) -> Result<(), String> {
        if self.own.is_none() || self.done || self.ask.want.is_empty() {
            return Err(format!("{}: a repair that was not asked for", self.id));
        }
        self.rows.extend(rows);
        self.bytes += bytes;
        self.done = done;
        Ok(())
    }

    pub fn take_verdict(&mut self, verified: Verified) -> Result<Option<Verdict>, String> {
        let Some((cursor, own)) = &self.own else { return Err(format!("{}: verified before verifying", self.id)) };
        if verified.cursor != *cursor {
            return Err(format!("{}: verified at another cursor than its commit's", self.id));
        }
        let parts = verified.parts.unwrap_or_default();
        let expected = if self.parts() == 1 { 0 } else { self.parts() as usize };
        if parts.len() != expected || (expected > 0 && parts.iter().map(|p| p.1).sum::<u64>() != verified.rows) {
            return Err(format!("{}: {} parts of {} rows", self.id, parts.len(), verified.rows));
        }
        if self.done == self.ask.want.is_empty() {
            return Err(format!("{}: verified before the repair was done", self.id));
        }
        let mut whole = SetHash::default();
        own.iter().for_each(|part| whole.merge(part));
        let text = |hash: &SetHash| (hash.to_string(), hash.rows());
        self.verdict = Some(Verdict {
            cursor: cursor.clone(),
            own: text(&whole),
            server: (verified.hash, verified.rows),
            own_parts: if expected > 0 { own.iter().map(text).collect() } else { Vec::new() },
            server_parts: parts,
            repair_bytes: self.bytes,
            repair_rows: self.rows.len(),
        });
        Ok(self.settled())
    }

    /// The verdict, unless a repair still waits for its commit.
    fn settled(&mut self) -> Option<Verdict> {
        if self.done { None } else { self.verdict.take() }
    }

    /// The wanted parts become what the server has sent, and what has changed since.
    fn repair(&mut self, sub: &mut Subscription) {
        let parts = self.parts();
        let mut canonical = Canonical::default();
        let mut wanted = |key: &Json| self.ask.want.contains(&part_of(&canonical_of(&mut canonical, key), parts));
        sub.rows.retain(|key, _| !wanted(key));
        for row in &self.rows {
            let key = sub.key_of(row);
            assert!(wanted(&key), "{}: a repair of a part that was not wanted: {key}", self.id);
            assert!(sub.rows.insert(key, row.clone()).is_none(), "{}: a repair has a row twice", self.id);
        }
        for change in std::mem::take(&mut self.since) {
            match change {
                Change::Insert(row) => {
                    let key = sub.key_of(&row);
                    if wanted(&key) {
                        sub.rows.insert(key, row);
                    }
                }
                Change::Update { key, set, .. } if wanted(&key) => {
                    if let Some(row) = sub.rows.get_mut(&key) {
                        for (name, value) in set {
                            if let Some(at) = sub.columns.iter().position(|c| c.name == name) {
                                row[at] = value;
                            }
                        }
                    }
                }
                Change::Delete { key, .. } if wanted(&key) => {
                    sub.rows.remove(&key);
                }
                Change::Truncate => sub.rows.retain(|key, _| !wanted(key)),
                _ => {}
            }
        }
        self.done = false;
        self.ask.want.clear();
    }
}

/// What a copy comes to, by parts.
#[must_use]
pub fn hash(sub: &Subscription, parts: u32, columns: Option<&[String]>) -> Vec<SetHash> {
    let mut out = vec![SetHash::default(); parts as usize];
    let mut canonical = Canonical::default();
    let places: Vec<usize> =
        (0..sub.columns.len()).filter(|at| columns.is_none_or(|c| c.contains(&sub.columns[*at].name))).collect();
    for (key, row) in &sub.rows {
        let mut text = Vec::new();
        let values: Vec<Vec<u8>> = places.iter().map(|at| canonical_of(&mut canonical, &row[*at])).collect();
        append_array(&mut text, values.iter().map(Vec::as_slice));
        out[part_of(&canonical_of(&mut canonical, key), parts) as usize].add(&text);
    }
    out
}

fn canonical_of(canonical: &mut Canonical, json: &Json) -> Vec<u8> {
    let mut out = Vec::new();
    canonical.append(json.as_bytes(), &mut out).unwrap_or_else(|e| panic!("{json}: {e}"));
    out
}
