//! The clock of an I/O thread: one sweep over its connections instead of timers per connection.
//!
//! Decides who has been silent, slow or late for too long, and sends pings and bare commits.

use super::figures::Sums;
use super::{Hub, LINGER};
use crate::connection::{Conn, ConnState};
use crate::event::ToBridge;
use crate::wire::Wire;
use rte_protocol::bridge::GatewayConfig;
use rte_protocol::wire::CloseCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Sweeps per shortest time-out.
const SWEEPS: u64 = 10;

/// The time between two sweeps.
pub fn interval(config: &GatewayConfig) -> Duration {
    let shortest = [config.heartbeat_ms, config.hello_timeout_ms, config.stall_timeout_ms, config.tenant_wait_ms];
    let shortest = shortest.into_iter().min().unwrap_or_default();
    Duration::from_millis((shortest / SWEEPS).clamp(10, 1000))
}

impl Hub {
    /// Looks at every connection.
    pub fn sweep(&mut self) {
        self.now = Instant::now();
        let heartbeat = Duration::from_millis(self.config.heartbeat_ms);
        // Sweeps come at intervals; what is due before the next one is due now.
        let due = heartbeat.saturating_sub(interval(&self.config) * 2);
        let mut sums = Sums::default();
        self.each(|hub, conn, state| {
            sums.add(state);
            hub.tell_sent_bytes(state);
            hub.look(conn, state, heartbeat, due);
        });
        self.forget_asked();
        self.holdings.forget();
        self.deflater.borrow_mut().forget();
        if std::mem::take(&mut self.held_back) {
            self.place_waiting();
        }
        self.flush_all();
        self.show_gauges(&sums);
    }

    pub(super) fn look(&mut self, conn: &Rc<Conn>, state: &mut ConnState, heartbeat: Duration, due: Duration) {
        let now = self.now;
        state.queue.trim();
        let past = |since: Instant, time: Duration| now.duration_since(since) > time;
        if let Some(closing) = state.closing {
            if past(closing, LINGER) {
                self.end(state);
            }
            return;
        }
        let hello_timeout = Duration::from_millis(self.config.hello_timeout_ms);
        if !state.session.has_hello() && past(state.since, hello_timeout) {
            self.close(conn, state, CloseCode::Timeout);
            return;
        }
        if state.held_back {
            self.look_at_held_back(state);
        }
        if state.session.is_resolving() {
            self.look_at_waiting(conn, state);
            if state.closing.is_some() {
                return;
            }
        }
        if let Some((job, since)) = state.asking
            && past(since, hello_timeout)
            && let Some(feeder) = state.feeder
        {
            state.asking = None;
            self.tell(ToBridge::GiveUpAsk { feeder, job });
        }
        let stall = Duration::from_millis(self.config.stall_timeout_ms);
        let answer = state.requests().map(|r| (r.is_answering(), r.has_paced())).unwrap_or_default();
        let stalled = (state.queue.has_paced() || answer.1) && past(state.last_progress, stall);
        let waits = !state.queue.is_empty() || answer.0;
        if waits && (stalled || past(state.last_progress, heartbeat * 2)) {
            self.slow(conn, state);
            return;
        }
        if matches!(conn.wire, Wire::Poll) && !self.look_at_poll(conn, state, heartbeat) {
            self.close(conn, state, CloseCode::Timeout);
            return;
        }
        if !state.paused && past(state.last_received, heartbeat * 2) {
            self.close(conn, state, CloseCode::Timeout);
            return;
        }
        if past(state.last_ping, due) {
            state.last_ping = now;
            self.push_ping(conn, state);
        }
        if past(state.last_commit, due)
            && let Some(tick) = state.feeder.and_then(|f| self.closed_tick(f))
        {
            let mut actions = self.take_actions();
            state.session.bare_commit(&tick, &mut actions);
            self.carry_out(conn, state, actions);
        }
    }
}
