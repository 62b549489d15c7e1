//! From the first byte of a socket to its answer, or to the connection that it becomes or is for.
//!
//! Decides nothing that [`crate::upgrade`] does not; brings what it decided about. Each step is bounded in time. I/O
//! threads.

use crate::connection::{UrlClaims, serve};
use crate::event::{Poll, ToBridge, ToIo};
use crate::http::answer::{Header, cors};
use crate::http::body::{self, BodyError};
use crate::http::request::{Head, HeadError, read_head};
use crate::http::{self, Answer, Request};
use crate::hub::{Hub, Shared, Verdict};
use crate::limits::Permit;
use crate::requests::Posted;
use crate::upgrade::{self, Decision};
use crate::wire::{ConnectionId, Transport, UNBUFFERED, opened};
use rte_protocol::bridge::GatewayConfig;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// A socket that has come, and everything that its request may need.
struct Visit {
    hub: Rc<RefCell<Hub>>,
    shared: Shared,
    config: Arc<GatewayConfig>,
    stream: TcpStream,
    peer: SocketAddr,
    permit: Permit,
}

/// Receives a socket.
pub async fn welcome(hub: Rc<RefCell<Hub>>, stream: TcpStream, peer: SocketAddr, permit: Permit) {
    let (config, shared) = {
        let hub = hub.borrow();
        (hub.config.clone(), hub.shared.clone())
    };
    Visit { hub, shared, config, stream, peer, permit }.receive().await;
}

impl Visit {
    /// What a client may take to say what he wants.
    fn patience(&self) -> Duration {
        Duration::from_millis(self.config.hello_timeout_ms)
    }

    async fn receive(mut self) {
        let head = match timeout(self.patience(), read_head(&self.stream)).await {
            Ok(Ok(head)) => head,
            // Too slow, gone, or said nothing: nobody waits for an answer.
            Err(_) | Ok(Err(HeadError::Gone)) => return,
            Ok(Err(HeadError::Bad(status))) => {
                return self.finish(&Answer::error(status, "the request could not be read", None)).await;
            }
        };
        if let Err(refusal) = self.permit.check_pace() {
            return self.finish(&Answer::refusal(refusal)).await;
        }
        let headers = cors(&head.request, &self.config);
        let answer = match upgrade::decide(&head.request, self.permit.is_local(), &self.config) {
            Decision::Plain => self.plain(&head).await,
            Decision::Refuse(answer) => answer,
            Decision::Upgrade { response, claims, deflated } => match self.permit.upgrade(&self.config) {
                Err(refusal) => Answer::refusal(refusal),
                Ok(()) => return self.upgrade(&response, (claims, deflated), &head.rest).await,
            },
            Decision::Open { transport, claims } => match self.permit.upgrade(&self.config) {
                Err(refusal) => Answer::refusal(refusal),
                Ok(()) => return self.open(transport, claims, headers).await,
            },
            Decision::Poll { connection, n } => return self.poll(connection, n, headers),
            Decision::Send { connection, n } => match self.send(connection, n, head).await {
                Some(answer) => headers.into_iter().fold(answer, |answer, (name, value)| answer.with(name, value)),
                None => return,
            },
        };
        self.finish(&answer).await;
    }

    async fn finish(&self, answer: &Answer) {
        http::finish(&self.stream, &answer.encode()).await;
    }

    async fn plain(&self, head: &Head) -> Answer {
        let answer = match http::reload_of_tenants(&head.request, self.peer, &self.config) {
            None => match self.sees_figures(&head.request).await {
                Ok(sees) => http::answer(&head.request, sees, &self.config, &self.shared.metrics),
                Err(answer) => answer,
            },
            Some(Err(answer)) => answer,
            Some(Ok(answer)) => {
                let _ = self.shared.bridge.send(ToBridge::ReloadTenants);
                answer
            }
        };
        answer.cors(&head.request, &self.config)
    }

