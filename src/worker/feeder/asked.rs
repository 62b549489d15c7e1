//! Rows that Postgres is asked for, under the tick's snapshot and as the session.
//!
//! Two uses: rows of which a change does not tell enough (a value out of line that did not change), and shapes whose policies
//! do not fold. Of the latter the feeder keeps the keys that its clients hold, so that it knows who has to be told of a row that
//! is gone. Invariant: after [`Shape::settle`] succeeded, the keys are those of the rows that the identity sees under
//! the tick's snapshot; where it fails, nothing was changed. Main thread only, in a tick's transaction.

use super::frames::Frames;
use super::shape::{Joining, Kind, Shape};
use crate::access::read::{self, Keys, NotReadable};
use crate::access::{drift, reads};
use crate::attempt::{self, attempt};
use crate::scratch::Scratch;
use crate::worker::process;
use crate::{compat, guc};
use pgrx::pg_sys::{self, Datum, Oid};
use std::collections::{HashMap, HashSet};

/// Past this many keys it is cheaper to read all that the identity sees.
const MANY: usize = 5_000;

/// What is known of a shape whose policies do not fold.
#[derive(Default)]
pub struct Asked {
    /// Keys, in JSON, of the rows that are visible; none until they were read once.
    keys: Option<HashSet<Box<[u8]>>>,
    /// Tables that the policies have read, beside the shape's own.
    pub reads: Vec<Oid>,
    /// Whether the answer may change without a change in one of those tables: by the clock, or by what nobody can look into.
    pub always: bool,
    blind: bool,
}

impl Asked {
    pub fn new(always: bool) -> Self {
        Self { always, ..Self::default() }
    }

    /// Looks whether every change in the tables that the policies read comes through the log; where one does not, only asking
    /// again tells.
    pub fn follow(&mut self, follows: impl Fn(Oid) -> bool) {
        self.blind = !self.reads.iter().all(|table| follows(*table));
    }

    pub fn is_restless(&self) -> bool {
        self.is_loaded() && (self.always || self.blind)
    }

    pub fn is_loaded(&self) -> bool {
        self.keys.is_some()
    }
}

/// Keys that changes of this tick concern, in JSON and as values, and whether clients may hold the row.
#[derive(Default)]
pub struct Touched(HashMap<Vec<u8>, (Vec<Datum>, bool)>);

