//! By triggers or from the WAL: which of the two captures a table, and the life of the slot that the WAL is read from.
//!
//! The state of a table's triggers is its mode, and whoever changes it waits for the transactions that have written the table. So
//! each transaction is captured, per table, wholly by one of the two; nothing is lost when a table is switched, and clients need not
//! know. Invariant: while a table is captured from the WAL there is a slot that has all of it, or else clients are told
//! nothing of the table until its triggers are enabled and they have read it anew.
//!
//! No writer waits for long: a table that a long transaction has is left for later, and a lock that is not had soon is given up.
//! Main thread only, outside a transaction.

use super::Feeder;
use super::tenants::Task;
use super::wal::{Lost, Wal};
use crate::guc::{self, Capture};
use crate::worker::{process, slot_maker};
use crate::{attempt, capture, changelog, wal};
use pgrx::bgworkers::{BackgroundWorkerStatus, DynamicBackgroundWorker};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Between looks, where nothing asks for one sooner, while the slot lags, and while something is on its way.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_AT_LAG: Duration = Duration::from_millis(250);
const SOON: Duration = Duration::from_millis(20);
/// Wait for the lock of a table; writers that come meanwhile wait behind us.
const LOCK: Duration = Duration::from_millis(100);
/// Pauses between attempts to switch a table.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The same where nobody is served the table meanwhile.
const LONGEST_PAUSE_LOST: Duration = Duration::from_millis(500);
/// Until a slot is tried again that was lost or could not be made, at first and at most.
const AFTER_LOSS: Duration = Duration::from_secs(2);
const AFTER_LAG: Duration = Duration::from_secs(60);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// A slot that was kept for so long had been a success.
const KEPT_WELL: Duration = Duration::from_secs(600);
/// Slots that `auto` leaves to others.
const LEFT_TO_OTHERS: i64 = 2;

/// What the feeder knows of switching.
pub struct Switch {
    at: Instant,
    maker: Option<DynamicBackgroundWorker>,
    /// When a slot may be made again, and the pause after another failure.
    retry: (Instant, Duration),
    opened_at: Instant,
    /// Tables that could not be switched: when to try again, and the pause after that.
    postponed: HashMap<Oid, (Instant, Duration)>,
    /// When a table was last switched to triggers, and by which transaction.
    switched: (Instant, u64),
    /// The slot holds back so much that tables are switched back, to lose nothing when it goes.
    retreats: bool,
    /// There are tables whose changes nobody captures.
    broken: bool,
    /// Why the last slot was given up.
    why: String,
    /// There are tables captured from the WAL, and the slot is not open yet: nothing can be told.
    blind: bool,
    /// What the log was told last.
    said: String,
}

impl Switch {
    pub fn new(now: Instant) -> Self {
        Self {
            at: now,
            maker: None,
            retry: (now, AFTER_LOSS),
            opened_at: now,
            postponed: HashMap::new(),
            switched: (now, 0),
            retreats: false,
            broken: false,
            why: String::new(),
            blind: false,
            said: String::new(),
        }
    }

    /// When to look again.
    pub fn next(&self) -> Instant {
        self.at
    }

    /// Looks at once, and tries at once what was put off: settings have changed.
    pub fn look_again(&mut self) {
        self.at = Instant::now();
        self.retry = (self.at, AFTER_LOSS);
    }

    /// Whether ticks have to wait.
    pub fn is_blind(&self) -> bool {
        self.blind
    }

    /// No slot is tried for a while.
    fn back_off(&mut self, least: Duration, now: Instant) {
        let pause = self.retry.1.max(least);
        self.retry = (now + pause, (pause * 2).min(LONGEST_WAIT));
    }

    fn say(&mut self, level: PgLogLevel, what: String, hint: &str) {
        if self.said != what {
            self.said.clone_from(&what);
            if hint.is_empty() {
                ereport!(level, PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, what);
            } else {
                ereport!(level, PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, what, hint.to_owned());
            }
        }
    }
}

/// A registered table as it is captured now.
struct Table {
    oid: Oid,
    mode: u8,
    /// Whether the WAL has its changes at all.
    logged: bool,
}

/// The slot of our name.
struct Found {
    usable: bool,
    lag: u64,
}

struct Seen {
    tables: Vec<Table>,
    slot: Option<Found>,
    /// Slots that the server has left.
    free: i64,
}

