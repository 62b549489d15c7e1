//! Sessions and their subscriptions: what each gets, where it goes on. Who is let in is `login`'s.
//!
//! Decides by asking Postgres (privileges, definitions). Everything here runs inside a tick's
//! transaction, after its `Commit` was queued: so what is answered holds at that tick's snapshot. Main thread only.

use super::Feeder;
use super::asked::{Asked, Unsettled};
use super::login::{Caller, Who};
use super::plan::Plan;
use super::registry::Refusal;
use super::resume::Resuming;
use super::shape::{Kind as ShapeKind, Shape};
use super::shapes::WhichRows;
use crate::access::identity::Identity;
use crate::job::{Job, SnapshotJob};
use crate::shmem::{self, Kind};
use pgrx::pg_sys::Oid;
use rte_protocol::bridge::{FromFeeder, SessionId, ShapeId, ToFeeder};
use rte_protocol::wire::{CloseCode, ErrorCode, Subscription};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Between attempts at the snapshot of a table that somebody holds locked.
const POSTPONED: Duration = Duration::from_millis(250);
/// Attempts at the snapshot of a subscription, before it is ended.
const MAX_FAILURES: u32 = 3;

pub struct Session {
    pub who: Who,
    /// As whom its queries and policies run.
    pub identity: Rc<Identity>,
    pub caller: Caller,
    pub subscriptions: HashMap<String, Subscribed>,
}

pub struct Subscribed {
    pub shape: ShapeId,
    pub table: Oid,
    /// What the client asked for.
    wanted: Rc<Subscription>,
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
            // The gateway does not decide whose database this is.
            ToFeeder::Open { session, tenant, .. } if tenant != self.task.tenant().unwrap_or_default() => {
                let (close, message) = (CloseCode::NoSuchTenant.code(), "no such tenant".to_owned());
                self.send(
                    &FromFeeder::Refused { session, close, code: ErrorCode::UnknownTenant, message, hint: None },
                    &[],
                );
            }
            ToFeeder::Open { session, tenant, token, client, peer, cursor, subscriptions } => {
                let caller = Caller { tenant, client, peer };
                self.log_in(session, caller, token, Opening { cursor, subscriptions }, resuming);
            }
            ToFeeder::Auth { session, token } => self.renew(session, token),
            ToFeeder::Answer { session, job, answer } => self.answered(session, job, &answer, resuming),
            ToFeeder::AskFailed { session, job } => self.ask_failed(session, job),
            ToFeeder::Subscribe { session, subscription } => {
                let id = subscription.id.clone();
                if self.subscribe(session, subscription).is_some() {
                    self.order_snapshot(session, &[id]);
                }
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
            ToFeeder::NeedDatabase { .. } | ToFeeder::ReloadTenants => {}
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
        let identity = self.identity(&who);
        self.sessions.insert(session, Session { who, identity, caller, subscriptions: HashMap::new() });
        if let Some(text) = cursor {
            match self.place_of(&text) {
                Ok((place, held)) => {
                    resuming.push(Resuming { session, place, held, subscriptions });
                    return;
                }
                Err(Refusal { code, message, hint }) => {
                    self.send(&FromFeeder::SessionError { session, id: None, code, message, hint }, &[]);
                }
            }
        }
        let mut ids = Vec::new();
        for subscription in subscriptions {
            let id = subscription.id.clone();
            if self.subscribe(session, subscription).is_some() {
                ids.push(id);
            }
        }
        self.order_snapshot(session, &ids);
    }

    /// As whom somebody's queries and policies run.
    fn identity(&self, who: &Who) -> Rc<Identity> {
        Rc::new(Identity {
            session_user: self.authenticator.as_ref().ok().copied().flatten().map_or(0, |oid| oid.to_u32()),
            role: who.role.to_u32(),
            claims: who.claims.clone(),
            search_path: self.search_path.clone(),
        })
    }

    /// Registers a subscription and answers it; nothing where it is refused.
    fn subscribe(&mut self, session: SessionId, wanted: Subscription) -> Option<ShapeId> {
        let wanted = Rc::new(wanted);
        match self.plan(session, &wanted) {
            Ok(plan) => self.add(session, wanted, &plan, false),
            Err(refusal) => {
                self.refuse(session, &wanted.id, refusal);
                None
            }
        }
    }

    pub(super) fn refuse(&mut self, session: SessionId, id: &str, refusal: Refusal) {
        let Refusal { code, message, hint } = refusal;
        self.send(&FromFeeder::SessionError { session, id: Some(id.to_owned()), code, message, hint }, &[]);
    }