impl Touched {
    /// Adds a key. Its values are copied into the transaction's memory.
    pub fn add(&mut self, json: Vec<u8>, key: &[Option<Datum>], had: bool, numbers: &[i16], desc: pg_sys::TupleDesc) {
        let entry = self.0.entry(json).or_insert_with(|| {
            let copied = key.iter().zip(numbers).filter_map(|(value, number)| {
                // SAFETY: a value of the attribute; the context lives until the tick's transaction ends, before which
                // the keys are settled.
                value.map(|value| unsafe {
                    let a = compat::attribute(desc, *number as usize - 1);
                    let previous = pg_sys::MemoryContextSwitchTo(pg_sys::TopTransactionContext);
                    let copy = compat::datumCopy(value, a.attbyval, i32::from(a.attlen));
                    pg_sys::MemoryContextSwitchTo(previous);
                    copy
                })
            });
            (copied.collect(), false)
        });
        entry.1 |= had;
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Why Postgres gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsettled {
    /// The table is locked by a change of its definition.
    Locked,
    /// The identity sees more rows than `rte.max_asked_rows`.
    TooMany,
    /// Access may have changed since the tick's snapshot was taken.
    Drifted,
    /// An error, of which the log tells the code.
    Failed,
}

/// A row that was read: its key, and itself where clients may not have it as it is.
type Found = Vec<(Vec<u8>, Option<Vec<u8>>)>;

impl Shape {
    /// Whether Postgres has to be asked before the tick ends.
    pub fn is_unsettled(&self) -> bool {
        match &self.kind {
            Kind::Asked(asked) => {
                asked.is_loaded() && (self.uncertain || asked.is_restless() || !self.touched.is_empty())
            }
            Kind::Whole | Kind::Filtered(_) => !self.touched.is_empty(),
        }
    }

    /// Reads the keys of a shape whose policies do not fold, where that was not done yet.
    pub fn load(&mut self) -> Result<(), Unsettled> {
        match &self.kind {
            Kind::Asked(asked) if !asked.is_loaded() => self.settle_all(&mut Frames::default()),
            _ => Ok(()),
        }
    }

    /// Asks Postgres for what is uncertain, and appends what clients need to have what it says.
    pub fn settle(&mut self, frames: &mut Frames) -> Result<(), Unsettled> {
        let all = match &self.kind {
            Kind::Asked(asked) => self.torn || self.uncertain || asked.is_restless() || self.touched.0.len() > MANY,
            Kind::Whole | Kind::Filtered(_) => false,
        };
        let settled = if all { self.settle_all(frames) } else { self.settle_touched(frames) };
        match settled {
            // Asked anew under a newer snapshot, of the same keys and more.
            Err(Unsettled::Drifted) => {
                self.uncertain |= all;
                self.torn |= !self.joins.is_empty();
            }
            _ => self.touched.clear(),
        }
        if settled.is_ok() {
            (self.uncertain, self.torn) = (false, false);
        }
        settled
    }

    /// Whether somebody joins whose snapshot may have been taken between two of the changes of `transactions` that concern the
    /// shape: what he holds then is replaced.
    pub fn notice_joins(&mut self, is_there: impl Fn(&Joining) -> bool, transactions: impl Fn(&Asked) -> usize) {
        self.joins.retain(is_there);
        if let Kind::Asked(asked) = &self.kind {
            self.torn |= !self.joins.is_empty() && (self.uncertain || asked.is_restless() || transactions(asked) > 1);
        }
    }

    pub fn is_asked(&self) -> bool {
        matches!(self.kind, Kind::Asked(_))
    }

    /// Compares all that is visible with what clients hold. Rows that both have are as they were, or touched.
    fn settle_all(&mut self, frames: &mut Frames) -> Result<(), Unsettled> {
        let before = match &mut self.kind {
            Kind::Asked(asked) => asked.keys.take(),
            Kind::Whole | Kind::Filtered(_) => return Ok(()),
        };
        let first = before.is_none();
        let held = before.unwrap_or_default();
        let touched = std::mem::take(&mut self.touched);
        let torn = self.torn && !first;
        let wanted = |key: &[u8]| !first && (torn || !held.contains(key) || touched.0.contains_key(key));
        let found = self.ask(None, &wanted);
        let (found, reads) = match found {
            Ok(found) => found,
            Err(why) => {
                self.touched = touched;
                if let Kind::Asked(asked) = &mut self.kind {
                    asked.keys = (!first).then_some(held);
                }
                return Err(why);
            }
        };
        if torn {
            frames.truncate(self.id);
        }
        let mut keys = HashSet::with_capacity(found.len());
        for (key, row) in found {
            if let Some(row) = row {
                frames.put(self.id, &key, &row);
            }
            keys.insert(key.into_boxed_slice());
        }
        let held = if torn { HashSet::new() } else { held };
        held.iter().filter(|key| !keys.contains(*key)).for_each(|key| frames.remove_at_last(self.id, key));
        if let Kind::Asked(asked) = &mut self.kind {
            asked.keys = Some(keys);
            asked.reads = reads;
        }
        Ok(())
    }

    fn settle_touched(&mut self, frames: &mut Frames) -> Result<(), Unsettled> {
        let touched = std::mem::take(&mut self.touched);
        let mut values = vec![Vec::with_capacity(touched.0.len()); self.key().len()];
        for (key, _) in touched.0.values() {
            key.iter().zip(&mut values).for_each(|(value, column)| column.push(*value));
        }
        let (found, reads) = match self.ask(Some(values), &|_| true) {
            Ok(found) => found,
            Err(why) => {
                self.touched = touched;
                return Err(why);
            }
        };
        let mut seen = HashSet::with_capacity(found.len());
        for (key, row) in found {
            if let Some(row) = row {
                frames.put(self.id, &key, &row);
            }
            seen.insert(key);
        }
        for (key, (_, had)) in &touched.0 {
            if !seen.contains(key) && (*had || self.holds(key)) {
                frames.remove_at_last(self.id, key);
            }
        }
        if let Kind::Asked(asked) = &mut self.kind {
            let keys = asked.keys.get_or_insert_default();
            touched.0.keys().filter(|key| !seen.contains(*key)).for_each(|key| {
                keys.remove(key.as_slice());
            });
            keys.extend(seen.into_iter().map(Vec::into_boxed_slice));
            asked.reads.extend(reads);
            asked.reads.sort_unstable_by_key(|oid| oid.to_u32());
            asked.reads.dedup();
        }
        Ok(())
    }

    fn holds(&self, key: &[u8]) -> bool {
        matches!(&self.kind, Kind::Asked(Asked { keys: Some(keys), .. }) if keys.contains(key))
    }

    /// Reads rows as the shape's identity: all, or those of some keys. Also tells which tables that took.
    #[allow(clippy::result_large_err, reason = "pgrx's type of error")]
    fn ask(
        &mut self,
        values: Option<Vec<Vec<Datum>>>,
        wanted: &dyn Fn(&[u8]) -> bool,
    ) -> Result<(Found, Vec<Oid>), Unsettled> {
        // SAFETY: in a transaction.
        if !unsafe { read::lock(self.table) } {
            return Err(Unsettled::Locked);
        }
        let limit = if values.is_none() { guc::max_asked_rows() } else { usize::MAX };
        let (reading, identity, key) = (self.reading.clone(), self.identity.clone(), self.key().to_vec());
        let places: Vec<usize> =
            key.iter().filter_map(|k| reading.columns.iter().position(|column| column == k)).collect();
        let (mut found, mut scratch) = (Found::new(), Scratch::new());
        let mut on_row = |values: &[Datum], nulls: &[bool]| {
            scratch.with(|| {
                let row: Vec<Option<Datum>> = values.iter().zip(nulls).map(|(v, n)| (!n).then_some(*v)).collect();
                let key: Vec<Option<Datum>> = places.iter().map(|place| row[*place]).collect();
                let mut json = Vec::new();
                self.append_key(&mut json, &key);
                let row = wanted(&json).then(|| self.row(&row));
                found.push((json, row));
            });
            found.len() <= limit
        };
        let asked = Scratch::new().with(|| {
            attempt(|| {
                // SAFETY: undone with the subtransaction.
                unsafe { pg_sys::XactReadOnly = true };
                let keys = values.map(|values| Keys { columns: &key, values });
                process::within(guc::policy_timeout_ms(), || {
                    reads::observe(self_table(&reading), || -> Result<(), NotReadable> {
                        reading.prepare(keys.as_ref())?.for_each_row(&identity, &mut on_row);
                        Ok(())
                    })
                })
            })
        });
        let table = self_table(&reading);
        let known = match (&asked, &self.kind) {
            (Ok((_, tables)), _) => tables.as_slice(),
            (Err(_), Kind::Asked(asked)) => &asked.reads,
            (Err(_), _) => &[],
        };
        if drift::of_tables(|other| other == table || known.contains(&other)) {
            return Err(Unsettled::Drifted);
        }
        match asked {
            Ok((Ok(()), tables)) if found.len() <= limit => Ok((found, tables)),
            Ok((Ok(()), _)) => Err(Unsettled::TooMany),
            Ok((Err(_), _)) => Err(Unsettled::Failed),
            Err(error) => {
                attempt::log("could not ask for the rows of a session", &error);
                Err(Unsettled::Failed)
            }
        }
    }
}

fn self_table(reading: &read::Reading) -> Oid {
    Oid::from(reading.relation)
}
