//! From an HTTP request to a WebSocket: whom the request is for and from, who may, under which subprotocol, and what
//! the URL claims. Pure.

use crate::connection::UrlClaims;
use crate::http::{Answer, Request};
use rte_protocol::bridge::GatewayConfig;
use rte_protocol::wire::SUBPROTOCOL;
use std::net::IpAddr;
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

/// Decides over a request that came to a listener on loopback (`local`) or elsewhere.
pub fn decide(request: &Request, local: bool, config: &GatewayConfig) -> Decision {
    match request.host() {
        Ok(host) if host.as_ref().is_none_or(|host| host_allowed(host, local, config)) => {}
        Ok(_) => {
            let hint = Some("add the host to rte.allowed_hosts");
            return Decision::Refuse(Answer::error(421, "this host is not served here", hint));
        }
        Err(()) => return Decision::Refuse(Answer::error(400, "the request names two hosts", None)),
    }
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

/// Whether this server goes by that name. A page of a stranger whose name resolves to this address (DNS rebinding)
/// has its own name as host, and as origin too, so that the origin alone would look right. What listens on loopback is
/// safe from it by default; who listens elsewhere has names that only the administrator knows.
fn host_allowed(host: &str, local: bool, config: &GatewayConfig) -> bool {
    let named = config.allowed_hosts.iter().any(|allowed| {
        let allowed = allowed.to_ascii_lowercase();
        allowed == "*"
            || allowed.trim_end_matches('.') == host
            || allowed.strip_prefix("*.").is_some_and(|under| {
                host.strip_suffix(under).and_then(|h| h.strip_suffix('.')).is_some_and(|sub| !sub.is_empty())
            })
    });
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    // Names under `localhost` are the host's own: no server of names is asked for them.
    let of_loopback = host == "localhost"
        || host.ends_with(".localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback());
    named || if local { of_loopback } else { config.allowed_hosts.is_empty() }
}

/// Whether the page that the request comes from may talk to this server. What is no browser says no origin.
pub fn origin_allowed(request: &Request, config: &GatewayConfig) -> bool {
    let Some(origin) = request.header("origin") else { return true };
    let same = request.header("host").is_some_and(|host| {
        origin.split_once("://").is_some_and(|(_, of_origin)| of_origin.eq_ignore_ascii_case(host))
    });
    same || config.allowed_origins.iter().any(|o| o == "*" || o.trim_end_matches('/').eq_ignore_ascii_case(origin))
}
