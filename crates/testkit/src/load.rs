//! pgbench as a load that runs beside the test.

use std::fs::{self, File};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::cluster::Cluster;
use crate::process::{self, Signal};
use crate::wait::wait_until;

/// The tables of TPC-B.
pub const TPCB_TABLES: [&str; 4] = ["pgbench_accounts", "pgbench_branches", "pgbench_history", "pgbench_tellers"];

/// A running pgbench.
#[derive(Debug)]
pub struct Pgbench {
    child: Child,
    log: std::path::PathBuf,
}

impl Pgbench {
    /// Makes TPC-B's tables with a key for the history, and registers them.
    ///
    /// # Panics
    /// When pgbench refuses.
    #[track_caller]
    pub fn prepare(cluster: &Cluster) {
        let output = cluster.tool("pgbench").args(["-i", "-q", "-s", "1", "postgres"]).output().expect("pgbench");
        assert!(output.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&output.stderr));
        let mut sql = cluster.sql();
        sql.run("ALTER TABLE pgbench_history ADD COLUMN hid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY");
        TPCB_TABLES.iter().for_each(|t| sql.register(t));
    }

    /// Starts TPC-B with these clients. `RTE_RATE` limits the transactions per second.
    ///
    /// # Panics
    /// When pgbench cannot be started.
    #[must_use]
    pub fn tpcb(cluster: &Cluster, clients: u32, duration: Duration, seed: u64) -> Self {
        let log = cluster.dir().join("pgbench");
        let out = File::create(&log).expect("log");
        let mut command = cluster.tool("pgbench");
        command.args(["-n", "-c", &clients.to_string(), "-j", "2", "-T", &duration.as_secs().max(1).to_string()]);
        command.arg(format!("--random-seed={}", seed & 0xffff_ffff));
        if let Ok(rate) = std::env::var("RTE_RATE") {
            command.args(["-R", &rate]);
        }
        command.arg("postgres").stdout(out.try_clone().expect("log")).stderr(out);
        Self { child: command.stdin(Stdio::null()).spawn().expect("pgbench"), log }
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end and returns what it printed.
    #[track_caller]
    pub fn finish(mut self) -> String {
        // Its own duration bounds it.
        let status = self.child.wait().expect("pgbench");
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        assert!(status.success(), "pgbench: {text}");
        text
    }

    /// Ends it, whatever it has come to.
    pub fn stop(mut self) {
        process::kill(self.child.id() as i32, Signal::INT);
        wait_until("pgbench ends", || self.child.try_wait().ok().flatten());
    }
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
