//! The feeder's side of the connection to the gateway: made again when it is lost, and with it all sessions. Main thread
//! only.

use super::Feeder;
use super::link::{Link, LinkError};
use crate::guc;
use rte_protocol::bridge::{FromFeeder, ToFeeder};
use std::time::{Duration, Instant};

/// Pause between attempts to reach the gateway.
const RETRY: Duration = Duration::from_millis(20);

impl Feeder {
    pub(super) fn connect(&mut self) {
        let now = Instant::now();
        if self.link.is_some() || now < self.retry_at {
            return;
        }
        self.retry_at = now + RETRY;
        let path = guc::bridge_path();
        if path.is_empty() {
            return;
        }
        if let Ok(link) = Link::connect(&path, self.database, &self.name) {
            self.link = Some(link);
            if let Some(landlord) = &mut self.landlord {
                landlord.attached();
            }
            self.commit_due = true;
        }
    }

    pub(super) fn receive(&mut self, messages: &mut Vec<ToFeeder>) {
        let Some(link) = &mut self.link else { return };
        if let Err(e) = link.receive(messages) {
            messages.clear();
            self.disconnect(&e);
        }
    }

    pub(super) fn send(&mut self, message: &FromFeeder, body: &[&[u8]]) {
        let Some(link) = &mut self.link else { return };
        if let Err(e) = link.queue(message, body) {
            self.disconnect(&e);
        }
    }

    pub(super) fn flush(&mut self) {
        let Some(link) = &mut self.link else { return };
        if let Err(e) = link.flush() {
            self.disconnect(&e);
        }
    }

    /// The gateway is gone, and with it all sessions: they come back with their cursors.
    pub(super) fn disconnect(&mut self, why: &LinkError) {
        if !matches!(why, LinkError::Gone) {
            pgrx::log!("whagons_rte feeder drops its connection to the gateway: {why}");
        }
        self.link = None;
        self.retry_at = Instant::now();
        self.sessions.clear();
        self.logins.clear();
        self.shapes.clear();
        self.stale.clear();
        self.troubled.clear();
        self.touched.clear();
        self.postponed.clear();
        self.verifications.clear();
    }
}
