//! The query worker: reads snapshots for clients, as their role, compares what they hold, and asks the SQL hook whose a token is, in one short
//! transaction per job. It is connected as `rte.authenticator_role`, where that is set.
//!
//! Decides which rows Postgres shows to a role, by asking Postgres, and whether a job is one that the
//! feeder made. Leaves to the feeder what a job contains, and to the gateway who gets the rows. The gateway is
//! treated as hostile: frames are bounded, jobs are signed, and what does not parse ends the connection.
//! Main thread of its own process; ends after an idle time-out, by SIGTERM, or with the postmaster.

mod accept;
mod authenticate;
mod failure;
mod link;
mod others;
mod parts;
mod rows;
mod snapshot;
mod timeout;
mod verify;
mod wait;

use crate::access::{drift, reads};
use crate::job::Job;
use crate::shmem::{self, Kind, State};
use crate::worker::process::{self, Terminate};
use crate::{compat, encode, guc};
use accept::Refused;
use failure::Failure;
use link::{Incoming, Link, LinkError};
use others::Other;
use pgrx::pg_sys;
use pgrx::prelude::*;
use rte_protocol::bridge::{Attach, FromWorker, JobId};
use std::ffi::{CStr, CString};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use wait::{Wake, wait};

/// Pause between attempts to reach the gateway.
const RETRY_MS: u64 = 100;

/// Settings of this process, beside those that the text of values depends on: a scan that streams to a
/// socket gains nothing from compiling or from parallel workers, and row security must not turn into an error.
const SETTINGS: &[(&CStr, &CStr)] = &[
    (c"row_security", c"on"),
    (c"jit", c"off"),
    (c"max_parallel_workers_per_gather", c"0"),
    // A snapshot takes as long as its client reads; the stall time-out bounds it.
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    (c"transaction_timeout", c"0"),
];

/// What a worker is told: its database, and the role to connect as; an invalid one is the server's owner.
pub fn argument(database: pg_sys::Oid, role: pg_sys::Oid) -> pg_sys::Datum {
    pg_sys::Datum::from(u64::from(role.to_u32()) << 32 | u64::from(database.to_u32()))
}

/// Entry point; `arg` as [`argument`] made it.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn rte_query_worker_main(arg: pg_sys::Datum) {
    let packed = arg.value() as u64;
    #[allow(clippy::cast_possible_truncation, reason = "two oids in a datum")]
    let (database, role) = (pg_sys::Oid::from(packed as u32), pg_sys::Oid::from((packed >> 32) as u32));
    start(database, role);
    let idle = Duration::from_millis(guc::query_worker_idle_timeout_ms());
    let mut until = Instant::now() + idle;
    while Instant::now() < until {
        let Some(mut link) = attach(database) else {
            wait::note_idle(true);
            if wait(None, 0, RETRY_MS) == Wake::Shutdown || wait::is_asked_to_leave() {
                break;
            }
            continue;
        };
        // A connection that did some work earns the worker another idle time.
        let (worked, end) = serve(&mut link, until);
        if worked {
            until = Instant::now() + idle;
        }
        match end {
            End::Idle | End::Shutdown => break,
            End::Lost(LinkError::Gone) => {}
            End::Lost(why) => ereport!(
                PgLogLevel::LOG,
                PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
                format!("whagons_rte query worker drops its connection to the gateway: {why}")
            ),
        }
        if wait(None, 0, RETRY_MS) == Wake::Shutdown {
            break;
        }
    }
    // SAFETY: the regular end of a background worker.
    unsafe { pg_sys::proc_exit(0) };
}

/// Signals, connection to the database, settings.
fn start(database: pg_sys::Oid, role: pg_sys::Oid) {
    process::install_signal_handlers(Terminate::Dies);
    // SAFETY: once, at the start of a background worker that asked for database access.
    unsafe { compat::connect_as(database, role) };
    if let Some(worker) = shmem::enter_this_worker(Kind::QueryWorker, database) {
        worker.state.store(State::Running as i32, Ordering::Relaxed);
        wait::enter(worker);
    }
    encode::pin_settings();
    reads::listen();
    drift::watch();
    for (name, value) in SETTINGS {
        set(name, value);
    }
    // SAFETY: copies the C string.
    unsafe { pg_sys::pgstat_report_appname(c"whagons_rte query worker".as_ptr()) };
    wait::report_idle();
}

/// Sets a setting for the rest of the process, above the levels of server, database and role.
fn set(name: &CStr, value: &CStr) {
    // SAFETY: outside a transaction; both are C strings, and the values are valid.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
}

