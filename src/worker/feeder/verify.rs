//! Verifications: a tick that has the same snapshot as a query worker, so that what the worker reads and what clients hold
//! at that tick's commit are equal without tolerance.
//!
//! A worker that is ready is told to take and export its snapshot. Until it has, the next tick is held, for a moment only;
//! then the tick adopts that snapshot instead of taking one of its own. It can where it is not behind the tick before: what
//! that one saw, it must see; and that access may have changed since is known. Else the worker takes another. One export at a time: a tick has one snapshot, and the others
//! would be behind it. Invariants: ticks only move on; no tick is held for longer than [`HOLD`] allows, whatever
//! becomes of worker, gateway or client, and none that has to tell about an export that never comes. Writers notice nothing
//! of it. Main thread only.

use super::Feeder;
use super::registry::Refusal;
use super::session::narrow;
use crate::access::drift;
use crate::job::{Export, Job, VerifyJob};
use crate::snapshot;
use crate::worker::process;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use rte_core::Snapshot;
use rte_protocol::bridge::{FromFeeder, JobId, SessionId, ShapeId, ToFeeder};
use rte_protocol::wire::ErrorCode;
use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::time::{Duration, Instant};

/// How long a tick is held for an export the first time; each further attempt of a verification may take twice as long, up to
/// the longest. The export is on its way after two hops through the gateway, some 0.2 ms on an idle machine.
const HOLD: Duration = Duration::from_millis(10);
const LONGEST_HOLD: Duration = Duration::from_millis(40);
/// Exports of a verification before it is given up.
const MAX_ATTEMPTS: u32 = 5;

/// A client's request; one per session.
struct Verification {
    request: u32,
    /// Of the subscription.
    id: String,
    shape: ShapeId,
    job: JobId,
    attempts: u32,
}

/// Requests, and where the one stands whose snapshot is exported.
#[derive(Default)]
pub struct Verifications {
    of_sessions: HashMap<SessionId, Verification>,
    /// Workers that wait for the word, in their order.
    ready: VecDeque<(SessionId, JobId)>,
    /// The export that was asked for, and until when ticks wait for it.
    awaited: Option<(JobId, Instant)>,
    /// What the next tick may adopt.
    exported: Option<(SessionId, Export)>,
}

impl Verifications {
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn forget(&mut self, session: SessionId) {
        self.of_sessions.remove(&session);
    }

    /// Until when the next tick is to be held.
    pub fn holds_until(&self, now: Instant) -> Option<Instant> {
        self.awaited.map(|(_, until)| until).filter(|until| now < *until)
    }

    /// Whether a tick is wanted for an export that has come.
    pub const fn wants_tick(&self) -> bool {
        self.exported.is_some()
    }

    /// Whether a worker waits for its turn.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn of(&self, session: SessionId, job: JobId) -> Option<&Verification> {
        self.of_sessions.get(&session).filter(|v| v.job == job)
    }
}

/// A tick's snapshot that is a verification's too.
pub struct Adopted {
    session: SessionId,
    job: JobId,
    snapshot: Snapshot,
}

impl Adopted {
    pub const fn job(&self) -> JobId {
        self.job
    }
}

/// What is asked of a verification.
pub struct Wanted {
    pub request: u32,
    pub id: String,
    pub parts: u32,
    pub columns: Option<Vec<String>>,
    pub want: Vec<u32>,
}

impl Feeder {
    /// Hands a verification to a query worker, or says why not.
    pub(super) fn verify(&mut self, session: SessionId, wanted: Wanted) {
        let (request, id) = (wanted.request, wanted.id.clone());
        match self.verify_job(session, wanted) {
            Ok((job, shape)) => {
                let number = job.job;
                let Ok(blob) = serde_json::to_vec(&Job::Verify(job)) else { return };
                let signed = rte_core::cursor::sign(&self.key, blob);
                let verification = Verification { request, id, shape, job: number, attempts: 0 };
                self.verifications.of_sessions.insert(session, verification);
                self.send(&FromFeeder::Verify { job: number, session, request }, &[&signed]);
                self.have_a_worker();
            }
            Err(refusal) => self.verify_failed(session, request, refusal),
        }
    }

