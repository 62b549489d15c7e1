//! What the gateway does around the machine: carries out its actions, hands it events in their order.

use super::World;
use super::client::Staged;
use super::database::Op;
use super::feeder::{FromFeeder, clients, digest};
use super::worker::FromWorker;
use crate::held::Stem;
use crate::session::{Action, Delivery, Frame, Tick, Welcome};
use rte_protocol::bridge::{SessionId, ShapeId, ToFeeder};
use rte_protocol::wire::{ErrorCode, Limits};
use std::rc::Rc;

/// What stands for an encoded frame of changes.
#[derive(Debug, Clone)]
pub struct Wire(pub ShapeId, pub Rc<Vec<Op>>);

impl Frame for Wire {
    fn bytes(&self) -> usize {
        1
    }
}

impl World {
    pub fn carry_out(&mut self, actions: Vec<Action<Wire>>) {
        for action in actions {
            match action {
                Action::Text(text) => self.see(&text),
                Action::Frame(frame) => self.deliver(frame),
                Action::Commit(tick, held) => self.apply_commit(&tick.cursor.with(&held)),
                Action::Resolve { .. } => {
                    let mut out = vec![];
                    self.session.attach("", &mut out);
                    self.carry_out(out);
                }
                Action::Feeder(message) => self.feeder.inbox.push_back(message),
                Action::Watch(shape) => assert!(self.watching.insert(shape)),
                Action::Unwatch(shape) => assert!(self.watching.remove(&shape)),
                Action::CancelJob(job) => {
                    self.jobs.retain(|j| j.id != job);
                    if self.running.as_ref().is_some_and(|r| r.job.id == job) {
                        self.running = None;
                    }
                }
                Action::Close(code) => panic!("closed with {code:?}"),
            }
        }
    }

    pub fn deliver(&mut self, Wire(shape, ops): Wire) {
        self.client.staged.push(Staged::Changes(shape, ops));
    }

    fn closed(&self, number: usize) -> Rc<Tick> {
        let (snapshot, cursor) = (self.feeder.ticks[number].clone(), Stem::new(&number.to_string()));
        Rc::new(Tick { snapshot, cursor, time: "".into() })
    }

    pub fn feeder_says(&mut self, message: FromFeeder) {
        let mut out = vec![];
        let current = self.session.id();
        match message {
            FromFeeder::Opened(session) if session == current => {
                let limits = Limits { max_frame_bytes: 1, max_subscriptions: 6, client_queue_bytes: 1 };
                let welcome = Welcome {
                    session: "u".into(),
                    tenant: "t".into(),
                    server: "s".into(),
                    heartbeat_ms: 1,
                    limits,
                    expires_in_ms: None,
                };
                self.session.opened(welcome, "web".into(), vec![], &mut out);
            }
            FromFeeder::Subscribed(session, id, shape, resumed) if session == current => {
                let digest = digest(clients(&id), shape);
                self.session.subscribed(&id, shape, "t".into(), vec![], vec![], (resumed, false), digest, &mut out);
            }
            FromFeeder::Job(session, job, ids) if session == current => self.session.job(job, &ids, &mut out),
            FromFeeder::Resync(session, id) if session == current => {
                self.session.resync(&id, "schema_changed".into(), &mut out);
            }
            FromFeeder::Ended(session, id) if session == current => {
                self.session.ended(&id, ErrorCode::SnapshotFailed, "ended", None, &mut out);
            }
            FromFeeder::CatchUp(session, frames, tick) if session == current && self.session.is_resuming() => {
                frames.into_iter().for_each(|f| self.deliver(f));
                let held = self.session.holding();
                self.apply_commit(&self.closed(tick).cursor.with(&held));
                self.session.catch_up_ended(&mut out);
            }
            FromFeeder::Changes(shape, ops) => {
                self.tick_open = true;
                let frame = Wire(shape, ops);
                if self.watching.contains(&shape) && self.session.changes(shape, &frame) == Delivery::Send {
                    self.in_tick = true;
                    self.deliver(frame);
                }
            }
            FromFeeder::Commit(number) => {
                self.tick_open = false;
                let tick = self.closed(number);
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

    pub fn worker_says(&mut self, session: SessionId, message: FromWorker) {
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

    pub fn bare_commit(&mut self) {
        if let Some(latest) = self.latest.clone().filter(|_| !self.tick_open) {
            let mut out = vec![];
            self.session.bare_commit(&latest, &mut out);
            self.carry_out(out);
        }
    }
}
