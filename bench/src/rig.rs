//! The servers and tables that scenarios run on.

use std::sync::atomic::{AtomicU64, Ordering};

use rte_testkit::{Builder, Cluster, Sql};

use crate::crowd::mark;
use crate::process;

/// As a careful administrator would set it, and without what comes at random: an autovacuum or a checkpoint in
/// one contestant's turn is noise.
fn settings(builder: Builder) -> Builder {
    builder
        .conf("fsync", "on")
        .conf("shared_buffers", "256MB")
        .conf("max_connections", "100")
        .conf("max_wal_size", "8GB")
        .conf("checkpoint_timeout", "1h")
        .conf("autovacuum", "off")
}

/// A server with the extension and a gateway that answers.
pub fn ours() -> Cluster {
    settings(Cluster::builder()).ready()
}

/// The same, where tokens of the kit's secret count.
pub fn with_tokens() -> Cluster {
    settings(Cluster::builder().tokens()).conf("rte.require_tenant_claim", "off").ready()
}

/// A server that has never heard of us.
pub fn plain() -> Cluster {
    settings(Cluster::builder().without_preload()).start()
}

/// A table whose rows are about 250 bytes as JSON.
pub fn create_feed(sql: &mut Sql, rows: u32) {
    sql.run(&format!(
        "CREATE TABLE feed (id int PRIMARY KEY, body text NOT NULL) WITH (fillfactor = 50);
         INSERT INTO feed SELECT i, '{}' FROM generate_series(1, {rows}) i",
        body(0)
    ));
}

/// A text that carries a mark. A number is used once per run: an update that changes nothing is no change.
pub fn body(number: u64) -> String {
    format!("{}{}", mark(number), "x".repeat(200))
}

/// The next number of a mark.
pub fn next_mark() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The processes that deliver for us.
pub struct Workers {
    pub gateway: i32,
    pub feeder: i32,
}

impl Workers {
    pub fn of(cluster: &Cluster) -> Self {
        Self { gateway: cluster.worker("gateway"), feeder: cluster.worker("feeder") }
    }

    pub fn cpu_seconds(&self) -> (f64, f64) {
        (process::cpu_seconds(self.gateway), process::cpu_seconds(self.feeder))
    }
}
