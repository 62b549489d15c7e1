//! A simulated database, feeder, query worker and client around the machine, in random interleavings.
//!
//! Promise: after every commit that the client gets, each of its copies whose snapshot is done equals the table at
//! that commit's snapshot. Rows are locked by their writers as in Postgres, so that commits of one row are in order;
//! transactions of different rows end in any order, and some do not.

use crate::session::{Action, Delivery, Frame, Session, Tick, Welcome};
use crate::snapshot::{Snapshot, Xid};
use rte_protocol::bridge::{JobId, SessionId, ShapeId, ToFeeder};
use rte_protocol::wire::{ClientMessage, ErrorCode, Hello, Limits, Subscription};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

type Row = [u64; 2];
type Copy = BTreeMap<u64, Row>;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Debug, Clone)]
enum Op {
    Put(u64, Row),
    Set(u64, usize, u64),
    Delete(u64),
}

fn apply(copy: &mut Copy, op: &Op) {
    match op {
        Op::Put(key, row) => {
            copy.insert(*key, *row);
        }
        Op::Set(key, column, value) => {
            if let Some(row) = copy.get_mut(key) {
                row[*column] = *value;
            }
        }
        Op::Delete(key) => {
            copy.remove(key);
        }
    }
}

/// What stands for encoded frames.
#[derive(Debug, Clone)]
enum Wire {
    Changes(ShapeId, Rc<Vec<Op>>),
    /// Number of the tick.
    Commit(usize),
}

impl Frame for Wire {
    fn bytes(&self) -> usize {
        1
    }
}

/// Two tables; shape `n` is table `n % 2`.
#[derive(Default)]
struct Database {
    next_xid: Xid,
    open: Vec<(Xid, Vec<(usize, Op)>)>,
    /// In order of commit.
    committed: Vec<(Xid, Vec<(usize, Op)>)>,
    locks: HashMap<(usize, u64), Xid>,
}

impl Database {
    fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.next_xid, self.open.iter().map(|(xid, _)| *xid).collect())
    }

    fn at(&self, snapshot: &Snapshot, table: usize) -> Copy {
        let mut copy = Copy::new();
        let seen = self.committed.iter().filter(|(xid, _)| snapshot.sees(*xid));
        for (_, op) in seen.flat_map(|(_, ops)| ops).filter(|(t, _)| *t == table) {
            apply(&mut copy, op);
        }
        copy
    }

    /// What the later snapshot sees and the earlier one did not.
    fn between(&self, earlier: &Snapshot, later: &Snapshot, table: usize) -> Vec<Op> {
        let new = self.committed.iter().filter(|(xid, _)| later.sees(*xid) && !earlier.sees(*xid));
        new.flat_map(|(_, ops)| ops).filter(|(t, _)| *t == table).map(|(_, op)| op.clone()).collect()
    }

    fn step(&mut self, random: &mut Random) {
        if self.open.is_empty() || (self.open.len() < 4 && random.chance(30)) {
            self.open.push((self.next_xid, vec![]));
            self.next_xid += 1;
        }
        let at = random.below(self.open.len() as u64) as usize;
        if random.chance(35) {
            let (xid, ops) = self.open.remove(at);
            self.locks.retain(|_, holder| *holder != xid);
            if random.chance(85) {
                self.committed.push((xid, ops));
            }
            return;
        }
        let (table, key) = (random.below(2) as usize, random.below(6));
        let xid = self.open[at].0;
        if *self.locks.entry((table, key)).or_insert(xid) != xid {
            return;
        }
        let mut now = self.at(&Snapshot::new(self.next_xid, vec![]), table);
        self.open[at].1.iter().filter(|(t, _)| *t == table).for_each(|(_, op)| apply(&mut now, op));
        let value = random.below(1_000_000);
        let op = match now.get(&key) {
            None => Op::Put(key, [value, 0]),
            Some(_) if random.chance(30) => Op::Delete(key),
            Some(_) => Op::Set(key, random.below(2) as usize, value),
        };
        self.open[at].1.push((table, op));
    }
}

enum FromFeeder {
    Opened(SessionId),
    Subscribed(SessionId, String, ShapeId, bool),
    Job(SessionId, JobId, Vec<String>),
    Resync(SessionId, String),
    Ended(SessionId, String),
    CatchUp(SessionId, Vec<Wire>, usize),
    Changes(ShapeId, Rc<Vec<Op>>),
    Commit(usize),
}

enum FromWorker {
    Begin(JobId, Snapshot),
    Rows(JobId, u32, Vec<(u64, Row)>, bool),
    End(JobId),
    Failed(JobId),
}

