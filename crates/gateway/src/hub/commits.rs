//! The commits of a tick: one text for all who hold the same, and a cheap one for who holds what nobody else does.

use crate::connection::ConnState;
use crate::frame::OutFrame;
use rte_core::Held;
use rte_core::session::Tick;
use rte_protocol::wire::commit_parts;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Different commits of a tick that are kept to be shared.
const SHARED: usize = 1024;
/// Who refers to what a single connection holds: [`Holdings`], its session, its last commit and the one being sent.
const ALONE: usize = 4;

/// What the connections of a thread hold: equal ones share the memory, and are then told to be equal by their place.
#[derive(Debug, Default)]
pub struct Holdings(HashSet<Rc<Held>>);

impl Holdings {
    /// What a session is about to say to be held, as others may have it.
    pub fn shared(&mut self, state: &mut ConnState, held: Rc<Held>) -> Rc<Held> {
        if state.sent.as_ref().is_some_and(|(_, last)| Rc::ptr_eq(last, &held)) {
            return held;
        }
        if let Some(known) = self.0.get(&held) {
            state.session.share_holding(known);
            return known.clone();
        }
        self.0.insert(held.clone());
        held
    }

    /// Drops what nobody holds any more. To be called now and then.
    pub fn forget(&mut self) {
        self.0.retain(|held| Rc::strong_count(held) > 1);
    }
}

/// A tick and its commits.
#[derive(Debug)]
pub struct Commits {
    pub tick: Rc<Tick>,
    before: Box<[u8]>,
    after: Box<[u8]>,
    last: Option<(Rc<Held>, OutFrame)>,
    frames: HashMap<Rc<Held>, OutFrame>,
}

impl Commits {
    pub fn new(tick: Rc<Tick>) -> Self {
        let (before, after) = commit_parts(tick.cursor.cursor(), &tick.time);
        Self { tick, before: before.into(), after: after.into(), last: None, frames: HashMap::new() }
    }

    /// The commit for those who hold this.
    pub fn frame(&mut self, held: &Rc<Held>) -> OutFrame {
        if let Some((last, frame)) = &self.last
            && Rc::ptr_eq(last, held)
        {
            return frame.clone();
        }
        if Rc::strong_count(held) <= ALONE {
            return self.make(held);
        }
        let frame = match self.frames.get(held) {
            Some(frame) => frame.clone(),
            None => {
                let frame = self.make(held);
                if self.frames.len() < SHARED {
                    self.frames.insert(held.clone(), frame.clone());
                }
                frame
            }
        };
        self.last = Some((held.clone(), frame.clone()));
        frame
    }

    fn make(&self, held: &Held) -> OutFrame {
        let (head, tail) = self.tick.cursor.parts(held);
        OutFrame::text_of(&[&self.before, &head, tail.as_bytes(), &self.after])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rte_core::Snapshot;
    use rte_core::held::Stem;
    use rte_core::session::Frame as _;

    #[test]
    fn a_commit_is_the_same_text_whether_it_is_shared_or_not() {
        let tick = Tick { snapshot: Snapshot::default(), cursor: Stem::new("c"), time: "t".into() };
        let tick = Rc::new(tick);
        for held in [Held::default(), Held::of([1, 2]), Held::of(0..100)] {
            let held = Rc::new(held);
            let alone = Commits::new(tick.clone()).frame(&held);
            let others: Vec<_> = (0..ALONE).map(|_| held.clone()).collect();
            let mut commits = Commits::new(tick.clone());
            let shared = [commits.frame(&held), commits.frame(&others[0])];
            let text = format!(r#"{{"type":"commit","cursor":"{}","time":"t"}}"#, tick.cursor.with(&held));
            let expected = OutFrame::text_of(&[text.as_bytes()]);
            for frame in shared.iter().chain([&alone]) {
                assert_eq!(frame.all(), expected.all());
                assert_eq!(frame.bytes(), expected.bytes());
            }
        }
    }
}
