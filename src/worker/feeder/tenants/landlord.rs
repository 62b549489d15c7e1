//! The registry in the landlord's feeder: read at its start, after each commit that changes it, and on request.
//!
//! Invariant: what the gateway was told last is what was read last. A source that is locked is read again soon, and until
//! then the last list holds. Tenants of a watched table that cannot be read are not served: closed by default.

use super::super::Feeder;
use super::launch::Launches;
use super::slots::Slots;
use super::{Task, hash};
use crate::attempt;
use crate::shmem::{self, Extension, Kind};
use crate::tenants::registry::{self, Read, Watched};
use crate::worker::process;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use rte_core::tenants::Settled;
use rte_protocol::bridge::{FromFeeder, Tenant, ToFeeder};
use rte_protocol::wire::{CloseCode, ErrorCode};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between two readings: a table whose rows change all the time is not read all the time.
const REST: Duration = Duration::from_millis(100);
/// Until a locked source is tried again, and one that may be changed by a prepared transaction is looked at again.
const LOCKED: Duration = Duration::from_millis(250);
/// Until sources that could not be read are tried again by themselves.
const BROKEN: Duration = Duration::from_secs(5);
/// Between looks for databases that are not there; a change of `pg_database` has them looked for at once.
const LOOK: Duration = Duration::from_secs(5);

/// What the log is told that is not about one tenant.
const SOURCES: [&str; 4] = ["sources", "unreadable", "unfollowed", "too many"];

/// A tenant as it is served.
#[derive(Debug)]
pub struct Known {
    pub tenant: Tenant,
    /// Its database, once it is there and takes connections.
    pub database: Option<Oid>,
    /// Why it has none.
    pub trouble: &'static str,
    /// When clients began to wait, and when the gateway last said that they do.
    pub wanted: Option<(Instant, Instant)>,
    /// When a feeder of it last began.
    pub served: Option<Instant>,
    /// When its database was last looked after.
    pub visited: Option<Instant>,
    /// Whether its replication slot holds back much of the WAL.
    pub lags: bool,
}

/// What the landlord's feeder knows of tenants.
pub struct Landlord {
    /// By name.
    pub known: BTreeMap<String, Known>,
    /// Whether the registry was read, and whether the gateway that is attached was told of it.
    pub read: bool,
    told: bool,
    /// What of the commits that change tenants has been read.
    changes: (u32, u32),
    due: bool,
    read_at: Instant,
    look_at: Instant,
    /// What the log has been told, so that it is told once.
    said: HashMap<String, String>,
    pub launches: Launches,
    pub slots: Slots,
}

/// Set when a database was created, renamed or dropped.
static DATABASES_CHANGED: AtomicBool = AtomicBool::new(false);

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_database_change(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    DATABASES_CHANGED.store(true, Ordering::Relaxed);
}

impl Landlord {
    /// Once per process.
    pub fn watch_databases() {
        let cache = pg_sys::SysCacheIdentifier::DATABASEOID as i32;
        // SAFETY: the function has the right type and lives as long as the process.
        unsafe { pg_sys::CacheRegisterSyscacheCallback(cache, Some(on_database_change), pg_sys::Datum::from(0)) };
    }

    pub fn new(database: Oid) -> Self {
        shmem::become_landlord(database);
        // What was prepared before this process ran tells nobody when it commits.
        shmem::set_tenants_prepared(true);
        let now = Instant::now();
        Self {
            known: BTreeMap::new(),
            read: false,
            told: false,
            changes: shmem::tenant_changes(),
            due: true,
            read_at: now,
            look_at: now,
            said: HashMap::new(),
            launches: Launches::new(),
            slots: Slots::new(now),
        }
    }

    /// A new gateway is attached: it knows nothing yet.
    pub fn attached(&mut self) {
        self.told = false;
    }

    /// When to be called again, if nothing happens before.
    pub fn next(&self) -> Instant {
        let read = if self.due || shmem::tenants_prepared() { self.read_at } else { self.look_at };
        read.min(self.look_at).min(self.launches.next).min(self.slots.at)
    }

    /// Tells the log, unless that was the last that it was told about this.
    fn say(&mut self, about: &str, what: Option<String>) {
        self.say_as(PgLogLevel::WARNING, about, what);
    }

    fn say_as(&mut self, level: PgLogLevel, about: &str, what: Option<String>) {
        match what {
            None => {
                self.said.remove(about);
            }
            Some(what) => {
                if self.said.get(about) != Some(&what) {
                    ereport!(level, PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, what.clone());
                    self.said.insert(about.to_owned(), what);
                }
            }
        }
    }