    fn verify_job(&mut self, session: SessionId, wanted: Wanted) -> Result<(VerifyJob, ShapeId), Refusal> {
        let gone = || Refusal::new(ErrorCode::NotReady, "the copy of the subscription is not ready", "");
        let s = self.sessions.get(&session).ok_or_else(gone)?;
        let id = s.subscriptions.get(&wanted.id).ok_or_else(gone)?.shape;
        let identity = (*s.identity).clone();
        let shape = self.shapes.get(id).ok_or_else(gone)?;
        let hashed = match &wanted.columns {
            None => (0..shape.names.len()).collect(),
            Some(names) => shape.places_of(names)?,
        };
        let (table, key) = (shape.reading.clone(), shape.key_places());
        self.last_job += 1;
        let job = VerifyJob {
            job: self.last_job,
            database: self.database.to_u32(),
            identity,
            table,
            hashed: narrow(hashed),
            key: narrow(key),
            parts: wanted.parts,
            want: wanted.want,
        };
        Ok((job, id))
    }

    fn verify_failed(&mut self, session: SessionId, request: u32, refusal: Refusal) {
        let Refusal { code, message, hint } = refusal;
        self.send(&FromFeeder::VerifyFailed { session, request, code, message, hint }, &[]);
    }

    /// Hears of workers, and gives the next one its word. What is about verifications is taken out of the messages: it needs
    /// no tick of its own.
    pub(super) fn tend_verifications(&mut self, messages: &mut Vec<ToFeeder>, now: Instant) {
        let theirs = |m: &mut ToFeeder| matches!(m, ToFeeder::VerifyReady { .. } | ToFeeder::Exported { .. });
        for message in messages.extract_if(.., theirs) {
            match message {
                ToFeeder::VerifyReady { session, job } => self.verifications.ready.push_back((session, job)),
                ToFeeder::Exported { session, job, export } => self.exported(session, job, &export),
                _ => {}
            }
        }
        if self.verifications.awaited.is_some_and(|(_, until)| now >= until) {
            self.verifications.awaited = None;
        }
        // The pause between ticks is kept: the tick that adopts is one of theirs.
        if self.verifications.wants_tick() || self.verifications.awaited.is_some() || now < self.tick_at {
            return;
        }
        while let Some((session, job)) = self.verifications.ready.pop_front() {
            let Some(verification) = self.verifications.of_sessions.get_mut(&session).filter(|v| v.job == job) else {
                continue;
            };
            verification.attempts += 1;
            let hold = (HOLD * verification.attempts).min(LONGEST_HOLD);
            self.verifications.awaited = Some((job, now + hold));
            self.send(&FromFeeder::Export { job }, &[]);
            self.flush();
            return;
        }
    }

    /// A worker has exported its snapshot, as it says and has signed.
    fn exported(&mut self, session: SessionId, job: JobId, text: &str) {
        let Some(verification) = self.verifications.of(session, job) else { return };
        let (request, attempts) = (verification.request, verification.attempts);
        if self.verifications.wants_tick() {
            self.too_late(session, job, request, attempts);
            return;
        }
        let read = || -> Option<Export> {
            let signed = STANDARD.decode(text).ok()?;
            serde_json::from_slice(rte_core::cursor::verify(&self.key, &signed).ok()?).ok()
        };
        let Some(export) = read().filter(|export| export.job == job) else { return };
        if self.verifications.awaited.is_some_and(|(awaited, _)| awaited == job) {
            self.verifications.awaited = None;
        }
        self.verifications.exported = Some((session, export));
    }

