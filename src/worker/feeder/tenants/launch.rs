//! Launching feeders of tenants: who waits, who serves, and what the plan of `rte_core::tenants::turns` says.

use super::super::Feeder;
use super::Task;
use super::landlord::{Known, Landlord};
use crate::guc;
use crate::shmem::{self, Extension, Kind};
use crate::worker::backoff::Backoff;
use crate::worker::launcher::{NoSlot, launch_feeder};
use pgrx::bgworkers::{BackgroundWorkerStatus, DynamicBackgroundWorker};
use pgrx::pg_sys;
use pgrx::prelude::*;
use rte_core::tenants::turns::{self, Bounds, Serving, Waiting};
use rte_protocol::wire::{CloseCode, ErrorCode};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Between plans while somebody waits, and while nobody does.
const BUSY: Duration = Duration::from_millis(20);
const CALM: Duration = Duration::from_secs(1);
/// Time for clients of a feeder that has none: those who wait are just attaching, others may be reloading a page.
const GRACE: Duration = Duration::from_millis(500);
/// The gateway says again that clients wait; those of whom it does not have gone.
const WANTED: Duration = Duration::from_secs(3);
/// Time that nobody may be launched before the log is told, and between two such lines.
const PATIENCE: Duration = Duration::from_secs(1);
const COMPLAIN: Duration = Duration::from_secs(60);
/// A sleeping tenant's log is looked after at most this often.
const VISITS: Duration = Duration::from_secs(60);
/// The same while a segment is full, so that writers, who have a few more, do not have to leave changes out.
const BETWEEN: Duration = Duration::from_millis(100);

struct Launched {
    worker: DynamicBackgroundWorker,
    at: Instant,
    visit: bool,
}

/// Feeders of tenants that this process has launched.
pub struct Launches {
    /// By database.
    running: HashMap<u32, Launched>,
    backoff: HashMap<u32, Backoff>,
    /// The last attempt found no free slot.
    full: bool,
    complained_at: Option<Instant>,
    pub next: Instant,
}

impl Launches {
    pub fn new() -> Self {
        Self {
            running: HashMap::new(),
            backoff: HashMap::new(),
            full: false,
            complained_at: None,
            next: Instant::now(),
        }
    }

    /// Tries at once what was put off.
    pub fn forgive(&mut self) {
        self.backoff.clear();
        self.next = Instant::now();
    }

    /// Takes note of those that have ended.
    fn reap(&mut self) {
        let backoff = &mut self.backoff;
        self.running.retain(|database, launched| match launched.worker.pid() {
            Ok(_) | Err(BackgroundWorkerStatus::NotYetStarted) => true,
            Err(_) => {
                let slot = shmem::find_database((*database).into());
                if slot.is_some_and(|slot| slot.get().ended_well.swap(false, Ordering::AcqRel)) {
                    backoff.remove(database);
                } else {
                    backoff.entry(*database).or_insert_with(Backoff::new).ended(launched.at.elapsed());
                }
                false
            }
        });
    }
}

/// Whether a tenant that nobody is connected to needs a visit: to have its extension created, or its log looked after.
fn needs_visit(known: &Known, slot: shmem::Slot, now: Instant) -> bool {
    let database = slot.get();
    let created =
        matches!(database.extension(), Extension::There | Extension::Dropped) || !guc::auto_create_extension();
    if !created {
        return true;
    }
    let since = known.visited.map(|at| now.duration_since(at));
    if database.rotate.load(Ordering::Acquire) {
        return since.is_none_or(|since| since >= BETWEEN);
    }
    if known.lags {
        return since.is_none_or(|since| since >= super::slots::LOOK);
    }
    // As often as a segment of the log gets old, and only where something was written to it.
    let age = Duration::from_micros(guc::retention_us().unsigned_abs() / (shmem::SEGMENTS as u64 - 1)).max(VISITS);
    database.extension() == Extension::There && database.has_log() && since.is_none_or(|since| since >= age)
}

