//! Sessions and their subscriptions: what each gets, where it goes on. Who is let in is `login`'s.
//!
//! Decides by asking Postgres (privileges, definitions). Everything here runs inside a tick's
//! transaction, after its `Commit` was queued: so what is answered holds at that tick's snapshot. Main thread only.

use super::Feeder;
use super::login::{Caller, Who};
use super::registry::{Refusal, Selection};
use super::resume::Resuming;
use crate::job::{Job, JobTable, SnapshotJob};
use crate::shmem::{self, Kind};
use pgrx::pg_sys::Oid;
use rte_protocol::bridge::{FromFeeder, SessionId, ShapeId, ToFeeder};
use rte_protocol::wire::{ErrorCode, Subscription};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Between attempts at the snapshot of a table that somebody holds locked.
const POSTPONED: Duration = Duration::from_millis(250);
/// Attempts at the snapshot of a subscription, before it is ended.
const MAX_FAILURES: u32 = 3;

pub struct Session {
    pub who: Who,
    pub caller: Caller,
    pub subscriptions: HashMap<String, Subscribed>,
}

pub struct Subscribed {
    pub shape: ShapeId,
    pub table: Oid,
    /// The columns that the client asked for.
    columns: Option<Vec<String>>,
    /// Snapshots in a row that could not be read.
    failures: u32,
}

/// What a client wants besides being let in.
pub struct Opening {
    pub cursor: Option<String>,
    pub subscriptions: Vec<Subscription>,
}

impl Feeder {
    /// Handles a gateway's message. Resumptions are collected, to be answered together.
    pub(super) fn handle(&mut self, message: ToFeeder, resuming: &mut Vec<Resuming>) {
        match message {
            ToFeeder::Open { session, tenant, token, client, peer, cursor, subscriptions } => {
                let caller = Caller { tenant, client, peer };
                self.log_in(session, caller, token, Opening { cursor, subscriptions }, resuming);
            }
            ToFeeder::Auth { session, token } => self.renew(session, token),
            ToFeeder::Answer { session, job, answer } => self.answered(session, job, &answer, resuming),
            ToFeeder::AskFailed { session, job } => self.ask_failed(session, job),
            ToFeeder::Subscribe { session, subscription } => {
                let mut ids = Vec::new();
                if self.subscribe(session, &subscription, false).is_some() {
                    ids.push(subscription.id);
                }
                self.order_snapshot(session, &ids);
            }
            ToFeeder::Unsubscribe { session, id } => {
                let subscribed = self.sessions.get_mut(&session).and_then(|s| s.subscriptions.remove(&id));
                if let Some(subscribed) = subscribed {
                    self.shapes.release(subscribed.shape);
                }
            }
            ToFeeder::Close { session } => self.forget(session),
            ToFeeder::SnapshotFailed { session, ids, code, message, hint } => {
                self.read_again(session, &ids, &Refusal { code, message, hint });
            }
            ToFeeder::NeedDatabase { .. } => {}
            ToFeeder::NeedTick => self.commit_due = true,
            ToFeeder::NeedWorker { waiting } => self.launch_query_workers(waiting as usize),
        }
    }

    /// A session that is let in.
    pub(super) fn opened(
        &mut self,
        session: SessionId,
        who: Who,
        caller: Caller,
        opening: Opening,
        resuming: &mut Vec<Resuming>,
    ) {
        let Opening { cursor, subscriptions } = opening;
        let tables = self.registry.readable(who.role);
        self.send(&FromFeeder::Opened { session, role: who.name.clone(), tables }, &[]);
        self.note_expiry(&who);
        self.sessions.insert(session, Session { who, caller, subscriptions: HashMap::new() });
        if let Some(text) = cursor {
            match self.place_of(&text) {
                Ok(place) => {
                    resuming.push(Resuming { session, place, subscriptions });
                    return;
                }
                Err(Refusal { code, message, hint }) => {
                    self.send(&FromFeeder::SessionError { session, id: None, code, message, hint }, &[]);
                }
            }
        }
        let mut ids = Vec::new();
        for subscription in subscriptions {
            if self.subscribe(session, &subscription, false).is_some() {
                ids.push(subscription.id);
            }
        }
        self.order_snapshot(session, &ids);
    }

