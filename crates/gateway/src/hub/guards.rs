//! How often a client may speak, and its address be wrong about who it is: past either there is one answer, the error
//! `TOO_MANY_REQUESTS` and close 4429. And how much clients may say before their feeder has taken it: past that they are
//! not read from, for a feeder that does not keep up would be given up, with all its clients.
//!
//! Decides nothing about tokens: whether one was good is the feeder's word.

use super::Hub;
use crate::connection::{Conn, ConnState};
use crate::directory::FeederId;
use crate::event::{SessionEvent, ToBridge};
use crate::rate::Rate;
use crate::websocket::Incoming;
use rte_protocol::bridge::ToFeeder;
use rte_protocol::wire::{ClientMessage, CloseCode, ErrorCode};
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

/// What may be under way to a feeder before its clients are held back.
const UNDER_WAY: usize = 8 << 20;

/// Counts what is written.
struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Hub {
    /// Tells a feeder, and counts what that is until it has taken it.
    pub(super) fn tell_feeder(&self, feeder: FeederId, message: ToFeeder) {
        let mut count = Count(0);
        let _ = serde_json::to_writer(&mut count, &message);
        if let Some(feeder) = self.feeders.get(&feeder) {
            feeder.under_way.fetch_add(count.0, Relaxed);
        }
        self.tell(ToBridge::Feeder { feeder, message, bytes: count.0 });
    }

    /// Whether a feeder has more before it than it should be given.
    pub(super) fn is_full(&self, feeder: FeederId) -> bool {
        self.feeders.get(&feeder).is_some_and(|feeder| feeder.under_way.load(Relaxed) > UNDER_WAY)
    }

    /// A client that was held back, looked at by the sweep.
    pub(super) fn look_at_held_back(&mut self, state: &mut ConnState) {
        state.held_back = state.feeder.is_some_and(|feeder| self.is_full(feeder));
        self.pace_reading(state);
    }

    /// Whether the client may say one more. Pings count too: each is answered.
    pub(super) fn admits(&mut self, conn: &Rc<Conn>, state: &mut ConnState, incoming: &Incoming) -> bool {
        match incoming {
            Incoming::Text(_) | Incoming::Binary => self.counted.received += 1,
            Incoming::Control => {}
            Incoming::Close | Incoming::TooLarge | Incoming::Violation => return true,
        }
        let within = Rate::per_second(self.config.max_messages_per_second)
            .is_none_or(|rate| state.messages.take(rate, self.now));
        if !within {
            let hint = Some("send less often; the bound is rte.max_messages_per_second");
            self.too_many(conn, state, "too many messages", hint);
        }
        within
    }

    /// Whether the client's address may offer the token of this message, where it has one.
    pub(super) fn admits_token(
        &mut self,
        conn: &Rc<Conn>,
        state: &mut ConnState,
        message: Option<&ClientMessage>,
    ) -> bool {
        let offers = match message {
            Some(ClientMessage::Hello(hello)) => hello.token.is_some() && !state.session.has_hello(),
            Some(ClientMessage::Auth(_)) => true,
            _ => false,
        };
        if !offers {
            return true;
        }
        let admitted = conn.permit.may_offer_token(&self.config);
        if admitted {
            state.token_offered = true;
        } else {
            let hint = Some("try again in a minute");
            self.too_many(conn, state, "too many tokens of this address were wrong", hint);
        }
        admitted
    }

    /// Charges the address for a token that was wrong. One that has only expired since it was taken costs nothing.
    pub(super) fn note_verdict(&mut self, conn: &Conn, state: &mut ConnState, event: &SessionEvent) {
        match event {
            SessionEvent::Opened { .. } | SessionEvent::Renewed { .. } => state.token_offered = false,
            SessionEvent::Refused { close, .. }
                if *close == CloseCode::Unauthorized.code() && std::mem::take(&mut state.token_offered) =>
            {
                conn.permit.token_failed(&self.config);
            }
            _ => {}
        }
    }

    fn too_many(&mut self, conn: &Rc<Conn>, state: &mut ConnState, message: &str, hint: Option<&str>) {
        self.shared.metrics.figures.rate_limited_total.fetch_add(1, Relaxed);
        self.refuse(conn, state, CloseCode::TooMany, ErrorCode::TooManyRequests, message, hint);
    }
}