impl Feeder {
    /// Launches the feeders whose turn it is, and asks others to make room.
    pub(super) fn launch_feeders(&mut self, landlord: &mut Landlord, now: Instant) {
        if now < landlord.launches.next {
            return;
        }
        landlord.launches.reap();
        let began = self.began;
        let ms = |at: Instant| at.saturating_duration_since(began).as_millis() as u64;
        self.give_up_waiting(landlord, now);

        let serving = serving(landlord, self.database, ms, now);
        let mut waiting = Vec::new();
        let mut longest = None;
        for known in landlord.known.values_mut() {
            let Some(oid) = known.database else { continue };
            let visited = landlord.launches.running.get(&oid.to_u32()).is_some_and(|l| l.visit);
            let served = !visited && serving.iter().any(|s| s.database == oid.to_u32() && !s.leaving);
            let due = landlord.launches.backoff.get(&oid.to_u32()).is_none_or(Backoff::is_due);
            let Some(slot) = shmem::database(oid) else { continue };
            slot.get().waiting.store(known.wanted.is_some() && !served, Ordering::Relaxed);
            if served {
                known.wanted = None;
                continue;
            }
            let since = known.wanted.map(|(since, _)| since);
            if due && (since.is_some() || needs_visit(known, slot, now)) {
                longest = longest.max(since.map(|since| now.duration_since(since)));
                waiting.push(Waiting {
                    database: oid.to_u32(),
                    served: known.served.map(ms),
                    since: since.map_or(0, ms),
                    clients: since.is_some(),
                });
            }
        }
        landlord.launches.next = now + if waiting.iter().any(|w| w.clients) { BUSY } else { CALM };
        if waiting.is_empty() {
            landlord.launches.full = false;
            return;
        }
        let bounds = Bounds {
            feeders: guc::max_feeders(),
            turn: guc::feeder_min_turn_ms(),
            grace: GRACE.as_millis() as u64,
            full: std::mem::take(&mut landlord.launches.full),
        };
        let count = waiting.iter().filter(|w| w.clients).count();
        // One visit at a time: after a start of the server there are as many as tenants.
        let mut visits = landlord.launches.running.values().all(|l| !l.visit);
        waiting.retain(|w| w.clients || std::mem::take(&mut visits));
        let plan = turns::plan(waiting, &serving, bounds, ms(now));
        for database in plan.launch {
            if self.launch_one(landlord, database, now).is_err() {
                landlord.launches.full = !shmem::make_room(Kind::Feeder, self.database);
                break;
            }
        }
        for database in plan.leave {
            let worker = shmem::workers().find(|w| w.is(Kind::Feeder) && w.database().to_u32() == database);
            if let Some(worker) = worker {
                worker.ask_to_leave();
            }
        }
        if longest.is_some_and(|longest| longest >= PATIENCE) {
            complain(landlord, count, now);
        }
    }

    /// Tells clients to come back whose tenant had no turn in the time that a connection may take.
    fn give_up_waiting(&mut self, landlord: &mut Landlord, now: Instant) {
        let mut refused = Vec::new();
        for known in landlord.known.values_mut() {
            let Some((since, last)) = known.wanted else { continue };
            let extension = known.database.and_then(shmem::find_database).map(|slot| slot.get().extension());
            let why = if known.database.is_some_and(|oid| shmem::database(oid).is_none()) {
                "the server has no room for another database (rte.max_databases)"
            } else if matches!(extension, Some(Extension::Missing | Extension::Dropped)) {
                "the extension whagons_rte is not in the tenant's database"
            } else if now.duration_since(since) >= guc::tenant_start_timeout() * 3 / 4 {
                "all workers are busy with other tenants"
            } else {
                if now.duration_since(last) >= WANTED {
                    known.wanted = None;
                }
                continue;
            };
            known.wanted = None;
            refused.push((known.tenant.name.clone(), why));
        }
        for (name, why) in refused {
            self.unavailable(name, CloseCode::TryAgainLater, ErrorCode::TenantNotReady, why);
        }
    }

    fn launch_one(&mut self, landlord: &mut Landlord, database: u32, now: Instant) -> Result<(), NoSlot> {
        let oid = database.into();
        let Some(known) = landlord.known.values_mut().find(|k| k.database == Some(oid)) else { return Ok(()) };
        let name = known.tenant.name.clone();
        let task = if known.wanted.is_some() { Task::Serve(name) } else { Task::Visit(name) };
        let worker = launch_feeder(oid, &known.tenant.database, Some(&task.to_text()))?;
        if known.wanted.is_some() {
            known.served = Some(now);
        }
        known.visited = Some(now);
        let visit = matches!(task, Task::Visit(_));
        landlord.launches.running.insert(database, Launched { worker, at: now, visit });
        Ok(())
    }
}

/// The feeders of tenants that run or are being started.
fn serving(landlord: &Landlord, own: pg_sys::Oid, ms: impl Fn(Instant) -> u64, now: Instant) -> Vec<Serving> {
    // SAFETY: reads the clock.
    let clock = unsafe { pg_sys::GetCurrentTimestamp() };
    let ago = |at: i64| ms(now).saturating_sub(clock.saturating_sub(at).unsigned_abs() / 1000);
    let mut serving: Vec<Serving> = shmem::workers()
        .filter(|w| w.is(Kind::Feeder) && w.database() != own)
        .map(|w| Serving {
            database: w.database().to_u32(),
            since: ago(w.started_at.load(Ordering::Relaxed)),
            idle: w.idle_since().map(ago),
            leaving: w.is_leaving(),
        })
        .collect();
    for (database, launched) in &landlord.launches.running {
        if serving.iter().all(|s| s.database != *database) {
            serving.push(Serving { database: *database, since: ms(launched.at), idle: None, leaving: false });
        }
    }
    serving
}

fn complain(landlord: &mut Landlord, waiting: usize, now: Instant) {
    let launches = &mut landlord.launches;
    if launches.complained_at.is_some_and(|at| now < at + COMPLAIN) {
        return;
    }
    launches.complained_at = Some(now);
    let (workers, feeders) = (guc::max_worker_processes(), guc::max_feeders());
    ereport!(
        PgLogLevel::WARNING,
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        format!("{waiting} tenants wait for a worker: tenants take turns"),
        format!("Raise max_worker_processes (now {workers}), or rte.max_feeders (now in effect: {feeders}).")
    );
}
