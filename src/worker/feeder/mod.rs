//! The feeder of a database: reads committed changes and decides who gets what.
//!
//! It never waits for a client: what it sends goes into a bounded buffer towards the gateway. Its state can
//! be lost at any time (clients resume from their cursors). Main thread of its own process.

mod asked;
mod delivery;
mod gateway;
mod history;
mod link;
mod login;
mod plan;
mod registry;
mod resume;
mod rows;
mod session;
mod shape;
mod shapes;
mod tenants;
mod tick;
mod upkeep;

use super::process::{self, Terminate};
use crate::access::role::RoleError;
use crate::access::{identity, reads, token};
use crate::changelog;
use crate::changelog::reader::Change;
use crate::encode::{self, ValueEncoder};
use crate::scratch::Scratch;
use crate::shmem::{self, Kind, Slot, State};
use crate::{guc, secret, snapshot};
use delivery::Trouble;
use history::History;
use link::{Link, LinkError};
use login::Logins;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::prelude::*;
use registry::Registry;
use rte_core::Snapshot;
use rte_protocol::bridge::ShapeId;
use rte_protocol::bridge::{SessionId, ToFeeder};
use rte_protocol::wire::CloseCode;
use session::Session;
use shapes::Shapes;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tenants::{Landlord, Task};
use tick::Pending;
use upkeep::Hiring;

/// How long a feeder keeps recent ticks after its last session left: a gateway's restart, a flaky network.
const LINGER: Duration = Duration::from_secs(60);
/// A tick is followed by a pause of at least this many times its own length, where more commits come.
const REST: u32 = 3;
/// Commits per second up to which that is the whole pause.
const CALM: f64 = 1000.0;
/// Further pause per commit per second: at 10,000 a second 5 ms. Each tick costs feeder and gateway some 130 µs, whatever
/// is in it; so under load ticks grow, and writers keep the processor.
const PAUSE: f64 = 0.5e-6;

pub struct Feeder {
    slot: Slot,
    database: Oid,
    name: String,
    /// Schema of the extension: another one is that of another installation.
    schema: Oid,
    key: Vec<u8>,
    system_identifier: u64,
    timeline: u32,
    link: Option<Link>,
    retry_at: Instant,
    /// The snapshot of the last tick, its cursor and its time.
    last: Snapshot,
    cursor: String,
    time: String,
    pending: Pending,
    history: History,
    registry: Registry,
    shapes: Shapes,
    sessions: HashMap<SessionId, Session>,
    logins: Logins,
    /// The role that query workers connect as.
    authenticator: Result<Option<Oid>, RoleError>,
    last_job: u64,
    /// Snapshots that found a table locked, and when they are ordered again.
    postponed: Vec<(SessionId, Vec<String>)>,
    postponed_until: Instant,
    /// A `Commit` is wanted even if nothing happened.
    commit_due: bool,
    /// Tables that are resynchronised with the next tick.
    stale: Vec<Oid>,
    /// Shapes that cannot go on, and why.
    troubled: Vec<(ShapeId, Trouble)>,
    /// Shapes of whose rows the changes of a tick do not tell enough.
    touched: HashSet<ShapeId>,
    /// The shape whose condition is being evaluated, so that an error can be laid at its door.
    evaluating: Option<ShapeId>,
    /// Where functions of policies look for names.
    search_path: String,
    /// When this feeder began, transactions below this id may have left changes out of the log.
    suspects: Option<u64>,
    clock: ValueEncoder,
    scratch: Scratch,
    /// The table whose change is being encoded, so that an error can be laid at its door.
    encoding: Option<Oid>,
    /// When somebody was last connected.
    used_at: Option<Instant>,
    /// Commits per second, smoothed.
    rate: f64,
    ticked_at: Instant,
    tick_at: Instant,
    commit_at: Instant,
    upkeep_at: Instant,
    hiring: Hiring,
    /// What it was launched for, and the tenants where it is the landlord's.
    task: Task,
    landlord: Option<Box<Landlord>>,
    began: Instant,
    /// Since when it has had no sessions, where it has none.
    idle_from: Instant,
}

/// What follows a tick.
enum After {
    GoOn,
    /// A change of this table could not be encoded.
    StartOver(Oid),
    /// The extension is gone.
    Stop,
}