/// Connects and says who we are, or nothing where the gateway is not there (yet).
fn attach(database: pg_sys::Oid) -> Option<Link> {
    let path = guc::bridge_path();
    if path.is_empty() {
        return None;
    }
    let mut link = Link::connect(&path).ok()?;
    link.send(&Attach::Worker { database: database.to_u32(), pid: std::process::id() }, &[]).ok()?;
    Some(link)
}

/// Why a connection is no longer served.
enum End {
    Idle,
    Shutdown,
    Lost(LinkError),
}

/// Does the jobs of a connection until it ends or nothing comes until `until`. Tells whether it did one.
fn serve(link: &mut Link, mut until: Instant) -> (bool, End) {
    let idle = Duration::from_millis(guc::query_worker_idle_timeout_ms());
    let mut worked = false;
    loop {
        match link.receive() {
            Ok(Some(Incoming::Job { job, blob, others })) => {
                wait::note_idle(false);
                match work(link, job, &blob, &others) {
                    Ok(()) => {}
                    // The gateway gives the job to a worker that is launched anew.
                    Err(LinkError::Outdated) => return (worked, End::Shutdown),
                    Err(lost) => return (worked, End::Lost(lost)),
                }
                worked = true;
                until = Instant::now() + idle;
            }
            // About a job that has ended meanwhile.
            Ok(Some(Incoming::Word { .. })) => {}
            Ok(None) => {
                wait::note_idle(true);
                if wait::is_asked_to_leave() {
                    return (worked, End::Shutdown);
                }
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return (worked, End::Idle);
                }
                if wait(Some(link.fd()), pg_sys::WL_SOCKET_READABLE, millis(left)) == Wake::Shutdown {
                    return (worked, End::Shutdown);
                }
            }
            Err(lost) => return (worked, End::Lost(lost)),
        }
    }
}

/// How a job ended. Its transaction is over in any case.
enum Outcome {
    Done,
    /// The answer to a question, signed.
    Answered(Vec<u8>),
    Cancelled,
    Failed(Failure),
    Lost(LinkError),
}

fn abort() {
    // SAFETY: ends the transaction in whatever state it is; does nothing where there is none.
    unsafe { pg_sys::AbortCurrentTransaction() };
}

/// Does a job and says how it ended.
fn work(link: &mut Link, job: JobId, blob: &[u8], others: &[(JobId, Vec<u8>)]) -> Result<(), LinkError> {
    // A table that somebody holds locked must not hold the snapshot for longer than a slow client may.
    let stall = CString::new(guc::stall_timeout_ms().to_string()).unwrap_or_default();
    set(c"lock_timeout", &stall);
    wait::report_running(c"whagons_rte: snapshot");
    timeout::start();
    let conditioned = AtomicBool::new(false);
    let verifies = AtomicBool::new(false);
    let outcome = PgTryBuilder::new(AssertUnwindSafe(|| match accept::accept(job, blob) {
        Ok((Job::Snapshot(work), key)) => {
            let same = |(job, blob): &(JobId, Vec<u8>)| Other::of(*job, accept::verified(*job, blob, &key)?, &work);
            let others: Vec<Other> = others.iter().filter_map(same).collect();
            conditioned.store(work.tables.iter().any(|table| table.condition.is_some()), Ordering::Relaxed);
            snapshot::run(link, job, &work, &others)
        }
        Ok((Job::Verify(work), key)) => {
            verifies.store(true, Ordering::Relaxed);
            verify::run(link, &work, &key)
        }
        Ok((Job::Authenticate(work), key)) => authenticate::run(&work, &key),
        Err(Refused::Failed(failure)) => Outcome::Failed(failure),
        Err(Refused::Outdated) => Outcome::Lost(LinkError::Outdated),
    }))
    .catch_others(|error| {
        // Ends the transaction first: it gives back the role, locks, pins and SPI's state.
        abort();
        let failure = Failure::of(&error, conditioned.load(Ordering::Relaxed));
        Outcome::Failed(if verifies.load(Ordering::Relaxed) { Failure::not_verified() } else { failure })
    })
    .execute();
    timeout::stop();
    wait::report_idle();
    match outcome {
        Outcome::Answered(answer) => link.send(&FromWorker::Answer { job }, &answer),
        Outcome::Done | Outcome::Cancelled => link.send(&FromWorker::End { job }, &[]),
        Outcome::Failed(failure) => link.send(&failure.message(job), &[]),
        Outcome::Lost(lost) => Err(lost),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
