//! The way of a tick: from one frame per shape into the queues of those who watch it, without a copy, and of a
//! catch-up into those of the sessions that missed it.

use super::{Commits, EARLY, Hub, Shape, over, write};
use crate::connection::{Conn, ConnState};
use crate::deflate::Place;
use crate::directory::FeederId;
use crate::event::{CatchUpPart, ChangesPart, CommitPart};
use crate::frame::OutFrame;
use rte_core::held::Stem;
use rte_core::session::{Delivery, Tick};
use rte_protocol::bridge::ShapeId;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

impl Hub {
    pub(super) fn watch(&mut self, conn: &Conn, state: &mut ConnState, shape: ShapeId) {
        let Some(feeder) = state.feeder.and_then(|f| self.feeders.get_mut(&f)) else { return };
        let table = &self.subscribing;
        let unwatched = || Shape { members: Vec::new(), table: table.clone() };
        let entry = feeder.shapes.entry(shape).or_insert_with(unwatched);
        let place = u32::try_from(entry.members.len()).unwrap_or(u32::MAX);
        entry.members.push(conn.slot);
        entry.table.watchers.fetch_add(1, Relaxed);
        state.watching.push((shape, place));
    }

    /// Sessions that join or resume must see every commit.
    pub(super) fn note_waiting(&mut self, conn: &Conn, state: &mut ConnState) {
        if !state.in_waiting
            && state.session.wants_commits()
            && let Some(feeder) = state.feeder.and_then(|f| self.feeders.get_mut(&f))
        {
            state.in_waiting = true;
            feeder.waiting.push(conn.slot);
        }
    }

    pub(super) fn unwatch(&mut self, conn: &Conn, state: &mut ConnState, shape: ShapeId) {
        let Some(at) = state.watching.iter().position(|(s, _)| *s == shape) else { return };
        let (_, place) = state.watching.swap_remove(at);
        let Some(feeder) = state.feeder.and_then(|f| self.feeders.get_mut(&f)) else { return };
        let Some(entry) = feeder.shapes.get_mut(&shape) else { return };
        entry.members.swap_remove(place as usize);
        entry.table.watchers.fetch_sub(1, Relaxed);
        if entry.members.is_empty() {
            feeder.shapes.remove(&shape);
            return;
        }
        let Some(moved) = entry.members.get(place as usize).copied() else { return };
        if moved != conn.slot
            && let Some(moved) = &self.conns[moved]
            && let Some(watched) = moved.state.borrow_mut().watching.iter_mut().find(|(s, _)| *s == shape)
        {
            watched.1 = place;
        }
    }

    pub(super) fn changes(&mut self, id: FeederId, part: &ChangesPart) {
        let Some(feeder) = self.feeders.get_mut(&id) else { return };
        feeder.tick_open = true;
        let mut start = 0;
        for (at, frame) in part.frames.iter().enumerate() {
            let end = start + frame.len as usize;
            let range = start..end;
            start = end;
            let Some(feeder) = self.feeders.get_mut(&id) else { return };
            let Some(shape) = feeder.shapes.get_mut(&frame.shape) else { continue };
            if end > part.body.len() {
                return;
            }
            let encoded = {
                let place = Place(part.deflated.clone(), at);
                OutFrame::text_at(part.body.slice(range), frame.changes, place)
            };
            // Taken out while it is walked: closing a slow connection takes it out of its shapes.
            let members = std::mem::take(&mut shape.members);
            let mut overfull = Vec::new();
            let mut delivered = 0;
            for slot in &members {
                let Some(conn) = &self.conns[*slot] else { continue };
                let mut state = conn.state.borrow_mut();
                match state.session.changes(frame.shape, &encoded) {
                    Delivery::Ignore => {}
                    Delivery::Kept => {
                        if over(&self.config, &state) {
                            overfull.push(conn.clone());
                        }
                    }
                    Delivery::Send => {
                        if state.queue.counted() >= EARLY && !state.blocked {
                            write(&mut self.counted, self.now, conn, &mut state);
                        }
                        // A tick that began below the bound is queued whole, however large: its bytes are shared, and a
                        // client that is closed amid a tick would only get the same tick again.
                        if !state.in_tick && over(&self.config, &state) {
                            overfull.push(conn.clone());
                            continue;
                        }
                        if state.queue.is_empty() {
                            state.last_progress = self.now;
                        }
                        state.queue.push(encoded.clone());
                        delivered += u64::from(frame.changes);
                        if !state.in_tick {
                            state.in_tick = true;
                            feeder.in_tick.push(*slot);
                        }
                    }
                }
            }
            if let Some(shape) = feeder.shapes.get_mut(&frame.shape) {
                shape.members = members;
                shape.table.deliveries_total.fetch_add(delivered, Relaxed);
            }
            feeder.figures.counts.deliveries_total.fetch_add(delivered, Relaxed);
            self.counted.deliveries += delivered;
            for conn in overfull {
                self.slow(&conn, &mut conn.state.borrow_mut());
            }
        }
    }

