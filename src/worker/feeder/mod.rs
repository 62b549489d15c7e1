//! The feeder of a database: reads committed changes and decides who gets what.
//!
//! It never waits for a client: what it sends goes into a bounded buffer towards the gateway. Its state can
//! be lost at any time (clients resume from their cursors). Main thread of its own process.

mod asked;
mod delivery;
mod frames;
mod gateway;
mod gathered;
mod history;
mod link;
mod login;
mod pending;
mod plan;
mod recheck;
mod registry;
mod resume;
mod roles;
mod rows;
mod run;
mod session;
mod shape;
mod shapes;
mod snapshots;
mod switch;
mod tenants;
mod tick;
mod upkeep;
mod verify;
mod wal;

use super::process::{self, Terminate};
use crate::access::role::RoleError;
use crate::access::{drift, identity, reads, token};
use crate::changelog;
use crate::encode::{self, ValueEncoder};
use crate::scratch::Scratch;
use crate::shmem::{self, Kind, Slot, State};
use crate::{guc, secret, snapshot};
use delivery::Trouble;
use history::History;
use link::Link;
use login::Logins;
use pending::Pending;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::prelude::*;
use registry::Registry;
use rte_core::Snapshot;
use rte_protocol::bridge::{SessionId, ShapeId};
use rte_protocol::wire::CloseCode;
use session::Session;
use shapes::Shapes;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Instant;
use switch::Switch;
use tenants::{Landlord, Task};
use upkeep::Hiring;
use verify::Verifications;
use wal::Wal;

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
    /// The slot that changes are decoded from, while there is one.
    wal: Option<Wal>,
    /// Why there is none any more; upkeep sees to it before anything is told to clients.
    wal_lost: Option<wal::Lost>,
    /// How tables are captured, and the slot for it.
    switch: Switch,
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
    verifications: Verifications,
    /// A `Commit` is wanted even if nothing happened.
    commit_due: bool,
    /// Tables that are resynchronised with the next tick.
    stale: Vec<Oid>,
    /// Shapes that cannot go on, and why.
    troubled: Vec<(ShapeId, Trouble)>,
    /// Shapes that Postgres was asked for when access had changed since the tick's snapshot: the tick goes on to a newer one.
    unanswered: Vec<ShapeId>,
    /// Whether roles have changed since the log was told.
    roles_unnoted: bool,
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
    process::pin_transactions();
    process::transaction(|_| identity::settle_session_user());
    reads::listen();
    drift::watch();
    roles::watch();
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
        feeder.run_until_dropped(worker);
        feeder.forsake_slot();
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
    if !process::transaction(|_| extension_is_there()) {
        // SAFETY: a plain read.
        switch::forsake_slot(unsafe { pg_sys::MyDatabaseId });
    }
    loop {
        process::exit_if_asked();
        // CREATE EXTENSION leaves a marker, whose commit wakes.
        slot.get().interested.store(true, Ordering::Release);
        slot.get().pending.store(false, Ordering::Release);
        if process::transaction(|_| extension_is_there()) {
            return;
        }
        // SAFETY: a plain read.
        tenants::bound_slots(unsafe { pg_sys::MyDatabaseId });
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
            wal: None,
            wal_lost: None,
            switch: Switch::new(now),
            registry: Registry::new(),
            shapes: Shapes::default(),
            sessions: HashMap::new(),
            logins: Logins::default(),
            authenticator: Ok(None),
            last_job: 0,
            postponed: Vec::new(),
            postponed_until: now,
            verifications: Verifications::default(),
            commit_due: true,
            stale: Vec::new(),
            troubled: Vec::new(),
            unanswered: Vec::new(),
            roles_unnoted: false,
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

    fn refresh_registry(&mut self) {
        if let Err(e) = self.registry.refresh() {
            pgrx::error!("could not read the registered tables: {e}");
        }
    }
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
