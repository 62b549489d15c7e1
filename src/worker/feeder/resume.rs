//! Going on from a cursor: whether that is possible, and what was missed.
//!
//! Invariant: a client that is told `resumed` gets every change that its cursor did not see, up to the tick
//! in which it is answered. Getting a change again that it has is harmless (changes are applied in order
//! and the last one decides); missing one is not, so every doubt resynchronises. Main thread only, in a tick's transaction.

use super::Feeder;
use super::delivery::Trouble;
use super::frames::Frames;
use super::gathered::{self, Changes, Gathered};
use super::registry::Refusal;
use super::rows::{Rows, Stale};
use super::session::{Start, old_copy};
use super::shape::Shape;
use super::wal::Wal;
use crate::attempt::{self, attempt};
use crate::changelog::reader::{self, Change};
use crate::changelog::{Op, segments};
use crate::compat;
use crate::guc;
use crate::scratch::Scratch;
use crate::snapshot;
use pgrx::pg_sys::{self, Oid};
use rte_core::held::{self, Held};
use rte_core::{Cursor, Snapshot};
use rte_protocol::bridge::{FromFeeder, SessionId, ShapeId};
use rte_protocol::wire::{ErrorCode, Subscription};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Where a client stands.
pub enum Place {
    At(Snapshot),
    /// It cannot go on from there.
    Lost(&'static str),
}

/// A session that came with a cursor.
pub struct Resuming {
    pub session: SessionId,
    pub place: Place,
    /// What its connection held.
    pub held: Held,
    pub subscriptions: Vec<Subscription>,
}

impl Feeder {
    /// Reads a cursor that a client brought.
    pub(super) fn place_of(&mut self, text: &str) -> Result<(Place, Held), Refusal> {
        let invalid = || {
            Refusal::new(
                ErrorCode::InvalidCursor,
                "the cursor was not made by this database, or was altered",
                "The subscriptions are answered with snapshots.",
            )
        };
        let (text, held) = held::split(text).map_err(|_| invalid())?;
        let cursor = Cursor::decode(text, &self.key).map_err(|_| invalid())?;
        if cursor.database != self.database.to_u32() || cursor.system_identifier != self.system_identifier {
            return Err(invalid());
        }
        // SAFETY: reads of shared state; in a transaction.
        let (flushed, end) = unsafe {
            let end = if cursor.timeline == self.timeline {
                None
            } else {
                Some(compat::timeline_end(cursor.timeline, self.timeline))
            };
            (pg_sys::GetFlushRecPtr(std::ptr::null_mut()), end)
        };
        let known = match end {
            None => cursor.lsn <= flushed,
            Some(end) => end.is_some_and(|end| cursor.lsn <= end),
        };
        if !known {
            return Ok((Place::Lost("timeline"), held));
        }
        // Ids at or above a later start's boundary may have been given out anew.
        let mut snapshot = cursor.snapshot;
        for start in segments::starts() {
            if start.start != cursor.start && start.lsn >= cursor.lsn {
                snapshot = snapshot.clamped(start.boundary);
            }
        }
        let kept = segments::all().iter().filter_map(|s| s.horizon.as_ref()).all(|horizon| snapshot.contains(horizon));
        Ok((if kept { Place::At(snapshot) } else { Place::Lost("cursor_expired") }, held))
    }

