//! A client's copy: what the frames of the contract make of it, and every rule that they must keep.
//!
//! Pure: frames in, state out, an `Err` for each breach. Frames are buffered and applied in one step at
//! `commit`. A row that arrives while a subscription still joins goes on top of its snapshot.

use std::collections::{BTreeMap, HashMap};

use rte_core::integrity::part_of;
use rte_protocol::wire::Column;

use super::frame::{Change, Frame, Json, Row, Subscribed, key_text};
use super::verify::{Verdict, Verification};

/// Where a subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Asked for; with `true`, offered for resumption.
    Asked(bool),
    /// Its snapshot streams in; with `true`, it is done and waits for a commit.
    Joining(bool),
    /// Goes on from the cursor; counts from the next commit.
    Resuming,
    /// Is at the copy's cursor.
    Live,
    /// A `resync` came; `subscribed` must follow.
    Resyncing,
    /// The client has asked for its end.
    Ending,
    /// The server has ended it.
    Ended,
}

/// One subscription and its rows.
#[derive(Debug)]
pub struct Subscription {
    pub id: String,
    /// As it was asked for.
    pub table: String,
    pub asked_columns: Option<Vec<String>>,
    /// `where` and `params`.
    pub condition: Option<(String, Vec<serde_json::Value>)>,
    pub state: State,
    pub shape: Option<String>,
    /// `schema.name`, from the server.
    pub name: String,
    pub key: Vec<String>,
    pub columns: Vec<Column>,
    /// By key text. Valid as of the copy's cursor when the state is `Live`.
    pub rows: HashMap<Json, Row>,
    /// Parts by which the server is told of an old copy, where one does not go on; 0: it is not.
    pub have_parts: u32,
    /// In `hello`: nothing but to go on is wanted.
    pub resume_only: bool,
    /// The snapshot under way is partial: which parts it has, once it is told.
    partial: Option<Option<Vec<u32>>>,
    key_at: Vec<usize>,
    staged: Vec<Row>,
    pending: Vec<Change>,
}

/// Told of every row that changes in a copy, in order, and of every commit.
pub trait Watch: Send {
    /// A text frame as it came, before anything is made of it.
    fn frame(&mut self, _text: &str) {}
    /// A row of a subscription goes from `old` to `new`; `None` is no row.
    fn row(&mut self, _subscription: &str, _old: Option<&Row>, _new: Option<&Row>) {}
    /// After a commit is applied. An `Err` is a broken promise.
    ///
    /// # Errors
    /// What the watcher found wrong.
    fn commit(&mut self, _copy: &Copy) -> Result<(), String> {
        Ok(())
    }
}

/// Watches nothing.
pub struct Silent;

impl Watch for Silent {}

/// What has come so far.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub commits: u64,
    pub changes: u64,
    /// Reasons of the `resync` messages.
    pub resyncs: Vec<String>,
    /// Subscriptions that were offered for resumption and got a snapshot.
    pub refused_resumes: u64,
    pub resumed: u64,
    /// Snapshots that were partial, and the rows of all snapshots.
    pub partial: u64,
    pub snapshot_rows: u64,
    /// `insert` of a row that was there, `update` or `delete` of one that was not: allowed, but telling.
    pub repeated: u64,
    /// Longest text of a value that an `update` carried.
    pub widest_set: usize,
}

/// All subscriptions of a client and the cursor that they are at.
#[derive(Debug, Default)]
pub struct Copy {
    pub subscriptions: BTreeMap<String, Subscription>,
    pub cursor: Option<String>,
    pub time: Option<String>,
    pub counts: Counts,
    /// What is compared now, and what comparisons came to.
    pub verification: Option<Verification>,
    pub verdicts: Vec<Verdict>,
}

impl Copy {
    /// Notes a subscription that the client asks for.
    pub fn ask(&mut self, id: &str, table: &str, columns: Option<Vec<String>>) {
        let new = Subscription {
            id: id.into(),
            table: table.into(),
            asked_columns: columns,
            condition: None,
            state: State::Asked(false),
            shape: None,
            name: String::new(),
            key: Vec::new(),
            columns: Vec::new(),
            rows: HashMap::new(),
            have_parts: 0,
            resume_only: false,
            partial: None,
            key_at: Vec::new(),
            staged: Vec::new(),
            pending: Vec::new(),
        };
        self.subscriptions.insert(id.into(), new);
    }