/// A job as the feeder made it: the tables of its shapes.
struct Job {
    id: JobId,
    session: SessionId,
    tables: Vec<usize>,
}

#[derive(Default)]
struct Feeder {
    inbox: VecDeque<ToFeeder>,
    outbox: VecDeque<FromFeeder>,
    ticks: Vec<Snapshot>,
    /// Bridge id → shape.
    live: BTreeMap<String, ShapeId>,
    generation: u32,
    next_job: JobId,
    catch_up: Option<FromFeeder>,
}

/// A copy that the client keeps.
#[derive(Debug, Default, Clone)]
struct Held {
    shape: String,
    copy: Copy,
    done: bool,
}

#[derive(Debug)]
enum Staged {
    Subscribed(String, String, bool),
    Rows(String, Vec<(u64, Row)>),
    Done(String),
    Changes(String, Rc<Vec<Op>>),
    Gone(String),
    Resync(String),
}

#[derive(Default)]
struct Client {
    copies: BTreeMap<String, Held>,
    staged: Vec<Staged>,
    cursor: Option<usize>,
    /// A client may or may not apply changes to rows that it has staged: both must come out exact.
    applies_to_staged: bool,
}

struct World {
    random: Random,
    db: Database,
    feeder: Feeder,
    jobs: VecDeque<Job>,
    /// The worker's job: S', the rows of each shape still to be sent.
    running: Option<(Job, Vec<VecDeque<(u64, Row)>>, bool)>,
    from_worker: VecDeque<(SessionId, FromWorker)>,
    session: Session<Wire>,
    watching: BTreeSet<ShapeId>,
    latest: Option<Rc<Tick<Wire>>>,
    tick_open: bool,
    in_tick: bool,
    client: Client,
    /// Ids that the client has asked for.
    asked: BTreeSet<String>,
    next_session: SessionId,
    checks: usize,
    lives: usize,
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
            client: Client { applies_to_staged: seed % 2 == 0, ..Client::default() },
            asked: BTreeSet::new(),
            next_session: 1,
            checks: 0,
            lives: 0,
        };
        world.connect();
        world
    }

    // ---- the client

    fn connect(&mut self) {
        self.session = Session::new(self.next_session, "peer", 6);
        self.next_session += 1;
        self.watching.clear();
        self.in_tick = false;
        self.client.staged.clear();
        self.client.copies.retain(|_, held| held.done);
        self.asked = self.client.copies.keys().cloned().collect();
        let subscription = |id: &String| Subscription {
            id: id.clone(),
            table: (if id < &"c".to_owned() { "0" } else { "1" }).into(),
            columns: None,
            predicate: None,
            params: None,
        };
        let hello = Hello {
            cursor: self.client.cursor.map(|c| c.to_string()),
            subscriptions: self.asked.iter().map(subscription).collect(),
            ..Hello::default()
        };
        self.say(ClientMessage::Hello(hello));
    }

    fn say(&mut self, message: ClientMessage) {
        let mut out = vec![];
        self.session.message(Ok(message), &mut out);
        self.carry_out(out);
    }

    fn client_step(&mut self) {
        let id = ["a", "b", "c", "d"][self.random.below(4) as usize].to_owned();
        if self.random.chance(4) {
            self.connect();
        } else if !self.asked.contains(&id) {
            self.asked.insert(id.clone());
            let table = if id.as_str() < "c" { "0" } else { "1" }.to_owned();
            let subscription = Subscription { id, table, columns: None, predicate: None, params: None };
            self.say(ClientMessage::Subscribe(subscription));
        } else if self.random.chance(40) {
            self.asked.remove(&id);
            self.say(ClientMessage::Unsubscribe { id });
        }
    }

    /// A message reaches the client.
    fn see(&mut self, text: &str) {
        let m: Value = serde_json::from_str(text).expect("json");
        let id = || m["id"].as_str().expect("id").to_owned();
        let staged = match m["type"].as_str().expect("type") {
            "subscribed" => {
                let shape = m["shape"].as_str().expect("shape").to_owned();
                Staged::Subscribed(id(), shape, m["resumed"] == true)
            }
            "snapshot" => {
                assert_eq!(m["done"], true);
                self.lives += 1;
                Staged::Done(id())
            }
            "unsubscribed" => Staged::Gone(id()),
            "resync" => Staged::Resync(id()),
            "error" => {
                let id = id();
                if m["code"] != ErrorCode::TooManySubscriptions.as_str() {
                    assert_eq!(m["code"], ErrorCode::SnapshotFailed.as_str(), "{m}");
                }
                self.asked.remove(&id);
                Staged::Gone(id)
            }
            _ => return,
        };
        // Ids are used again at once, so what names them takes effect at once.
        match staged {
            Staged::Gone(id) => {
                self.client.copies.remove(&id);
                self.client.staged.push(Staged::Gone(id));
            }
            other => self.client.staged.push(other),
        }
    }

    fn apply_commit(&mut self, tick: usize) {
        let staged = std::mem::take(&mut self.client.staged);
        for item in staged {
            match item {
                Staged::Subscribed(id, shape, resumed) => {
                    let held = self.client.copies.entry(id).or_default();
                    held.shape = shape;
                    if !resumed {
                        held.done = false;
                        held.copy.clear();
                    }
                }
                Staged::Rows(id, rows) => {
                    if let Some(held) = self.client.copies.get_mut(&id) {
                        held.copy.extend(rows);
                    }
                }
                Staged::Done(id) => {
                    if let Some(held) = self.client.copies.get_mut(&id) {
                        held.done = true;
                    }
                }
                Staged::Gone(id) => {
                    self.client.copies.remove(&id);
                }
                Staged::Resync(id) => {
                    if let Some(held) = self.client.copies.get_mut(&id) {
                        held.done = false;
                        held.shape.clear();
                    }
                }
                Staged::Changes(shape, ops) => {
                    let staged_too = self.client.applies_to_staged;
                    for held in self.client.copies.values_mut().filter(|h| h.shape == shape) {
                        if held.done || staged_too {
                            ops.iter().for_each(|op| apply(&mut held.copy, op));
                        }
                    }
                }
            }
        }
        let snapshot = &self.feeder.ticks[tick];
        if let Some(before) = self.client.cursor {
            assert!(snapshot.contains(&self.feeder.ticks[before]), "a cursor never goes back");
        }
        self.client.cursor = Some(tick);
        for (id, held) in self.client.copies.iter().filter(|(_, h)| h.done) {
            let table = usize::from(id.as_str() >= "c");
            assert_eq!(held.copy, self.db.at(snapshot, table), "copy {id} at tick {tick}");
            self.checks += 1;
        }
    }

    // ---- the gateway

    fn carry_out(&mut self, actions: Vec<Action<Wire>>) {
        for action in actions {
            match action {
                Action::Text(text) => self.see(&text),
                Action::Frame(frame) => self.deliver(frame),
                Action::Commit(tick) => self.deliver(tick.frame.clone()),
                Action::Resolve { .. } => {
                    let mut out = vec![];
                    self.session.attach(&mut out);
                    self.carry_out(out);
                }
                Action::Feeder(message) => self.feeder.inbox.push_back(message),
                Action::Watch(shape) => assert!(self.watching.insert(shape)),
                Action::Unwatch(shape) => assert!(self.watching.remove(&shape)),
                Action::CancelJob(job) => {
                    self.jobs.retain(|j| j.id != job);
                    if self.running.as_ref().is_some_and(|(j, ..)| j.id == job) {
                        self.running = None;
                    }
                }
                Action::Close(code) => panic!("closed with {code:?}"),
            }
        }
    }

    fn deliver(&mut self, frame: Wire) {
        match frame {
            Wire::Changes(shape, ops) => self.client.staged.push(Staged::Changes(format!("s{shape}"), ops)),
            Wire::Commit(tick) => self.apply_commit(tick),
        }
    }

    fn from_feeder(&mut self, message: FromFeeder) {
        let mut out = vec![];
        let current = self.session.id();
        match message {
            FromFeeder::Opened(session) if session == current => {
                let limits = Limits { max_frame_bytes: 1, max_subscriptions: 6, client_queue_bytes: 1 };
                let welcome =
                    Welcome { session: "u".into(), tenant: "t".into(), server: "s".into(), heartbeat_ms: 1, limits };
                self.session.opened(welcome, "web".into(), vec![], &mut out);
            }
            FromFeeder::Subscribed(session, id, shape, resumed) if session == current => {
                self.session.subscribed(&id, shape, "t".into(), vec![], vec![], resumed, &mut out);
            }
            FromFeeder::Job(session, job, ids) if session == current => self.session.job(job, &ids, &mut out),
            FromFeeder::Resync(session, id) if session == current => {
                self.session.resync(&id, "schema_changed".into(), &mut out);
            }
            FromFeeder::Ended(session, id) if session == current => {
                self.session.ended(&id, ErrorCode::SnapshotFailed, "ended", None, &mut out);
            }
            FromFeeder::CatchUp(session, frames, tick) if session == current => {
                if self.session.is_resuming() {
                    frames.into_iter().for_each(|f| self.deliver(f));
                    self.deliver(Wire::Commit(tick));
                    self.session.catch_up_ended(&mut out);
                }
            }
            FromFeeder::Changes(shape, ops) => {
                self.tick_open = true;
                let frame = Wire::Changes(shape, ops);
                if self.watching.contains(&shape) && self.session.changes(shape, &frame) == Delivery::Send {
                    self.in_tick = true;
                    self.deliver(frame);
                }
            }
            FromFeeder::Commit(number) => {
                self.tick_open = false;
                let snapshot = self.feeder.ticks[number].clone();
                let tick = Rc::new(Tick { snapshot, cursor: "".into(), frame: Wire::Commit(number) });
                self.latest = Some(tick.clone());
                if self.in_tick || self.session.wants_commits() {
                    self.in_tick = false;
                    self.session.commit(&tick, &mut out);
                }
            }
            // Of a session that has gone.
            _ => {}
        }
        self.carry_out(out);
    }

    fn from_worker(&mut self, session: SessionId, message: FromWorker) {
        if session != self.session.id() {
            return;
        }
        let mut out = vec![];
        match message {
            FromWorker::Begin(job, snapshot) => {
                self.session.begin(job, snapshot);
                self.feeder.inbox.push_back(ToFeeder::NeedTick);
            }
            FromWorker::Rows(job, index, rows, done) => {
                if let Some(id) = self.session.rows_for(job, index) {
                    self.client.staged.push(Staged::Rows(id.to_owned(), rows));
                }
                if done {
                    let now = self.latest.clone().filter(|_| !self.tick_open);
                    self.session.rows_done(job, index, now.as_ref(), &mut out);
                }
            }
            FromWorker::End(job) => self.session.job_ended(job, &mut out),
            FromWorker::Failed(job) => {
                self.session.job_failed(job, ErrorCode::SnapshotFailed, "failed", None, &mut out);
            }
        }
        self.carry_out(out);
    }

    fn bare_commit(&mut self) {
        if let Some(latest) = self.latest.clone().filter(|_| !self.tick_open) {
            let mut out = vec![];
            self.session.bare_commit(&latest, &mut out);
            self.carry_out(out);
        }
    }

    // ---- the worker

    fn worker_step(&mut self) {
        let Some((job, rows, began)) = &mut self.running else {
            self.running = self.jobs.pop_front().map(|job| (job, vec![], false));
            return;
        };
        let (id, session) = (job.id, job.session);
        if !*began {
            let snapshot = self.db.snapshot();
            *rows = job.tables.iter().map(|t| self.db.at(&snapshot, *t).into_iter().collect()).collect();
            *began = true;
            self.from_worker.push_back((session, FromWorker::Begin(id, snapshot)));
            // It dies here and another begins anew.
            if self.random.chance(10) {
                *began = false;
            }
            return;
        }
        if self.random.chance(3) {
            self.from_worker.push_back((session, FromWorker::Failed(id)));
            self.running = None;
            return;
        }
        match rows.iter_mut().enumerate().find(|(_, r)| !r.contains(&(u64::MAX, [0; 2]))) {
            Some((index, left)) => {
                let n = left.len().min(self.random.below(4) as usize);
                let part: Vec<_> = left.drain(..n).collect();
                let done = left.is_empty();
                if done {
                    left.push_back((u64::MAX, [0; 2]));
                }
                self.from_worker.push_back((session, FromWorker::Rows(id, index as u32, part, done)));
            }
            None => {
                self.from_worker.push_back((session, FromWorker::End(id)));
                self.running = None;
            }
        }
    }

    // ---- the feeder

    fn feeder_command(&mut self) {
        let Some(message) = self.feeder.inbox.pop_front() else { return };
        match message {
            ToFeeder::Open { session, cursor, subscriptions, .. } => {
                self.feeder.live.clear();
                self.feeder.outbox.push_back(FromFeeder::Opened(session));
                let cursor: Option<usize> = cursor.and_then(|c| c.parse().ok());
                let mut shapes = vec![];
                let mut joining = vec![];
                for subscription in subscriptions {
                    let resumed = cursor.is_some() && !self.random.chance(25);
                    let shape = self.subscribed(session, &subscription, resumed);
                    if resumed {
                        shapes.push(shape);
                    } else {
                        joining.push(subscription.id);
                    }
                }
                if let (Some(from), false) = (cursor, shapes.is_empty()) {
                    shapes.sort_unstable();
                    shapes.dedup();
                    let last = self.feeder.ticks.len() - 1;
                    let mut frames = vec![];
                    for at in from..last {
                        let (earlier, later) = (&self.feeder.ticks[at], &self.feeder.ticks[at + 1]);
                        for shape in &shapes {
                            let ops = self.db.between(earlier, later, (shape % 2) as usize);
                            frames.push(Wire::Changes(*shape, Rc::new(ops)));
                        }
                    }
                    self.feeder.catch_up = Some(FromFeeder::CatchUp(session, frames, last));
                }
                self.queue_job(session, joining);
            }
            ToFeeder::Subscribe { session, subscription } => {
                self.subscribed(session, &subscription, false);
                self.queue_job(session, vec![subscription.id]);
            }
            ToFeeder::Unsubscribe { id, .. } => {
                self.feeder.live.remove(&id);
            }
            ToFeeder::NeedTick => self.tick(),
            _ => {}
        }
    }

    fn subscribed(&mut self, session: SessionId, subscription: &Subscription, resumed: bool) -> ShapeId {
        let table: u32 = subscription.table.parse().expect("table");
        let shape = self.feeder.generation * 2 + table;
        self.feeder.live.insert(subscription.id.clone(), shape);
        self.feeder.outbox.push_back(FromFeeder::Subscribed(session, subscription.id.clone(), shape, resumed));
        shape
    }

    fn queue_job(&mut self, session: SessionId, ids: Vec<String>) {
        if ids.is_empty() {
            return;
        }
        let tables = ids.iter().map(|id| (self.feeder.live[id] % 2) as usize).collect();
        let id = self.feeder.next_job;
        self.feeder.next_job += 1;
        self.feeder.outbox.push_back(FromFeeder::Job(session, id, ids));
        // The worker can not begin before the gateway has it; the harness hands it on there.
        self.jobs.push_back(Job { id, session, tables });
    }

    fn tick(&mut self) {
        let snapshot = self.db.snapshot();
        let before = self.feeder.ticks.last().cloned().unwrap_or_default();
        let shapes: BTreeSet<ShapeId> = self.feeder.live.values().copied().collect();
        for shape in shapes {
            let ops = self.db.between(&before, &snapshot, (shape % 2) as usize);
            if ops.is_empty() {
                continue;
            }
            // A shape may come several times.
            let (a, b) = ops.split_at(self.random.below(ops.len() as u64) as usize);
            for part in [a, b].into_iter().filter(|p| !p.is_empty()) {
                self.feeder.outbox.push_back(FromFeeder::Changes(shape, Rc::new(part.to_vec())));
            }
        }
        self.feeder.ticks.push(snapshot);
        // A catch-up comes before the next commit, maybe amid the tick.
        if let Some(catch_up) = self.feeder.catch_up.take() {
            self.feeder.outbox.push_back(catch_up);
        } else if self.random.chance(15) && matches!(self.feeder.inbox.front(), Some(ToFeeder::Subscribe { .. })) {
            // Joins need not wait for the end of a tick.
            self.feeder_command();
        }
        let number = self.feeder.ticks.len() - 1;
        self.feeder.outbox.push_back(FromFeeder::Commit(number));
    }

    fn resync(&mut self) {
        let count = self.feeder.live.len() as u64;
        if count == 0 || self.feeder.catch_up.is_some() {
            return;
        }
        let at = self.random.below(count) as usize;
        let Some((id, shape)) = self.feeder.live.iter().nth(at).map(|(i, s)| (i.clone(), *s)) else { return };
        let session = self.next_session - 1;
        // The feeder may not know of the newest session yet.
        if self.feeder.inbox.iter().any(|m| matches!(m, ToFeeder::Open { .. })) {
            return;
        }
        if self.random.chance(20) {
            self.feeder.live.remove(&id);
            self.feeder.outbox.push_back(FromFeeder::Ended(session, id));
            return;
        }
        self.feeder.generation += 1;
        self.feeder.outbox.push_back(FromFeeder::Resync(session, id.clone()));
        let table = (shape % 2).to_string();
        let subscription = Subscription { id: id.clone(), table, columns: None, predicate: None, params: None };
        self.subscribed(session, &subscription, false);
        self.queue_job(session, vec![id]);
    }

    // ---- the schedule

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
        self.feeder.outbox.pop_front().map(|m| self.from_feeder(m))
    }

    fn pump_worker(&mut self) -> Option<()> {
        self.from_worker.pop_front().map(|(session, m)| self.from_worker(session, m))
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
    let (mut checks, mut lives) = (0, 0);
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
            (world.checks, world.lives)
        });
        let Ok((c, l)) = result else { panic!("seed {seed}") };
        checks += c;
        lives += l;
    }
    assert!(checks > 10_000 && lives > 2_000, "the model has power: {checks} checks, {lives} joins");
}