    /// Answers all sessions that came with a cursor, reading the log at most once for all of them.
    ///
    /// # Safety
    /// `snapshot` is active and that of the last tick.
    pub(super) unsafe fn resume(&mut self, resuming: Vec<Resuming>, snapshot: pg_sys::Snapshot) {
        let needed: Vec<Snapshot> = resuming
            .iter()
            .filter_map(|r| match &r.place {
                Place::At(place) if !self.history.covers(place) => Some(place.clone()),
                _ => None,
            })
            .collect();
        // SAFETY: the caller's promise.
        let logged = (!needed.is_empty()).then(|| unsafe { self.read_log(&needed, snapshot) });
        let mut known: HashMap<Snapshot, Rc<Missed>> = HashMap::new();
        let mut groups: HashMap<Snapshot, Vec<(SessionId, Vec<ShapeId>)>> = HashMap::new();
        for Resuming { session, place, held, subscriptions } in resuming {
            let lost = match &place {
                Place::Lost(reason) => Some(*reason),
                // The log does not tell of it yet.
                Place::At(_) if self.roles_unnoted => Some("access_changed"),
                Place::At(place) if self.history.covers(place) => None,
                Place::At(_) if matches!(logged, Some(None)) => Some("cursor_expired"),
                Place::At(_) => None,
            };
            let mut wanted = Vec::new();
            for mut subscription in subscriptions {
                let have = subscription.have.take();
                let planned = self.plan(session, &subscription);
                match planned.and_then(|plan| Ok((old_copy(have, &plan.selection)?, plan))) {
                    Ok((have, plan)) => wanted.push((Rc::new(subscription), plan, have)),
                    Err(refusal) => self.refuse(session, &subscription.id, refusal),
                }
            }
            let missed = match (&place, lost) {
                (Place::At(place), None) => known
                    .entry(place.clone())
                    .or_insert_with(|| Rc::new(self.missed(place, logged.as_ref().and_then(Option::as_deref))))
                    .clone(),
                _ => Rc::new(Missed { lost: lost.or(Some("cursor_expired")), ..Missed::default() }),
            };
            let tables: HashSet<Oid> = wanted.iter().map(|(_, plan, _)| plan.key.table).collect();
            let bytes: usize = tables.iter().filter_map(|table| missed.bytes.get(table)).sum();
            let too_much = (bytes > guc::max_catch_up_bytes()).then_some("cursor_expired");
            let digests: Vec<u64> = wanted.iter().filter_map(|(_, plan, _)| plan.digest).collect();
            let all = held.holds_exactly(&digests);
            let (mut anew, mut shapes) = (Vec::new(), Vec::new());
            for (subscription, plan, have) in wanted {
                let table = plan.key.table;
                let reason =
                    missed.lost.or(too_much).or_else(|| missed.redefined.iter().find(|r| r.0 == table).map(|r| r.1));
                // What its connection did not hold as it is now, it has no copy of that could go on.
                let held = plan.digest.is_some_and(|digest| all || held.holds(digest));
                if subscription.resume_only && (reason.is_some() || !held) {
                    let reason = reason.filter(|_| held).unwrap_or("not_held").to_owned();
                    let id = subscription.id.clone();
                    self.send(&FromFeeder::NotResumed { session, id, reason }, &[]);
                    continue;
                }
                if let Some(reason) = reason.filter(|_| held) {
                    let message =
                        FromFeeder::Resync { session, id: subscription.id.clone(), reason: reason.to_owned() };
                    self.send(&message, &[]);
                }
                let resumed = reason.is_none() && held;
                let id = subscription.id.clone();
                let start = if resumed { Start::Resumed } else { Start::Snapshot(have) };
                if let Some(shape) = self.add(session, subscription, &plan, start) {
                    if resumed {
                        shapes.push(shape);
                    } else {
                        anew.push(id);
                    }
                }
            }
            self.order_snapshot(session, &anew);
            if let Place::At(place) = place
                && !shapes.is_empty()
            {
                shapes.sort_unstable();
                shapes.dedup();
                groups.entry(place).or_default().push((session, shapes));
            }
        }
        for (place, sessions) in groups {
            let mut same: HashMap<Vec<ShapeId>, Vec<SessionId>> = HashMap::new();
            for (session, shapes) in sessions {
                same.entry(shapes).or_default().push(session);
            }
            for (shapes, sessions) in same {
                self.catch_up(&place, &shapes, sessions, logged.as_ref().and_then(Option::as_deref));
            }
        }
    }

    fn changes_for<'a>(
        &'a self,
        place: &'a Snapshot,
        logged: Option<&'a [Change]>,
    ) -> Box<dyn Iterator<Item = &'a Change> + 'a> {
        if self.history.covers(place) {
            Box::new(self.history.since(place))
        } else {
            Box::new(logged.unwrap_or_default().iter().filter(|c| !place.sees(c.xid)))
        }
    }

