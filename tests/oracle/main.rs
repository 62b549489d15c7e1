//! The oracle: random tables, random transactions by concurrent writers, clients that come and go; at every
//! barrier each copy equals `SELECT`, and at every commit the two ledgers are equal.
//!
//! `RTE_SEED` repeats a run's schema and choices (not the interleaving), `RTE_ROUNDS` makes it longer.

mod schema;
mod writer;

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rte_testkit::{Builder, Client, Cluster, Copy, Dice, Shutdown, Signal, State, Step, Watch};
use rte_testkit::{assert_equal, difference, kill, rounds, seed, wait_until};
use schema::{Table, quoted};
use writer::Writer;

const WRITERS: usize = 4;

/// The ledgers are equal whenever both are at the cursor.
struct Ledgers;

impl Watch for Ledgers {
    fn commit(&mut self, copy: &Copy) -> Result<(), String> {
        let (Some(l), Some(r)) = (copy.subscriptions.get("l"), copy.subscriptions.get("r")) else { return Ok(()) };
        if l.state == State::Live && r.state == State::Live && l.rows != r.rows {
            return Err(format!("the ledgers differ: {:?} and {:?}", l.rows, r.rows));
        }
        Ok(())
    }
}

/// What happens besides writing.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    None,
    Kills,
    Schema,
}

struct World {
    cluster: Cluster,
    tables: Vec<Table>,
    clients: Vec<Client>,
    dice: Dice,
}

impl World {
    fn new(name: &str) -> Self {
        Self::with(name, Cluster::builder())
    }

    fn with(name: &str, builder: Builder) -> Self {
        let mut dice = Dice::with_seed(seed(name));
        let mut builder = builder.conf("deadlock_timeout", "50ms").conf("lock_timeout", "300ms");
        // From memory, or from the log.
        if dice.bool() {
            builder = builder.conf("rte.history_size", "64kB");
        }
        if dice.u32(..3) == 0 {
            builder = builder.conf("synchronous_commit", "off");
        }
        let cluster = builder.ready();
        let mut sql = cluster.sql();
        sql.run("CREATE TABLE l (id int PRIMARY KEY, n bigint); CREATE TABLE r (id int PRIMARY KEY, n bigint)");
        ["l", "r"].iter().for_each(|t| sql.register(t));
        sql.run(&format!(
            "INSERT INTO l SELECT i, 0 FROM generate_series(0, {WRITERS}) i; INSERT INTO r SELECT * FROM l"
        ));
        let tables: Vec<Table> = (0..dice.usize(3..7)).map(|n| Table::random(n, &mut dice)).collect();
        for table in &tables {
            sql.run(&table.create(&mut dice));
        }
        // What is set up outlives a crash, whatever the writers' commits wait for.
        sql.run("SET synchronous_commit = on; UPDATE l SET n = n");
        let clients = (0..6)
            .map(|n| {
                let mut client = Client::new(cluster.rte_port, &format!("client {n}"));
                client.watch(Ledgers);
                client.copy.ask("kit_barrier", "kit_barrier", None);
                ["l", "r"].iter().for_each(|t| client.copy.ask(t, t, None));
                client
            })
            .collect();
        Self { cluster, tables, clients, dice }
    }

    /// Writers write, clients come and go; then all rest at a barrier and the copies are compared.
    fn round(&mut self, trouble: Trouble) {
        let goal = AtomicI32::new(0);
        let door = self.cluster.door();
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|number| {
                    let dice = self.dice.fork();
                    let mut writer = Writer { number, tables: &self.tables, door: door.clone(), dice };
                    scope.spawn(move || writer.run(60))
                })
                .collect();
            let clients: Vec<_> = self
                .clients
                .iter_mut()
                .map(|client| {
                    let (dice, tables, goal) = (self.dice.fork(), &self.tables, &goal);
                    scope.spawn(move || follow(client, tables, dice, goal))
                })
                .collect();
            if trouble == Trouble::Kills {
                strike(&mut self.cluster, &mut self.dice);
            }
            writers.into_iter().for_each(|w| w.join().expect("a writer"));
            let mut sql = wait_until("a session", || door.knock("postgres").ok());
            // What a crash left prepared.
            for gid in sql.texts("SELECT gid FROM pg_prepared_xacts") {
                sql.run(&format!("COMMIT PREPARED '{gid}'"));
            }
            goal.store(sql.barrier(), Ordering::SeqCst);
            clients.into_iter().for_each(|c| c.join().expect("a client"));
        });
        let mut sql = self.cluster.sql();
        for client in &self.clients {
            for s in client.copy.subscriptions.values() {
                if let Some(difference) = difference(&mut sql, s) {
                    panic!("{}: {difference}", client.options.name);
                }
            }
            assert!(client.errors.is_empty(), "{}: {:?}", client.options.name, client.errors);
        }
    }

    /// Changes a table's columns while the clients rest.
    fn alter(&mut self) {
        let mut sql = self.cluster.sql();
        let number = self.dice.usize(..self.tables.len());
        let extra = quoted(&format!("extra {}", self.dice.u32(..1000)));
        let table = &mut self.tables[number];
        sql.run(&format!("ALTER TABLE {} ADD COLUMN {extra} text DEFAULT 'old'", table.name));
        if self.dice.bool() {
            sql.run(&format!("UPDATE {} SET {extra} = 'new'", table.name));
            sql.run(&format!("ALTER TABLE {} DROP COLUMN {extra}", table.name));
        } else {
            table.columns.push(schema::Column { name: extra, kind: "text" });
        }
        for client in &mut self.clients {
            client.come_back();
            assert_equal(&mut sql, client);
        }
    }

    fn assert_no_resync(&self) {
        for client in &self.clients {
            println!("{}: {:?}", client.options.name, client.copy.counts);
            client.assert_clean();
        }
    }
}

