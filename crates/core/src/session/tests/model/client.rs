//! The client: keeps copies, checks them at every commit, comes and goes.

use super::World;
use super::database::{Copy, Op, Row, apply};
use crate::session::Session;
use rte_protocol::wire::{ClientMessage, ErrorCode, Hello, Subscription};
use serde_json::Value;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A copy that the client keeps.
#[derive(Debug, Default, Clone)]
pub struct Held {
    pub shape: String,
    pub copy: Copy,
    pub done: bool,
}

#[derive(Debug)]
pub enum Staged {
    Subscribed(String, String, bool),
    Rows(String, Vec<(u64, Row)>),
    Done(String),
    Changes(String, Rc<Vec<Op>>),
    Gone(String),
    Resync(String),
}

#[derive(Default)]
pub struct Client {
    pub copies: BTreeMap<String, Held>,
    pub staged: Vec<Staged>,
    pub cursor: Option<usize>,
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

    pub fn say(&mut self, message: ClientMessage) {
        let mut out = vec![];
        self.session.message(Ok(message), &mut out);
        self.carry_out(out);
    }

    pub fn client_step(&mut self) {
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
    pub fn see(&mut self, text: &str) {
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

    pub fn apply_commit(&mut self, tick: usize) {
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
}
