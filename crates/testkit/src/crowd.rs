//! Many clients, each in a thread of its own, that follow tables until a barrier.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::{Client, Step, Transport, Watch};
use crate::cluster::Cluster;
use crate::compare::{difference_to, expected_rows};
use crate::settings::Dice;
use crate::sql::Sql;
use crate::wait::{patience, wait_until, within};

#[derive(Default)]
struct Shared {
    /// The barrier's mark to stop at; 0 while there is none.
    goal: AtomicI32,
    /// Commits that the clients have applied.
    commits: AtomicU64,
    live: AtomicU64,
    /// A client has panicked.
    failed: AtomicBool,
}

/// Clients that come back with their cursor whenever they lose the server.
pub struct Crowd {
    clients: Vec<JoinHandle<Client>>,
    shared: Arc<Shared>,
}

/// Sets the flag when its thread unwinds.
struct Alarm(Arc<Shared>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, Ordering::SeqCst);
        }
    }
}

impl Crowd {
    /// Starts `count` clients of these tables, each with a watcher, and waits until all are live. With a seed
    /// they also leave at random, stay away for some commits, and resume.
    ///
    /// # Panics
    /// When they do not become live.
    #[track_caller]
    pub fn start<W: Watch + 'static>(
        cluster: &Cluster,
        count: u64,
        tables: &[&str],
        restless: Option<u64>,
        watch: impl Fn() -> W,
    ) -> Self {
        let transports: Vec<Transport> = (0..count).map(|_| Transport::WebSocket).collect();
        Self::start_over(cluster, &transports, tables, restless, watch)
    }

    /// The same with a client for each of these transports.
    ///
    /// # Panics
    /// When they do not become live.
    #[track_caller]
    pub fn start_over<W: Watch + 'static>(
        cluster: &Cluster,
        transports: &[Transport],
        tables: &[&str],
        restless: Option<u64>,
        watch: impl Fn() -> W,
    ) -> Self {
        let count = transports.len() as u64;
        let shared = Arc::new(Shared::default());
        let clients = (0..)
            .zip(transports)
            .map(|(n, transport)| {
                let mut client = Client::new(cluster.rte_port, &format!("client {n}, {transport:?}"));
                client.options.transport = *transport;
                client.watch(watch());
                client.copy.ask("kit_barrier", "kit_barrier", None);
                tables.iter().for_each(|t| client.copy.ask(t, t, None));
                let shared = Arc::clone(&shared);
                let dice = restless.map(|seed| Dice::with_seed(seed.wrapping_add(n)));
                std::thread::spawn(move || follow(client, dice, shared))
            })
            .collect();
        let crowd = Self { clients, shared };
        wait_until("all clients are live", || {
            crowd.check();
            (crowd.shared.live.load(Ordering::SeqCst) == count).then_some(())
        });
        crowd
    }

    /// Commits that all clients together have applied.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::SeqCst)
    }

    /// Waits until the clients have applied this many commits more.
    #[track_caller]
    pub fn wait_commits(&self, more: u64) {
        let goal = self.commits() + more;
        wait_until("the clients go on", || {
            self.check();
            (self.commits() >= goal).then_some(())
        });
    }

    /// Fails early when a client has found something wrong.
    ///
    /// # Panics
    /// When one has.
    #[track_caller]
    pub fn check(&self) {
        assert!(!self.shared.failed.load(Ordering::SeqCst), "a client has failed, see above");
    }

    /// Sets a barrier when the writers rest, waits for all clients, and compares every copy with the tables.
    ///
    /// # Panics
    /// When a client failed or a copy differs.
    #[track_caller]
    pub fn finish(self, sql: &mut Sql) -> Vec<Client> {
        self.shared.goal.store(sql.barrier(), Ordering::SeqCst);
        let clients: Vec<Client> = self
            .clients
            .into_iter()
            .map(|c| c.join().unwrap_or_else(|_| panic!("a client has failed, see above")))
            .collect();
        let Some(first) = clients.first() else { return clients };
        for s in first.copy.subscriptions.values() {
            let columns: Vec<String> = s.columns.iter().map(|c| c.name.clone()).collect();
            let expected = expected_rows(sql, &s.table, &columns);
            for client in &clients {
                if let Some(difference) = difference_to(&expected, client.sub(&s.id)) {
                    panic!("{}: {difference}", client.options.name);
                }
            }
        }
        clients
    }
}

fn follow(mut client: Client, mut dice: Option<Dice>, shared: Arc<Shared>) -> Client {
    let _alarm = Alarm(Arc::clone(&shared));
    client.come_back();
    client.carry_on("all subscriptions live", |c| c.copy.all_live());
    shared.live.fetch_add(1, Ordering::SeqCst);
    let mut end: Option<Instant> = None;
    loop {
        match client.step(Duration::from_millis(20)) {
            Step::Closed(_) => client.come_back(),
            Step::Frame(true) => {
                shared.commits.fetch_add(1, Ordering::SeqCst);
                if let Some(dice) = &mut dice
                    && end.is_none()
                    && dice.u32(..400) == 0
                {
                    client.leave();
                    let back = shared.commits.load(Ordering::SeqCst) + dice.u64(..2000);
                    let go_on =
                        || shared.commits.load(Ordering::SeqCst) > back || shared.goal.load(Ordering::SeqCst) != 0;
                    within(Duration::from_secs(2), || go_on().then_some(()));
                    client.come_back();
                }
            }
            _ => {}
        }
        let goal = shared.goal.load(Ordering::SeqCst);
        if goal != 0 {
            if client.at_barrier(goal) {
                return client;
            }
            let end = *end.get_or_insert_with(|| Instant::now() + patience() * 4);
            assert!(
                Instant::now() < end,
                "{}: the barrier did not come: {:?}",
                client.options.name,
                client.copy.counts
            );
        }
    }
}