/// One client's part of a round.
fn follow(client: &mut Client, tables: &[Table], mut dice: Dice, goal: &AtomicI32) {
    client.come_back();
    let mut end = None;
    loop {
        if let Step::Closed(_) = client.step(Duration::from_millis(5)) {
            client.come_back();
        }
        let goal = goal.load(Ordering::SeqCst);
        if goal != 0 {
            if client.at_barrier(goal) {
                return;
            }
            let end = *end.get_or_insert_with(|| std::time::Instant::now() + rte_testkit::patience());
            assert!(std::time::Instant::now() < end, "{}: no barrier; {:?}", client.options.name, client.copy.counts);
            continue;
        }
        match dice.u32(..300) {
            0..=2 => {
                client.leave();
                client.come_back();
            }
            3..=7 => {
                let table = &tables[dice.usize(..tables.len())].name;
                if !client.copy.subscriptions.contains_key(table) {
                    client.subscribe(table, table);
                }
            }
            8 => {
                let table = &tables[dice.usize(..tables.len())].name;
                if client.copy.subscriptions.get(table).is_some_and(|s| s.state == State::Live) {
                    client.unsubscribe(table);
                }
            }
            _ => {}
        }
    }
}

/// Something bad happens to the server.
fn strike(cluster: &mut Cluster, dice: &mut Dice) {
    match dice.u32(..5) {
        0 => kill(cluster.worker("gateway"), Signal::KILL),
        1 => kill(cluster.worker("feeder"), Signal::KILL),
        2 => kill(cluster.worker("feeder"), Signal::TERM),
        3 => cluster.restart(Shutdown::Immediate),
        _ => cluster.restart(Shutdown::Fast),
    }
}

#[test]
fn at_every_barrier_the_copy_equals_the_tables() {
    let mut world = World::new("oracle");
    for round in 0..rounds(5) {
        println!("round {round}");
        world.round(Trouble::None);
    }
    world.assert_no_resync();
}

#[test]
fn at_every_barrier_the_copy_equals_the_tables_whatever_is_killed() {
    let mut world = World::new("oracle with kills");
    for round in 0..rounds(4) {
        println!("round {round}");
        world.round(Trouble::Kills);
    }
    world.assert_no_resync();
}

#[test]
fn at_every_barrier_the_copy_equals_the_tables_whatever_they_become() {
    let mut world = World::new("oracle with schema changes");
    for round in 0..rounds(4) {
        println!("round {round}");
        world.round(Trouble::Schema);
        world.alter();
    }
}

#[test]
fn at_every_barrier_the_copy_equals_the_tables_however_little_a_tick_may_hold() {
    let small = Cluster::builder().conf("rte.max_tick_size", "16kB").conf("rte.max_catch_up_size", "64kB");
    // Changes gather, so that many ticks are too large for one table or another.
    let mut world = World::with("oracle with small ticks", small.conf("rte.max_tick_interval", "200ms"));
    for round in 0..rounds(4) {
        println!("round {round}");
        world.round(Trouble::None);
    }
    // And one is, however the dice fell.
    let mut sql = world.cluster.sql();
    let many = "SELECT 1000 + i, 1 FROM generate_series(1, 2000) i";
    sql.run(&format!("BEGIN; INSERT INTO l {many}; INSERT INTO r {many}; COMMIT"));
    for client in &mut world.clients {
        assert_equal(&mut sql, client);
    }
    let reasons = |reason: &str| {
        let all = world.clients.iter().flat_map(|client| &client.copy.counts.resyncs);
        all.filter(|r| *r == reason).count()
    };
    println!("{} resynchronised live, {} on their return", reasons("too_many_changes"), reasons("cursor_expired"));
    assert!(reasons("too_many_changes") > 0);
}