    /// Registers a subscription and answers it; nothing where it is refused.
    pub(super) fn subscribe(&mut self, session: SessionId, wanted: &Subscription, resumed: bool) -> Option<ShapeId> {
        let role = self.sessions.get(&session)?.who.role;
        let selection = match self.resolve(role, wanted) {
            Ok(selection) => selection,
            Err(refusal) => {
                self.refuse(session, &wanted.id, refusal);
                return None;
            }
        };
        Some(self.add(session, &wanted.id, wanted.columns.clone(), &selection, resumed))
    }

    pub(super) fn resolve(&mut self, role: Oid, wanted: &Subscription) -> Result<Selection, Refusal> {
        if wanted.predicate.is_some() {
            return Err(Refusal::new(
                ErrorCode::NotSupported,
                "\"where\" is not supported yet",
                "Subscribe without it and filter in the client.",
            ));
        }
        let table = self.registry.find(&wanted.table, role)?;
        self.registry.select(table, role, wanted.columns.as_deref())
    }

    pub(super) fn refuse(&mut self, session: SessionId, id: &str, refusal: Refusal) {
        let Refusal { code, message, hint } = refusal;
        self.send(&FromFeeder::SessionError { session, id: Some(id.to_owned()), code, message, hint }, &[]);
    }

    fn add(
        &mut self,
        session: SessionId,
        id: &str,
        columns: Option<Vec<String>>,
        selection: &Selection,
        resumed: bool,
    ) -> ShapeId {
        let shape = self.shapes.acquire(selection);
        if let Some(s) = self.sessions.get_mut(&session) {
            let new = Subscribed { shape, table: selection.table, columns, failures: 0 };
            if let Some(old) = s.subscriptions.insert(id.to_owned(), new) {
                self.shapes.release(old.shape);
            }
        }
        let message = FromFeeder::Subscribed {
            session,
            id: id.to_owned(),
            shape,
            table: selection.table_name.clone(),
            key: selection.key_names.clone(),
            columns: selection.columns.clone(),
            resumed,
            digest: None,
        };
        self.send(&message, &[]);
        shape
    }

    /// Hands the snapshot of some subscriptions of a session to a query worker, all under one snapshot.
    pub(super) fn order_snapshot(&mut self, session: SessionId, ids: &[String]) {
        let Some(s) = self.sessions.get(&session) else { return };
        let (mut names, mut tables) = (Vec::new(), Vec::new());
        for id in ids {
            let Some(subscribed) = s.subscriptions.get(id) else { continue };
            let Some(shape) = self.shapes.get(subscribed.shape) else { continue };
            names.push(id.clone());
            tables.push(JobTable { relation: shape.table.to_u32(), columns: shape.numbers().to_vec() });
        }
        if names.is_empty() {
            return;
        }
        self.last_job += 1;
        let job =
            SnapshotJob { job: self.last_job, database: self.database.to_u32(), role: s.who.role.to_u32(), tables };
        let Ok(blob) = serde_json::to_vec(&Job::Snapshot(job)) else { return };
        let signed = rte_core::cursor::sign(&self.key, blob);
        self.send(&FromFeeder::Job { job: self.last_job, session, ids: names }, &[&signed]);
        self.have_a_worker();
    }

    /// Sees to it that a query worker runs; while one does, the gateway tells when it takes more.
    pub(super) fn have_a_worker(&mut self) {
        if shmem::count_workers(Kind::QueryWorker, self.database) == 0 {
            self.launch_query_workers(1);
        }
    }

    /// Orders the snapshots again that found a table locked.
    pub(super) fn order_postponed(&mut self, now: Instant) {
        if !self.postponed.is_empty() && now >= self.postponed_until {
            for (session, ids) in std::mem::take(&mut self.postponed) {
                self.order_snapshot(session, &ids);
            }
        }
    }

