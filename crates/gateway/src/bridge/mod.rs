//! The bridge: feeders, query workers and observers over the Unix socket, and the ways between them and the
//! I/O threads.
//!
//! Decides which feeder serves a database (the last that came) and which worker runs which job. Invariant: what one
//! feeder sends reaches every I/O thread in its order. Lives in one of them; waits for nobody but who reads too slowly.

mod feeder;
pub mod jobs;
mod observer;
mod peer;
mod worker;

use crate::control::Log;
use crate::databases::Database;
use crate::directory::FeederId;
use crate::event::{IoThreads, ToBridge, ToIo};
use crate::metrics::Metrics;
use jobs::{Job, Jobs, Kind, WorkerId};
use peer::{FrameReader, PeerOut};
use rte_protocol::bridge::{Attach, JobId, SessionId, ToFeeder, ToWorker};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

/// Time for a peer to say what it is.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(5);

/// A feeder that is attached.
#[derive(Debug)]
struct Feeder {
    database: u32,
    /// It keeps the registry of tenants.
    landlord: bool,
    out: Rc<PeerOut>,
    figures: Arc<Database>,
}

/// The state of the bridge.
#[derive(Debug)]
struct Bridge {
    io: IoThreads,
    log: Log,
    metrics: Arc<Metrics>,
    /// Name of the landlord's database.
    landlord: String,
    feeders: RefCell<HashMap<FeederId, Feeder>>,
    workers: RefCell<HashMap<WorkerId, Rc<PeerOut>>>,
    jobs: RefCell<Jobs>,
    next: Cell<u32>,
}

/// What it starts with.
#[derive(Debug)]
pub struct Start {
    pub listener: std::os::unix::net::UnixListener,
    /// The user of this process, and so of the workers.
    pub uid: u32,
    pub io: IoThreads,
    pub log: Log,
    pub metrics: Arc<Metrics>,
    pub landlord: String,
    pub inbox: mpsc::UnboundedReceiver<ToBridge>,
}

/// Runs until the I/O threads are gone.
pub async fn serve(start: Start) -> std::io::Result<()> {
    let Start { listener, uid, io, log, metrics, landlord, mut inbox } = start;
    let listener = UnixListener::from_std(listener)?;
    let bridge = Rc::new(Bridge {
        io,
        log,
        metrics,
        landlord,
        feeders: RefCell::default(),
        workers: RefCell::default(),
        jobs: RefCell::default(),
        next: Cell::new(0),
    });
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if stream.peer_cred().is_ok_and(|c| c.uid() == uid) {
                        tokio::task::spawn_local(attach(bridge.clone(), stream));
                    } else {
                        bridge.log.warning("a peer of another user was turned away from the bridge".to_owned());
                    }
                }
                Err(e) => {
                    bridge.log.warning(format!("could not accept a worker: {e}"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            message = inbox.recv() => match message {
                Some(message) => bridge.carry_out(message),
                None => return Ok(()),
            },
            _ = second.tick() => {
                bridge.metrics.sample(Instant::now());
                bridge.show_snapshots();
                bridge.ask_for_workers();
            }
        }
    }
}

/// Learns what a peer is, and serves it as that until it is gone.
async fn attach(bridge: Rc<Bridge>, stream: UnixStream) {
    let (read, write) = stream.into_split();
    let mut reader = FrameReader::new(read);
    let Ok(Some(first)) = tokio::time::timeout(ATTACH_TIMEOUT, reader.next()).await else { return };
    let Ok((attach, _)) = first.read::<Attach>() else {
        bridge.log.warning("a peer of the bridge did not say what it is".to_owned());
        return;
    };
    let out = Rc::new(PeerOut::default());
    let writer = tokio::task::spawn_local({
        let out = out.clone();
        async move { out.write_to(write).await }
    });
    match attach {
        Attach::Feeder { database, name, pid } => {
            feeder::serve(&bridge, reader, &out, database, &name, pid).await;
        }
        Attach::Worker { database, pid } => worker::serve(&bridge, reader, &out, database, pid).await,
        Attach::Observer { database, .. } => observer::serve(&bridge, reader, &out, database).await,
    }
    out.close();
    let _ = writer.await;
}

impl Bridge {
    fn next_id(&self) -> u32 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    fn carry_out(&self, message: ToBridge) {
        match message {
            ToBridge::Feeder { feeder, message, bytes } => {
                self.tell_feeder(feeder, &message);
                if let Some(feeder) = self.feeders.borrow().get(&feeder) {
                    feeder.out.weigh(bytes);
                }
            }
            ToBridge::CancelJob { feeder, job } => self.cancel(|j| j.feeder == feeder && j.id == job),
            ToBridge::SessionGone { feeder, session } => {
                self.cancel(|j| j.feeder == feeder && j.session == session);
            }
            ToBridge::GiveUpAsk { feeder, job } => self.give_up_ask(feeder, job),
            ToBridge::NeedDatabase { tenant } => self.tell_landlord(&ToFeeder::NeedDatabase { tenant: tenant.into() }),
            ToBridge::ReloadTenants => self.tell_landlord(&ToFeeder::ReloadTenants),
        }
    }

