//! Queues and sockets: what may be queued, when it is written, and how a connection is closed.

use super::{Commits, Counted, Hub};
use crate::connection::{Conn, ConnState, Input};
use crate::frame::OutFrame;
use crate::queue::Written;
use crate::requests::Answered;
use crate::wire::{Wire, close_event};
use rte_core::Held;
use rte_core::session::Tick;
use rte_protocol::bridge::GatewayConfig;
use rte_protocol::wire::CloseCode;
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

impl Hub {
    /// Puts a frame that counts into the queue; past the bound the connection is closed.
    pub(super) fn push(&mut self, conn: &Rc<Conn>, state: &mut ConnState, frame: OutFrame) {
        if state.closing.is_some() {
            return;
        }
        if over(&self.config, state) && !state.blocked {
            write(&mut self.counted, self.now, conn, state);
        }
        if over(&self.config, state) {
            self.slow(conn, state);
            return;
        }
        if state.queue.is_empty() {
            state.last_progress = self.now;
        }
        self.counted.deliveries += u64::from(frame.changes());
        state.queue.push(frame);
        self.flush_later(conn, state);
    }

    pub(super) fn push_paced(&mut self, conn: &Rc<Conn>, state: &mut ConnState, frame: OutFrame, rows: u32) {
        if state.queue.is_empty() {
            state.last_progress = self.now;
        }
        self.counted.rows += u64::from(rows);
        state.queue.push_paced(frame);
        self.flush_later(conn, state);
    }

    /// The commit of a tick, for a client that holds this.
    pub(super) fn push_commit(&mut self, conn: &Rc<Conn>, state: &mut ConnState, tick: Rc<Tick>, held: Rc<Held>) {
        if state.closing.is_some() {
            return;
        }
        let held = self.holdings.shared(state, held);
        let commits = state.feeder.and_then(|f| self.feeders.get_mut(&f)).and_then(|f| f.latest.as_mut());
        let frame = match commits.filter(|commits| Rc::ptr_eq(&commits.tick, &tick)) {
            Some(commits) => commits.frame(&held),
            None => Commits::new(tick.clone()).frame(&held),
        };
        // Without a look at the bound: it closes what is queued already.
        if state.queue.is_empty() {
            state.last_progress = self.now;
        }
        state.queue.push(frame);
        self.flush_later(conn, state);
        self.note_commit(state, tick, held);
    }

    /// The commit that closes a catch-up.
    pub(super) fn push_paced_commit(&mut self, conn: &Rc<Conn>, state: &mut ConnState, commits: &mut Commits) {
        let held = state.session.holding();
        let held = self.holdings.shared(state, held);
        let frame = commits.frame(&held);
        self.push_paced(conn, state, frame, 0);
        self.note_commit(state, commits.tick.clone(), held);
    }

    fn note_commit(&mut self, state: &mut ConnState, tick: Rc<Tick>, held: Rc<Held>) {
        state.last_commit = self.now;
        state.sent_commits += 1;
        state.sent = Some((tick, held));
        self.counted.commits += 1;
    }

    pub(super) fn push_ping(&mut self, conn: &Rc<Conn>, state: &mut ConnState) {
        if !over(&self.config, state) {
            let sign = match conn.wire {
                Wire::WebSocket(_) => &self.ping,
                Wire::Events(_) => &self.heartbeat,
                Wire::Poll => return,
            };
            let sign = sign.clone();
            self.push(conn, state, sign);
        }
    }

    pub(super) fn flush_later(&mut self, conn: &Conn, state: &mut ConnState) {
        if !state.in_flush && !state.blocked {
            state.in_flush = true;
            self.to_flush.push(conn.slot);
        }
    }

    /// Writes what the batch has put into queues: one write per connection where its socket takes it.
    pub fn flush_all(&mut self) {
        let mut list = std::mem::take(&mut self.to_flush);
        for slot in list.drain(..) {
            let Some(conn) = self.conns[slot].clone() else { continue };
            let mut state = conn.state.borrow_mut();
            state.in_flush = false;
            if !state.blocked {
                self.write_out(&conn, &mut state);
            }
        }
        self.to_flush = list;
        self.add_figures();
    }

