//! The launcher: starts what must run, and starts it again when it ends.
//!
//! Decides which databases are served and whether the gateway runs; touches no socket of the network. Main
//! thread of its own process, without threads of its own: it forks.

mod child;
mod control;
mod forget;
mod sandbox;

use super::backoff::Backoff;
use super::process::{self, Terminate};
use crate::shmem::{self, Kind, State};
use crate::{compat, guc};
use child::Gateway;
use control::Said;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BackgroundWorkerStatus, DynamicBackgroundWorker};
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::prelude::*;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Between looks for a database that is not there.
const LOOK: Duration = Duration::from_secs(1);
/// Between looks for places in shared memory whose databases are gone, and between complaints that there is none.
const FREE: Duration = Duration::from_secs(10);
const COMPLAIN: Duration = Duration::from_secs(60);

struct Launcher {
    gateway: Option<Gateway>,
    gateway_backoff: Backoff,
    feeder: Option<(DynamicBackgroundWorker, Instant)>,
    feeder_backoff: Backoff,
    /// A database that was looked for in vain, so that the log says so once.
    missing: Option<String>,
    freed_at: Instant,
    complained_at: Option<Instant>,
}

/// Entry point.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn rte_launcher_main(_arg: Datum) {
    process::install_signal_handlers(Terminate::Asks);
    // SAFETY: once, at the start of a background worker; without a database only shared catalogs are there.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
        pg_sys::pgstat_report_appname(c"whagons_rte launcher".as_ptr());
    }
    let worker = shmem::enter_this_worker(Kind::Launcher, Oid::INVALID);
    if let Some(worker) = worker {
        worker.state.store(State::Running as i32, Ordering::Relaxed);
    }
    child::remove_stale_sockets();
    pgrx::log!("{} launcher started", guc::SERVER);
    let mut launcher = Launcher {
        gateway: None,
        gateway_backoff: Backoff::new(),
        feeder: None,
        feeder_backoff: Backoff::new(),
        missing: None,
        freed_at: Instant::now(),
        complained_at: None,
    };
    while !process::shutdown_requested() {
        launcher.step();
    }
    if let Some(gateway) = launcher.gateway.take() {
        gateway.stop();
    }
    pgrx::log!("{} launcher stopped", guc::SERVER);
    // SAFETY: the regular end of a background worker.
    unsafe { pg_sys::proc_exit(0) };
}

impl Launcher {
    fn step(&mut self) {
        if process::reload()
            && let Some(gateway) = &mut self.gateway
        {
            gateway.reload();
        }
        self.watch_gateway();
        self.watch_feeder();
        self.free_databases();
        let mut until = Instant::now() + LOOK;
        if self.gateway.is_none() {
            until = until.min(self.gateway_backoff.at);
        }
        if self.feeder.is_none() && self.missing.is_none() {
            until = until.min(self.feeder_backoff.at);
        }
        let left = until.saturating_duration_since(Instant::now());
        let fd = self.gateway.as_ref().map(Gateway::fd);
        process::wait(fd, pg_sys::WL_SOCKET_READABLE, left.as_micros().div_ceil(1000) as u64);
    }

    fn watch_gateway(&mut self) {
        if let Some(gateway) = &mut self.gateway {
            match gateway.listen() {
                Said::Nothing => {}
                Said::Ended => {
                    let ran = gateway.started_at.elapsed();
                    if let Some(gateway) = self.gateway.take() {
                        gateway.reap();
                    }
                    self.gateway_backoff.ended(ran);
                }
            }
        }
        if self.gateway.is_none() && self.gateway_backoff.is_due() {
            match Gateway::fork() {
                Ok(gateway) => self.gateway = Some(gateway),
                Err(e) => {
                    pgrx::warning!("could not start the whagons_rte gateway: {e}");
                    self.gateway_backoff.ended(Duration::ZERO);
                }
            }
        }
    }

    fn watch_feeder(&mut self) {
        if let Some((feeder, at)) = &self.feeder {
            match feeder.pid() {
                Ok(_) | Err(BackgroundWorkerStatus::NotYetStarted) => return,
                Err(_) => {
                    self.feeder_backoff.ended(at.elapsed());
                    self.feeder = None;
                }
            }
        }
        if !self.feeder_backoff.is_due() {
            return;
        }
        let name = guc::landlord_database();
        let Some(database) = database_oid(&name) else {
            if self.missing.as_ref() != Some(&name) {
                pgrx::log!("whagons_rte waits for database \"{name}\" (rte.landlord_database) to be created");
                self.missing = Some(name);
            }
            return;
        };
        self.missing = None;
        match launch_feeder(database, &name, None) {
            Ok(feeder) => self.feeder = Some((feeder, Instant::now())),
            Err(NoSlot) => {
                pgrx::warning!("could not launch the feeder of database \"{name}\": max_worker_processes is too low");
                shmem::make_room(Kind::Feeder, database);
                self.feeder_backoff.ended(Duration::ZERO);
            }
        }
    }

    /// Gives the places of dropped databases to others, and says when there are too few.
    fn free_databases(&mut self) {
        let wanted = shmem::take_room_wanted();
        if !wanted && self.freed_at.elapsed() < FREE {
            return;
        }
        self.freed_at = Instant::now();
        let freed = shmem::free_databases(|| databases().iter().map(|d| d.oid.to_u32()).collect());
        if wanted && freed == 0 && self.complained_at.is_none_or(|at| at.elapsed() >= COMPLAIN) {
            self.complained_at = Some(Instant::now());
            ereport!(
                PgLogLevel::WARNING,
                PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                "changes of a database are not captured: there is no room for another database",
                "Raise rte.max_databases and restart the server."
            );
        }
    }
}

/// There is no free slot for another background worker.
pub struct NoSlot;

/// Launches the feeder of a database; `task` is what a tenant's is told.
pub fn launch_feeder(database: Oid, name: &str, task: Option<&str>) -> Result<DynamicBackgroundWorker, NoSlot> {
    BackgroundWorkerBuilder::new(&format!("whagons_rte feeder {name}"))
        .set_type("whagons_rte feeder")
        .set_function("rte_feeder_main")
        .set_library("whagons_rte")
        .set_argument(Some(Datum::from(database)))
        .set_extra(task.unwrap_or_default())
        .enable_shmem_access(None)
        .enable_spi_access()
        .set_restart_time(None)
        // SAFETY: a plain read.
        .set_notify_pid(unsafe { pg_sys::MyProcPid })
        .load_dynamic()
        .map_err(|_| NoSlot)
}

struct Found {
    oid: Oid,
    name: String,
    open: bool,
}

fn database_oid(name: &str) -> Option<Oid> {
    databases().into_iter().find(|d| d.name == name && d.open).map(|d| d.oid)
}

/// Looks without an index: a process without a database may not know the indexes of shared catalogs.
fn databases() -> Vec<Found> {
    process::transaction(|_| {
        let mut found = Vec::new();
        // SAFETY: a scan of a shared catalog, in a transaction; rows are read as the catalog's struct.
        unsafe {
            let rel = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
            let scan =
                pg_sys::systable_beginscan(rel, Oid::INVALID, false, std::ptr::null_mut(), 0, std::ptr::null_mut());
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    break;
                }
                let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
                found.push(Found { oid: form.oid, name: compat::name(&form.datname), open: form.datallowconn });
            }
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(rel, pg_sys::AccessShareLock as i32);
        }
        found
    })
}