/// Entry point; `arg` is the oid of the database.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn rte_feeder_main(arg: Datum) {
    let database = Oid::from(arg.value() as u32);
    process::install_signal_handlers(Terminate::Asks);
    // SAFETY: once, at the start of a background worker that asked for database access.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database, Oid::INVALID, 0);
        pg_sys::pgstat_report_appname(c"whagons_rte feeder".as_ptr());
    }
    let search_path = guc::setting(c"search_path");
    encode::pin_settings();
    process::transaction(|_| identity::settle_session_user());
    reads::listen();
    login::watch_roles();
    let worker = shmem::enter_this_worker(Kind::Feeder, database);
    let Some(slot) = shmem::database(database) else {
        ereport!(
            PgLogLevel::FATAL,
            PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            "no room for another database",
            "Raise rte.max_databases and restart the server."
        );
        return;
    };
    let task = Task::of_this_process();
    if !slot.claim() {
        // The one before has not ended yet, or another was faster.
        tenants::end(slot);
    }
    if let Some(worker) = worker {
        worker.task.store(task.hash(), Ordering::Relaxed);
    }
    if task == Task::Landlord {
        Landlord::watch_databases();
    }
    loop {
        if let Some(worker) = worker {
            worker.state.store(State::Waiting as i32, Ordering::Relaxed);
        }
        match task {
            Task::Landlord => wait_for_extension(slot),
            _ => tenants::prepare(slot),
        }
        if let Some(worker) = worker {
            worker.state.store(State::Running as i32, Ordering::Relaxed);
        }
        let mut feeder = Feeder::new(slot, database, task.clone(), search_path.clone());
        if matches!(task, Task::Visit(_)) {
            feeder.visit(worker);
        }
        pgrx::log!("whagons_rte serves database \"{}\"", feeder.name);
        feeder.run(worker);
        pgrx::log!("whagons_rte no longer serves database \"{}\": the extension was dropped", feeder.name);
        if task != Task::Landlord {
            // Whoever dropped it may be about to create it anew, and must not find it there.
            slot.get().set_extension(shmem::Extension::Dropped);
            feeder.leave(CloseCode::TryAgainLater.code());
        }
    }
}

fn extension_is_there() -> bool {
    // SAFETY: a catalog look-up in a transaction.
    unsafe { pg_sys::get_extension_oid(c"whagons_rte".as_ptr(), true) != Oid::INVALID }
}

fn wait_for_extension(slot: Slot) {
    slot.attach_feeder();
    loop {
        process::exit_if_asked();
        // CREATE EXTENSION leaves a marker, whose commit wakes.
        slot.get().interested.store(true, Ordering::Release);
        slot.get().pending.store(false, Ordering::Release);
        if process::transaction(|_| extension_is_there()) {
            return;
        }
        process::wait(None, 0, 1000);
        if process::reload() {
            process::apply_database_settings();
        }
    }
}

impl Feeder {
    fn new(slot: Slot, database: Oid, task: Task, search_path: String) -> Self {
        slot.attach_feeder();
        token::reload();
        let gap = slot.get().gap.swap(false, Ordering::SeqCst);
        let next = snapshot::next_xid();
        let (key, name, schema, last, clock) = process::transaction(|s| {
            let clock = ValueEncoder::new(pg_sys::TIMESTAMPTZOID, -1);
            // SAFETY: `s` is active.
            let last = unsafe { snapshot::copy(s) };
            (secret::server_key(), database_name(database), changelog::schema_oid(), last, clock)
        });
        let now = Instant::now();
        // SAFETY: reads of shared state that is set once recovery is over.
        let (system_identifier, timeline) =
            unsafe { (pg_sys::GetSystemIdentifier(), pg_sys::GetWALInsertionTimeLine()) };
        Self {
            slot,
            database,
            name,
            schema,
            key,
            system_identifier,
            timeline,
            link: None,
            retry_at: now,
            history: History::new(last.clone()),
            last,
            cursor: String::new(),
            time: String::new(),
            pending: Pending::default(),
            registry: Registry::new(),
            shapes: Shapes::default(),
            sessions: HashMap::new(),
            logins: Logins::default(),
            authenticator: Ok(None),
            last_job: 0,
            postponed: Vec::new(),
            postponed_until: now,
            commit_due: true,
            stale: Vec::new(),
            troubled: Vec::new(),
            touched: HashSet::new(),
            evaluating: None,
            search_path,
            suspects: gap.then_some(next),
            clock,
            scratch: Scratch::new(),
            encoding: None,
            used_at: None,
            rate: 0.0,
            ticked_at: now,
            tick_at: now,
            commit_at: now,
            upkeep_at: now,
            hiring: Hiring::default(),
            landlord: (task == Task::Landlord).then(|| Box::new(Landlord::new(database))),
            task,
            began: now,
            idle_from: now,
        }
    }

