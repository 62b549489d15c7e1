//! What becomes of a tick's changes: encoded once per shape, queued towards the gateway, closed by a commit.
//!
//! Invariant: everything of a tick is queued before its `Commit`, and what a marker in it ends or replaces before that
//! too. Main thread only, in the tick's transaction.

use super::asked::{Asked, Unsettled};
use super::frames::Frames;
use super::gathered::Changes;
use super::registry::Refusal;
use super::rows::Rows;
use super::shape::{Joining, Kind};
use super::{Feeder, session, tick};
use crate::access::drift;
use crate::attempt::{self, attempt};
use crate::changelog::Op;
use crate::changelog::reader::Change;
use crate::worker::process;
use crate::{capture, guc, shmem};
use pgrx::pg_sys::{self, Datum, Oid};
use rte_core::{Cursor, Snapshot};
use rte_protocol::bridge::{FromFeeder, ShapeFrame, ShapeId};
use rte_protocol::wire::ErrorCode;
use std::collections::{HashMap, HashSet};
use std::time::Instant;

/// What keeps a shape from going on.
pub enum Trouble {
    /// A change cannot be read with the table's definition.
    Stale,
    /// Its condition raised an error.
    Failed,
    /// Postgres was asked, and gave no answer.
    Unsettled(Unsettled),
    /// What a tick comes to is more than is kept in memory.
    TooMuch,
}

/// A large tick goes to the gateway in parts of about this many bytes.
const PART: usize = 8 << 20;

impl Feeder {
    /// Encodes and queues what a tick brought; tells whether that is to be closed by a commit, once nothing is unanswered.
    pub(super) fn deliver(&mut self, now: Snapshot, changes: Changes, in_use: bool) -> bool {
        tick::flush(&changes);
        let Changes { all: changes, coarse } = changes;
        let quiet =
            changes.is_empty() && self.stale.is_empty() && self.troubled.is_empty() && !self.shapes.are_restless();
        let quiet = quiet && self.unanswered.is_empty();
        self.last = now;
        if !in_use {
            self.history.restart(self.last.clone());
            self.registry.invalidate();
            self.registry.readmit_all();
            return false;
        }
        if quiet {
            self.history.push(changes, &self.last, guc::history_bytes());
            return false;
        }
        self.stamp();
        let replaced = self.heed_markers(&changes);
        self.settle_trouble();
        let sent = self.encode(&changes, &replaced);
        if coarse {
            self.history.restart(self.last.clone());
        } else {
            self.history.push(changes, &self.last, guc::history_bytes());
        }
        sent || !replaced.is_empty()
    }

    /// Resynchronises what got no answer because access changed all the time; tells whether there was any.
    pub(super) fn give_up_unanswered(&mut self) -> bool {
        let unanswered = std::mem::take(&mut self.unanswered);
        let any = !unanswered.is_empty();
        self.troubled.extend(unanswered.into_iter().map(|shape| (shape, Trouble::Unsettled(Unsettled::Drifted))));
        self.settle_trouble();
        any
    }

    /// Does what markers among the changes call for; gives the tables that are resynchronised.
    fn heed_markers(&mut self, changes: &[Change]) -> Vec<Oid> {
        let (mut redefined, mut access, mut gap) = (std::mem::take(&mut self.stale), HashSet::new(), false);
        let mut bulk: Vec<Oid> = Vec::new();
        for change in changes {
            match change.op {
                Op::Redefined | Op::TruncatePart if !redefined.contains(&change.relation) => {
                    redefined.push(change.relation);
                }
                Op::Access => {
                    access.insert(change.relation);
                }
                Op::Gap => gap = true,
                Op::Bulk if !bulk.contains(&change.relation) => bulk.push(change.relation),
                _ => {}
            }
        }
        if !redefined.is_empty() || !access.is_empty() || gap {
            self.registry.invalidate();
            self.refresh_registry();
        }
        if gap {
            pgrx::warning!(
                "changes were left out of the change log of database \"{}\": clients resynchronise",
                self.name
            );
            let mut tables: Vec<Oid> =
                self.sessions.values().flat_map(|s| s.subscriptions.values().map(|d| d.table)).collect();
            tables.sort_unstable_by_key(|t| t.to_u32());
            tables.dedup();
            tables.iter().for_each(|t| self.resynchronise(*t, "cursor_expired"));
        }
        for table in &redefined {
            self.registry.readmit(*table);
            self.resynchronise(*table, "schema_changed");
        }
        if !access.is_empty() {
            self.recheck_access(&access);
        }
        bulk.retain(|table| !redefined.contains(table));
        for table in &bulk {
            pgrx::log!(
                "more than rte.max_tick_size was changed at once, of table {} most: copies of it are read anew",
                table.to_u32()
            );
            self.resynchronise(*table, "too_many_changes");
        }
        redefined.append(&mut bulk);
        redefined
    }