    /// The connection is gone: what was not committed is forgotten. Returns the ids that can resume.
    pub fn disconnected(&mut self) -> Vec<String> {
        self.verification = None;
        self.subscriptions.retain(|_, s| !matches!(s.state, State::Ending | State::Ended));
        let mut live = Vec::new();
        for s in self.subscriptions.values_mut() {
            let resumes = matches!(s.state, State::Live | State::Resuming | State::Asked(true));
            s.state = State::Asked(resumes && self.cursor.is_some());
            s.shape = None;
            s.staged.clear();
            s.pending.clear();
            if s.state == State::Asked(true) {
                live.push(s.id.clone());
            }
        }
        live
    }

    /// Whether every subscription is at the cursor.
    #[must_use]
    pub fn all_live(&self) -> bool {
        self.subscriptions.values().all(|s| s.state == State::Live)
    }

    /// Takes one frame.
    ///
    /// # Errors
    /// The rule of the contract that it breaks.
    pub fn take(&mut self, frame: Frame, watch: &mut dyn Watch) -> Result<(), String> {
        if self.verification.as_ref().is_some_and(|v| v.due) && !matches!(frame, Frame::Commit { .. }) {
            return Err("verifying is followed by something else than its commit".into());
        }
        match frame {
            Frame::Subscribed(subscribed) => self.subscribed(subscribed),
            Frame::Snapshot { id, rows, done, parts } => self.snapshot(&id, rows, done, parts),
            Frame::Changes { shape, changes } => self.changes(&shape, &changes),
            Frame::Commit { cursor, time } => self.commit(cursor, time, watch),
            Frame::Resync { id, reason } => self.resync(&id, reason),
            Frame::Unsubscribed { id } => match self.subscriptions.get_mut(&id) {
                Some(s) if s.state == State::Ending => {
                    self.subscriptions.remove(&id);
                    Ok(())
                }
                Some(s) if s.state != State::Ended => {
                    s.state = State::Ended;
                    s.shape = None;
                    Ok(())
                }
                _ => Err(format!("unsubscribed {id:?}, which is no subscription")),
            },
            Frame::Verifying { id } => match self.verification.as_mut().filter(|v| v.id == id) {
                Some(verification) => {
                    verification.due = true;
                    Ok(())
                }
                None => Err(format!("verifying {id:?} unasked")),
            },
            Frame::Repair { id, rows, done, bytes } => match self.verification.as_mut().filter(|v| v.id == id) {
                Some(verification) => verification.take_rows(rows, done, bytes),
                None => Err(format!("repair of {id:?} unasked")),
            },
            Frame::Verified(verified) => match self.verification.as_mut().filter(|v| v.id == verified.id) {
                Some(verification) => {
                    let verdict = verification.take_verdict(verified)?;
                    self.settle(verdict);
                    Ok(())
                }
                None => Err(format!("verified {:?} unasked", verified.id)),
            },
            Frame::Error(failure) => {
                self.verification
                    .take_if(|v| failure.id.as_deref() == Some(&*v.id) && failure.code != "TOO_MANY_REQUESTS");
                if let Some(s) = failure.id.as_ref().and_then(|id| self.subscriptions.get_mut(id))
                    && matches!(s.state, State::Asked(_))
                {
                    s.state = State::Ended;
                }
                Ok(())
            }
            Frame::Welcome(_) | Frame::Pong(_) => Ok(()),
        }
    }

