//! From messages to the session machine and back: what a client said, and what a feeder or a query worker said about
//! one session.

use super::Hub;
use crate::connection::{Conn, ConnState};
use crate::directory::FeederId;
use crate::event::{SessionEvent, ToBridge};
use crate::frame::OutFrame;
use crate::websocket::Incoming;
use rte_core::session::Welcome;
use rte_protocol::bridge::SessionId;
use rte_protocol::wire::{ClientMessage, CloseCode, Hello, Limits, repair_parts, snapshot_parts};
use std::rc::Rc;

/// Longer cursors in `ack` are not recorded: they are kept per connection, for figures only.
const MAX_ACK: usize = 4096;
/// Names of a client are cut to this, for they are kept too.
const MAX_NAME: usize = 128;

impl Hub {
    /// One message of a client's.
    pub(super) fn incoming(&mut self, conn: &Rc<Conn>, state: &mut ConnState, incoming: Incoming) {
        let mut actions = self.take_actions();
        match incoming {
            Incoming::Text(text) => {
                let mut message = ClientMessage::parse(&text);
                match &mut message {
                    Ok(ClientMessage::Hello(hello)) if !state.session.has_hello() => take_claims(state, hello),
                    Ok(ClientMessage::Ack { cursor }) if cursor.len() <= MAX_ACK => {
                        state.acked = Some(cursor.as_str().into());
                    }
                    _ => {}
                }
                if !self.admits_token(conn, state, message.as_ref().ok()) {
                    return;
                }
                state.session.message(message, &mut actions);
            }
            Incoming::Binary => state.session.binary(&mut actions),
            Incoming::Control => {}
            Incoming::Close => self.finish(conn, state),
            Incoming::TooLarge => self.close(conn, state, CloseCode::FrameTooLarge),
            Incoming::Violation => self.close(conn, state, CloseCode::Protocol),
        }
        self.carry_out(conn, state, actions);
    }