    fn tell_feeder(&self, feeder: FeederId, message: &ToFeeder) {
        let out = self.feeders.borrow().get(&feeder).map(|f| f.out.clone());
        if let Some(out) = out {
            out.send(message, &[]);
        }
    }

    fn cancel(&self, matches: impl Fn(&Job) -> bool) {
        let cancelled = self.jobs.borrow_mut().cancel(matches);
        for (worker, job) in cancelled {
            self.tell_worker(worker, &ToWorker::Cancel { job }, &[]);
        }
        self.show_jobs();
    }

    /// A question has waited too long for its answer. It may have come just now.
    fn give_up_ask(&self, feeder: FeederId, job: JobId) {
        let session = Cell::new(None);
        self.cancel(|j| {
            let it = j.kind == Kind::Ask && j.feeder == feeder && j.id == job;
            if it {
                session.set(Some(j.session));
            }
            it
        });
        if let Some(session) = session.get() {
            self.tell_feeder(feeder, &ToFeeder::AskFailed { session, job });
        }
    }

    fn is_landlord(&self, feeder: FeederId) -> bool {
        self.feeders.borrow().get(&feeder).is_some_and(|f| f.landlord)
    }

    fn tell_landlord(&self, message: &ToFeeder) {
        let feeders = self.feeders.borrow();
        if let Some(landlord) = feeders.values().find(|f| f.landlord) {
            landlord.out.send(message, &[]);
        }
    }

    fn tell_worker(&self, worker: WorkerId, message: &ToWorker, body: &[u8]) {
        let out = self.workers.borrow().get(&worker).cloned();
        if let Some(out) = out {
            out.send(message, body);
        }
    }

    /// A word to the worker that runs a feeder's job, where one does.
    fn tell_runner(&self, feeder: FeederId, job: JobId, message: &ToWorker) {
        let worker = self.jobs.borrow().runner(feeder, job);
        if let Some(worker) = worker {
            self.tell_worker(worker, message, &[]);
        }
    }

    /// Hands waiting jobs of a database to its idle workers, and asks for more workers where none is.
    fn assign(&self, database: u32) {
        loop {
            let assigned = self.jobs.borrow_mut().assign(database);
            let Some((worker, jobs)) = assigned else { break };
            let Some((first, others)) = jobs.split_first() else { break };
            self.metrics.figures.jobs_total.fetch_add(1, Relaxed);
            let len = |job: &Job| u32::try_from(job.blob.len()).unwrap_or(u32::MAX);
            let told = ToWorker::Job { job: first.id, others: others.iter().map(|job| (job.id, len(job))).collect() };
            let blobs: Vec<&[u8]> = jobs.iter().map(|job| &job.blob[..]).collect();
            self.tell_worker(worker, &told, &blobs.concat());
        }
        self.show_jobs();
        self.ask_for_worker(database);
    }

    fn ask_for_worker(&self, database: u32) {
        let waiting = u32::try_from(self.jobs.borrow().waiting(database)).unwrap_or(u32::MAX);
        if waiting > 0 {
            for feeder in self.feeders.borrow().values().filter(|f| f.database == database) {
                feeder.out.send(&ToFeeder::NeedWorker { waiting }, &[]);
            }
        }
    }

    fn ask_for_workers(&self) {
        let databases: Vec<u32> = self.feeders.borrow().values().map(|f| f.database).collect();
        for database in databases {
            self.ask_for_worker(database);
        }
    }

    fn show_jobs(&self) {
        let jobs = self.jobs.borrow();
        self.metrics.figures.jobs_waiting.store(jobs.all_waiting() as u64, Relaxed);
        self.metrics.figures.workers.store(jobs.workers() as u64, Relaxed);
    }

    fn show_snapshots(&self) {
        let snapshots = self.jobs.borrow().snapshots();
        for feeder in self.feeders.borrow().values() {
            let count = snapshots.get(&feeder.database).copied().unwrap_or_default();
            feeder.figures.counts.snapshots.store(count, Relaxed);
        }
        self.metrics.figures.snapshots.store(snapshots.values().sum(), Relaxed);
    }

    fn show_feeders(&self) {
        self.metrics.figures.feeders.store(self.feeders.borrow().len() as u64, Relaxed);
    }

    fn feeder_down(&self, feeder: FeederId) {
        let gone = self.feeders.borrow_mut().remove(&feeder);
        if let Some(gone) = gone {
            self.metrics.databases.detach(&gone.figures);
            self.io.all(|| ToIo::FeederDown { feeder });
            self.cancel(|j| j.feeder == feeder);
            self.show_feeders();
        }
    }

    fn session(&self, feeder: FeederId, session: SessionId, event: crate::event::SessionEvent) {
        self.io.session(feeder, session, event);
    }

    fn queue_job(&self, database: u32, job: Job) {
        let (feeder, session, id) = (job.feeder, job.session, job.id);
        if !self.jobs.borrow_mut().queue(database, job) {
            self.tell_feeder(feeder, &ToFeeder::AskFailed { session, job: id });
        }
        self.assign(database);
    }
}
