//! TPC-B beside the test: pgbench, writers of our own, and the invariant that they keep.

use std::fs::{self, File};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::client::{Copy, Row, State, Watch};
use crate::cluster::Cluster;
use crate::process::{self, Signal};
use crate::settings::Dice;
use crate::sql::{Door, Sql};
use crate::wait::{wait_until, within};

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

/// TPC-B's invariant, kept up row by row: after every commit the four sums are equal.
#[derive(Debug, Default)]
pub struct TpcbSums([i64; 4]);

impl Watch for TpcbSums {
    fn row(&mut self, subscription: &str, old: Option<&Row>, new: Option<&Row>) {
        // Places of abalance, bbalance, delta and tbalance.
        let places = [2, 1, 3, 2];
        let Some(table) = TPCB_TABLES.iter().position(|t| *t == subscription) else { return };
        let amount = |row: &Row| row[places[table]].parse::<i64>().unwrap_or_else(|e| panic!("{row:?}: {e}"));
        self.0[table] += new.map_or(0, amount) - old.map_or(0, amount);
    }

    fn commit(&mut self, copy: &Copy) -> Result<(), String> {
        let all_live = TPCB_TABLES.iter().all(|t| copy.subscriptions.get(*t).is_some_and(|s| s.state == State::Live));
        if all_live && self.0.iter().any(|sum| *sum != self.0[0]) {
            return Err(format!("the sums of {TPCB_TABLES:?} are {:?}", self.0));
        }
        Ok(())
    }
}

/// How hard writers press.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Accounts from 1 on that are written to.
    pub accounts: u32,
    /// Between two transactions of one writer.
    pub pause: Duration,
}

/// Writers of TPC-B that come back when the server does, which pgbench's do not.
pub struct Tellers {
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl Tellers {
    /// Starts writers, each with a session of its own, at full speed.
    #[must_use]
    pub fn start(cluster: &Cluster, count: u64, seed: u64) -> Self {
        Self::among(cluster, count, seed, Pace { accounts: 100_000, pause: Duration::ZERO })
    }

    /// Starts writers, each with a session of its own.
    #[must_use]
    pub fn among(cluster: &Cluster, count: u64, seed: u64, pace: Pace) -> Self {
        let (stop, done, failed) = (Arc::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let threads = (0..count)
            .map(|n| {
                let (stop, done, failed) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&failed));
                let (door, mut dice) = (cluster.door(), Dice::with_seed(seed ^ n << 32));
                std::thread::spawn(move || teller(&door, &mut dice, pace, &stop, &done, &failed))
            })
            .collect();
        Self { threads, stop, done, failed }
    }

    /// Transactions that were acknowledged.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// Transactions that failed, for whatever reason.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::SeqCst)
    }

    /// Waits until this many more transactions are acknowledged.
    #[track_caller]
    pub fn wait_done(&self, more: u64) {
        let goal = self.done() + more;
        wait_until("the writers go on", || (self.done() >= goal).then_some(()));
    }

    /// Has the writers finish their transaction and end.
    ///
    /// # Panics
    /// When one has panicked.
    pub fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a writer");
        }
    }
}

fn teller(door: &Door, dice: &mut Dice, pace: Pace, stop: &AtomicBool, done: &AtomicU64, failed: &AtomicU64) {
    let mut session: Option<Sql> = None;
    while !stop.load(Ordering::SeqCst) {
        let Some(sql) = session.as_mut() else {
            session = within(Duration::from_secs(1), || door.knock("postgres").ok());
            continue;
        };
        let (account, delta) = (dice.u32(1..=pace.accounts), dice.i32(-5000..=5000));
        let (teller, branch) = (dice.u32(1..=10), 1);
        let transaction = format!(
            "BEGIN; UPDATE pgbench_accounts SET abalance = abalance + {delta} WHERE aid = {account};
             UPDATE pgbench_tellers SET tbalance = tbalance + {delta} WHERE tid = {teller};
             UPDATE pgbench_branches SET bbalance = bbalance + {delta} WHERE bid = {branch};
             INSERT INTO pgbench_history (tid, bid, aid, delta, mtime)
             VALUES ({teller}, {branch}, {account}, {delta}, now()); COMMIT"
        );
        match sql.batch_execute(&transaction) {
            Ok(()) => {
                done.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(pace.pause);
            }
            Err(_) => {
                failed.fetch_add(1, Ordering::SeqCst);
                session = None;
            }
        }
    }
}