    pub(super) fn commit(&mut self, id: FeederId, part: &CommitPart) {
        let Some(feeder) = self.feeders.get_mut(&id) else { return };
        let tick = Rc::new(Tick {
            snapshot: part.snapshot.clone(),
            cursor: Stem::new(&part.cursor),
            time: part.time.as_str().into(),
        });
        feeder.tick_open = false;
        self.written.extend(part.made_us.map(|made| (id, made)));
        feeder.latest = Some(Commits::new(tick.clone()));
        let mut in_tick = std::mem::take(&mut feeder.in_tick);
        let mut waiting = std::mem::take(&mut feeder.waiting);
        for slot in in_tick.drain(..) {
            let Some(conn) = self.conns[slot].clone() else { continue };
            let mut state = conn.state.borrow_mut();
            // The place may have been given to another meanwhile.
            if state.feeder == Some(id) {
                state.in_tick = false;
                self.commit_one(&conn, &mut state, &tick);
            }
        }
        waiting.retain(|slot| {
            let Some(conn) = self.conns[*slot].clone() else { return false };
            let mut state = conn.state.borrow_mut();
            if state.feeder != Some(id) || state.closing.is_some() {
                return false;
            }
            self.commit_one(&conn, &mut state, &tick);
            state.in_waiting = state.session.wants_commits();
            state.in_waiting
        });
        if let Some(feeder) = self.feeders.get_mut(&id) {
            feeder.in_tick = in_tick;
            waiting.append(&mut feeder.waiting);
            feeder.waiting = waiting;
        }
    }

    pub(super) fn commit_one(&mut self, conn: &Rc<Conn>, state: &mut ConnState, tick: &Rc<Tick>) {
        let mut actions = self.take_actions();
        state.session.commit(tick, &mut actions);
        self.carry_out(conn, state, actions);
    }

    pub(super) fn catch_up(&mut self, id: FeederId, part: &CatchUpPart) {
        let mut start = 0;
        let mut frames = Vec::with_capacity(part.frames.len());
        for len in &part.frames {
            let end = start + *len as usize;
            if end > part.body.len() {
                return;
            }
            frames.push((shape_of(&part.body[start..end]), OutFrame::text(part.body.slice(start..end), 0)));
            start = end;
        }
        let mut commits = part.last.then(|| {
            Commits::new(Rc::new(Tick {
                snapshot: rte_core::Snapshot::default(),
                cursor: Stem::new(&part.cursor),
                time: part.time.as_str().into(),
            }))
        });
        for session in &part.sessions {
            let Some(conn) = self.of_session(*session) else { continue };
            let mut state = conn.state.borrow_mut();
            if state.feeder != Some(id) || !state.session.is_resuming() {
                continue;
            }
            if state.queue.is_empty() {
                state.last_progress = self.now;
            }
            for (shape, frame) in &frames {
                // The client may have unsubscribed meanwhile.
                if shape.is_none_or(|shape| state.watching.iter().any(|(watched, _)| *watched == shape)) {
                    state.queue.push_paced(frame.clone());
                }
            }
            self.flush_later(&conn, &mut state);
            if let Some(commits) = &mut commits {
                self.push_paced_commit(&conn, &mut state, commits);
                let mut actions = self.take_actions();
                state.session.catch_up_ended(&mut actions);
                self.carry_out(&conn, &mut state, actions);
            }
        }
    }
}

/// The shape that a `changes` frame is about, where it begins as this project writes it.
fn shape_of(frame: &[u8]) -> Option<ShapeId> {
    let rest = frame.strip_prefix(br#"{"type":"changes","shape":"s"#)?;
    let digits = &rest[..rest.iter().position(|b| *b == b'"')?];
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_of_a_frame_is_read_from_its_beginning() {
        assert_eq!(shape_of(&rte_protocol::wire::changes_frame("s42", b"[]")), Some(42));
        assert_eq!(shape_of(b"{}"), None);
    }
}
