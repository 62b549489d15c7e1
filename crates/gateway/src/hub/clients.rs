//! From a client's bytes to actions, and from the session machine's actions to queues, shapes and the bridge.

use super::Hub;
use crate::connection::{Conn, ConnState, Input};
use crate::event::ToBridge;
use crate::frame::OutFrame;
use crate::wire::Wire;
use rte_core::session::Action;
use rte_protocol::wire::{CloseCode, ErrorCode};
use std::rc::Rc;
use std::time::Instant;

/// Above this much in its queue, a client is not read from.
const PAUSE: usize = 256 * 1024;

impl Hub {
    /// The socket has something to read.
    pub fn readable(&mut self, conn: &Rc<Conn>) {
        self.now = Instant::now();
        let Wire::WebSocket(stream) = &conn.wire else { return self.gone(conn) };
        let mut scratch = std::mem::take(&mut self.scratch);
        let read = stream.try_read(&mut scratch);
        let mut state = conn.state.borrow_mut();
        match read {
            Ok(0) => self.end(&mut state),
            Ok(n) => {
                state.last_received = self.now;
                // What a closing client still says is dropped.
                if state.closing.is_none() {
                    self.input(conn, &mut state, &scratch[..n]);
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.end(&mut state),
        }
        drop(state);
        self.scratch = scratch;
        self.flush_all();
    }

    pub(super) fn input(&mut self, conn: &Rc<Conn>, state: &mut ConnState, mut input: &[u8]) {
        let mut output = Vec::new();
        while state.closing.is_none() && !state.ended {
            let Input::WebSocket { reader, backlog } = &mut state.input else { return };
            if state.session.is_resolving() {
                backlog.extend_from_slice(input);
                break;
            }
            let incoming = reader.next(&mut input, &mut output, &mut self.inflater);
            if !output.is_empty() {
                let frame = OutFrame::raw(std::mem::take(&mut output).into());
                self.push(conn, state, frame);
            }
            let Some(incoming) = incoming else { break };
            if self.admits(conn, state, &incoming) {
                self.incoming(conn, state, incoming);
            }
            state.held_back = state.feeder.is_some_and(|feeder| self.is_full(feeder));
        }
        self.pace_reading(state);
    }

    /// The client is not read from while its answers are not drained, or its feeder is not known or takes no more.
    pub(super) fn pace_reading(&mut self, state: &mut ConnState) {
        let paused = state.closing.is_none() && must_wait(state);
        if state.paused && !paused {
            // It could not be heard meanwhile.
            state.last_received = self.now;
            state.wake();
        }
        state.paused = paused;
    }

    pub(super) fn carry_out(&mut self, conn: &Rc<Conn>, state: &mut ConnState, mut actions: Vec<Action<OutFrame>>) {
        for action in actions.drain(..) {
            if state.closing.is_some() {
                continue;
            }
            match action {
                Action::Text(text) => self.push(conn, state, OutFrame::text(text.into(), 0)),
                Action::Frame(frame) => self.push(conn, state, frame),
                Action::Commit(tick, held) => self.push_commit(conn, state, tick, held),
                Action::Resolve { tenant } => self.resolve(conn, state, tenant),
                Action::Feeder(message) => {
                    if let Some(feeder) = state.feeder {
                        self.tell_feeder(feeder, message);
                    }
                }
                Action::Watch(shape) => self.watch(conn, state, shape),
                Action::Unwatch(shape) => self.unwatch(conn, state, shape),
                Action::CancelJob(job) => {
                    if let Some(feeder) = state.feeder {
                        self.tell(ToBridge::CancelJob { feeder, job });
                    }
                }
                Action::Close(code) => self.close(conn, state, code),
            }
        }
        // Calls nest (resolving leads to attaching); the longest-lived buffer is kept.
        if self.actions.capacity() < actions.capacity() {
            self.actions = actions;
        }
    }

    pub(super) fn take_actions(&mut self) -> Vec<Action<OutFrame>> {
        std::mem::take(&mut self.actions)
    }

    pub(super) fn refuse(
        &mut self,
        conn: &Rc<Conn>,
        state: &mut ConnState,
        close: CloseCode,
        code: ErrorCode,
        message: &str,
        hint: Option<&str>,
    ) {
        let mut actions = self.take_actions();
        state.session.refuse(close, code, message, hint, &mut actions);
        self.carry_out(conn, state, actions);
    }
}

/// Whether the client should say no more for now.
pub(super) fn must_wait(state: &ConnState) -> bool {
    let answers = state.queue.total() > PAUSE && !state.queue.has_paced();
    answers || state.held_back || state.session.is_resolving()
}
