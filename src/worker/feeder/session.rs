//! Sessions and their subscriptions: who is let in, what each gets, where it goes on.
//!
//! Decides by asking Postgres (roles, privileges, definitions). Everything here runs inside a tick's
//! transaction, after its `Commit` was queued: so what is answered holds at that tick's snapshot. Main thread only.

use super::Feeder;
use super::registry::{Refusal, Selection};
use super::resume::Resuming;
use crate::guc;
use crate::job::{JobTable, SnapshotJob};
use crate::shmem::{self, Kind};
use pgrx::pg_sys::{self, Oid};
use rte_protocol::bridge::{FromFeeder, SessionId, ShapeId, ToFeeder};
use rte_protocol::wire::{CloseCode, ErrorCode, Subscription};
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between attempts at the snapshot of a table that somebody holds locked.
const POSTPONED: Duration = Duration::from_millis(250);
/// Attempts at the snapshot of a subscription, before it is ended.
const MAX_FAILURES: u32 = 3;

pub struct Session {
    pub role: Oid,
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

/// Why a session is not let in.
struct NotLetIn {
    close: CloseCode,
    refusal: Refusal,
}

impl Feeder {
    /// Handles a gateway's message. Resumptions are collected, to be answered together.
    pub(super) fn handle(&mut self, message: ToFeeder, resuming: &mut Vec<Resuming>) {
        match message {
            ToFeeder::Open { session, token, cursor, subscriptions, .. } => {
                self.open(session, token.as_deref(), cursor.as_deref(), subscriptions, resuming);
            }
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
            ToFeeder::Auth { .. }
            | ToFeeder::Answer { .. }
            | ToFeeder::AskFailed { .. }
            | ToFeeder::NeedDatabase { .. } => {}
            ToFeeder::NeedTick => self.commit_due = true,
            ToFeeder::NeedWorker { waiting } => self.launch_query_workers(waiting as usize),
        }
    }

    fn open(
        &mut self,
        session: SessionId,
        token: Option<&str>,
        cursor: Option<&str>,
        subscriptions: Vec<Subscription>,
        resuming: &mut Vec<Resuming>,
    ) {
        let (role, name) = match let_in(token) {
            Ok(role) => role,
            Err(NotLetIn { close, refusal }) => {
                let Refusal { code, message, hint } = refusal;
                self.send(&FromFeeder::Refused { session, close: close.code(), code, message, hint }, &[]);
                return;
            }
        };
        let tables = self.registry.readable(role);
        self.send(&FromFeeder::Opened { session, role: name, tables }, &[]);
        self.sessions.insert(session, Session { role, subscriptions: HashMap::new() });
        if let Some(text) = cursor {
            match self.place_of(text) {
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
        let role = self.sessions.get(&session)?.role;
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
        let job = SnapshotJob { job: self.last_job, database: self.database.to_u32(), role: s.role.to_u32(), tables };
        let Ok(blob) = serde_json::to_vec(&job) else { return };
        let signed = rte_core::cursor::sign(&self.key, blob);
        self.send(&FromFeeder::Job { job: job.job, session, ids: names }, &[&signed]);
        // While one runs the gateway tells when it takes more.
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
            let role = s.role;
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
        let affected: Vec<(SessionId, Oid, Vec<_>)> =
            self.sessions.iter().map(|(id, s)| (*id, s.role, of_table(s))).filter(|(_, _, d)| !d.is_empty()).collect();
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

    /// Looks again at who may stay, and at what they may read, where roles have changed.
    pub(super) fn recheck_roles(&mut self) {
        if !ROLES_CHANGED.swap(false, Ordering::Relaxed) || self.sessions.is_empty() {
            return;
        }
        let now = let_in(None);
        let gone: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, s)| !now.as_ref().is_ok_and(|(role, _)| *role == s.role))
            .map(|(id, _)| *id)
            .collect();
        for session in gone {
            let (close, refusal) = match &now {
                Err(NotLetIn { close, refusal }) => (*close, refusal.clone()),
                Ok(_) => (CloseCode::Restart, Refusal::new(ErrorCode::Forbidden, "the session's role has changed", "")),
            };
            let Refusal { code, message, hint } = refusal;
            self.send(&FromFeeder::Refused { session, close: close.code(), code, message, hint }, &[]);
            self.forget(session);
        }
        self.refresh_registry();
        self.recheck_access();
    }

    fn forget(&mut self, session: SessionId) {
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
                    self.registry.select(subscribed.table, s.role, columns).map(|selection| selection.numbers);
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

/// Set when roles, their memberships or the settings have changed, which leaves no marker in the log.
static ROLES_CHANGED: AtomicBool = AtomicBool::new(false);

/// Makes changes of roles known to [`Feeder::recheck_roles`]. Once per process.
pub fn watch_roles() {
    use pg_sys::SysCacheIdentifier::{AUTHMEMROLEMEM, AUTHOID};
    for cache in [AUTHMEMROLEMEM, AUTHOID] {
        // SAFETY: the function has the right type and lives as long as the process.
        unsafe { pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(on_role_change), pg_sys::Datum::from(0)) };
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_role_change(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    roles_changed();
}

pub fn roles_changed() {
    ROLES_CHANGED.store(true, Ordering::Relaxed);
}

/// The role of a session: its oid and name.
fn let_in(token: Option<&str>) -> Result<(Oid, String), NotLetIn> {
    let unauthorized = |message: &str, hint: &str| NotLetIn {
        close: CloseCode::Unauthorized,
        refusal: Refusal::new(ErrorCode::Unauthorized, message, hint),
    };
    if token.is_some() {
        return Err(unauthorized("tokens are not supported yet", "Connect without a token."));
    }
    let Some(name) = guc::anon_role() else {
        return Err(unauthorized(
            "a token is needed",
            "Anonymous access is off; an administrator can set rte.anon_role.",
        ));
    };
    let forbidden = |why: &str| {
        pgrx::warning!("role \"{name}\" of rte.anon_role {why}");
        NotLetIn {
            close: CloseCode::Forbidden,
            refusal: Refusal::new(
                ErrorCode::Forbidden,
                "anonymous access is not set up correctly",
                "The server's log says what is wrong with rte.anon_role.",
            ),
        }
    };
    let Ok(c_name) = CString::new(name.clone()) else { return Err(forbidden("is not a name")) };
    // SAFETY: catalog look-ups in a transaction.
    let (oid, privileged) = unsafe {
        let oid = pg_sys::get_role_oid(c_name.as_ptr(), true);
        (oid, oid != Oid::INVALID && (pg_sys::superuser_arg(oid) || pg_sys::has_bypassrls_privilege(oid)))
    };
    if oid == Oid::INVALID {
        return Err(forbidden("does not exist"));
    }
    if privileged {
        return Err(forbidden("is a superuser or bypasses row-level security"));
    }
    Ok((oid, name))
}