    /// Queues the frames of a tick; tells whether there were any.
    fn encode(&mut self, changes: &[Change], replaced: &[Oid]) -> bool {
        let mut frames: HashMap<ShapeId, Frames> = HashMap::new();
        // Each error costs the shape whose condition raised it, and the rest is done again.
        while let Err(shape) = self.encode_changes(changes, replaced, &mut frames) {
            self.troubled.push((shape, Trouble::Failed));
            frames.clear();
            self.settle_trouble();
        }
        if drift::of_roles() {
            // What was found out with roles that are newer than the rows is not told.
            let found = self.shapes.bound_to_roles().filter(|shape| frames.contains_key(shape));
            self.troubled.extend(found.map(|shape| (shape, Trouble::Unsettled(Unsettled::Drifted))));
        }
        self.ask_for_rows(changes, &mut frames);
        let troubled: Vec<ShapeId> = self.troubled.iter().map(|(id, _)| *id).collect();
        // What could not be read is resynchronised before this tick ends, and sends no frame in it.
        troubled.iter().for_each(|id| {
            frames.remove(id);
        });
        self.settle_trouble();
        let (mut heads, mut body, mut any) = (Vec::new(), Vec::new(), !troubled.is_empty());
        for (shape, mut frames) in frames {
            frames.close(shape, self.shapes.get(shape).map_or(&[], |shape| &shape.names));
            for frame in frames.whole {
                any = true;
                heads.push(ShapeFrame { shape, len: frame.bytes.len() as u32, changes: frame.changes });
                body.extend_from_slice(&frame.bytes);
                if body.len() > PART {
                    self.send(&FromFeeder::Changes { frames: std::mem::take(&mut heads) }, &[&body]);
                    body.clear();
                }
            }
        }
        if !heads.is_empty() {
            self.send(&FromFeeder::Changes { frames: heads }, &[&body]);
        }
        any
    }

    /// Encodes all changes for the shapes that they concern. An error is laid at the door of the shape whose condition
    /// raised it; nothing of what was done then is kept.
    fn encode_changes(
        &mut self,
        changes: &[Change],
        replaced: &[Oid],
        frames: &mut HashMap<ShapeId, Frames>,
    ) -> Result<(), ShapeId> {
        if !self.shapes.may_fail() {
            self.encode_each(changes, replaced, frames);
            return Ok(());
        }
        match attempt(|| self.encode_each(changes, replaced, frames)) {
            Ok(()) => Ok(()),
            Err(error) => match self.evaluating.take() {
                Some(shape) => {
                    attempt::log("could not evaluate a condition", &error);
                    self.forget_touched();
                    Err(shape)
                }
                None => error.rethrow(),
            },
        }
    }

