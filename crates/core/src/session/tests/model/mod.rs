//! A simulated database, feeder, query worker and client around the machine, in random interleavings.
//!
//! Promise: after every commit that the client gets, each of its copies whose snapshot is done equals the table at
//! that commit's snapshot, and the cursor names these copies and no others, so that exactly those that the client
//! holds as they are read now can be resumed. Rows are locked by their writers as in Postgres, so that commits of one row are in order;
//! transactions of different rows end in any order, and some do not.
mod client;
mod database;
mod feeder;
mod gateway;
mod worker;

use crate::session::{Session, Tick};
use client::Client;
use database::{Database, Random};
use feeder::{Feeder, FromFeeder};
use gateway::Wire;
use rte_protocol::bridge::{SessionId, ShapeId};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use worker::{FromWorker, Job, Running};

struct World {
    random: Random,
    db: Database,
    feeder: Feeder,
    jobs: VecDeque<Job>,
    running: Option<Running>,
    from_worker: VecDeque<(SessionId, FromWorker)>,
    session: Session<Wire>,
    watching: BTreeSet<ShapeId>,
    latest: Option<Rc<Tick>>,
    tick_open: bool,
    in_tick: bool,
    client: Client,
    /// Ids that the client has asked for.
    asked: BTreeSet<String>,
    next_session: SessionId,
    checks: usize,
    lives: usize,
    resumes: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            db: Database { next_xid: 10, ..Database::default() },
            feeder: Feeder::default(),
            jobs: VecDeque::new(),
            running: None,
            from_worker: VecDeque::new(),
            session: Session::new(0, "peer", 6),
            watching: BTreeSet::new(),
            latest: None,
            tick_open: false,
            in_tick: false,
            client: Client { applies_to_staged: seed.is_multiple_of(2), ..Client::default() },
            asked: BTreeSet::new(),
            next_session: 1,
            checks: 0,
            lives: 0,
            resumes: 0,
        };
        world.connect();
        world
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..30 => self.db.step(&mut self.random),
            30..32 => self.client_step(),
            32..50 => self.feeder_command(),
            50..58 => self.tick(),
            58..59 => self.resync(),
            59..60 => self.bare_commit(),
            // Bursts, so that neither side falls far behind for long.
            60..75 => (0..self.random.below(8)).for_each(|_| _ = self.pump_feeder()),
            75..85 => (0..self.random.below(4)).for_each(|_| _ = self.pump_worker()),
            _ => {
                // Only a job that the gateway knows of.
                let front = self.jobs.front().map(|j| j.id);
                let unknown =
                    self.feeder.outbox.iter().any(|m| matches!(m, FromFeeder::Job(_, id, _) if Some(*id) == front));
                if self.running.is_some() || !unknown {
                    self.worker_step();
                }
            }
        }
    }

    fn pump_feeder(&mut self) -> Option<()> {
        self.feeder.outbox.pop_front().map(|m| self.feeder_says(m))
    }

    fn pump_worker(&mut self) -> Option<()> {
        self.from_worker.pop_front().map(|(session, m)| self.worker_says(session, m))
    }

    /// Everything that is under way comes to its end.
    fn settle(&mut self) {
        for _ in 0..20 {
            while !self.feeder.inbox.is_empty() {
                self.feeder_command();
            }
            self.tick();
            while self.pump_feeder().is_some() {}
            for _ in 0..200 {
                self.worker_step();
                while self.pump_worker().is_some() {}
            }
        }
    }
}

#[test]
fn every_commit_shows_exactly_its_snapshot_in_any_interleaving() {
    let (mut checks, mut lives, mut resumes) = (0, 0, 0);
    let seeds = std::env::var("RTE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    for seed in 1..=seeds {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..1200 {
                world.step();
            }
            world.settle();
            for id in &world.asked {
                let held = world.client.copies.get(id);
                assert!(held.is_some_and(|h| h.done), "{id} is live in the end: {held:?}");
            }
            assert_eq!(world.session.kept_bytes(), 0);
            // Nothing is withheld either.
            let last = world.feeder.ticks.last().cloned().unwrap_or_default();
            for (id, held) in &world.client.copies {
                assert_eq!(held.copy, world.db.at(&last, usize::from(id.as_str() >= "c")), "{id} in the end");
            }
            (world.checks, world.lives, world.resumes)
        });
        let Ok((c, l, r)) = result else { panic!("seed {seed}") };
        checks += c;
        lives += l;
        resumes += r;
    }
    let power = format!("{checks} checks, {lives} joins, {resumes} resumed");
    assert!(checks > 10_000 && lives > 2_000 && resumes > 500, "the model has power: {power}");
}