    /// Reads the sources. `None`: one is locked.
    #[allow(clippy::result_large_err, reason = "pgrx's type of error")]
    fn read(&mut self) -> Option<Vec<Settled>> {
        let outcome: Result<Result<Option<Read>, String>, CaughtError> = process::try_transaction(|_| {
            // Locks are not waited for; this bounds those of partitions.
            Spi::run("SET LOCAL lock_timeout = '50ms'").map_err(|e| e.to_string())?;
            registry::read().map_err(|e| e.to_string())
        });
        let failure = match outcome {
            Ok(Ok(Some(read))) => return Some(self.take(read)),
            Ok(Ok(None)) => return None,
            Ok(Err(why)) => why,
            Err(error) => {
                let report = attempt::report(&error);
                if report.sql_error_code() == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE {
                    return None;
                }
                report.message().to_owned()
            }
        };
        self.say("sources", Some(format!("the tenants of the watched table are not served: {failure}")));
        self.due = true;
        self.read_at = Instant::now() + BROKEN;
        process::transaction(|_| registry::read_registered()).ok()
    }

    fn take(&mut self, read: Read) -> Vec<Settled> {
        self.say("sources", None);
        let Watched { table, unreadable, unfollowed } = read.watched;
        let table = table.unwrap_or_default();
        self.say(
            "unreadable",
            unreadable.map(|why| {
                format!("the tenants of table {table} are not served: {why}; call rte.watch_tenants() again")
            }),
        );
        self.say(
            "unfollowed",
            unfollowed.map(|why| {
                format!(
                    "changes of the tenants of table {table} are not noticed: {why}; call rte.watch_tenants() again"
                )
            }),
        );
        let most = read.too_many.then(|| {
            let most = crate::guc::max_tenants();
            format!("there are more than {most} tenants (rte.max_tenants): further ones are not served")
        });
        self.say("too many", most);
        if read.prepared {
            shmem::set_tenants_prepared(true);
        }
        read.settled
    }

    /// Replaces the list; tells whether the gateway must know.
    fn replace(&mut self, settled: Vec<Settled>) -> bool {
        let mut new = BTreeMap::new();
        let mut changed = !self.read;
        self.read = true;
        let about: HashSet<String> = settled.iter().map(|s| format!("{} {}", s.source, s.tenant.name)).collect();
        let names: HashSet<String> = settled.iter().map(|s| format!("database of {}", s.tenant.name)).collect();
        self.said.retain(|said, _| SOURCES.contains(&&**said) || about.contains(said) || names.contains(said));
        for Settled { tenant, source, problem } in settled {
            let about = format!("{source} {}", tenant.name);
            self.say(
                &about,
                problem.as_ref().map(|why| format!("tenant \"{}\" ({source}) is not served: {why}", tenant.name)),
            );
            if problem.is_some() {
                continue;
            }
            let old = self.known.remove(&tenant.name);
            changed |= old.as_ref().is_none_or(|old| old.tenant != tenant);
            let known = match old {
                Some(old) if old.tenant.database == tenant.database => Known { tenant, ..old },
                _ => Known {
                    tenant,
                    database: None,
                    trouble: "",
                    wanted: None,
                    served: None,
                    visited: None,
                    lags: false,
                },
            };
            new.insert(known.tenant.name.clone(), known);
        }
        changed |= !self.known.is_empty();
        self.known = new;
        changed
    }

    /// Looks for the databases of tenants.
    fn look(&mut self) {
        let mut said = Vec::new();
        process::transaction(|_| {
            for known in self.known.values_mut() {
                let found = find_database(&known.tenant.database);
                (known.database, known.trouble) = match found {
                    Ok(oid) => (Some(oid), ""),
                    Err(trouble) => (None, trouble),
                };
                said.push((known.tenant.name.clone(), known.tenant.database.clone(), known.trouble));
            }
        });
        for (name, database, trouble) in said {
            let what =
                (!trouble.is_empty()).then(|| format!("tenant \"{name}\" waits: database \"{database}\" {trouble}"));
            self.say_as(PgLogLevel::LOG, &format!("database of {name}"), what);
        }
    }

    /// Asks feeders to leave whose databases are no longer those of the tenants that they serve.
    fn dismiss(&self, landlord: Oid) {
        for worker in shmem::workers().filter(|w| w.is(Kind::Feeder) && w.database() != landlord) {
            let task = worker.task.load(Ordering::Relaxed);
            let expected =
                self.known.values().find(|k| k.database == Some(worker.database())).map(|k| hash(&k.tenant.name));
            if task != 0 && expected != Some(task) && !worker.is_leaving() {
                worker.ask_to_leave_with(CloseCode::NoSuchTenant);
            }
        }
    }

    fn list(&self) -> Vec<Tenant> {
        self.known.values().map(|k| k.tenant.clone()).collect()
    }
}