    fn encode_each(&mut self, changes: &[Change], replaced: &[Oid], frames: &mut HashMap<ShapeId, Frames>) {
        let repeated = self.with_rows_that_change_again(changes, replaced);
        let (mut ids, mut known) = (Vec::new(), None);
        let mut room = Room { left: guc::max_tick_bytes(), given_up: HashSet::new() };
        for change in changes.iter().filter(|c| !replaced.contains(&c.relation)) {
            if known.as_ref().is_none_or(|(table, _)| *table != change.relation) {
                let Some(definition) = self.shapes.definition(change.relation) else { continue };
                known = Some((change.relation, definition));
            }
            let Some((_, definition)) = &known else { continue };
            let Ok(rows) = Rows::new(change, definition) else {
                for id in self.shapes.of_table(change.relation) {
                    self.troubled.push((*id, Trouble::Stale));
                }
                continue;
            };
            self.shapes.concerned(&rows, &mut ids);
            self.encoding = Some(change.relation);
            for id in &ids {
                let Some(shape) = self.shapes.get(*id).filter(|_| !room.given_up.contains(id)) else { continue };
                self.evaluating = shape.may_fail().then_some(*id);
                let new = || if repeated.contains(&change.relation) { Frames::net() } else { Frames::default() };
                let own = frames.entry(*id).or_insert_with(new);
                let before = own.size();
                if self.scratch.with(|| shape.encode(&rows, own)).is_err() {
                    self.troubled.push((*id, Trouble::Stale));
                } else if !shape.touched.is_empty() {
                    self.touched.insert(*id);
                }
                room.take(own.size() - before, frames);
            }
            self.evaluating = None;
        }
        self.encoding = None;
        self.troubled.extend(room.given_up.into_iter().map(|id| (id, Trouble::TooMuch)));
    }

    /// Tables of which some transaction changed a row more than once.
    fn with_rows_that_change_again(&mut self, changes: &[Change], replaced: &[Oid]) -> HashSet<Oid> {
        let rows = |c: &&Change| {
            matches!(c.op, Op::Insert | Op::Update | Op::Delete | Op::Truncate) && !replaced.contains(&c.relation)
        };
        let (mut last, mut several) = (HashMap::new(), HashSet::new());
        for change in changes.iter().filter(rows) {
            if last.insert(change.relation, change.xid) == Some(change.xid) {
                several.insert((change.relation, change.xid));
            }
        }
        let (mut again, mut seen) = (HashSet::new(), HashSet::new());
        for change in changes.iter().filter(rows).filter(|c| several.contains(&(c.relation, c.xid))) {
            let Some(definition) = self.shapes.definition(change.relation) else { continue };
            let first = self.shapes.of_table(change.relation).first().copied();
            let Some(shape) = first.and_then(|id| self.shapes.get(id)) else { continue };
            if change.op == Op::Truncate {
                again.insert(change.relation);
            }
            if again.contains(&change.relation) {
                continue;
            }
            let Ok(rows) = Rows::new(change, &definition) else { continue };
            self.encoding = Some(change.relation);
            for key in self.scratch.with(|| shape.keys_of(&rows)).into_iter().flatten() {
                if !seen.insert((change.relation, change.xid, key)) {
                    again.insert(change.relation);
                }
            }
        }
        self.encoding = None;
        again
    }

    /// Asks Postgres for what the changes do not tell.
    fn ask_for_rows(&mut self, changes: &[Change], frames: &mut HashMap<ShapeId, Frames>) {
        let mut unsettled = std::mem::take(&mut self.touched);
        unsettled.extend(std::mem::take(&mut self.unanswered));
        let (asked, sessions) = (self.shapes.asked(), &self.sessions);
        if !asked.is_empty() {
            let changed: HashSet<Oid> = changes.iter().map(|c| c.relation).collect();
            for id in asked {
                let Some(shape) = self.shapes.get(id) else { continue };
                let shape_table = shape.table;
                let is_there = |join: &Joining| {
                    let own = sessions.get(&join.session).and_then(|s| s.subscriptions.get(&join.id));
                    own.is_some_and(|subscribed| subscribed.shape == id)
                };
                let transactions = |asked: &Asked| {
                    let concerns = |c: &&Change| c.relation == shape_table || asked.reads.contains(&c.relation);
                    changes.iter().filter(concerns).map(|c| c.xid).collect::<HashSet<_>>().len()
                };
                shape.notice_joins(is_there, transactions);
                if let Kind::Asked(asked) = &mut shape.kind {
                    asked.follow(|table| self.registry.follows(table));
                    shape.uncertain |= asked.reads.iter().any(|table| changed.contains(table));
                }
                unsettled.insert(id);
            }
        }
        for id in unsettled {
            let Some(shape) = self.shapes.get(id).filter(|shape| shape.is_unsettled()) else { continue };
            match shape.settle(frames.entry(id).or_default()) {
                Ok(()) => {}
                Err(Unsettled::Drifted) => self.unanswered.push(id),
                Err(why) => self.troubled.push((id, Trouble::Unsettled(why))),
            }
        }
    }