impl Seen {
    fn read(name: &str) -> Result<Self, pgrx::spi::Error> {
        Spi::connect(|client| {
            let mut tables = Vec::new();
            for row in client.select(include_str!("switch_tables.sql"), None, &[])? {
                let Some(oid) = row["relation"].value::<Oid>()? else { continue };
                let mode = row["capture"].value::<i8>()?.unwrap_or_default() as u8;
                tables.push(Table { oid, mode, logged: row["logged"].value::<bool>()?.unwrap_or(false) });
            }
            let (mut slot, mut free) = (None, 0);
            for row in client.select(include_str!("switch_slot.sql"), None, &[DatumWithOid::from(name)])? {
                free = row["free"].value::<i64>()?.unwrap_or(0);
                if let Some(usable) = row["usable"].value::<bool>()? {
                    let lag = row["lag"].value::<i64>()?.unwrap_or(0).unsigned_abs();
                    slot = Some(Found { usable, lag });
                }
            }
            Ok(Self { tables, slot, free })
        })
    }

    fn any(&self, modes: &[u8]) -> bool {
        self.tables.iter().any(|t| modes.contains(&t.mode))
    }
}

/// How an attempt to switch a table ended.
enum Outcome {
    /// By this transaction.
    Switched(u64),
    /// Somebody has it.
    Held,
    Failed(String),
}

impl Feeder {
    /// Sees to it that tables are captured as they should be, and that the slot is there, is read, and does not grow without
    /// bound. Before a tick, so that none tells what is not whole.
    pub(super) fn tend_capture(&mut self, now: Instant) {
        let lost = self.wal_lost.take();
        let redefined = self.slot.get().redefined.swap(false, Ordering::AcqRel);
        let made = self.switch.maker.as_ref().is_some_and(|maker| !runs(maker));
        if lost.is_none() && !redefined && !made && now < self.switch.at {
            return;
        }
        self.switch.at = now + LOOK;
        let name = wal::slot_name(self.database);
        let Some(mut seen) = self.see(&name) else { return };
        if let Some(why) = lost {
            self.lose(&why.to_string(), AFTER_LOSS, &mut seen, now);
        }
        // What one that was opened just now held back was not read yet.
        if !self.open_slot(&name, &mut seen, now) {
            self.bound_slot(&mut seen, now);
        }
        if self.wal.is_none() && !self.switch.blind && seen.any(b"wd") {
            self.recover(&seen, now);
        }
        let wanted = self.wants_wal(&seen);
        if self.wal.is_none() {
            if wanted && !self.switch.broken && !self.switch.blind {
                self.make_slot(&seen, now);
            }
        } else {
            self.switch_tables(&seen, wanted && !self.switch.retreats, now);
        }
        if let Some(wal) = &mut self.wal {
            wal.read_tables_anew();
        }
    }

    /// Nothing, where the extension is not there any more.
    fn see(&self, name: &str) -> Option<Seen> {
        process::transaction(|_| {
            if changelog::schema_oid() != self.schema || changelog::relation_oid("registered_table").is_none() {
                return None;
            }
            Some(Seen::read(name).unwrap_or_else(|e| pgrx::error!("could not read how tables are captured: {e}")))
        })
    }

    /// Whether tables are to be captured from the WAL, where that can be.
    fn wants_wal(&mut self, seen: &Seen) -> bool {
        let asked = guc::capture();
        if asked == Capture::Trigger || !seen.tables.iter().any(|t| t.logged) {
            return false;
        }
        let possible = guc::wal_is_logical();
        if !possible && asked == Capture::Wal {
            let what =
                format!("changes of database \"{}\" are captured by triggers: wal_level is not logical", self.name);
            self.switch.say(PgLogLevel::WARNING, what, "Set wal_level = logical and restart the server.");
        }
        possible
    }

