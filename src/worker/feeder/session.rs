//! Sessions and their subscriptions: what each gets, where it goes on. Who is let in is `login`'s, what changes for those who are
//! in is `recheck`'s.
//!
//! Decides by asking Postgres (privileges, definitions). Everything here runs inside a tick's
//! transaction, after its `Commit` was queued: so what is answered holds at that tick's snapshot. Main thread only.

use super::Feeder;
use super::asked::{Asked, Unsettled};
use super::login::{Caller, Who};
use super::plan::Plan;
use super::registry::{Refusal, Selection};
use super::resume::Resuming;
use super::shape::{Kind, Shape};
use super::shapes::WhichRows;
use super::verify::Wanted;
use crate::access::drift;
use crate::access::identity::Identity;
use crate::access::role;
use crate::job::OldCopy;
use pgrx::pg_sys::Oid;
use rte_protocol::bridge::{FromFeeder, SessionId, ShapeId, ToFeeder};
use rte_protocol::wire::{CloseCode, ErrorCode, Have, Subscription};
use std::collections::HashMap;
use std::rc::Rc;

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
    pub wanted: Rc<Subscription>,
    /// Whether it was planned when access had changed since the tick's snapshot: what changes until the next tick may be rows
    /// that it might not see yet.
    pub is_early: bool,
    /// Snapshots in a row that could not be read.
    pub failures: u32,
    /// Its snapshot is of what differs from an old copy of the client's.
    pub is_partial: bool,
    /// That copy, until the snapshot is ordered.
    pub have: Option<OldCopy>,
}