    /// Runs until the extension is dropped.
    fn run(&mut self, worker: Option<&shmem::Worker>) {
        let mut messages = Vec::new();
        let mut polled_at = Instant::now();
        loop {
            process::exit_if_asked();
            if process::reload() {
                login::settings_changed();
            }
            self.connect();
            self.receive(&mut messages);
            self.tend_tenants(&mut messages);
            let now = Instant::now();
            let poll = Duration::from_millis(guc::poll_interval_ms());
            let in_use = self.in_use(now);
            self.slot.get().interested.store(in_use, Ordering::SeqCst);
            let woken = self.slot.get().pending.load(Ordering::SeqCst);
            self.expire();
            let recheck = self.shapes.are_restless() && now >= self.ticked_at + guc::policy_recheck_interval();
            let commit =
                recheck || self.commit_due || now >= self.commit_at + Duration::from_millis(guc::heartbeat_ms() / 2);
            if (woken && in_use && now >= self.tick_at) || commit || !messages.is_empty() || now >= polled_at + poll {
                polled_at = now;
                match self.guarded_tick(&mut messages, in_use) {
                    After::GoOn => {}
                    After::StartOver(table) => {
                        self.registry.exclude(table);
                        self.start_over();
                        messages.clear();
                    }
                    After::Stop => {
                        self.slot.get().interested.store(false, Ordering::Release);
                        return;
                    }
                }
            }
            if now >= self.upkeep_at || self.slot.get().rotate.swap(false, Ordering::AcqRel) {
                self.upkeep_at = self.upkeep(now);
            }
            self.order_postponed(now);
            self.hire_again(now);
            self.flush();
            self.leave_if_due(worker, Instant::now());
            self.sleep(polled_at + poll, in_use);
        }
    }

    fn in_use(&mut self, now: Instant) -> bool {
        if !self.sessions.is_empty() {
            self.used_at = Some(now);
        }
        self.used_at.is_some_and(|at| now < at + LINGER)
    }

    fn sleep(&self, poll_at: Instant, in_use: bool) {
        let now = Instant::now();
        let mut until = poll_at.min(self.upkeep_at);
        // Looked at after the flag of interest was set: a commit from here on sets the latch.
        if self.slot.get().pending.load(Ordering::SeqCst) && in_use {
            until = until.min(self.tick_at);
        }
        if !self.postponed.is_empty() {
            until = until.min(self.postponed_until);
        }
        if self.shapes.are_restless() {
            until = until.min(self.ticked_at + guc::policy_recheck_interval());
        }
        if let Some(left) = self.until_expiry() {
            until = until.min(now + left);
        }
        if self.link.is_none() {
            until = until.min(self.retry_at);
        }
        let others = [self.hiring.next(), self.landlord.as_ref().map(|l| l.next()), self.leave_at()];
        until = others.into_iter().flatten().fold(until, Instant::min);
        if self.commit_due {
            until = now;
        }
        let left = until.saturating_duration_since(now);
        if !left.is_zero() && left < Duration::from_millis(1) {
            // The rest after a tick, finer than the latch's time-out.
            std::thread::sleep(left);
            return;
        }
        let ms = left.as_micros().div_ceil(1000) as u64;
        let (fd, events) = match &self.link {
            Some(link) if link.has_output() => {
                (Some(link.fd()), pg_sys::WL_SOCKET_READABLE | pg_sys::WL_SOCKET_WRITEABLE)
            }
            Some(link) => (Some(link.fd()), pg_sys::WL_SOCKET_READABLE),
            None => (None, 0),
        };
        process::wait(fd, events, ms);
    }