    /// Opens the slot, where there is one; tells whether it did.
    fn open_slot(&mut self, name: &str, seen: &mut Seen, now: Instant) -> bool {
        self.switch.blind = false;
        let Some(found) = &seen.slot else { return false };
        if self.wal.is_some() || self.switch.maker.as_ref().is_some_and(runs) {
            return false;
        }
        self.switch.maker = None;
        let opened = if found.usable { Wal::open(name) } else { Err(Lost::Invalidated) };
        match opened {
            Ok(wal) => {
                self.wal = Some(wal);
                self.begin_wal();
                self.switch.opened_at = now;
                self.switch.retreats = false;
                self.registry.invalidate();
                let what = format!("changes of database \"{}\" are read from the WAL, slot \"{name}\"", self.name);
                self.switch.say(PgLogLevel::LOG, what, "");
                return true;
            }
            Err(Lost::Busy) => {
                self.switch.blind = seen.any(b"wd");
                self.switch.at = now + SOON;
            }
            Err(why) => {
                if drop_slot(name).is_ok() {
                    seen.slot = None;
                    self.switch.why = why.to_string();
                    self.switch.back_off(AFTER_LOSS, now);
                } else {
                    self.switch.blind = seen.any(b"wd");
                    self.switch.at = now + SOON;
                }
            }
        }
        false
    }

    /// Gives a slot up that is gone, or that holds back too much.
    fn bound_slot(&mut self, seen: &mut Seen, now: Instant) {
        if self.wal.is_none() {
            return;
        }
        let most = guc::max_slot_lag_bytes();
        match &seen.slot {
            None => self.lose("it was dropped", AFTER_LOSS, seen, now),
            Some(found) if !found.usable => self.lose("the server has invalidated it", AFTER_LOSS, seen, now),
            Some(found) if found.lag > most => {
                let why = format!("it holds back {} MB of WAL, more than rte.max_slot_lag", found.lag >> 20);
                self.lose(&why, AFTER_LAG, seen, now);
            }
            Some(found) => {
                if found.lag > most / 8 {
                    self.switch.at = now + LOOK_AT_LAG;
                }
                if !self.switch.retreats && found.lag > most / 4 * 3 {
                    self.switch.retreats = true;
                    self.switch.back_off(AFTER_LAG, now);
                    let what = format!(
                        "slot of database \"{}\" holds back {} MB of WAL: its tables are captured by triggers for now",
                        self.name,
                        found.lag >> 20
                    );
                    self.switch.say(PgLogLevel::WARNING, what, "");
                }
            }
        }
    }

    /// The slot is of no use any more.
    fn lose(&mut self, why: &str, least: Duration, seen: &mut Seen, now: Instant) {
        if let Some(wal) = self.wal.take() {
            wal.close(true);
        } else if seen.slot.is_some() {
            // It may be active still; then it is dropped when it is not.
            let _ = drop_slot(&wal::slot_name(self.database));
        }
        if now >= self.switch.opened_at + KEPT_WELL {
            self.switch.retry.1 = AFTER_LOSS;
        }
        seen.slot = None;
        self.switch.retreats = false;
        self.switch.back_off(least, now);
        self.registry.invalidate();
        self.switch.why = why.to_owned();
        if !seen.any(b"wd") {
            let what = format!("slot of database \"{}\" is given up: {why}", self.name);
            self.switch.say(PgLogLevel::LOG, what, "");
        }
    }

    /// There is no slot, and there are tables of which changes may have been missed: they are captured by triggers again as soon
    /// as they can be, in a transaction that tells clients to read them anew. Until then they are not served.
    fn recover(&mut self, seen: &Seen, now: Instant) {
        if !self.switch.broken {
            self.switch.broken = true;
            self.switch.postponed.clear();
            self.registry.invalidate();
            let why = std::mem::take(&mut self.switch.why);
            let why = if why.is_empty() { "there is none" } else { &why };
            let what = format!(
                "replication slot of database \"{}\" is lost ({why}): clients resynchronise, and triggers capture changes",
                self.name
            );
            self.switch.say(PgLogLevel::WARNING, what, "");
            process::transaction(|_| settle_tables(true));
            for table in seen.tables.iter().filter(|t| t.mode == b'w') {
                self.switch_table(table.oid, b'd', true, now);
            }
            // What is not had at once is told to nobody.
            self.stale.extend(self.switch.postponed.keys());
        }
        self.switch.postponed.retain(|oid, _| seen.tables.iter().any(|t| t.oid == *oid && t.mode == b'w'));
        for oid in self.switch.postponed.keys().copied().collect::<Vec<_>>() {
            if !self.switch_table(oid, b'd', true, now) {
                break;
            }
        }
        let left = self.switch.postponed.len();
        self.switch.broken = left > 0;
        if left > 0 {
            self.switch.at = self.switch.at.min(now + SOON);
        }
    }

