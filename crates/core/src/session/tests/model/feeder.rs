//! The feeder: registers, makes ticks, catches up, resynchronises.

use super::World;
use super::database::Op;
use super::gateway::Wire;
use super::worker::Job;
use crate::held;
use crate::snapshot::Snapshot;
use rte_protocol::bridge::{JobId, SessionId, ShapeId, ToFeeder};
use rte_protocol::wire::Subscription;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

pub enum FromFeeder {
    Opened(SessionId),
    Subscribed(SessionId, String, ShapeId, bool),
    Job(SessionId, JobId, Vec<String>),
    Resync(SessionId, String),
    Ended(SessionId, String),
    CatchUp(SessionId, Vec<Wire>, usize),
    Changes(ShapeId, Rc<Vec<Op>>),
    Commit(usize),
}

#[derive(Default)]
pub struct Feeder {
    pub inbox: VecDeque<ToFeeder>,
    pub outbox: VecDeque<FromFeeder>,
    pub ticks: Vec<Snapshot>,
    /// Bridge id → shape.
    pub live: BTreeMap<String, ShapeId>,
    pub generation: u32,
    /// What is read under the client's id now: grows with what replaces its copy.
    pub versions: BTreeMap<String, u32>,
    pub next_job: JobId,
    pub catch_up: Option<FromFeeder>,
}

/// The client's id in one of the bridge.
pub fn clients(bridge_id: &str) -> &str {
    bridge_id.split_once(':').expect("number").1
}

/// Names what a subscription reads. Some can not be resumed.
pub fn digest(id: &str, shape: ShapeId) -> Option<u64> {
    let of_id = id.bytes().fold(0, |n, b| n * 256 + u64::from(b));
    (id != "d" || (shape / 2).is_multiple_of(2)).then_some(of_id << 32 | u64::from(shape))
}

impl World {
    pub fn feeder_command(&mut self) {
        let Some(message) = self.feeder.inbox.pop_front() else { return };
        match message {
            ToFeeder::Open { session, cursor, subscriptions, .. } => {
                self.feeder.live.clear();
                self.feeder.outbox.push_back(FromFeeder::Opened(session));
                let cursor = cursor.as_deref().map(|c| held::split(c).expect("cursor"));
                let cursor: Option<(usize, _)> = cursor.map(|(place, held)| (place.parse().expect("tick"), held));
                let mut shapes = vec![];
                let mut joining = vec![];
                for subscription in subscriptions {
                    let id = clients(&subscription.id);
                    let table: u32 = subscription.table.parse().expect("table");
                    let now = self.feeder.versions.get(id).map(|version| version * 2 + table);
                    let holds = now
                        .and_then(|now| digest(id, now))
                        .is_some_and(|digest| cursor.as_ref().is_some_and(|(_, held)| held.holds(digest)));
                    if let Some(copy) = self.client.copies.get(id).filter(|_| session == self.session.id()) {
                        let same = copy.shape == now && now.and_then(|now| digest(id, now)).is_some();
                        assert_eq!(holds, same, "{id} is {now:?} now, its copy {copy:?}");
                    }
                    // The log may have been cut.
                    let resumed = holds && !self.random.chance(10);
                    let shape = self.subscribed(session, &subscription, resumed);
                    if resumed {
                        shapes.push(shape);
                    } else {
                        joining.push(subscription.id);
                    }
                }
                if let (Some((from, _)), false) = (cursor, shapes.is_empty()) {
                    shapes.sort_unstable();
                    shapes.dedup();
                    let last = self.feeder.ticks.len() - 1;
                    let mut frames = vec![];
                    for at in from..last {
                        let (earlier, later) = (&self.feeder.ticks[at], &self.feeder.ticks[at + 1]);
                        for shape in &shapes {
                            let ops = self.db.between(earlier, later, (shape % 2) as usize);
                            frames.push(Wire(*shape, Rc::new(ops)));
                        }
                    }
                    self.feeder.catch_up = Some(FromFeeder::CatchUp(session, frames, last));
                }
                self.queue_job(session, joining);
            }
            ToFeeder::Subscribe { session, subscription } => {
                self.subscribed(session, &subscription, false);
                self.queue_job(session, vec![subscription.id]);
            }
            ToFeeder::Unsubscribe { id, .. } => {
                self.feeder.live.remove(&id);
            }
            ToFeeder::SnapshotFailed { session, ids, .. } => {
                for id in ids {
                    self.replace(session, &id);
                }
            }
            ToFeeder::NeedTick => self.tick(),
            _ => {}
        }
    }