/// A database that takes connections, by name. In a transaction.
fn find_database(name: &str) -> Result<Oid, &'static str> {
    let Ok(name) = std::ffi::CString::new(name) else { return Err("is not there") };
    // SAFETY: catalog look-ups in a transaction; the tuple is read before it is released.
    unsafe {
        let oid = pg_sys::get_database_oid(name.as_ptr(), true);
        if oid == Oid::INVALID {
            return Err("is not there");
        }
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::DATABASEOID as i32, pg_sys::Datum::from(oid));
        if tuple.is_null() {
            return Err("is not there");
        }
        let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
        let found = match (form.datallowconn, form.datistemplate) {
            (false, _) => Err("takes no connections"),
            // A template that somebody is connected to cannot be copied.
            (_, true) => Err("is a template"),
            _ => Ok(oid),
        };
        pg_sys::ReleaseSysCache(tuple);
        found
    }
}

impl Feeder {
    /// Keeps the tenants: takes what the gateway asks about them, reads what has changed, launches.
    pub(in crate::worker::feeder) fn tend_tenants(&mut self, messages: &mut Vec<ToFeeder>) {
        let mut asked = Vec::new();
        messages.retain(|message| match message {
            ToFeeder::NeedDatabase { tenant } => {
                asked.push(Some(tenant.clone()));
                false
            }
            ToFeeder::ReloadTenants => {
                asked.push(None);
                false
            }
            _ => true,
        });
        let Some(mut landlord) = self.landlord.take() else { return };
        self.keep(&mut landlord, asked);
        self.landlord = Some(landlord);
    }

    fn keep(&mut self, landlord: &mut Landlord, asked: Vec<Option<String>>) {
        let now = Instant::now();
        let changes = shmem::tenant_changes();
        if changes.1 != landlord.changes.1 || asked.contains(&None) {
            landlord.launches.forgive();
            landlord.look_at = now;
            landlord.due = true;
            for database in shmem::all_databases() {
                if matches!(database.extension(), Extension::Missing | Extension::Dropped) {
                    database.set_extension(Extension::Unknown);
                }
            }
        }
        landlord.due |= changes.0 != landlord.changes.0;
        landlord.changes = changes;
        let prepared = shmem::tenants_prepared();
        if (landlord.due || prepared) && now >= landlord.read_at {
            // Before the reading: what is prepared from here on sets it again.
            shmem::set_tenants_prepared(false);
            landlord.due = false;
            landlord.read_at = now + REST;
            match landlord.read() {
                Some(settled) => {
                    if landlord.replace(settled) {
                        landlord.told = false;
                        landlord.look_at = now;
                        landlord.launches.next = now;
                    }
                    if shmem::tenants_prepared() {
                        landlord.read_at = landlord.read_at.max(now + LOCKED);
                    }
                }
                None => {
                    landlord.due = true;
                    landlord.read_at = now + LOCKED;
                    shmem::set_tenants_prepared(prepared);
                }
            }
        }
        if landlord.read && !landlord.told && self.link.is_some() {
            landlord.told = true;
            self.send(&FromFeeder::Tenants { tenants: landlord.list() }, &[]);
        }
        let asks = asked.into_iter().flatten();
        let wanted: Vec<String> = asks.collect();
        let changed = DATABASES_CHANGED.swap(false, Ordering::Relaxed);
        let missing = wanted.iter().any(|n| landlord.known.get(n).is_some_and(|k| k.database.is_none()));
        if landlord.read && (changed || missing || now >= landlord.look_at) {
            landlord.look_at = now + LOOK;
            landlord.look();
            landlord.dismiss(self.database);
        }
        for name in wanted {
            match landlord.known.get_mut(&name) {
                None => self.unavailable(name, CloseCode::NoSuchTenant, ErrorCode::UnknownTenant, "no such tenant"),
                Some(known) if known.database.is_none() => {
                    let why = format!("the tenant's database {}", known.trouble);
                    self.unavailable(name, CloseCode::TryAgainLater, ErrorCode::TenantNotReady, &why);
                }
                Some(known) => {
                    if known.wanted.is_none() {
                        landlord.launches.next = now;
                    }
                    known.wanted = Some((known.wanted.map_or(now, |(since, _)| since), now));
                }
            }
        }
        if shmem::take_upkeep_wanted() {
            landlord.launches.next = now;
        }
        self.watch_slots(landlord, now);
        self.launch_feeders(landlord, now);
    }

    pub(super) fn unavailable(&mut self, tenant: String, close: CloseCode, code: ErrorCode, message: &str) {
        let message = message.to_owned();
        self.send(&FromFeeder::TenantUnavailable { tenant, close: close.code(), code, message, hint: None }, &[]);
    }
}

impl Task {
    /// What a feeder of the database is told, from its start parameters.
    pub fn of_this_process() -> Self {
        Self::from_text(pgrx::bgworkers::BackgroundWorker::get_extra())
    }
}