/// Where a copy begins.
pub enum Start {
    /// At the client's cursor.
    Resumed,
    /// With a snapshot: of what differs from an old copy, or of all.
    Snapshot(Option<OldCopy>),
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
            ToFeeder::Verify { session, request, id, parts, columns, want } => {
                self.verify(session, Wanted { request, id, parts, columns, want });
            }
            // Taken out before: they need no tick.
            ToFeeder::VerifyReady { .. } | ToFeeder::Exported { .. } => {}
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
            ToFeeder::LeftBehind { session, ids } => self.read_alone(session, &ids),
            ToFeeder::NeedDatabase { .. } | ToFeeder::ReloadTenants => {}
            // This tick's snapshot is later, and what it told was made for who joins.
            ToFeeder::SnapshotTaken { job } => self.shapes.joined(job),
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
        let (role, monitor, expires_in_ms) = (who.name.clone(), role::may_monitor(who.role), who.expires_in_ms());
        self.send(&FromFeeder::Opened { session, role, tables, monitor, expires_in_ms }, &[]);
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
            if subscription.resume_only {
                self.send(&FromFeeder::NotResumed { session, id, reason: "cursor_invalid".to_owned() }, &[]);
                continue;
            }
            if self.subscribe(session, subscription).is_some() {
                ids.push(id);
            }
        }
        self.order_snapshot(session, &ids);
    }

    /// As whom somebody's queries and policies run.
    pub(super) fn identity(&self, who: &Who) -> Rc<Identity> {
        Rc::new(Identity {
            session_user: self.authenticator.as_ref().ok().copied().flatten().map_or(0, |oid| oid.to_u32()),
            role: who.role.to_u32(),
            claims: who.claims.clone(),
            search_path: self.search_path.clone(),
        })
    }

    /// Registers a subscription and answers it; nothing where it is refused.
    fn subscribe(&mut self, session: SessionId, mut wanted: Subscription) -> Option<ShapeId> {
        let have = wanted.have.take();
        let planned = self.plan(session, &wanted).and_then(|plan| Ok((old_copy(have, &plan.selection)?, plan)));
        match planned {
            Ok((have, plan)) => self.add(session, Rc::new(wanted), &plan, Start::Snapshot(have)),
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
        start: Start,
    ) -> Option<ShapeId> {
        let id = wanted.id.clone();
        let (resumed, have) = match start {
            Start::Resumed => (true, None),
            Start::Snapshot(have) => (false, have),
        };
        let partial = have.is_some();
        let shape = match self.shape_of(plan) {
            Ok(shape) => shape,
            Err(refusal) => {
                self.refuse(session, &id, refusal);
                return None;
            }
        };
        let selection = &plan.selection;
        if let Some(s) = self.sessions.get_mut(&session) {
            let is_early = drift::of_tables(|table| table == selection.table);
            let new =
                Subscribed { shape, table: selection.table, wanted, is_early, failures: 0, is_partial: partial, have };
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
            partial,
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
            (WhichRows::Asked { .. }, _) => Kind::Asked(Asked::new(plan.always)),
            (WhichRows::Predicate(_), Some(filter)) => Kind::Filtered(filter),
            (WhichRows::Predicate(_), None) => Kind::Whole,
        };
        let (reading, identity) = (plan.reading.clone(), plan.identity.clone());
        Ok(self.shapes.insert(&plan.key, |id| Shape::new(id, &plan.selection, kind, reading, identity)))
    }

    /// Replaces the copy of a subscription; its snapshot is to be ordered. Tells whether there is one.
    pub(super) fn replace(&mut self, session: SessionId, wanted: Rc<Subscription>, plan: &Plan, reason: &str) -> bool {
        let id = wanted.id.clone();
        self.send(&FromFeeder::Resync { session, id: id.clone(), reason: reason.to_owned() }, &[]);
        if self.add(session, wanted, plan, Start::Snapshot(None)).is_some() {
            return true;
        }
        let ended = self.sessions.get_mut(&session).and_then(|s| s.subscriptions.remove(&id));
        if let Some(ended) = ended {
            self.shapes.release(ended.shape);
        }
        false
    }

    /// Ends a subscription that the client did not end.
    pub(super) fn end(&mut self, session: SessionId, id: &str, code: ErrorCode, message: String, hint: Option<String>) {
        let ended = self.sessions.get_mut(&session).and_then(|s| s.subscriptions.remove(id));
        if let Some(ended) = ended {
            self.shapes.release(ended.shape);
        }
        self.send(&FromFeeder::Ended { session, id: id.to_owned(), code, message, hint }, &[]);
    }

    pub(super) fn forget(&mut self, session: SessionId) {
        self.forget_asked(session);
        self.verifications.forget(session);
        for subscribed in self.sessions.remove(&session).into_iter().flat_map(|s| s.subscriptions.into_values()) {
            self.shapes.release(subscribed.shape);
        }
    }
}

/// An old copy that a client tells of, in terms of what it reads now.
pub(super) fn old_copy(have: Option<Have>, selection: &Selection) -> Result<Option<OldCopy>, Refusal> {
    let Some(have) = have else { return Ok(None) };
    let malformed = || Refusal::new(ErrorCode::BadMessage, "`have` is malformed", "");
    // The gateway has looked at it, but is not believed.
    let hashes = have.fault().is_none().then(|| have.numbers()).flatten().ok_or_else(malformed)?;
    let hashed = match &have.columns {
        None => (0..selection.numbers.len()).collect(),
        Some(names) => selection.places_of(names)?,
    };
    let place = |key: &i16| selection.numbers.iter().position(|number| number == key);
    let key = selection.key.iter().filter_map(place).collect();
    Ok(Some(OldCopy { hashed: narrow(hashed), key: narrow(key), hashes }))
}

/// Places of columns as jobs have them.
#[allow(clippy::cast_possible_truncation, reason = "a table has up to 1600 columns")]
pub(super) fn narrow(places: Vec<usize>) -> Vec<u16> {
    places.into_iter().map(|place| place as u16).collect()
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
        Unsettled::Drifted => Refusal::new(ErrorCode::NotReady, "access to the table is changing", ""),
        Unsettled::Failed => Refusal::new(
            ErrorCode::PolicyFailed,
            "the row-level security of the table cannot be evaluated for this session",
            "The server's log says why.",
        ),
    }
}
