//! The client: keeps copies, checks them and what the cursor says of them at every commit, comes and goes.

use super::World;
use super::database::{Copy, Op, Row, apply};
use super::feeder::digest;
use crate::held;
use crate::session::Session;
use rte_protocol::bridge::ShapeId;
use rte_protocol::wire::{ClientMessage, ErrorCode, Hello, Subscription};
use serde_json::Value;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A copy that the client keeps.
#[derive(Debug, Default, Clone)]
pub struct Held {
    /// None while it is replaced.
    pub shape: Option<ShapeId>,
    pub copy: Copy,
    pub done: bool,
}

#[derive(Debug)]
pub enum Staged {
    Subscribed(String, ShapeId, bool),
    Rows(String, Vec<(u64, Row)>),
    Done(String),
    Changes(ShapeId, Rc<Vec<Op>>),
    Gone(String),
    Resync(String),
}

#[derive(Default)]
pub struct Client {
    pub copies: BTreeMap<String, Held>,
    pub staged: Vec<Staged>,
    /// As it came with the last commit.
    pub cursor: Option<String>,
    /// The tick of that commit.
    pub at: usize,
    /// A client may or may not apply changes to rows that it has staged: both must come out exact.
    pub applies_to_staged: bool,
}

impl World {
    pub fn connect(&mut self) {
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
            ..Subscription::default()
        };
        let hello = Hello {
            cursor: self.client.cursor.clone(),
            subscriptions: self.asked.iter().map(subscription).collect(),
            ..Hello::default()
        };
        self.say(ClientMessage::Hello(hello));
    }

    pub fn say(&mut self, message: ClientMessage) {
        let mut out = vec![];
        self.session.message(Ok(message), &mut out);
        self.carry_out(out);
    }

    pub fn client_step(&mut self) {
        let id = ["a", "b", "c", "d"][self.random.below(4) as usize].to_owned();
        if self.random.chance(12) {
            self.connect();
        } else if !self.asked.contains(&id) {
            self.asked.insert(id.clone());
            let table = if id.as_str() < "c" { "0" } else { "1" }.to_owned();
            let subscription = Subscription { id, table, ..Subscription::default() };
            self.say(ClientMessage::Subscribe(subscription));
        } else if self.random.chance(40) {
            self.asked.remove(&id);
            self.say(ClientMessage::Unsubscribe { id });
        }
    }

    /// A message reaches the client.
    pub fn see(&mut self, text: &str) {
        let m: Value = serde_json::from_str(text).expect("json");
        let id = || m["id"].as_str().expect("id").to_owned();
        let staged = match m["type"].as_str().expect("type") {
            "subscribed" => {
                let shape = m["shape"].as_str().and_then(|s| s.strip_prefix('s')).and_then(|s| s.parse().ok());
                let (shape, resumed) = (shape.expect("shape"), m["resumed"] == true);
                if resumed {
                    let held = self.client.copies.get(&id());
                    assert!(held.is_some_and(|h| h.done && h.shape == Some(shape)), "{m} goes on from {held:?}");
                    self.resumes += 1;
                }
                Staged::Subscribed(id(), shape, resumed)
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

    pub fn apply_commit(&mut self, cursor: &str) {
        let staged = std::mem::take(&mut self.client.staged);
        for item in staged {
            match item {
                Staged::Subscribed(id, shape, resumed) => {
                    let held = self.client.copies.entry(id).or_default();
                    held.shape = Some(shape);
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
                        held.shape = None;
                    }
                }
                Staged::Changes(shape, ops) => {
                    let staged_too = self.client.applies_to_staged;
                    for held in self.client.copies.values_mut().filter(|h| h.shape == Some(shape)) {
                        if held.done || staged_too {
                            ops.iter().for_each(|op| apply(&mut held.copy, op));
                        }
                    }
                }
            }
        }
        let (place, held) = held::split(cursor).expect("cursor");
        let tick: usize = place.parse().expect("tick");
        let done = self.client.copies.iter().filter(|(_, h)| h.done);
        let digests: Vec<u64> = done.filter_map(|(id, h)| digest(id, h.shape?)).collect();
        assert!(held.holds_exactly(&digests), "the cursor names the copies that are at it: {:?}", self.client.copies);
        let snapshot = &self.feeder.ticks[tick];
        assert!(snapshot.contains(&self.feeder.ticks[self.client.at]), "a cursor never goes back");
        self.client.cursor = Some(cursor.to_owned());
        self.client.at = tick;
        for (id, held) in self.client.copies.iter().filter(|(_, h)| h.done) {
            let table = usize::from(id.as_str() >= "c");
            assert_eq!(held.copy, self.db.at(snapshot, table), "copy {id} at tick {tick}");
            self.checks += 1;
        }
    }
}
