//! Snapshots of subscriptions: ordered of query workers, and again where one could not be read.
//!
//! Nobody waits here for one. A table that is locked is tried again later; what cannot be read a few times ends the subscription.
//! In a tick's transaction. Main thread only.

use super::Feeder;
use super::asked::Unsettled;
use super::registry::Refusal;
use super::session::unsettled;
use super::shape::Joining;
use crate::access::read::Reading;
use crate::job::{Job, OldCopy, SnapshotJob};
use crate::shmem::{self, Kind};
use rte_protocol::bridge::{FromFeeder, SessionId, ShapeId};
use rte_protocol::wire::ErrorCode;
use std::time::{Duration, Instant};

/// Between attempts at the snapshot of a table that somebody holds locked.
const POSTPONED: Duration = Duration::from_millis(250);
/// Attempts at the snapshot of a subscription, before it is ended.
const MAX_FAILURES: u32 = 3;

/// Whether what is read for a session may be for others too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Allowed,
    Alone,
}

/// Subscriptions of a job, in one order.
struct Ordered {
    ids: Vec<String>,
    /// What they read; none where it is not shared.
    shapes: Vec<ShapeId>,
    tables: Vec<Reading>,
}

impl Feeder {
    /// Hands the snapshot of some subscriptions of a session to a query worker, all under one snapshot; but each that is
    /// compared with an old copy alone, because of the size of what is compared.
    pub(super) fn order_snapshot(&mut self, session: SessionId, ids: &[String]) {
        self.order_snapshots(session, ids, Sharing::Allowed);
    }

    fn order_snapshots(&mut self, session: SessionId, ids: &[String], sharing: Sharing) {
        let mut whole = Vec::new();
        for id in ids {
            let Some(subscribed) = self.sessions.get(&session).and_then(|s| s.subscriptions.get(id)) else { continue };
            let number = subscribed.shape;
            let Some(shape) = self.shapes.get(number) else { continue };
            let loaded = shape.load();
            let reading = shape.reading.clone();
            match loaded {
                Ok(()) => {
                    let subscriptions = self.sessions.get_mut(&session).map(|s| &mut s.subscriptions);
                    // Kept no longer: where the job fails, all rows follow.
                    match subscriptions.and_then(|s| s.get_mut(id)).and_then(|s| s.have.take()) {
                        Some(have) => {
                            let what = Ordered { ids: vec![id.clone()], shapes: Vec::new(), tables: vec![reading] };
                            self.order(session, what, Some(have));
                        }
                        None => whole.push((number, id.clone(), reading)),
                    }
                }
                Err(Unsettled::Locked | Unsettled::Drifted) => self.postpone(session, id),
                Err(why) => {
                    let Refusal { code, message, hint } = unsettled(&why);
                    self.end(session, id, code, message, hint);
                }
            }
        }
        if !whole.is_empty() {
            // In one order for all sessions: who asks for the same otherwise shares the reading all the same.
            whole.sort_by_key(|(shape, ..)| *shape);
            let shapes = match sharing {
                Sharing::Allowed => whole.iter().map(|(shape, ..)| *shape).collect(),
                Sharing::Alone => Vec::new(),
            };
            let (ids, tables) = whole.into_iter().map(|(_, id, reading)| (id, reading)).unzip();
            self.order(session, Ordered { ids, shapes, tables }, None);
        }
    }

    fn order(&mut self, session: SessionId, what: Ordered, have: Option<OldCopy>) {
        let Ordered { ids, shapes, tables } = what;
        self.last_job += 1;
        let job = self.last_job;
        for id in &ids {
            let shape = self.sessions.get(&session).and_then(|s| s.subscriptions.get(id)).map(|d| d.shape);
            if let Some(shape) = shape.and_then(|shape| self.shapes.get(shape)).filter(|s| s.is_asked()) {
                shape.joins.push(Joining { job, session, id: id.clone() });
            }
        }
        let Some(s) = self.sessions.get(&session) else { return };
        let identity = (*s.identity).clone();
        let work = SnapshotJob { job, database: self.database.to_u32(), identity, tables, have };
        let Ok(blob) = serde_json::to_vec(&Job::Snapshot(work)) else { return };
        let signed = rte_core::cursor::sign(&self.key, blob);
        self.send(&FromFeeder::Job { job, session, ids, shapes }, &[&signed]);
        self.have_a_worker();
    }

