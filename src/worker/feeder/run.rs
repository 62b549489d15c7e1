//! The loop of a feeder: what it does in which order, and how long it sleeps. Main thread of its own process.

use super::tick::After;
use super::wal::Wal;
use super::{Feeder, roles, switch};
use crate::worker::process;
use crate::{changelog, guc, shmem};
use pgrx::pg_sys;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a feeder keeps recent ticks after its last session left: a gateway's restart, a flaky network.
const LINGER: Duration = Duration::from_secs(60);

impl Feeder {
    /// Runs until the extension is dropped. That may be between a look whether a table is there and its use: then the error is
    /// no error.
    pub(super) fn run_until_dropped(&mut self, worker: Option<&shmem::Worker>) {
        let Err(error) = process::catch(|| self.run(worker)) else { return };
        switch::give_back_slot();
        if process::transaction(|_| changelog::schema_oid()) == self.schema {
            error.rethrow();
        }
        self.wal = None;
        self.slot.get().wal.store(false, Ordering::SeqCst);
        self.slot.get().interested.store(false, Ordering::Release);
    }

    fn run(&mut self, worker: Option<&shmem::Worker>) {
        let mut messages = Vec::new();
        let mut polled_at = Instant::now();
        loop {
            process::exit_if_asked();
            if process::reload() {
                roles::settings_changed();
                self.switch.look_again();
            }
            self.connect();
            self.receive(&mut messages);
            self.tend_tenants(&mut messages);
            self.tend_capture(Instant::now());
            let now = Instant::now();
            let poll = Duration::from_millis(guc::poll_interval_ms());
            let in_use = self.in_use(now);
            self.slot.get().interested.store(in_use, Ordering::SeqCst);
            let woken = self.slot.get().pending.load(Ordering::SeqCst);
            self.expire();
            self.tend_verifications(&mut messages, now);
            let held = self.verifications.holds_until(now);
            let recheck = self.shapes.are_restless() && now >= self.ticked_at + guc::policy_recheck_interval();
            let commit =
                recheck || self.commit_due || now >= self.commit_at + Duration::from_millis(guc::heartbeat_ms() / 2);
            let postponed = !self.postponed.is_empty() && now >= self.postponed_until;
            let due = (woken && in_use && now >= self.tick_at)
                || commit
                || postponed
                || self.verifications.wants_tick()
                || !messages.is_empty()
                || now >= polled_at + poll;
            if due && held.is_none() && !self.switch.is_blind() {
                polled_at = now;
                match self.guarded_tick(&mut messages, in_use) {
                    After::GoOn => {}
                    After::StartOver(table) => {
                        self.registry.exclude(table);
                        self.start_over();
                        messages.clear();
                    }
                    After::Stop => {
                        if let Some(wal) = self.wal.take() {
                            wal.close(true);
                        }
                        self.slot.get().interested.store(false, Ordering::Release);
                        return;
                    }
                }
            }
            self.tend_wal(Instant::now());
            if now >= self.upkeep_at || self.slot.get().rotate.swap(false, Ordering::AcqRel) {
                self.upkeep_at = self.upkeep(now);
            }
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
        let others = [
            self.wal.as_ref().and_then(Wal::next),
            self.hiring.next(),
            self.landlord.as_ref().map(|l| l.next()),
            self.leave_at(),
        ];
        until = others.into_iter().flatten().fold(until, Instant::min);
        if self.verifications.has_ready() {
            until = until.min(self.tick_at);
        }
        if self.commit_due || self.verifications.wants_tick() {
            until = now;
        }
        if let Some(held) = self.verifications.holds_until(now) {
            until = held;
        }
        until = until.min(self.switch.next());
        if self.switch.is_blind() {
            until = self.switch.next();
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
}