    fn forget_touched(&mut self) {
        let unanswered = std::mem::take(&mut self.unanswered);
        self.troubled.extend(unanswered.into_iter().map(|shape| (shape, Trouble::Unsettled(Unsettled::Drifted))));
        for id in std::mem::take(&mut self.touched) {
            if let Some(shape) = self.shapes.get(id) {
                shape.touched.clear();
            }
        }
    }

    /// Does what shapes in trouble call for.
    pub(super) fn settle_trouble(&mut self) {
        for (shape, trouble) in std::mem::take(&mut self.troubled) {
            match trouble {
                Trouble::Stale => {
                    self.registry.invalidate();
                    self.refresh_registry();
                    self.resynchronise_shape(shape, "schema_changed");
                }
                Trouble::Unsettled(Unsettled::Locked) => self.resynchronise_shape(shape, "schema_changed"),
                // It was asked as somebody who shared the shape, and who may not read the table any more: the others may. Or
                // access has changed since the snapshot. Who is still denied is told why when it is asked anew.
                Trouble::Unsettled(Unsettled::Failed | Unsettled::Drifted) => {
                    self.resynchronise_shape(shape, "access_changed")
                }
                Trouble::Unsettled(why) => self.end_shape(shape, &session::unsettled(&why)),
                Trouble::TooMuch => self.resynchronise_shape(shape, "too_many_changes"),
                Trouble::Failed => {
                    let refusal = Refusal::new(
                        ErrorCode::WhereFailed,
                        "the condition raised an error on a row",
                        "Write it so that it holds for every row, with CASE or NULLIF where it divides.",
                    );
                    self.end_shape(shape, &refusal);
                }
            }
        }
    }

    /// Makes cursor and time of the last tick.
    pub(super) fn stamp(&mut self) {
        // SAFETY: reads of shared state and the clock.
        let (lsn, now) = unsafe { (pg_sys::GetFlushRecPtr(std::ptr::null_mut()), pg_sys::GetCurrentTimestamp()) };
        let mut time = Vec::with_capacity(32);
        // SAFETY: a value of the encoder's type.
        unsafe { self.clock.append(&mut time, Datum::from(now)) };
        self.time = String::from_utf8_lossy(&time).trim_matches('"').to_owned();
        let cursor = Cursor {
            system_identifier: self.system_identifier,
            database: self.database.to_u32(),
            timeline: self.timeline,
            start: shmem::start(),
            lsn,
            snapshot: self.last.clone(),
        };
        self.cursor = cursor.encode(&self.key);
    }

    /// Closes the tick towards the gateway.
    pub(super) fn commit(&mut self) {
        self.stamp();
        self.commit_due = false;
        self.commit_at = Instant::now();
        let message = FromFeeder::Commit {
            snapshot: self.last.to_string(),
            cursor: self.cursor.clone(),
            time: self.time.clone(),
        };
        self.send(&message, &[]);
    }

    /// Where a feeder that was away cannot know which transactions left changes out, it says so in the log once
    /// all of them have ended.
    pub(super) fn ask_for_gaps(&mut self) {
        if self.suspects.is_some_and(|suspects| self.last.xmin() >= suspects) {
            self.suspects = None;
            process::transaction(|_| capture::mark(Oid::INVALID, Op::Gap));
        }
    }
}

/// Memory for what a tick comes to, encoded.
struct Room {
    left: usize,
    /// Shapes whose frames were dropped.
    given_up: HashSet<ShapeId>,
}

impl Room {
    /// So many bytes more are used. Where there is no room, the shape that has most is given up.
    fn take(&mut self, bytes: usize, frames: &mut HashMap<ShapeId, Frames>) {
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => {
                let largest = frames.iter().max_by_key(|(_, own)| own.size()).map(|(id, own)| (*id, own.size()));
                let Some((id, size)) = largest else { return };
                frames.remove(&id);
                self.given_up.insert(id);
                self.left = (self.left + size).saturating_sub(bytes);
            }
        }
    }
}
