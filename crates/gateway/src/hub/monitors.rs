//! Whether somebody may see the figures: the landlord's database is asked, for it knows tokens and roles.
//!
//! To its feeder the question is a session that asks for nothing and goes as soon as it is let in or not.

use super::Hub;
use crate::directory::{FeederId, Place};
use crate::event::{SessionEvent, ToBridge};
use rte_protocol::bridge::{SessionId, ToFeeder};
use rte_protocol::wire::CloseCode;
use std::net::SocketAddr;
use tokio::sync::oneshot;

/// What the database says of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its role may see the figures.
    Monitor,
    /// Somebody, who may not.
    Other,
    /// The token is not accepted.
    Wrong,
    /// Nobody can tell now.
    Unavailable,
}

/// A question that is under way.
#[derive(Debug)]
pub struct Question {
    feeder: FeederId,
    reply: oneshot::Sender<Verdict>,
}

impl Hub {
    /// Asks whose a token is. None where nobody can be asked. Whoever waits no longer has to say so.
    pub fn ask_monitor(&mut self, token: String, peer: SocketAddr) -> Option<(SessionId, oneshot::Receiver<Verdict>)> {
        let Place::At(_, feeder) = self.directory.find(None) else { return None };
        if self.is_full(feeder) {
            return None;
        }
        let session = self.new_session();
        let (reply, verdict) = oneshot::channel();
        self.questions.insert(session, Question { feeder, reply });
        let open = ToFeeder::Open {
            session,
            tenant: String::new(),
            token: Some(token),
            client: None,
            peer: peer.to_string(),
            cursor: None,
            subscriptions: Vec::new(),
        };
        self.tell_feeder(feeder, open);
        Some((session, verdict))
    }

    /// Nobody waits for the answer any more.
    pub fn give_up_question(&mut self, session: SessionId) {
        if let Some(Question { feeder, .. }) = self.questions.remove(&session) {
            self.tell_feeder(feeder, ToFeeder::Close { session });
            self.tell(ToBridge::SessionGone { feeder, session });
        }
    }

    /// What the feeder said of a session, if it is a question's.
    pub(super) fn question_event(&mut self, feeder: FeederId, session: SessionId, event: &SessionEvent) -> bool {
        if self.questions.get(&session).is_none_or(|q| q.feeder != feeder) {
            return false;
        }
        let verdict = match event {
            SessionEvent::Opened { monitor: true, .. } => Verdict::Monitor,
            SessionEvent::Opened { monitor: false, .. } => Verdict::Other,
            SessionEvent::Refused { close, .. } if *close == CloseCode::Unauthorized.code() => Verdict::Wrong,
            SessionEvent::Refused { close, .. } if *close == CloseCode::Forbidden.code() => Verdict::Other,
            SessionEvent::Refused { .. } => Verdict::Unavailable,
            // It asks a query worker first.
            _ => return true,
        };
        if let Some(Question { reply, .. }) = self.questions.remove(&session) {
            let _ = reply.send(verdict);
        }
        if matches!(event, SessionEvent::Opened { .. }) {
            self.tell_feeder(feeder, ToFeeder::Close { session });
        }
        true
    }

    /// The feeder is gone, and with it the answers.
    pub(super) fn drop_questions(&mut self, feeder: FeederId) {
        self.questions.retain(|_, question| question.feeder != feeder);
    }
}