    /// What stands in the way of going on from a place.
    fn missed(&self, place: &Snapshot, logged: Option<&[Change]>) -> Missed {
        let mut missed = Missed::default();
        for change in self.changes_for(place, logged) {
            match change.op {
                Op::Gap => missed.lost = Some("cursor_expired"),
                Op::Access => missed.redefined.push((change.relation, "access_changed")),
                Op::Bulk => missed.redefined.push((change.relation, "cursor_expired")),
                Op::Redefined | Op::TruncatePart => missed.redefined.push((change.relation, "schema_changed")),
                Op::Read => {}
                Op::Insert | Op::Update | Op::Delete | Op::Truncate => {
                    *missed.bytes.entry(change.relation).or_default() += change.size();
                }
            }
        }
        missed
    }

    fn catch_up(&mut self, place: &Snapshot, shapes: &[ShapeId], sessions: Vec<SessionId>, logged: Option<&[Change]>) {
        let mut frames: Vec<Vec<u8>> = Vec::new();
        for id in shapes {
            let Some(mut shape) = self.shapes.take(*id) else { continue };
            let caught_up = self.caught_up(&mut shape, place, logged);
            self.shapes.put_back(shape);
            match caught_up {
                Ok(own) => frames.extend(own.whole.into_iter().map(|f| f.bytes)),
                Err(trouble) => self.troubled.push((*id, trouble)),
            }
        }
        // Before the commit that closes it: a copy that could not be continued must not count as one that was.
        self.settle_trouble();
        let lens = frames.iter().map(|f| f.len() as u32).collect();
        let body: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        let message = FromFeeder::CatchUp {
            sessions,
            frames: lens,
            cursor: self.cursor.clone(),
            time: self.time.clone(),
            last: true,
        };
        self.send(&message, &body);
    }
}

impl Feeder {
    /// What a shape has missed since a place.
    fn caught_up(&mut self, shape: &mut Shape, place: &Snapshot, logged: Option<&[Change]>) -> Result<Frames, Trouble> {
        let (table, definition) = (shape.table, shape.definition.clone());
        let mut scratch = Scratch::new();
        self.encoding = Some(table);
        let encoded = attempt(|| {
            let mut own = Frames::net();
            for change in self.changes_for(place, logged).filter(|c| c.relation == table) {
                let rows = Rows::new(change, &definition)?;
                scratch.with(|| shape.encode(&rows, &mut own))?;
            }
            Ok(own)
        });
        let mut own = match encoded {
            Ok(Ok(own)) => own,
            Ok(Err(Stale)) => return Err(Trouble::Stale),
            Err(error) if shape.may_fail() => {
                attempt::log("could not evaluate a condition", &error);
                return Err(Trouble::Failed);
            }
            // A value that cannot be shown: the table is given up (`guarded_tick`).
            Err(error) => error.rethrow(),
        };
        self.encoding = None;
        if shape.is_unsettled() {
            shape.settle(&mut own).map_err(Trouble::Unsettled)?;
        }
        own.close(shape.id, &shape.names);
        Ok(own)
    }
}

/// What lies between a place and now; found once for all who come back from there.
#[derive(Default)]
struct Missed {
    lost: Option<&'static str>,
    /// Tables whose copies cannot be continued, and why.
    redefined: Vec<(Oid, &'static str)>,
    bytes: HashMap<Oid, usize>,
}

impl Feeder {
    /// All changes that one of the places did not see, in order; of tables with more than a catch-up may be, markers. Nothing
    /// where not even those are few enough.
    ///
    /// # Safety
    /// `active` is active.
    unsafe fn read_log(&self, places: &[Snapshot], active: pg_sys::Snapshot) -> Option<Vec<Change>> {
        let mut gathered = Gathered::new(guc::max_catch_up_bytes());
        let missed = |xid| places.iter().any(|p| !p.sees(xid));
        for segment in reader::segments() {
            // SAFETY: the caller's promise.
            unsafe { reader::scan(segment, None, active, missed, |row, _| gathered::take(&mut gathered, row)) };
        }
        // What was decoded and is not in the log yet.
        for change in self.wal.iter().flat_map(Wal::unlogged).filter(|change| missed(change.xid)) {
            gathered::take_copy(&mut gathered, change);
        }
        let changes = Changes::from(gathered);
        // What committed before this feeder's first tick, or while nobody was connected, went through no tick's flush.
        snapshot::flush_what_is_visible();
        (!changes.coarse).then_some(changes.all)
    }
}