    /// Makes a plan one of the session's subscriptions and answers it; nothing where it is refused after all.
    pub(super) fn add(
        &mut self,
        session: SessionId,
        wanted: Rc<Subscription>,
        plan: &Plan,
        resumed: bool,
    ) -> Option<ShapeId> {
        let id = wanted.id.clone();
        let shape = match self.shape_of(plan) {
            Ok(shape) => shape,
            Err(refusal) => {
                self.refuse(session, &id, refusal);
                return None;
            }
        };
        let selection = &plan.selection;
        if let Some(s) = self.sessions.get_mut(&session) {
            let new = Subscribed { shape, table: selection.table, wanted, failures: 0 };
            if let Some(old) = s.subscriptions.insert(id.clone(), new) {
                self.shapes.release(old.shape);
            }
        }
        let message = FromFeeder::Subscribed {
            session,
            id,
            shape,
            table: selection.table_name.clone(),
            key: selection.key_names.clone(),
            columns: selection.columns.clone(),
            resumed,
            digest: plan.digest,
        };
        self.send(&message, &[]);
        Some(shape)
    }

    /// The shape of a plan; counts one more user.
    fn shape_of(&mut self, plan: &Plan) -> Result<ShapeId, Refusal> {
        if let Some(shape) = self.shapes.share(&plan.key) {
            return Ok(shape);
        }
        let kind = match (&plan.key.rows, plan.filter()?) {
            (WhichRows::Asked { .. }, _) => ShapeKind::Asked(Asked::new(plan.always)),
            (WhichRows::Predicate(_), Some(filter)) => ShapeKind::Filtered(filter),
            (WhichRows::Predicate(_), None) => ShapeKind::Whole,
        };
        let (reading, identity) = (plan.reading.clone(), plan.identity.clone());
        Ok(self.shapes.insert(&plan.key, |id| Shape::new(id, &plan.selection, kind, reading, identity)))
    }