    /// A tick, in which a value that cannot be shown costs its table, not the feeder. Any other error ends the
    /// process, which is started again.
    #[allow(clippy::result_large_err, reason = "pgrx's type of error")]
    fn guarded_tick(&mut self, messages: &mut Vec<ToFeeder>, in_use: bool) -> After {
        self.encoding = None;
        self.evaluating = None;
        let this = std::panic::AssertUnwindSafe((&mut *self, messages));
        let outcome: Result<bool, CaughtError> = PgTryBuilder::new(move || {
            let std::panic::AssertUnwindSafe((this, messages)) = { this };
            Ok(this.tick(messages, in_use))
        })
        .catch_others(Err)
        .execute();
        match (outcome, self.encoding) {
            (Ok(true), _) => After::GoOn,
            (Ok(false), _) => After::Stop,
            (Err(error), Some(table)) => {
                // SAFETY: ends the failed transaction.
                unsafe { pg_sys::AbortCurrentTransaction() };
                let (CaughtError::PostgresError(report)
                | CaughtError::ErrorReport(report)
                | CaughtError::RustPanic { ereport: report, .. }) = &error;
                pgrx::warning!(
                    "whagons_rte stops serving table {}: a change of it cannot be encoded: {}",
                    table.to_u32(),
                    report.message()
                );
                After::StartOver(table)
            }
            (Err(error), None) => error.rethrow(),
        }
    }

    /// Forgets everything that a failed tick may have left half done; clients come back with their cursors.
    fn start_over(&mut self) {
        self.disconnect(&LinkError::Gone);
        self.pending = Pending::default();
        self.last = process::transaction(|s| {
            // SAFETY: `s` is active.
            unsafe { snapshot::copy(s) }
        });
        self.history.restart(self.last.clone());
        self.registry.invalidate();
    }

    /// One tick, and answers to the messages that came. `false`: the extension is gone.
    fn tick(&mut self, messages: &mut Vec<ToFeeder>, in_use: bool) -> bool {
        let began = Instant::now();
        // Before the snapshot: a commit after this sets it again.
        self.slot.get().pending.store(false, Ordering::SeqCst);
        let mut commits = 0;
        process::transaction(|active| {
            if changelog::schema_oid() != self.schema {
                return false;
            }
            // SAFETY: the snapshot is active for the whole transaction.
            let (now, changes) = unsafe {
                let now = snapshot::copy(active);
                let changes = self.pending.read(self.slot, &self.last, &now, active, in_use);
                (now, changes)
            };
            commits = count_commits(&changes);
            // First, so that nobody gets a change who may not any more.
            self.expire();
            self.recheck_roles();
            self.deliver(now, changes, in_use);
            let mut resuming = Vec::new();
            if !messages.is_empty() {
                self.refresh_registry();
            }
            for message in messages.drain(..) {
                self.handle(message, &mut resuming);
            }
            if !resuming.is_empty() {
                // SAFETY: active, and that of this tick.
                unsafe { self.resume(resuming, active) };
            }
            if self.commit_due {
                self.commit();
            }
            true
        }) && {
            self.ask_for_gaps();
            self.rest(began, commits);
            true
        }
    }

    /// Decides when the next tick may be: at once where commits are few, later the more there are.
    fn rest(&mut self, began: Instant, commits: usize) {
        let since = began.duration_since(self.ticked_at).as_secs_f64().max(1e-5);
        self.ticked_at = began;
        self.rate = (self.rate + commits as f64 / since) / 2.0;
        if commits == 0 {
            self.tick_at = Instant::now();
            return;
        }
        let pause = Duration::from_secs_f64((self.rate - CALM).max(0.0) * PAUSE);
        let rest = (began.elapsed() * REST).max(pause).min(Duration::from_micros(guc::max_tick_interval_us()));
        self.tick_at = Instant::now() + rest;
        if !pause.is_zero() {
            // There will be a tick after the pause in any case: nobody needs to wake us for it.
            self.slot.get().pending.store(true, Ordering::SeqCst);
        }
    }

    fn refresh_registry(&mut self) {
        if let Err(e) = self.registry.refresh() {
            pgrx::error!("could not read the registered tables: {e}");
        }
    }
}

/// Transactions among changes that are in no order but lie together.
fn count_commits(changes: &[Change]) -> usize {
    let mut count = 0;
    let mut last = None;
    for change in changes {
        if last != Some(change.xid) {
            count += 1;
            last = Some(change.xid);
        }
    }
    count
}

fn database_name(database: Oid) -> String {
    // SAFETY: a catalog look-up in a transaction; the copy is ours.
    unsafe {
        let name = pg_sys::get_database_name(database);
        if name.is_null() { String::new() } else { std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

/// Whether the log is there at all, for the first look of upkeep.
fn log_is_there() -> bool {
    changelog::segment_oid(0).is_some()
}