    /// A socket that was full takes bytes again.
    pub fn writable(&mut self, conn: &Rc<Conn>) {
        self.now = Instant::now();
        let mut state = conn.state.borrow_mut();
        state.blocked = false;
        self.write_out(conn, &mut state);
        drop(state);
        self.add_figures();
    }

    pub(super) fn write_out(&mut self, conn: &Rc<Conn>, state: &mut ConnState) {
        self.counted.high_water = self.counted.high_water.max(state.queue.total());
        write(&mut self.counted, self.now, conn, state);
        if state.closing.is_some() && state.queue.is_empty() && !state.shut && !state.ended {
            state.shut = true;
            // Reading goes on until the client closes too, or a reset could eat what it was sent.
            if let Some(stream) = conn.wire.stream() {
                let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write);
            }
        }
        self.pace_reading(state);
    }

    pub(super) fn add_figures(&mut self) {
        let counted = std::mem::take(&mut self.counted);
        self.shared.metrics.high_water(counted.high_water);
        let f = &self.shared.metrics.figures;
        f.deliveries_total.fetch_add(counted.deliveries, Relaxed);
        f.commits_total.fetch_add(counted.commits, Relaxed);
        f.sent_bytes_total.fetch_add(counted.bytes, Relaxed);
        f.writes_total.fetch_add(counted.writes, Relaxed);
        f.received_total.fetch_add(counted.received, Relaxed);
        f.snapshot_rows_total.fetch_add(counted.rows, Relaxed);
    }

    /// Closes because the client takes too little.
    pub(super) fn slow(&mut self, conn: &Rc<Conn>, state: &mut ConnState) {
        if state.closing.is_none() {
            self.shared.metrics.figures.slow_consumers_total.fetch_add(1, Relaxed);
            state.queue.clear();
            self.close(conn, state, CloseCode::SlowConsumer);
        }
    }

    /// Says that it is closed after what is queued, and lets the client some time to answer.
    pub(super) fn close(&mut self, conn: &Rc<Conn>, state: &mut ConnState, code: CloseCode) {
        if state.closing.is_some() {
            return;
        }
        self.shared.log.debug(format!("connection from {} is closed with {}", conn.peer, code.code()));
        match conn.wire {
            Wire::WebSocket(_) => state.queue.push(OutFrame::close(code.code())),
            Wire::Events(_) => state.queue.push(close_event(code)),
            Wire::Poll => {}
        }
        if let Some(requests) = state.requests() {
            requests.stop(code);
        }
        self.finish(conn, state);
    }

    /// The close frame is in the queue.
    pub(super) fn finish(&mut self, conn: &Rc<Conn>, state: &mut ConnState) {
        state.closing = Some(self.now);
        self.detach(conn, state);
        self.flush_later(conn, state);
        state.paused = false;
        state.wake();
    }

    /// Ends at once.
    pub(super) fn end(&mut self, state: &mut ConnState) {
        state.ended = true;
        state.wake();
    }
}

/// Whether nothing more may be put into the queue.
pub(super) fn over(config: &GatewayConfig, state: &ConnState) -> bool {
    (state.queue.counted() + state.session.kept_bytes()) as u64 > config.client_queue_bytes
}

/// Answers the poll that waits, if there is something to say.
fn write_answer(state: &mut ConnState, now: Instant) -> Option<io::Result<Written>> {
    let Input::Requests(requests) = &mut state.input else { return None };
    let Answered { written, over } = requests.answer(&mut state.queue, now)?;
    if over {
        state.ended = true;
        state.wake();
    }
    Some(written)
}

/// Writes to the socket what it takes.
pub(super) fn write(counted: &mut Counted, now: Instant, conn: &Conn, state: &mut ConnState) {
    if state.ended {
        return;
    }
    let written = match conn.wire.stream() {
        Some(_) if state.queue.is_empty() => return,
        Some(stream) => state.queue.write_to(stream),
        None => match write_answer(state, now) {
            Some(written) => written,
            None => return,
        },
    };
    match written {
        Ok(written) => {
            counted.writes += 1;
            counted.bytes += written.bytes as u64;
            state.sent_bytes += written.bytes as u64;
            if written.bytes > 0 {
                state.last_progress = now;
            }
            state.blocked = written.blocked;
            if written.blocked {
                state.wake();
            }
        }
        Err(_) => {
            state.ended = true;
            state.wake();
        }
    }
}
