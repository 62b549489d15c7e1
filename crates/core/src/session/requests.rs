//! What a client may ask, and the answers that need nobody else.
//!
//! Each refusal has its code; none but a first message that is not `hello` costs the connection. What is asked of the
//! feeder and not answered yet is bounded: with the subscriptions, and to one token. Pure.

use super::subscription::{Sub, bridge_id};
use super::{Action, Frame, Phase, Session, error, error_text};
use rte_protocol::bridge::ToFeeder;
use rte_protocol::wire::{ClientMessage, CloseCode, ErrorCode, Have, Hello, ParseError, ServerMessage, Subscription};

/// Longer ids of subscriptions are refused: they are kept and repeated.
const MAX_ID: usize = 256;

impl<F: Frame> Session<F> {
    /// A text frame of the client's, parsed.
    pub fn message(&mut self, message: Result<ClientMessage, ParseError>, out: &mut Vec<Action<F>>) {
        if self.phase == Phase::Closed {
            return;
        }
        match message {
            Err(e) => out.push(parse_error(&e)),
            Ok(ClientMessage::Hello(hello)) if self.phase == Phase::New => self.hello(hello, out),
            Ok(_) if self.phase == Phase::New => {
                self.refuse(
                    CloseCode::Protocol,
                    ErrorCode::UnexpectedMessage,
                    "the first message must be hello",
                    None,
                    out,
                );
            }
            Ok(message) => self.request(message, out),
        }
    }

    /// A binary frame.
    pub fn binary(&mut self, out: &mut Vec<Action<F>>) {
        if self.phase != Phase::Closed {
            out.push(error(ErrorCode::BinaryFrame, "binary frames are not part of the contract", None, None));
        }
    }

    fn request(&mut self, message: ClientMessage, out: &mut Vec<Action<F>>) {
        match message {
            ClientMessage::Hello(_) => {
                out.push(error(ErrorCode::UnexpectedMessage, "hello was said already", None, None));
            }
            ClientMessage::Subscribe(subscription) => match self.admit(&subscription, false) {
                Ok(number) => {
                    let subscription = rename(subscription, number);
                    out.push(Action::Feeder(ToFeeder::Subscribe { session: self.id, subscription }));
                }
                Err(text) => out.push(Action::Text(text)),
            },
            ClientMessage::Unsubscribe { id } => self.unsubscribe(&id, out),
            ClientMessage::Ping(ping) => out.push(Action::Text(ServerMessage::Pong { at: ping.at }.to_text())),
            // For figures only; the caller records it.
            ClientMessage::Ack { .. } => {}
            ClientMessage::Mutate(mutate) => out.push(not_supported("mutate", Some(&mutate.id))),
            ClientMessage::Verify(verify) => self.verify(verify, out),
            ClientMessage::Auth(auth) => self.auth(auth.token, out),
            ClientMessage::Publish(_) => out.push(not_supported("publish", None)),
            ClientMessage::Join(_) => out.push(not_supported("join", None)),
            ClientMessage::Leave(_) => out.push(not_supported("leave", None)),
        }
    }

    fn auth(&mut self, token: String, out: &mut Vec<Action<F>>) {
        if self.phase == Phase::Open {
            self.renew(token, out);
        } else {
            let hint = Some("wait for welcome");
            out.push(error(ErrorCode::UnexpectedMessage, "there is no session whose token to renew", hint, None));
        }
    }

    /// Shows a fresh token to the feeder. One at a time, for each may cost the database a query; of those that come
    /// meanwhile the last counts.
    pub(super) fn renew(&mut self, token: String, out: &mut Vec<Action<F>>) {
        if self.renewing {
            self.next_token = Some(token);
        } else {
            self.renewing = true;
            out.push(Action::Feeder(ToFeeder::Auth { session: self.id, token }));
        }
    }

    fn hello(&mut self, hello: Hello, out: &mut Vec<Action<F>>) {
        let mut subscriptions = Vec::new();
        // Most connections never have others, and there are thousands of them.
        self.subs.reserve_exact(hello.subscriptions.len().min(self.max_subscriptions));
        for subscription in hello.subscriptions {
            match self.admit(&subscription, hello.cursor.is_some()) {
                Ok(number) => subscriptions.push(rename(subscription, number)),
                Err(text) => self.deferred.push(text),
            }
        }
        if hello.cursor.is_some() {
            self.subs.iter_mut().for_each(|s| s.from_hello = true);
            self.unanswered = u32::try_from(self.subs.len()).unwrap_or(u32::MAX);
        }
        self.phase = Phase::Resolving;
        self.open = Some(Box::new(ToFeeder::Open {
            tenant: String::new(),
            session: self.id,
            token: hello.token,
            client: hello.client,
            peer: self.peer.to_string(),
            cursor: hello.cursor,
            subscriptions,
        }));
        out.push(Action::Resolve { tenant: hello.tenant });
    }

    /// Books a subscription and answers its number, or the text of the refusal.
    fn admit(&mut self, subscription: &Subscription, has_cursor: bool) -> Result<u32, String> {
        let id = subscription.id.as_str();
        if id.len() > MAX_ID {
            let message = "the id of a subscription may have 256 bytes";
            return Err(error_text(ErrorCode::BadMessage, message, None, None));
        }
        if self.subs.iter().any(|s| &*s.id == id && s.is_the_clients()) {
            let message = "there is a subscription of this id already";
            return Err(error_text(ErrorCode::DuplicateSubscription, message, None, Some(id)));
        }
        let fault = subscription.have.as_ref().and_then(Have::fault);
        let nowhere = subscription.resume_only && !has_cursor;
        if let Some(message) = fault.or(nowhere.then_some("`resume_only` is for a `hello` with a cursor")) {
            return Err(error_text(ErrorCode::BadMessage, message, None, Some(id)));
        }
        if self.subs.len() >= self.max_subscriptions {
            let message = format!("a connection may have {} subscriptions", self.max_subscriptions);
            let hint = Some("unsubscribe from others first, or raise rte.max_subscriptions");
            return Err(error_text(ErrorCode::TooManySubscriptions, &message, hint, Some(id)));
        }
        let number = self.next_number;
        self.next_number = self.next_number.wrapping_add(1);
        self.subs.push(Sub::new(number, id, &subscription.table));
        Ok(number)
    }
}

fn rename(mut subscription: Subscription, number: u32) -> Subscription {
    subscription.id = bridge_id(number, &subscription.id);
    subscription
}

fn not_supported<F>(what: &str, id: Option<&str>) -> Action<F> {
    error(ErrorCode::NotSupported, &format!("{what} is not supported by this version"), None, id)
}

fn parse_error<F>(e: &ParseError) -> Action<F> {
    let message = e.to_string();
    match e {
        ParseError::UnknownType { kind, id } => {
            error(ErrorCode::UnknownType, &format!("unknown message type \"{kind}\""), None, id.as_deref())
        }
        ParseError::NoType { id } | ParseError::Field { id, .. } => {
            error(ErrorCode::BadMessage, &message, None, id.as_deref())
        }
        ParseError::NotAnObject => error(ErrorCode::BadMessage, &message, None, None),
    }
}