    /// Sees to it that a query worker runs; while one does, the gateway tells when it takes more.
    pub(super) fn have_a_worker(&mut self) {
        if shmem::count_workers(Kind::QueryWorker, self.database) == 0 {
            self.launch_query_workers(1);
        }
    }

    /// Orders the snapshots again that found a table locked. In a tick: rows may have to be asked for first.
    pub(super) fn order_postponed(&mut self, now: Instant) {
        if !self.postponed.is_empty() && now >= self.postponed_until {
            for (session, ids) in std::mem::take(&mut self.postponed) {
                self.order_snapshot(session, &ids);
            }
        }
    }

    /// Tries a snapshot again that a schema change came in the way of, or ends the subscription.
    pub(super) fn read_again(&mut self, session: SessionId, ids: &[String], why: &Refusal) {
        // A table was locked. Nothing of the job was sent, so it is done another time; but with what it was compared is
        // not kept, so that it is one of all rows then.
        let locked = why.code == ErrorCode::NotReady;
        let (ids, later): (Vec<&String>, Vec<_>) = ids.iter().partition(|id| !locked || self.is_partial(session, id));
        later.into_iter().for_each(|id| self.postpone(session, id));
        if why.code == ErrorCode::WhereFailed {
            for id in ids {
                self.end(session, id, why.code, why.message.clone(), why.hint.clone());
            }
            return;
        }
        if !locked {
            self.registry.invalidate();
            self.refresh_registry();
        }
        let mut again = Vec::new();
        for id in ids {
            let Some(subscribed) = self.sessions.get(&session).and_then(|s| s.subscriptions.get(id)) else { continue };
            let (table, wanted, failures) = (subscribed.table, subscribed.wanted.clone(), subscribed.failures + 1);
            match self.plan_of(session, table, &wanted) {
                Ok(plan) if failures < MAX_FAILURES => {
                    self.replace(session, wanted, &plan, "snapshot_failed");
                    if let Some(s) = self.sessions.get_mut(&session).and_then(|s| s.subscriptions.get_mut(id)) {
                        s.failures = failures;
                    }
                    again.push(id.clone());
                }
                other => {
                    let Refusal { code, message, hint } = other.err().unwrap_or_else(|| why.clone());
                    self.end(session, id, code, message, hint);
                }
            }
        }
        // One by one from here on: one that cannot be read must not cost the others theirs.
        for id in again {
            if locked {
                self.postpone(session, &id);
            } else {
                self.order_snapshot(session, &[id]);
            }
        }
    }

    /// Reads anew, for it alone, what a session could not take as fast as others.
    pub(super) fn read_alone(&mut self, session: SessionId, ids: &[String]) {
        for id in ids {
            let Some(subscribed) = self.sessions.get(&session).and_then(|s| s.subscriptions.get(id)) else { continue };
            let (table, wanted, failures) = (subscribed.table, subscribed.wanted.clone(), subscribed.failures);
            match self.plan_of(session, table, &wanted) {
                Ok(plan) => {
                    if self.replace(session, wanted, &plan, "left_behind")
                        && let Some(s) = self.sessions.get_mut(&session).and_then(|s| s.subscriptions.get_mut(id))
                    {
                        s.failures = failures;
                    }
                }
                Err(Refusal { code, message, hint }) => self.end(session, id, code, message, hint),
            }
        }
        self.order_snapshots(session, ids, Sharing::Alone);
    }

    fn is_partial(&self, session: SessionId, id: &str) -> bool {
        self.sessions.get(&session).and_then(|s| s.subscriptions.get(id)).is_some_and(|s| s.is_partial)
    }

    /// Orders a snapshot another time: one by one, so that a table waits for no other.
    fn postpone(&mut self, session: SessionId, id: &str) {
        self.postponed.push((session, vec![id.to_owned()]));
        self.postponed_until = Instant::now() + POSTPONED;
    }
}
