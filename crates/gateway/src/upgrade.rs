//! From an HTTP request to a WebSocket: who may, under which subprotocol, and what the URL claims. Pure.

use crate::connection::UrlClaims;
use crate::http::{Answer, Request};
use rte_protocol::bridge::GatewayConfig;
use rte_protocol::wire::SUBPROTOCOL;
use tungstenite::handshake::derive_accept_key;

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    /// It is plain HTTP.
    Plain,
    Refuse(Answer),
    Upgrade {
        response: Vec<u8>,
        claims: UrlClaims,
    },
}

/// Decides over a request.
pub fn decide(request: &Request, config: &GatewayConfig) -> Decision {
    if !(request.header_has("connection", "upgrade") && request.header_has("upgrade", "websocket")) {
        return Decision::Plain;
    }
    let refuse = |status, message, hint| Decision::Refuse(Answer::error(status, message, Some(hint)));
    if request.path != "/ws" {
        return refuse(404, "there is nothing here", "WebSockets are at /ws");
    }
    let key =
        match (request.method.as_str(), request.header("sec-websocket-version"), request.header("sec-websocket-key")) {
            ("GET", Some(version), Some(key)) if version.trim() == "13" => key,
            _ => return refuse(400, "this is not a WebSocket handshake", "Sec-WebSocket-Version must be 13"),
        };
    if !origin_allowed(request, config) {
        return refuse(403, "this origin is not allowed", "add it to rte.allowed_origins");
    }
    if !request.header_has("sec-websocket-protocol", SUBPROTOCOL) {
        return refuse(400, "the subprotocol is missing", "connect with Sec-WebSocket-Protocol: rte.v1");
    }
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n",
        derive_accept_key(key.trim().as_bytes())
    );
    let bearer = request.header("authorization").and_then(|h| {
        let (scheme, token) = h.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    });
    let claims = UrlClaims {
        token: bearer.or_else(|| request.parameter("token")),
        tenant: request.parameter("tenant").or_else(|| request.parameter("domain")),
    };
    Decision::Upgrade { response: response.into_bytes(), claims }
}

/// Whether the page that the request comes from may talk to this server. What is no browser says no origin.
pub fn origin_allowed(request: &Request, config: &GatewayConfig) -> bool {
    let Some(origin) = request.header("origin") else { return true };
    let same = request.header("host").is_some_and(|host| {
        origin.split_once("://").is_some_and(|(_, of_origin)| of_origin.eq_ignore_ascii_case(host))
    });
    same || config.allowed_origins.iter().any(|o| o == "*" || o.trim_end_matches('/').eq_ignore_ascii_case(origin))
}