    fn subscribed(&mut self, m: Subscribed) -> Result<(), String> {
        let s = self.subscriptions.get_mut(&m.id).ok_or_else(|| format!("subscribed {:?} unasked", m.id))?;
        match (s.state, m.resumed) {
            (State::Asked(true), true) => {
                if m.columns != s.columns || m.key != s.key {
                    return Err(format!("{}: resumed with other columns: {:?}", m.id, m.columns));
                }
                self.counts.resumed += 1;
                s.state = State::Resuming;
            }
            (State::Asked(offered), false) => {
                self.counts.refused_resumes += u64::from(offered);
                s.state = State::Joining(false);
            }
            (State::Resyncing, false) => s.state = State::Joining(false),
            // The client has asked for the end meanwhile.
            (State::Ending, _) => {}
            (state, resumed) => return Err(format!("{}: subscribed (resumed: {resumed}) while {state:?}", m.id)),
        }
        if m.partial && (m.resumed || s.have_parts == 0) {
            return Err(format!("{}: a partial snapshot without an old copy", m.id));
        }
        self.counts.partial += u64::from(m.partial);
        s.partial = m.partial.then_some(None);
        s.key_at = m
            .key
            .iter()
            .map(|k| m.columns.iter().position(|c| c.name == *k).ok_or_else(|| format!("no key column {k:?}")))
            .collect::<Result<_, _>>()?;
        if s.key_at.is_empty() {
            return Err(format!("{}: no key", m.id));
        }
        (s.shape, s.name, s.key, s.columns) = (Some(m.shape), m.table, m.key, m.columns);
        Ok(())
    }

    fn snapshot(&mut self, id: &str, rows: Vec<Row>, done: bool, parts: Option<Vec<u32>>) -> Result<(), String> {
        let s = self.subscriptions.get_mut(id).ok_or_else(|| format!("snapshot of {id:?}, which is unknown"))?;
        match s.state {
            State::Joining(false) => s.state = State::Joining(done),
            State::Ending => return Ok(()),
            state => return Err(format!("{id}: snapshot while {state:?}")),
        }
        if let Some(row) = rows.iter().find(|r| r.len() != s.columns.len()) {
            return Err(format!("{id}: a row of {} values for {} columns", row.len(), s.columns.len()));
        }
        match (&mut s.partial, parts) {
            (None, None) | (Some(Some(_)), None) => {}
            (Some(told @ None), Some(parts)) => *told = Some(parts),
            (partial, parts) => return Err(format!("{id}: parts {parts:?} where {partial:?} were told")),
        }
        if let Some(Some(want)) = &s.partial
            && let Some(row) = rows.iter().find(|row| !want.contains(&part_of(s.key_of(row).as_bytes(), s.have_parts)))
        {
            return Err(format!("{id}: {row:?} is of none of the parts {want:?}"));
        }
        self.counts.snapshot_rows += rows.len() as u64;
        s.staged.extend(rows);
        Ok(())
    }

    fn changes(&mut self, shape: &str, changes: &[Change]) -> Result<(), String> {
        self.counts.changes += changes.len() as u64;
        let mut known = false;
        for s in self.subscriptions.values_mut().filter(|s| s.shape.as_deref() == Some(shape)) {
            known = true;
            changes.iter().try_for_each(|c| s.check(c)).map_err(|e| format!("{}: {e}", s.id))?;
            s.pending.extend_from_slice(changes);
        }
        if known { Ok(()) } else { Err(format!("changes of shape {shape:?}, which nothing subscribes to")) }
    }

    fn commit(&mut self, cursor: String, time: String, watch: &mut dyn Watch) -> Result<(), String> {
        let mut verdict = None;
        for s in self.subscriptions.values_mut() {
            match s.state {
                State::Joining(true) => s.replace(watch)?,
                State::Resuming | State::Live => {}
                _ => continue,
            }
            let mut verification = self.verification.as_mut().filter(|v| v.id == s.id);
            if let Some(verification) = &mut verification {
                verification.before_commit(&s.pending);
            }
            s.apply(watch, &mut self.counts);
            s.state = State::Live;
            if let Some(verification) = verification {
                verdict = verification.after_commit(&cursor, s);
            }
        }
        self.settle(verdict);
        self.cursor = Some(cursor);
        self.time = Some(time);
        self.counts.commits += 1;
        watch.commit(self)
    }

    fn settle(&mut self, verdict: Option<Verdict>) {
        if let Some(verdict) = verdict {
            self.verdicts.push(verdict);
            self.verification = None;
        }
    }

    fn resync(&mut self, id: &str, reason: String) -> Result<(), String> {
        let s = self.subscriptions.get_mut(id).ok_or_else(|| format!("resync of {id:?}, which is unknown"))?;
        match s.state {
            State::Ending => return Ok(()),
            // Says why a cursor does not serve.
            State::Asked(true) => self.counts.refused_resumes += 1,
            State::Asked(false) | State::Ended => return Err(format!("{id}: resync while {:?}", s.state)),
            _ => {}
        }
        s.state = State::Resyncing;
        s.shape = None;
        s.staged.clear();
        s.pending.clear();
        self.counts.resyncs.push(reason);
        Ok(())
    }
}

