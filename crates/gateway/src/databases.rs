//! Figures of each database whose feeder is attached. Any thread; I/O threads add once per frame, batch or sweep.

use crate::lag::Lags;
use parking_lot::Mutex;
use rte_protocol::bridge::Tenant;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// A table of a database, while clients watch it.
#[derive(Debug, Default)]
pub struct Table {
    /// Connections that watch a shape of it, each once per shape.
    pub watchers: AtomicU64,
    /// Changes that were put into queues of connections.
    pub deliveries_total: AtomicU64,
}

/// A database.
#[derive(Debug)]
pub struct Database {
    name: Arc<str>,
    tables: Mutex<HashMap<Box<str>, Arc<Table>>>,
    pub counts: Counts,
    pub lags: Lags,
    last_commit: Mutex<Option<Instant>>,
}

macro_rules! counts {
    ($($(#[doc = $doc:literal])* $name:ident: $kind:literal,)*) => {
        /// What is counted of a database.
        #[derive(Debug, Default)]
        pub struct Counts { $($(#[doc = $doc])* pub $name: AtomicU64,)* }

        impl Counts {
            /// Name, kind, help, value.
            fn all(&self) -> Vec<(&'static str, &'static str, &'static str, u64)> {
                vec![$((stringify!($name), $kind, concat!($($doc),*), self.$name.load(Relaxed))),*]
            }
        }
    };
}

counts! {
    /// sessions that are open
    connections: "gauge",
    /// subscriptions of open sessions
    subscriptions: "gauge",
    /// bytes that wait for clients
    queue_bytes: "gauge",
    /// snapshots that wait or are being read
    snapshots: "gauge",
    /// ticks that came from the feeder
    ticks_total: "counter",
    /// changes that came from the feeder, once per shape
    changes_total: "counter",
    /// changes that were put into queues of connections
    deliveries_total: "counter",
    /// bytes that sockets took
    sent_bytes_total: "counter",
}

impl Database {
    /// A commit has come.
    pub fn committed(&self, now: Instant) {
        *self.last_commit.lock() = Some(now);
    }

    /// The figures of a table, to be held for as long as it is watched.
    pub fn table(&self, name: &str) -> Arc<Table> {
        let mut tables = self.tables.lock();
        if let Some(table) = tables.get(name) {
            return table.clone();
        }
        // Whom nobody holds any more nobody watches: so there are never many more than are watched.
        tables.retain(|_, table| Arc::strong_count(table) > 1);
        tables.entry(name.into()).or_default().clone()
    }

    /// Tables that are watched, each as an object with what names the database.
    fn tables(&self, tenant: &str) -> Vec<Value> {
        let mut told = Vec::new();
        for (name, table) in self.tables.lock().iter() {
            let watchers = table.watchers.load(Relaxed);
            if watchers > 0 {
                told.push(json!({
                    "tenant": tenant,
                    "database": *self.name,
                    "table": name,
                    "watchers": watchers,
                    "deliveries_total": table.deliveries_total.load(Relaxed),
                }));
            }
        }
        told
    }

    fn since_commit_ms(&self, now: Instant) -> Option<u64> {
        let at = (*self.last_commit.lock())?;
        u64::try_from(now.saturating_duration_since(at).as_millis()).ok()
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Databases {
    attached: Mutex<Vec<Arc<Database>>>,
    /// Names of tenants by database, joined by commas where they share one.
    tenants: Mutex<HashMap<Box<str>, String>>,
}

impl Databases {
    /// The feeder of a database is attached.
    pub fn attach(&self, name: &Arc<str>) -> Arc<Database> {
        let (counts, lags, last_commit) = (Counts::default(), Lags::default(), Mutex::default());
        let tables = Mutex::default();
        let database = Arc::new(Database { name: name.clone(), tables, counts, lags, last_commit });
        self.attached.lock().push(database.clone());
        database
    }

    /// It is gone: so are its figures.
    pub fn detach(&self, database: &Arc<Database>) {
        self.attached.lock().retain(|d| !Arc::ptr_eq(d, database));
    }

    /// These are all tenants.
    pub fn tell(&self, tenants: &[Tenant]) {
        let mut names: HashMap<Box<str>, String> = HashMap::new();
        for tenant in tenants {
            let name = names.entry(tenant.database.as_str().into()).or_default();
            if !name.is_empty() {
                name.push_str(", ");
            }
            name.push_str(&tenant.name);
        }
        *self.tenants.lock() = names;
    }

    /// The databases and the tenants that they are of; the landlord's is of nobody.
    fn all(&self) -> Vec<(Arc<Database>, String)> {
        let attached = self.attached.lock().clone();
        let tenants = self.tenants.lock();
        let named = |d: Arc<Database>| {
            let tenant = tenants.get(&*d.name).cloned().unwrap_or_default();
            (d, tenant)
        };
        attached.into_iter().map(named).collect()
    }

    /// Each as an object, and the lags of all.
    pub fn json(&self, now: Instant) -> Value {
        let each = |(database, tenant): (Arc<Database>, String)| {
            let mut out = json!({
                "tenant": tenant,
                "database": *database.name,
                "lag_ms": database.lags.json(now),
                "since_commit_ms": database.since_commit_ms(now),
            });
            for (name, _, _, value) in database.counts.all() {
                out[name] = value.into();
            }
            out
        };
        self.all().into_iter().map(each).collect()
    }

    /// Their tables that are watched.
    pub fn tables(&self) -> Value {
        self.all().into_iter().flat_map(|(database, tenant)| database.tables(&tenant)).collect()
    }

    /// Each in Prometheus' text.
    pub fn prometheus(&self, now: Instant, out: &mut String) {
        let all = self.all();
        let labels: Vec<String> = all
            .iter()
            .map(|(d, tenant)| format!("{{database=\"{}\",tenant=\"{}\"}}", label(&d.name), label(tenant)))
            .collect();
        for (at, (name, kind, help, _)) in Counts::default().all().into_iter().enumerate() {
            let _ = write!(out, "# HELP rte_database_{name} {}\n# TYPE rte_database_{name} {kind}\n", help.trim());
            for ((database, _), labels) in all.iter().zip(&labels) {
                let _ = writeln!(out, "rte_database_{name}{labels} {}", database.counts.all()[at].3);
            }
        }
        out.push_str("# HELP rte_database_lag_seconds age of ticks when they were written to clients, recently\n");
        out.push_str("# TYPE rte_database_lag_seconds gauge\n");
        for ((database, _), labels) in all.iter().zip(&labels) {
            let Some((p50, p99)) = database.lags.percentiles(now) else { continue };
            let labels = labels.trim_end_matches('}');
            for (quantile, millis) in [("0.5", p50), ("0.99", p99)] {
                let _ = writeln!(out, "rte_database_lag_seconds{labels},quantile=\"{quantile}\"}} {}", millis / 1000.0);
            }
        }
    }
}

/// The value of a label.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
