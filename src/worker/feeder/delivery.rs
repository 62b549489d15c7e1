//! What becomes of a tick's changes: encoded once per shape, queued towards the gateway, closed by a commit.
//!
//! Invariant: everything of a tick is queued before its `Commit`, and what a marker in it ends or replaces before that
//! too. Main thread only, in the tick's transaction.

use super::Feeder;
use super::shape::Frames;
use super::tick;
use crate::changelog::Op;
use crate::changelog::reader::{self, Change};
use crate::worker::process;
use crate::{capture, guc, shmem};
use pgrx::pg_sys::{self, Datum, Oid};
use rte_core::{Cursor, Snapshot};
use rte_protocol::bridge::{FromFeeder, ShapeFrame};
use std::collections::HashMap;
use std::time::Instant;

/// A large tick goes to the gateway in parts of about this many bytes.
const PART: usize = 8 << 20;

impl Feeder {
    /// Encodes and queues what a tick brought, and closes it.
    pub(super) fn deliver(&mut self, now: Snapshot, mut changes: Vec<Change>, in_use: bool) {
        tick::flush(&changes);
        reader::sort(&mut changes);
        let quiet = changes.is_empty() && self.stale.is_empty();
        self.last = now;
        if !in_use {
            self.history.restart(self.last.clone());
            self.registry.invalidate();
            self.registry.readmit_all();
            return;
        }
        if quiet {
            self.history.push(changes, &self.last, guc::history_bytes());
            return;
        }
        self.stamp();
        let (mut redefined, mut access, mut gap) = (std::mem::take(&mut self.stale), false, false);
        drop_parts_of_truncated_roots(&mut changes);
        for change in &changes {
            match change.op {
                Op::Redefined | Op::TruncatePart if !redefined.contains(&change.relation) => {
                    redefined.push(change.relation);
                }
                Op::Access => access = true,
                Op::Gap => gap = true,
                _ => {}
            }
        }
        if !redefined.is_empty() || access || gap {
            catch_up_with_catalogs(&changes);
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
        if access {
            self.recheck_access();
        }
        let sent = self.encode(&changes, &redefined);
        self.history.push(changes, &self.last, guc::history_bytes());
        if sent {
            self.commit();
        }
    }

    /// Queues the frames of a tick; tells whether there were any.
    fn encode(&mut self, changes: &[Change], redefined: &[Oid]) -> bool {
        let mut frames: HashMap<u32, Frames> = HashMap::new();
        for change in changes.iter().filter(|c| !redefined.contains(&c.relation)) {
            let ids = self.shapes.of_table(change.relation).to_vec();
            for id in ids {
                let Some(shape) = self.shapes.get(id) else { continue };
                self.encoding = Some(change.relation);
                let own = frames.entry(id).or_default();
                let encoded = self.scratch.with(|| shape.encode(change, own));
                if encoded.is_err() && !self.stale.contains(&change.relation) {
                    self.stale.push(change.relation);
                }
            }
        }
        self.encoding = None;
        // What could not be read is resynchronised before this tick ends, and sends no frame in it.
        for table in std::mem::take(&mut self.stale) {
            for id in self.shapes.of_table(table) {
                frames.remove(id);
            }
            self.registry.invalidate();
            self.refresh_registry();
            self.resynchronise(table, "schema_changed");
        }
        let (mut heads, mut body, mut any) = (Vec::new(), Vec::new(), !redefined.is_empty());
        for (shape, mut frames) in frames {
            frames.close(shape);
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

/// A partition that is truncated together with its root is no news.
pub(super) fn drop_parts_of_truncated_roots(changes: &mut Vec<Change>) {
    let roots: Vec<(u64, u32, Oid)> =
        changes.iter().filter(|c| c.op == Op::Truncate).map(|c| (c.xid, c.cid, c.relation)).collect();
    if !roots.is_empty() {
        changes.retain(|c| c.op != Op::TruncatePart || !roots.contains(&(c.xid, c.cid, c.relation)));
    }
}

/// Waits until the transactions of markers have told everybody what they changed in the catalogs: they do so after
/// snapshots see them and before they release the lock on their own id. A matter of microseconds.
fn catch_up_with_catalogs(changes: &[Change]) {
    for change in changes.iter().filter(|c| matches!(c.op, Op::Redefined | Op::Access)) {
        // SAFETY: in a transaction; the other has ended for snapshots.
        unsafe {
            let xid = pg_sys::TransactionId::from(change.xid as u32);
            pg_sys::XactLockTableWait(xid, std::ptr::null_mut(), std::ptr::null_mut(), pg_sys::XLTW_Oper::XLTW_None);
        }
    }
    // SAFETY: in a transaction.
    unsafe { pg_sys::AcceptInvalidationMessages() };
}