    /// Opens the transaction of a tick: under the exported snapshot, where there is one that ticks can go on from.
    pub(super) fn begin_tick(&mut self) -> Option<Adopted> {
        let adopted = self.verifications.exported.take().and_then(|(session, export)| self.adopt(session, &export));
        if adopted.is_none() {
            process::begin();
        }
        adopted
    }

    fn adopt(&mut self, session: SessionId, export: &Export) -> Option<Adopted> {
        let verification = self.verifications.of(session, export.job)?;
        let (request, attempts) = (verification.request, verification.attempts);
        let subscribed = self.sessions.get(&session)?.subscriptions.get(&verification.id);
        if subscribed.is_none_or(|s| s.shape != verification.shape) {
            // The gateway has been told what became of it.
            self.verifications.forget(session);
            return None;
        }
        let snapshot = export.snapshot.parse::<Snapshot>().ok().filter(|exported| exported.contains(&self.last));
        if let Some(snapshot) = snapshot
            && begin_under(export, &snapshot, || drift::of_tables(|table| self.shapes.depend_on(table)))
        {
            return Some(Adopted { session, job: export.job, snapshot });
        }
        self.too_late(session, export.job, request, attempts);
        None
    }

    /// The tick is about to be closed: `verifying`, where it is still at the snapshot that it has adopted. It is not where it
    /// had to go on to a newer one because access has changed.
    pub(super) fn announce(&mut self, adopted: &Adopted) -> bool {
        let Adopted { session, job, snapshot } = adopted;
        if self.last == *snapshot {
            self.verifications.forget(*session);
            self.send(&FromFeeder::Verifying { job: *job, session: *session }, &[]);
            return true;
        }
        if let Some(verification) = self.verifications.of(*session, *job) {
            self.too_late(*session, *job, verification.request, verification.attempts);
        }
        false
    }

    /// The export cannot be adopted any more: another one, or none where there were enough.
    fn too_late(&mut self, session: SessionId, job: JobId, request: u32, attempts: u32) {
        if attempts < MAX_ATTEMPTS {
            self.send(&FromFeeder::ExportAgain { job }, &[]);
            return;
        }
        self.verifications.forget(session);
        let message = "the server is too busy to compare a copy";
        self.verify_failed(session, request, Refusal::new(ErrorCode::NotReady, message, "ask again later"));
    }
}

/// Opens a transaction under an exported snapshot; `false`, and none is open, where its owner is gone, it is not what was
/// said of it, or `drifted` says that what this process has heard of access may be newer than it. All that was heard before the
/// tick before took its snapshot, that one saw, and so this one does.
#[allow(clippy::result_large_err, reason = "pgrx's type of error")]
fn begin_under(export: &Export, expected: &Snapshot, drifted: impl FnOnce() -> bool) -> bool {
    let Ok(name) = CString::new(export.name.as_str()) else { return false };
    let work = std::panic::AssertUnwindSafe(move || {
        // Hears what others have told.
        process::begin();
        // SAFETY: in a transaction that has no snapshot yet and no id; every snapshot of it is the imported one from here
        // on. Its name is checked by Postgres to be one.
        let imported = unsafe {
            pg_sys::XactIsoLevel = pg_sys::XACT_REPEATABLE_READ as i32;
            pg_sys::ImportSnapshot(name.as_ptr());
            snapshot::copy(pg_sys::GetTransactionSnapshot())
        };
        imported == *expected && !drifted()
    });
    let outcome: Result<bool, CaughtError> = PgTryBuilder::new(move || {
        let std::panic::AssertUnwindSafe(work) = { work };
        Ok(work())
    })
    .catch_others(Err)
    .execute();
    if matches!(outcome, Ok(true)) {
        return true;
    }
    if let Err(error) = outcome {
        crate::attempt::log("could not adopt a snapshot", &error);
    }
    // SAFETY: ends the transaction in whatever state it is.
    unsafe { pg_sys::AbortCurrentTransaction() };
    false
}