    /// Has tables captured from the WAL, or by triggers; lets the slot go where none needs it.
    fn switch_tables(&mut self, seen: &Seen, wanted: bool, now: Instant) {
        let to = |t: &Table| match (t.mode, wanted && t.logged) {
            (b'w', false) => Some(b'd'),
            (b't' | b'd', true) => Some(b'w'),
            _ => None,
        };
        self.switch.postponed.retain(|oid, _| seen.tables.iter().any(|t| t.oid == *oid && to(t).is_some()));
        let mut all = true;
        for table in &seen.tables {
            let Some(mode) = to(table) else { continue };
            all = self.switch_table(table.oid, mode, false, now);
            if !all {
                break;
            }
        }
        if !self.switch.postponed.is_empty() || !all {
            let first = self.switch.postponed.values().map(|(at, _)| *at).min();
            self.switch.at = self.switch.at.min(first.unwrap_or(now + SOON).max(now + SOON));
        }
        if !wanted {
            self.settle(seen, &to, now);
        }
    }

    /// What was captured from the WAL of tables that triggers capture now comes into the log; after the last table the slot goes.
    fn settle(&mut self, seen: &Seen, to: &dyn Fn(&Table) -> Option<u8>, now: Instant) {
        let (switched, left) = (seen.any(b"d"), seen.tables.iter().any(|t| to(t).is_some()));
        if left && !switched {
            return;
        }
        self.switch.at = self.switch.at.min(now + SOON);
        // A tick that has seen the last switch has seen all that was captured from the WAL before.
        let (at, xid) = self.switch.switched;
        if switched && (self.ticked_at <= at || !self.last.sees(xid)) {
            return;
        }
        self.settle_wal();
        if !self.wal.as_ref().is_some_and(Wal::is_settled) {
            return;
        }
        process::transaction(|_| settle_tables(false));
        if left {
            return;
        }
        if let Some(wal) = self.wal.take() {
            wal.close(true);
        }
        self.switch.retreats = false;
        self.registry.invalidate();
        let what = format!("changes of database \"{}\" are captured by triggers", self.name);
        self.switch.say(PgLogLevel::LOG, what, "");
    }

    /// Switches a table, if it can be now. `false`: no other is to be tried for now.
    fn switch_table(&mut self, table: Oid, mode: u8, lost: bool, now: Instant) -> bool {
        let (at, pause) = self.switch.postponed.get(&table).copied().unwrap_or((now, FIRST_PAUSE));
        if now < at {
            return true;
        }
        let wait = LOCK.min(pause);
        match try_switch(table, mode, lost, wait) {
            Outcome::Switched(xid) => {
                self.switch.postponed.remove(&table);
                if mode == b'd' {
                    self.switch.switched = (Instant::now(), xid);
                }
                return true;
            }
            Outcome::Held => {}
            Outcome::Failed(why) => {
                let what = format!("could not switch how table {} is captured: {why}", table.to_u32());
                self.switch.say(PgLogLevel::WARNING, what, "");
            }
        }
        let now = Instant::now();
        let longest = if lost { LONGEST_PAUSE_LOST } else { LONGEST_PAUSE };
        self.switch.postponed.insert(table, (now + pause, (pause * 2).min(longest)));
        false
    }

    /// Has a slot made.
    fn make_slot(&mut self, seen: &Seen, now: Instant) {
        if let Some(maker) = &self.switch.maker {
            let held = seen.slot.as_ref().map_or(0, |slot| slot.lag);
            if runs(maker) {
                if held <= guc::max_slot_lag_bytes() / 2 {
                    return;
                }
                // Transactions that began before it keep it waiting, and what it needs of the WAL grows.
                if let Some(maker) = self.switch.maker.take() {
                    let _ = maker.terminate();
                }
            }
            self.switch.maker = None;
            self.switch.back_off(AFTER_LAG, now);
            let what = format!("no slot could be made for database \"{}\": triggers capture its changes", self.name);
            self.switch.say(PgLogLevel::WARNING, what, "");
            return;
        }
        // Who looks in for a moment does not wait for one.
        if now < self.switch.retry.0 || matches!(self.task, Task::Visit(_)) {
            return;
        }
        let auto = guc::capture() == Capture::Auto;
        if seen.free <= if auto { LEFT_TO_OTHERS } else { 0 } {
            let what = format!(
                "changes of database \"{}\" are captured by triggers: the server has no replication slot left for it",
                self.name
            );
            let level = if auto { PgLogLevel::LOG } else { PgLogLevel::WARNING };
            self.switch.say(level, what, "Raise max_replication_slots and restart the server.");
            self.switch.back_off(AFTER_LOSS, now);
            return;
        }
        self.switch.maker = slot_maker::launch(self.database);
        if self.switch.maker.is_none() {
            self.switch.back_off(AFTER_LOSS, now);
        }
    }