    pub fn subscribed(&mut self, session: SessionId, subscription: &Subscription, resumed: bool) -> ShapeId {
        let table: u32 = subscription.table.parse().expect("table");
        let version = self.feeder.versions.entry(clients(&subscription.id).to_owned()).or_default();
        if !resumed {
            *version = self.feeder.generation;
        }
        let shape = *version * 2 + table;
        self.feeder.live.insert(subscription.id.clone(), shape);
        self.feeder.outbox.push_back(FromFeeder::Subscribed(session, subscription.id.clone(), shape, resumed));
        shape
    }

    pub fn queue_job(&mut self, session: SessionId, ids: Vec<String>) {
        if ids.is_empty() {
            return;
        }
        let tables = ids.iter().map(|id| (self.feeder.live[id] % 2) as usize).collect();
        let id = self.feeder.next_job;
        self.feeder.next_job += 1;
        self.feeder.outbox.push_back(FromFeeder::Job(session, id, ids));
        // The worker can not begin before the gateway has it; the harness hands it on there.
        self.jobs.push_back(Job { id, session, tables });
    }

    pub fn tick(&mut self) {
        let snapshot = self.db.snapshot();
        let before = self.feeder.ticks.last().cloned().unwrap_or_default();
        let shapes: BTreeSet<ShapeId> = self.feeder.live.values().copied().collect();
        for shape in shapes {
            let ops = self.db.between(&before, &snapshot, (shape % 2) as usize);
            if ops.is_empty() {
                continue;
            }
            // A shape may come several times.
            let (a, b) = ops.split_at(self.random.below(ops.len() as u64) as usize);
            for part in [a, b].into_iter().filter(|p| !p.is_empty()) {
                self.feeder.outbox.push_back(FromFeeder::Changes(shape, Rc::new(part.to_vec())));
            }
        }
        self.feeder.ticks.push(snapshot);
        // A catch-up comes before the next commit, maybe amid the tick.
        if let Some(catch_up) = self.feeder.catch_up.take() {
            self.feeder.outbox.push_back(catch_up);
        } else if self.random.chance(15) && matches!(self.feeder.inbox.front(), Some(ToFeeder::Subscribe { .. })) {
            // Joins need not wait for the end of a tick.
            self.feeder_command();
        }
        let number = self.feeder.ticks.len() - 1;
        self.feeder.outbox.push_back(FromFeeder::Commit(number));
    }

    pub fn resync(&mut self) {
        let count = self.feeder.live.len() as u64;
        if count == 0 || self.feeder.catch_up.is_some() {
            return;
        }
        let at = self.random.below(count) as usize;
        let Some(id) = self.feeder.live.keys().nth(at).cloned() else { return };
        let session = self.next_session - 1;
        // The feeder may not know of the newest session yet.
        if self.feeder.inbox.iter().any(|m| matches!(m, ToFeeder::Open { .. })) {
            return;
        }
        self.replace(session, &id);
    }

    /// Replaces a subscription's copy, or ends it.
    fn replace(&mut self, session: SessionId, id: &str) {
        let Some(shape) = self.feeder.live.get(id).copied() else { return };
        if self.random.chance(20) {
            self.feeder.live.remove(id);
            self.feeder.outbox.push_back(FromFeeder::Ended(session, id.to_owned()));
            return;
        }
        self.feeder.generation += 1;
        self.feeder.outbox.push_back(FromFeeder::Resync(session, id.to_owned()));
        let table = (shape % 2).to_string();
        let subscription = Subscription { id: id.to_owned(), table, ..Subscription::default() };
        self.subscribed(session, &subscription, false);
        self.queue_job(session, vec![id.to_owned()]);
    }
}