    /// Hands the snapshot of some subscriptions of a session to a query worker, all under one snapshot.
    pub(super) fn order_snapshot(&mut self, session: SessionId, ids: &[String]) {
        let (mut names, mut tables) = (Vec::new(), Vec::new());
        for id in ids {
            let Some(subscribed) = self.sessions.get(&session).and_then(|s| s.subscriptions.get(id)) else { continue };
            let Some(shape) = self.shapes.get(subscribed.shape) else { continue };
            let loaded = shape.load();
            let reading = shape.reading.clone();
            match loaded {
                Ok(()) => {
                    names.push(id.clone());
                    tables.push(reading);
                }
                Err(Unsettled::Locked) => self.postpone(session, id),
                Err(why) => {
                    let Refusal { code, message, hint } = unsettled(&why);
                    self.end(session, id, code, message, hint);
                }
            }
        }
        if names.is_empty() {
            return;
        }
        self.last_job += 1;
        let Some(s) = self.sessions.get(&session) else { return };
        let identity = (*s.identity).clone();
        let job = SnapshotJob { job: self.last_job, database: self.database.to_u32(), identity, tables };
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
            ids.iter().for_each(|id| self.postpone(session, id));
            return;
        }
        if why.code == ErrorCode::WhereFailed {
            ids.iter().for_each(|id| self.end(session, id, why.code, why.message.clone(), why.hint.clone()));
            return;
        }
        self.registry.invalidate();
        self.refresh_registry();
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
            self.order_snapshot(session, &[id]);
        }
    }

    /// Orders a snapshot another time: one by one, so that a table waits for no other.
    fn postpone(&mut self, session: SessionId, id: &str) {
        self.postponed.push((session, vec![id.to_owned()]));
        self.postponed_until = Instant::now() + POSTPONED;
    }

    /// Replaces the copy of a subscription; its snapshot is to be ordered. Tells whether there is one.
    fn replace(&mut self, session: SessionId, wanted: Rc<Subscription>, plan: &Plan, reason: &str) -> bool {
        let id = wanted.id.clone();
        self.send(&FromFeeder::Resync { session, id: id.clone(), reason: reason.to_owned() }, &[]);
        if self.add(session, wanted, plan, false).is_some() {
            return true;
        }
        let ended = self.sessions.get_mut(&session).and_then(|s| s.subscriptions.remove(&id));
        if let Some(ended) = ended {
            self.shapes.release(ended.shape);
        }
        false
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
        self.resynchronise_where(reason, |subscribed| subscribed.table == table);
    }

    /// Replaces the copies of all subscriptions of a shape, or ends them where they can not be.
    pub(super) fn resynchronise_shape(&mut self, shape: ShapeId, reason: &str) {
        self.resynchronise_where(reason, |subscribed| subscribed.shape == shape);
    }

    fn resynchronise_where(&mut self, reason: &str, which: impl Fn(&Subscribed) -> bool) {
        let mut affected: HashMap<SessionId, Vec<(Oid, Rc<Subscription>)>> = HashMap::new();
        let mut shapes: HashSet<ShapeId> = HashSet::new();
        for (session, s) in &self.sessions {
            let own: Vec<&Subscribed> = s.subscriptions.values().filter(|d| which(d)).collect();
            shapes.extend(own.iter().map(|d| d.shape));
            if !own.is_empty() {
                affected.insert(*session, own.iter().map(|d| (d.table, d.wanted.clone())).collect());
            }
        }
        // Nobody who subscribes from here on joins what is replaced.
        shapes.into_iter().for_each(|shape| self.shapes.retire(shape));
        for (session, subscriptions) in affected {
            let mut ids = Vec::new();
            for (table, wanted) in subscriptions {
                match self.plan_of(session, table, &wanted) {
                    Ok(plan) => {
                        if self.replace(session, wanted.clone(), &plan, reason) {
                            ids.push(wanted.id.clone());
                        }
                    }
                    Err(Refusal { code, message, hint }) => self.end(session, &wanted.id, code, message, hint),
                }
            }
            self.order_snapshot(session, &ids);
        }
    }

    /// Ends all subscriptions of a shape.
    pub(super) fn end_shape(&mut self, shape: ShapeId, why: &Refusal) {
        let mut affected = Vec::new();
        for (session, s) in &self.sessions {
            affected
                .extend(s.subscriptions.iter().filter(|(_, d)| d.shape == shape).map(|(id, _)| (*session, id.clone())));
        }
        self.shapes.retire(shape);
        for (session, id) in affected {
            self.end(session, &id, why.code, why.message.clone(), why.hint.clone());
        }
    }

    /// A session acts as somebody else, or with other claims, than before.
    pub(super) fn identity_changed(&mut self, session: SessionId) {
        let Some(s) = self.sessions.get(&session) else { return };
        let identity = self.identity(&s.who);
        if let Some(s) = self.sessions.get_mut(&session) {
            s.identity = identity;
        }
        self.refresh_registry();
        self.recheck(|other, _| other == session);
    }

    pub(super) fn forget(&mut self, session: SessionId) {
        self.forget_asked(session);
        for subscribed in self.sessions.remove(&session).into_iter().flat_map(|s| s.subscriptions.into_values()) {
            self.shapes.release(subscribed.shape);
        }
    }

    /// Looks again at what sessions may read of some tables: access to them has changed. What it did not change for goes
    /// on undisturbed.
    pub(super) fn recheck_access(&mut self, tables: &HashSet<Oid>) {
        self.recheck(|_, subscribed| tables.contains(&subscribed.table));
        // What is asked may be answered otherwise, without a change of the question.
        for shape in self.shapes.iter_mut() {
            shape.uncertain |= tables.contains(&shape.table);
        }
    }

    /// Looks again at everything: memberships of roles have changed.
    pub(super) fn recheck_everything(&mut self) {
        for s in self.sessions.values_mut() {
            let session_user = self.authenticator.as_ref().ok().copied().flatten().map_or(0, |oid| oid.to_u32());
            if s.identity.session_user != session_user {
                s.identity = Rc::new(Identity { session_user, ..(*s.identity).clone() });
            }
        }
        self.recheck(|_, _| true);
        let mut bound = Vec::new();
        for shape in self.shapes.iter_mut() {
            match &shape.kind {
                ShapeKind::Asked(_) => shape.uncertain = true,
                ShapeKind::Filtered(_) => bound.push(shape.id),
                ShapeKind::Whole => {}
            }
        }
        // A predicate that is tied to a role may ask for memberships itself.
        bound.retain(
            |id| matches!(self.shapes.key(*id).map(|key| &key.rows), Some(WhichRows::Predicate(p)) if p.role != 0),
        );
        bound.into_iter().for_each(|shape| self.resynchronise_shape(shape, "access_changed"));
    }

    fn recheck(&mut self, which: impl Fn(SessionId, &Subscribed) -> bool) {
        let mut all = Vec::new();
        for (session, s) in &self.sessions {
            let own = s.subscriptions.values().filter(|d| which(*session, d));
            all.extend(own.map(|d| (*session, d.shape, d.table, d.wanted.clone())));
        }
        let mut anew: HashMap<SessionId, Vec<String>> = HashMap::new();
        for (session, shape, table, wanted) in all {
            match self.plan_of(session, table, &wanted) {
                Ok(plan) if self.shapes.key(shape) == Some(&plan.key) => {}
                Ok(plan) => {
                    if self.replace(session, wanted.clone(), &plan, "access_changed") {
                        anew.entry(session).or_default().push(wanted.id.clone());
                    }
                }
                Err(Refusal { code, message, hint }) => self.end(session, &wanted.id, code, message, hint),
            }
        }
        for (session, ids) in anew {
            self.order_snapshot(session, &ids);
        }
    }
}

/// Why Postgres gave no answer, for clients.
pub(super) fn unsettled(why: &Unsettled) -> Refusal {
    match why {
        Unsettled::Locked => {
            Refusal::new(ErrorCode::NotReady, "the table is locked for a change of its definition", "")
        }
        Unsettled::TooMany => Refusal::new(
            ErrorCode::PolicyTooCostly,
            "the policies of the table have to be asked of the database, for more rows than are allowed",
            "Policies that depend on the row and the claims alone have no such limit; see rte.explain_access().",
        ),
        Unsettled::Failed => Refusal::new(
            ErrorCode::PolicyFailed,
            "the row-level security of the table cannot be evaluated for this session",
            "The server's log says why.",
        ),
    }
}