    /// What a feeder or a worker said about one session.
    pub(super) fn session_event(&mut self, feeder: FeederId, session: SessionId, event: SessionEvent) {
        if self.question_event(feeder, session, &event) {
            return;
        }
        let conn = self.of_session(session);
        let mut state = conn.as_ref().map(|c| c.state.borrow_mut());
        let (Some(conn), Some(state)) =
            (&conn, state.as_deref_mut().filter(|s| s.feeder == Some(feeder) && s.closing.is_none()))
        else {
            // The session went while the feeder still worked for it.
            if let SessionEvent::Job { job, .. } | SessionEvent::Ask { job } | SessionEvent::Verify { job, .. } = event
            {
                self.tell(ToBridge::CancelJob { feeder, job });
            }
            return;
        };
        let mut actions = self.take_actions();
        self.note_verdict(conn, state, &event);
        let s = &mut state.session;
        let out = &mut actions;
        match event {
            SessionEvent::Opened { role, tables, expires_in_ms, .. } => {
                state.uuid = uuid::Uuid::new_v4().to_string().into();
                state.role = role.as_str().into();
                let welcome = Welcome {
                    session: state.uuid.to_string(),
                    tenant: state.home.as_ref().map(|home| home.name().to_owned()).unwrap_or_default(),
                    server: self.config.server.clone(),
                    heartbeat_ms: self.config.heartbeat_ms,
                    limits: Limits {
                        max_frame_bytes: self.config.max_frame_bytes,
                        max_subscriptions: self.config.max_subscriptions,
                        client_queue_bytes: self.config.client_queue_bytes,
                    },
                    expires_in_ms,
                };
                state.asking = None;
                s.opened(welcome, role, tables, out);
            }
            SessionEvent::Renewed { role } => {
                state.role = role.into();
                state.asking = None;
                s.renewed(out);
                // The next token may be on its way.
                state.token_offered = s.is_renewing();
            }
            SessionEvent::Ask { job } => state.asking = Some((job, self.now)),
            SessionEvent::Refused { close, code, message, hint } => {
                s.refuse(close_code(close), code, &message, hint.as_deref(), out);
            }
            SessionEvent::Subscribed { id, shape, table, key, columns, resumed, partial, digest } => {
                if let Some(feeder) = self.feeders.get(&feeder) {
                    self.subscribing = feeder.figures.table(&table);
                }
                s.subscribed(&id, shape, table, key, columns, (resumed, partial), digest, out);
            }
            SessionEvent::Resync { id, reason } => s.resync(&id, reason, out),
            SessionEvent::NotResumed { id, reason } => s.not_resumed(&id, reason, out),
            SessionEvent::Ended { id, code, message, hint } => s.ended(&id, code, &message, hint.as_deref(), out),
            SessionEvent::Error { id, code, message, hint } => {
                s.session_error(id.as_deref(), code, &message, hint.as_deref(), out);
            }
            SessionEvent::Job { job, ids } => s.job(job, &ids, out),
            SessionEvent::Begin { job, snapshot } => s.begin(job, snapshot),
            SessionEvent::Rows { job, index, rows, body, done, total, parts, credit } => {
                if (rows > 0 || parts.is_some())
                    && let Some(id) = s.rows_for(job, index)
                {
                    let (before, after) = snapshot_parts(id, false, total, parts.as_deref());
                    let frame = OutFrame::text_parts(&before, body, after, Some(credit));
                    self.push_paced(conn, state, frame, rows);
                }
                if done {
                    let now = self.closed_tick(feeder);
                    state.session.rows_done(job, index, now.as_ref(), out);
                }
            }
            SessionEvent::JobEnded { job } => s.job_ended(job, out),
            SessionEvent::JobFailed { job, code, message, hint } => {
                s.job_failed(job, code, &message, hint.as_deref(), out);
            }
            SessionEvent::LeftBehind { job, flow } => {
                s.left_behind(job, out);
                state.queue.drop_paced(|frame| frame.is_of(&flow));
            }
            SessionEvent::JobLost => self.close(conn, state, CloseCode::Restart),
            SessionEvent::Verify { job, request } => s.verify_job(job, request, out),
            SessionEvent::Verifying { job } => s.verifying(job),
            SessionEvent::Repair { job, rows, body, done, credit } => {
                if let Some(id) = s.repair_for(job) {
                    let (before, after) = repair_parts(id, done);
                    let frame = OutFrame::text_parts(&before, body, after, Some(credit));
                    self.push_paced(conn, state, frame, rows);
                }
            }
            SessionEvent::Verified { job, hash, rows, parts } => {
                let now = self.closed_tick(feeder);
                state.session.verified(job, hash, rows, &parts, now.as_ref(), out);
            }
            SessionEvent::VerifyFailed { request, code, message, hint } => {
                s.verify_failed(request, code, &message, hint.as_deref(), out);
            }
        }
        self.carry_out(conn, state, actions);
        self.note_waiting(conn, state);
    }
}

/// What the request said counts where `hello` says nothing.
fn take_claims(state: &mut ConnState, hello: &mut Hello) {
    if let Some(claims) = state.claims.take() {
        hello.token = hello.token.take().or(claims.token);
        hello.tenant = hello.tenant.take().or(claims.tenant);
    }
    if let Some(client) = &mut hello.client {
        for text in [&mut client.id, &mut client.name].into_iter().flatten() {
            let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= MAX_NAME).last();
            text.truncate(end.unwrap_or(0));
        }
        state.client = Some(Box::new(client.clone()));
    }
}

/// The close code that a feeder asked for.
pub(super) fn close_code(code: u16) -> CloseCode {
    let all = [
        CloseCode::Normal,
        CloseCode::GoingAway,
        CloseCode::Restart,
        CloseCode::TryAgainLater,
        CloseCode::Unauthorized,
        CloseCode::Forbidden,
        CloseCode::NoSuchTenant,
        CloseCode::Timeout,
        CloseCode::SlowConsumer,
        CloseCode::FrameTooLarge,
        CloseCode::TooMany,
    ];
    all.into_iter().find(|c| c.code() == code).unwrap_or(CloseCode::Protocol)
}
