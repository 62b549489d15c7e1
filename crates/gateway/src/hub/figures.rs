//! What a sweep finds for the figures of the process and of each database. Gauges are of all threads together, so each adds
//! what has changed since it last looked.

use super::Hub;
use crate::connection::ConnState;
use crate::directory::FeederId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What there is at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gauges {
    sessions: u64,
    subscriptions: u64,
    queued: u64,
}

impl Gauges {
    fn add(&mut self, state: &ConnState) {
        self.queued += (state.queue.total() + state.session.kept_bytes()) as u64;
        if state.session.is_open() && state.closing.is_none() {
            self.sessions += 1;
            self.subscriptions += state.session.subscriptions() as u64;
        }
    }

    /// Brings gauges from what they said last to what there is.
    fn show(self, last: &mut Self, [sessions, subscriptions, queued]: [&AtomicU64; 3]) {
        sessions.fetch_add(self.sessions.wrapping_sub(last.sessions), Relaxed);
        subscriptions.fetch_add(self.subscriptions.wrapping_sub(last.subscriptions), Relaxed);
        queued.fetch_add(self.queued.wrapping_sub(last.queued), Relaxed);
        *last = self;
    }
}

/// What a sweep adds up.
#[derive(Debug, Default)]
pub struct Sums {
    all: Gauges,
    by_feeder: HashMap<FeederId, Gauges>,
}

impl Sums {
    pub fn add(&mut self, state: &ConnState) {
        self.all.add(state);
        if let Some(feeder) = state.feeder {
            self.by_feeder.entry(feeder).or_default().add(state);
        }
    }
}

impl Hub {
    /// Adds what has changed since the last sweep of this thread.
    pub(super) fn show_gauges(&mut self, sums: &Sums) {
        let f = &self.shared.metrics.figures;
        sums.all.show(&mut self.gauges, [&f.sessions, &f.subscriptions, &f.queue_bytes]);
        for (id, feeder) in &mut self.feeders {
            let sum = sums.by_feeder.get(id).copied().unwrap_or_default();
            let counts = &feeder.figures.counts;
            sum.show(&mut feeder.gauges, [&counts.connections, &counts.subscriptions, &counts.queue_bytes]);
        }
    }

    /// Tells the figures of its database what a connection was sent since it was last asked.
    pub(super) fn tell_sent_bytes(&self, state: &mut ConnState) {
        if let Some(feeder) = state.feeder.and_then(|f| self.feeders.get(&f)) {
            let sent = state.sent_bytes - std::mem::replace(&mut state.told_bytes, state.sent_bytes);
            feeder.figures.counts.sent_bytes_total.fetch_add(sent, Relaxed);
        }
    }

    /// The ticks of a batch are written: notes how old they have become.
    pub fn note_lags(&mut self) {
        if self.written.is_empty() {
            return;
        }
        let now = Instant::now();
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
        for (id, made) in self.written.drain(..) {
            // The clock may have been set back meanwhile.
            let lag = u64::try_from(i128::try_from(micros).unwrap_or_default() - i128::from(made)).unwrap_or_default();
            self.shared.metrics.lags.note(now, lag);
            if let Some(feeder) = self.feeders.get(&id) {
                feeder.figures.lags.note(now, lag);
            }
        }
    }
}