    /// Tries a snapshot again that a schema change came in the way of, or ends the subscription.
    fn read_again(&mut self, session: SessionId, ids: &[String], why: &Refusal) {
        if why.code == ErrorCode::NotReady {
            // A table was locked. Nothing of the job was sent, so it is done another time.
            // One by one, so that a table waits for no other.
            self.postponed.extend(ids.iter().map(|id| (session, vec![id.clone()])));
            self.postponed_until = Instant::now() + POSTPONED;
            return;
        }
        self.registry.invalidate();
        self.refresh_registry();
        let mut again = Vec::new();
        for id in ids {
            let Some(s) = self.sessions.get_mut(&session) else { return };
            let role = s.who.role;
            let Some(subscribed) = s.subscriptions.get_mut(id) else { continue };
            let (table, columns, failures) = (subscribed.table, subscribed.columns.clone(), subscribed.failures + 1);
            let selection = self.registry.select(table, role, columns.as_deref());
            match selection {
                Ok(selection) if failures < MAX_FAILURES => {
                    let reason = "snapshot_failed".to_owned();
                    self.send(&FromFeeder::Resync { session, id: id.clone(), reason }, &[]);
                    self.add(session, id, columns, &selection, false);
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
            self.order_snapshot(session, &[id]);
        }
    }

    /// Ends a subscription that the client did not end.
    fn end(&mut self, session: SessionId, id: &str, code: ErrorCode, message: String, hint: Option<String>) {
        let ended = self.sessions.get_mut(&session).and_then(|s| s.subscriptions.remove(id));
        if let Some(ended) = ended {
            self.shapes.release(ended.shape);
        }
        self.send(&FromFeeder::Ended { session, id: id.to_owned(), code, message, hint }, &[]);
    }

    /// Replaces the copies of all subscriptions of a table, or ends them where they can not be.
    pub(super) fn resynchronise(&mut self, table: Oid, reason: &str) {
        let of_table = |s: &Session| -> Vec<(String, Option<Vec<String>>)> {
            s.subscriptions
                .iter()
                .filter(|(_, d)| d.table == table)
                .map(|(id, d)| (id.clone(), d.columns.clone()))
                .collect()
        };
        let affected: Vec<(SessionId, Oid, Vec<_>)> = self
            .sessions
            .iter()
            .map(|(id, s)| (*id, s.who.role, of_table(s)))
            .filter(|(_, _, d)| !d.is_empty())
            .collect();
        self.shapes.retire(table);
        for (session, role, subscriptions) in affected {
            let mut ids = Vec::new();
            for (id, columns) in subscriptions {
                match self.registry.select(table, role, columns.as_deref()) {
                    Ok(selection) => {
                        let reason = reason.to_owned();
                        self.send(&FromFeeder::Resync { session, id: id.clone(), reason }, &[]);
                        self.add(session, &id, columns, &selection, false);
                        ids.push(id);
                    }
                    Err(Refusal { code, message, hint }) => self.end(session, &id, code, message, hint),
                }
            }
            self.order_snapshot(session, &ids);
        }
    }

    /// A session acts as somebody else, or with other claims, than before.
    pub(super) fn identity_changed(&mut self, session: SessionId, before: &Who) {
        if self.sessions.get(&session).is_some_and(|s| s.who.role != before.role) {
            self.refresh_registry();
            self.recheck_access();
        }
    }

    pub(super) fn forget(&mut self, session: SessionId) {
        self.forget_asked(session);
        for subscribed in self.sessions.remove(&session).into_iter().flat_map(|s| s.subscriptions.into_values()) {
            self.shapes.release(subscribed.shape);
        }
    }

    /// Looks again at what every session may read: grants have changed.
    pub(super) fn recheck_access(&mut self) {
        let mut tables: Vec<Oid> = Vec::new();
        for s in self.sessions.values() {
            for subscribed in s.subscriptions.values() {
                let columns = subscribed.columns.as_deref();
                let numbers =
                    self.registry.select(subscribed.table, s.who.role, columns).map(|selection| selection.numbers);
                let same = self
                    .shapes
                    .get(subscribed.shape)
                    .is_some_and(|shape| numbers.as_ref().is_ok_and(|numbers| numbers.as_slice() == shape.numbers()));
                if !same && !tables.contains(&subscribed.table) {
                    tables.push(subscribed.table);
                }
            }
        }
        for table in tables {
            self.resynchronise(table, "access_changed");
        }
    }
}
