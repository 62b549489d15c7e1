//! Figures of the process: plain counters that any thread adds to, and what `/metrics` and `/stats` say of them.
//! I/O threads add once per batch, not once per delivery.

use crate::databases::Databases;
use crate::lag::Lags;
use crate::memory::Memory;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

macro_rules! figures {
    ($($(#[doc = $doc:literal])* $name:ident: $kind:literal,)*) => {
        /// Every figure.
        #[derive(Debug, Default)]
        pub struct Figures { $($(#[doc = $doc])* pub $name: AtomicU64,)* }

        impl Figures {
            /// Name, kind, help, value.
            fn all(&self) -> Vec<(&'static str, &'static str, &'static str, u64)> {
                vec![$((stringify!($name), $kind, concat!($($doc),*), self.$name.load(Ordering::Relaxed))),*]
            }
        }
    };
}

figures! {
    /// connections of clients that are open
    connections: "gauge",
    /// connections of clients that were opened
    connections_total: "counter",
    /// connections that were refused by a limit
    refused_total: "counter",
    /// connections that were refused or closed because they came or asked too often
    rate_limited_total: "counter",
    /// tokens that were wrong
    failed_tokens_total: "counter",
    /// requests that named a connection that was not there
    failed_ids_total: "counter",
    /// sessions that have said hello to a feeder and are open
    sessions: "gauge",
    /// subscriptions of open sessions
    subscriptions: "gauge",
    /// ticks that came from feeders
    ticks_total: "counter",
    /// bytes that wait for clients
    queue_bytes: "gauge",
    /// snapshots that wait or are being read
    snapshots: "gauge",
    /// changes that came from feeders, once per shape
    changes_total: "counter",
    /// changes that were put into queues of connections
    deliveries_total: "counter",
    /// commits that were put into queues of connections
    commits_total: "counter",
    /// bytes that sockets took
    sent_bytes_total: "counter",
    /// writes to sockets
    writes_total: "counter",
    /// messages that came from clients
    received_total: "counter",
    /// largest queue of a connection since the start, bytes
    queue_high_water_bytes: "gauge",
    /// connections that were closed because they took too little
    slow_consumers_total: "counter",
    /// feeders that are attached
    feeders: "gauge",
    /// query workers that are attached
    workers: "gauge",
    /// jobs that wait for a query worker: snapshots, and questions about tokens
    jobs_waiting: "gauge",
    /// jobs that were handed to a query worker
    jobs_total: "counter",
    /// jobs that were answered by what was read for another one
    shared_jobs_total: "counter",
    /// jobs whose sessions could not keep up with others that shared them
    left_behind_total: "counter",
    /// rows of snapshots that were sent
    snapshot_rows_total: "counter",
}

/// What was counted between two samples, per second.
#[derive(Debug, Clone, Copy, Default)]
struct Rates {
    ticks: f64,
    changes: f64,
    deliveries: f64,
    sent_bytes: f64,
    snapshot_rows: f64,
}

/// The figures and their recent past.
#[derive(Debug)]
pub struct Metrics {
    pub figures: Figures,
    pub databases: Databases,
    /// Of ticks of all databases.
    pub lags: Lags,
    memory: Option<Memory>,
    started: Instant,
    last: Mutex<(Instant, [u64; 5], Rates)>,
}

impl Metrics {
    pub fn new(memory: Option<Memory>) -> Self {
        let now = Instant::now();
        Self {
            figures: Figures::default(),
            databases: Databases::default(),
            lags: Lags::default(),
            memory,
            started: now,
            last: Mutex::new((now, [0; 5], Rates::default())),
        }
    }

    pub fn high_water(&self, bytes: usize) {
        self.figures.queue_high_water_bytes.fetch_max(bytes as u64, Ordering::Relaxed);
    }

    fn sampled(&self) -> [u64; 5] {
        let f = &self.figures;
        [&f.ticks_total, &f.changes_total, &f.deliveries_total, &f.sent_bytes_total, &f.snapshot_rows_total]
            .map(|c| c.load(Ordering::Relaxed))
    }

    /// To be called about once a second.
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    pub fn sample(&self, now: Instant) {
        let sampled = self.sampled();
        let mut last = self.last.lock();
        let seconds = now.duration_since(last.0).as_secs_f64().max(0.001);
        let rate = |i: usize| sampled[i].saturating_sub(last.1[i]) as f64 / seconds;
        let rates = Rates {
            ticks: rate(0),
            changes: rate(1),
            deliveries: rate(2),
            sent_bytes: rate(3),
            snapshot_rows: rate(4),
        };
        *last = (now, sampled, rates);
    }

    /// The body of `/stats`.
    pub fn json(&self, server: &str) -> Value {
        let (rates, now) = (self.last.lock().2, Instant::now());
        let mut out = json!({
            "server": server,
            "uptime_seconds": self.started.elapsed().as_secs(),
            "memory_bytes": self.memory.as_ref().and_then(Memory::bytes),
            "lag_ms": self.lags.json(now),
            "tenants": self.databases.json(now),
            "tables": self.databases.tables(),
            "per_second": {
                "ticks": rates.ticks.round(),
                "changes": rates.changes.round(),
                "deliveries": rates.deliveries.round(),
                "sent_bytes": rates.sent_bytes.round(),
                "snapshot_rows": rates.snapshot_rows.round(),
            },
        });
        for (name, _, _, value) in self.figures.all() {
            out[name] = value.into();
        }
        out
    }

    /// The body of `/metrics`.
    pub fn prometheus(&self) -> String {
        let mut out = String::with_capacity(4096);
        let uptime = ("uptime_seconds", "gauge", "seconds since the start", self.started.elapsed().as_secs());
        let memory = self.memory.as_ref().and_then(Memory::bytes);
        let memory = memory.map(|bytes| ("memory_bytes", "gauge", "memory of the gateway", bytes));
        for (name, kind, help, value) in std::iter::once(uptime).chain(memory).chain(self.figures.all()) {
            let help = help.trim();
            let _ = write!(out, "# HELP rte_{name} {help}\n# TYPE rte_{name} {kind}\nrte_{name} {value}\n");
        }
        self.databases.prometheus(Instant::now(), &mut out);
        out
    }
}