impl Subscription {
    /// Whether rows of a snapshot have come that do not count yet.
    #[must_use]
    pub fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    fn check(&self, change: &Change) -> Result<(), String> {
        match change {
            Change::Insert(row) if row.len() != self.columns.len() => {
                Err(format!("insert of {} values for {} columns", row.len(), self.columns.len()))
            }
            Change::Update { width, .. } | Change::Delete { width, .. } if *width != self.key.len() => {
                Err(format!("a key of {width} values for {} columns", self.key.len()))
            }
            Change::Update { set, .. } => set.iter().try_for_each(|(name, _)| {
                if self.key.contains(name) {
                    Err(format!("update sets the key column {name:?}"))
                } else if !self.columns.iter().any(|c| c.name == *name) {
                    Err(format!("update sets {name:?}, which is no column"))
                } else {
                    Ok(())
                }
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn key_of(&self, row: &Row) -> Json {
        key_text(self.key_at.iter().map(|at| &row[*at]))
    }

    /// The staged snapshot becomes the copy.
    fn replace(&mut self, watch: &mut dyn Watch) -> Result<(), String> {
        let parts = self.have_parts;
        let gone: Vec<Json> = match self.partial.take() {
            None => self.rows.keys().cloned().collect(),
            Some(want) => {
                let want = want.ok_or_else(|| format!("{}: no parts were told", self.id))?;
                self.rows.keys().filter(|key| want.contains(&part_of(key.as_bytes(), parts))).cloned().collect()
            }
        };
        for key in gone {
            watch.row(&self.id, self.rows.remove(&key).as_ref(), None);
        }
        for row in std::mem::take(&mut self.staged) {
            watch.row(&self.id, None, Some(&row));
            let key = self.key_of(&row);
            if let Some(double) = self.rows.insert(key, row) {
                return Err(format!("{}: the snapshot has the key of {double:?} twice", self.id));
            }
        }
        Ok(())
    }

    fn apply(&mut self, watch: &mut dyn Watch, counts: &mut Counts) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Insert(row) => {
                    let key = self.key_of(&row);
                    let old = self.rows.get(&key);
                    counts.repeated += u64::from(old.is_some());
                    watch.row(&self.id, old, Some(&row));
                    self.rows.insert(key, row);
                }
                Change::Update { key, set, .. } => {
                    let Some(row) = self.rows.get_mut(&key) else {
                        counts.repeated += 1;
                        continue;
                    };
                    let old = row.clone();
                    for (name, value) in set {
                        counts.widest_set = counts.widest_set.max(value.len());
                        if let Some(at) = self.columns.iter().position(|c| c.name == name) {
                            row[at] = value;
                        }
                    }
                    watch.row(&self.id, Some(&old), Some(row));
                }
                Change::Delete { key, .. } => match self.rows.remove(&key) {
                    Some(old) => watch.row(&self.id, Some(&old), None),
                    None => counts.repeated += 1,
                },
                Change::Truncate => {
                    for (_, old) in self.rows.drain() {
                        watch.row(&self.id, Some(&old), None);
                    }
                }
            }
        }
    }

    /// Place of a column.
    ///
    /// # Panics
    /// When there is no such column.
    #[must_use]
    #[track_caller]
    pub fn at(&self, column: &str) -> usize {
        match self.columns.iter().position(|c| c.name == column) {
            Some(at) => at,
            None => panic!("{}: no column {column:?} among {:?}", self.id, self.columns),
        }
    }

    /// The row of a key, which is given as JSON texts.
    #[must_use]
    pub fn row(&self, key: &[&str]) -> Option<&Row> {
        let key: Vec<Json> = key.iter().map(|k| crate::canonical(k)).collect();
        self.rows.get(&key_text(key.iter()))
    }

    /// One value, as canonical JSON text.
    #[must_use]
    #[track_caller]
    pub fn value(&self, key: &[&str], column: &str) -> Option<&str> {
        let at = self.at(column);
        self.row(key).map(|row| &*row[at])
    }
}