    /// Leaves nothing behind: the extension is gone.
    pub(super) fn forsake_slot(&mut self) {
        if let Some(maker) = self.switch.maker.take() {
            let _ = maker.terminate();
        }
        match self.wal.take() {
            Some(wal) => wal.close(true),
            None => forsake_slot(self.database),
        }
    }
}

/// Writes to the WAL which transactions run: a slot that has read that lets go of what lies before. The server's own come every
/// 15 seconds.
pub(super) fn note_running_transactions() {
    // SAFETY: writes a record, and has it on disk, where it can be decoded.
    unsafe { pg_sys::XLogFlush(pg_sys::LogStandbySnapshot()) };
}

/// Drops the slot of a database that has no use for one.
pub fn forsake_slot(database: Oid) {
    if let Err(why) = drop_slot(&wal::slot_name(database)) {
        pgrx::log!("{why}");
    }
}

fn runs(maker: &DynamicBackgroundWorker) -> bool {
    matches!(maker.pid(), Ok(_) | Err(BackgroundWorkerStatus::NotYetStarted))
}

/// In a transaction.
fn settle_tables(lost: bool) {
    Spi::run_with_args("SELECT rte._settle_tables($1)", &[DatumWithOid::from(lost)])
        .unwrap_or_else(|e| pgrx::error!("could not settle how tables are captured: {e}"));
}

/// One attempt, in a transaction of its own.
fn try_switch(table: Oid, mode: u8, lost: bool, wait: Duration) -> Outcome {
    let switched = attempt(|| {
        capture::switching(|| {
            Spi::run(&format!("SET LOCAL lock_timeout = {}", wait.as_millis().max(1)))?;
            let arguments =
                [DatumWithOid::from(table), DatumWithOid::from(char::from(mode).to_string()), DatumWithOid::from(lost)];
            let call = "SELECT rte._switch_table($1, $2::pg_catalog.\"char\", $3)";
            let switched = Spi::get_one_with_args::<bool>(call, &arguments)?.unwrap_or(false);
            // SAFETY: in a transaction.
            Ok(switched.then(|| unsafe { pg_sys::GetTopFullTransactionIdIfAny().value }))
        })
    });
    match switched {
        Ok(Some(xid)) => Outcome::Switched(xid),
        Ok(None) => Outcome::Held,
        Err((PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE | PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED, _)) => {
            Outcome::Held
        }
        Err((_, why)) => Outcome::Failed(why),
    }
}

/// Drops a slot, if there is one, which is not the one that this process reads.
pub(super) fn drop_slot(name: &str) -> Result<(), String> {
    // To drop one is to acquire it, and a process has one at most: that which it reads is laid aside.
    // SAFETY: a pointer of this process' own; the slot stays this process' by its `active_pid`, and nothing in between looks for it.
    let own = unsafe { (&raw mut pg_sys::MyReplicationSlot).replace(std::ptr::null_mut()) };
    let dropped = attempt(|| {
        Spi::run_with_args(
            "SELECT pg_catalog.pg_drop_replication_slot(s.slot_name) FROM pg_catalog.pg_replication_slots s
             WHERE s.slot_name = $1",
            &[DatumWithOid::from(name)],
        )
    });
    give_back_slot();
    // SAFETY: likewise; this process has none now.
    unsafe { pg_sys::MyReplicationSlot = own };
    dropped.map_err(|(_, why)| why)
}

/// Gives back the slot that an error has left acquired, which the end of a transaction does not. Outside a transaction.
pub(super) fn give_back_slot() {
    // SAFETY: a slot of this process'.
    unsafe {
        if !pg_sys::MyReplicationSlot.is_null() {
            pg_sys::ReplicationSlotRelease();
        }
    }
}

fn attempt<R>(f: impl FnOnce() -> Result<R, pgrx::spi::Error>) -> Result<R, (PgSqlErrorCode, String)> {
    process::try_transaction(|_| f().unwrap_or_else(|e| pgrx::error!("{e}"))).map_err(|error| {
        let report = attempt::report(&error);
        (report.sql_error_code(), report.message().to_owned())
    })
}