    /// Whether who asks for figures may see them: from this host he may; else the database is asked whose his token is.
    async fn sees_figures(&self, request: &Request) -> Result<bool, Answer> {
        if http::is_trusted(request, self.peer) || !http::is_of_figures(request) {
            return Ok(true);
        }
        let Some(token) = request.bearer() else { return Ok(false) };
        if !self.permit.may_offer_token(&self.config) {
            return Err(Answer::later(429, "too many tokens of this address were wrong"));
        }
        let unavailable = || Answer::later(503, "nobody can say now whose this token is");
        let asked = self.hub.borrow_mut().ask_monitor(token.to_owned(), self.peer);
        let Some((session, verdict)) = asked else { return Err(unavailable()) };
        let verdict = match timeout(self.patience(), verdict).await {
            Ok(verdict) => verdict.unwrap_or(Verdict::Unavailable),
            Err(_) => {
                self.hub.borrow_mut().give_up_question(session);
                Verdict::Unavailable
            }
        };
        match verdict {
            Verdict::Monitor => Ok(true),
            Verdict::Other => {
                let hint = Some("grant it pg_monitor in the landlord's database");
                Err(Answer::error(403, "the token's role may not see figures", hint))
            }
            Verdict::Wrong => {
                self.permit.token_failed(&self.config);
                let answer = Answer::error(401, "the token is not accepted", Some("the server's log says why"));
                Err(answer.with("WWW-Authenticate", "Bearer"))
            }
            Verdict::Unavailable => Err(unavailable()),
        }
    }

    async fn upgrade(self, response: &[u8], claims: (UrlClaims, bool), rest: &[u8]) {
        if !matches!(timeout(self.patience(), http::write_all(&self.stream, response)).await, Ok(Ok(()))) {
            return;
        }
        let conn = self.hub.borrow_mut().add(self.stream, self.peer, self.permit, claims, rest);
        // A task of its own, so that this one's memory, with the request in it, is given back.
        tokio::task::spawn_local(serve(self.hub, conn));
    }

    /// A connection whose client speaks by requests.
    async fn open(self, transport: Transport, claims: UrlClaims, mut headers: Vec<Header>) {
        let Self { hub, config, stream, peer, mut permit, .. } = self;
        let unavailable = || Answer::later(503, "no connection could be made");
        if transport == Transport::Events {
            headers.extend(UNBUFFERED.map(|(name, value)| (name, value.to_owned())));
            let added = hub.borrow_mut().add_by_requests(Some(stream), &headers, peer, permit, claims);
            if let Some((conn, _)) = added {
                tokio::task::spawn_local(serve(hub, conn));
            }
            return;
        }
        permit.leave_socket();
        let added = hub.borrow_mut().add_by_requests(None, &[], peer, permit, claims);
        let answer = match added {
            Some((conn, id)) => {
                tokio::task::spawn_local(serve(hub, conn));
                Answer::new(200, "application/json", opened(id, config.heartbeat_ms))
            }
            None => unavailable(),
        };
        let answer = headers.into_iter().fold(answer, |answer, (name, value)| answer.with(name, value));
        http::finish(&stream, &answer.encode()).await;
    }

    /// Takes a poll to the thread of its connection.
    fn poll(self, connection: ConnectionId, n: Option<u64>, headers: Vec<Header>) {
        let Ok(stream) = self.stream.into_std() else { return };
        let poll = Box::new(Poll { n, permit: self.permit, headers });
        self.shared.io.of_connection(connection, ToIo::Poll { connection, stream, poll });
    }

    /// Takes what is posted to the thread of its connection, and waits until it is carried out.
    async fn send(&self, connection: ConnectionId, n: u64, head: Head) -> Option<Answer> {
        let limit = self.config.max_frame_bytes;
        let reading = async {
            let length = body::length(&head.request, limit)?;
            body::read(&self.stream, head.rest, length).await
        };
        let refused = |status| Answer::error(status, "the body could not be read", Some("its length must be said"));
        let body = match timeout(self.patience(), reading).await {
            Ok(Ok(body)) => body,
            Ok(Err(BodyError::Gone)) => return None,
            Ok(Err(BodyError::Bad(413))) => {
                let hint = format!("at most {limit} bytes, as `welcome` says of a message");
                return Some(Answer::error(413, "the body is too large", Some(&hint)));
            }
            Ok(Err(BodyError::Bad(status))) => return Some(refused(status)),
            Err(_) => return Some(Answer::error(408, "the body did not come in time", None)),
        };
        let (reply, answer) = oneshot::channel();
        self.shared.io.of_connection(connection, ToIo::Posted { connection, n, body, reply });
        Some(match answer.await {
            Ok(Posted::Done) => Answer::empty(204),
            Ok(Posted::NotNext) => Answer::error(409, "this is not the next request", Some("open another connection")),
            Ok(Posted::Unknown) => Answer::unknown_connection(&self.permit, &self.config),
            // The thread ends.
            Err(_) => Answer::later(503, "the server stops"),
        })
    }
}
