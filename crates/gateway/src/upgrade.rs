//! From an HTTP request to a connection, or to something for one: whom the request is for and from, who may, under which
//! subprotocol, and what the URL claims. Pure.

use crate::connection::UrlClaims;
use crate::deflate::offer;
use crate::http::{Answer, Request};
use crate::wire::{ConnectionId, Transport};
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
    /// It opens a WebSocket.
    Upgrade {
        response: Vec<u8>,
        claims: UrlClaims,
        /// Messages may be compressed.
        deflated: bool,
    },
    /// It opens a connection whose client speaks by requests, and is answered by events or by polls.
    Open {
        transport: Transport,
        claims: UrlClaims,
    },
    /// It waits for messages of this connection.
    Poll {
        connection: ConnectionId,
        n: Option<u64>,
    },
    /// It says something to this connection.
    Send {
        connection: ConnectionId,
        n: u64,
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
    let decided = if request.header_has("connection", "upgrade") && request.header_has("upgrade", "websocket") {
        websocket(request, config)
    } else {
        by_requests(request, config)
    };
    decided.unwrap_or_else(Decision::Refuse)
}

fn websocket(request: &Request, config: &GatewayConfig) -> Result<Decision, Answer> {
    let refuse = |status, message, hint| Err(Answer::error(status, message, Some(hint)));
    if request.path != "/ws" {
        return refuse(404, "there is nothing here", "WebSockets are at /ws");
    }
    let key =
        match (request.method.as_str(), request.header("sec-websocket-version"), request.header("sec-websocket-key")) {
            ("GET", Some(version), Some(key)) if version.trim() == "13" => key,
            _ => return refuse(400, "this is not a WebSocket handshake", "Sec-WebSocket-Version must be 13"),
        };
    check_origin(request, config)?;
    if !request.header_has("sec-websocket-protocol", SUBPROTOCOL) {
        return refuse(400, "the subprotocol is missing", "connect with Sec-WebSocket-Protocol: rte.v1");
    }
    let agreed = (config.compression_level > 0).then(|| offer::accept(request.headers("sec-websocket-extensions")));
    let agreed = agreed.flatten();
    let extensions = agreed.map(|agreed| format!("Sec-WebSocket-Extensions: {agreed}\r\n")).unwrap_or_default();
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n{extensions}\r\n",
        derive_accept_key(key.trim().as_bytes())
    );
    Ok(Decision::Upgrade { response: response.into_bytes(), claims: claims(request), deflated: agreed.is_some() })
}

fn by_requests(request: &Request, config: &GatewayConfig) -> Result<Decision, Answer> {
    let transport = match (request.path.as_str(), request.method.as_str()) {
        ("/events" | "/poll" | "/send", "OPTIONS") => return Ok(Decision::Plain),
        ("/events", "GET") => Some(Transport::Events),
        ("/poll", "POST") => Some(Transport::Poll),
        ("/poll", "GET") | ("/send", "POST") => None,
        ("/events", _) => return Err(Answer::error(405, "only GET is answered here", None)),
        ("/poll", _) => return Err(Answer::error(405, "only GET and POST are answered here", None)),
        ("/send", _) => return Err(Answer::error(405, "only POST is answered here", None)),
        _ => return Ok(Decision::Plain),
    };
    check_origin(request, config)?;
    if let Some(transport) = transport {
        return Ok(Decision::Open { transport, claims: claims(request) });
    }
    let connection = request.parameter("connection").and_then(|id| ConnectionId::parse(&id));
    let connection = connection
        .ok_or_else(|| Answer::error(400, "the connection is not named", Some("?connection= and its 32 hex digits")))?;
    let n = request.parameter("n");
    // No sign: `parse` would take one.
    let number = n.as_deref().filter(|n| n.bytes().all(|b| b.is_ascii_digit())).and_then(|n| n.parse().ok());
    match (request.path.as_str(), number) {
        ("/poll", _) if n.is_none() => Ok(Decision::Poll { connection, n: None }),
        ("/poll", Some(n)) => Ok(Decision::Poll { connection, n: Some(n) }),
        ("/send", Some(n)) => Ok(Decision::Send { connection, n }),
        _ => Err(Answer::error(400, "the request is not numbered", Some("&n= counts them from 0"))),
    }
}

/// What the request says of token and tenant.
fn claims(request: &Request) -> UrlClaims {
    UrlClaims {
        token: request.bearer().map(ToOwned::to_owned).or_else(|| request.parameter("token")),
        tenant: request.parameter("tenant").or_else(|| request.parameter("domain")),
    }
}

fn check_origin(request: &Request, config: &GatewayConfig) -> Result<(), Answer> {
    // A page can have things fetched without its origin being said; newer browsers then tell that it is another's.
    let hidden = request.header("origin").is_none()
        && request.header("sec-fetch-site").is_some_and(|site| site.trim().eq_ignore_ascii_case("cross-site"));
    if hidden || !origin_allowed(request, config) {
        return Err(Answer::error(403, "this origin is not allowed", Some("add it to rte.allowed_origins")));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::parse;

    fn status(line: &str, headers: &str) -> String {
        let text = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        let request = parse(text.as_bytes()).expect("parse").expect("whole").request;
        let config: GatewayConfig = serde_json::from_value(serde_json::json!({
            "server": "", "listen_addresses": [], "port": 0, "bridge_path": "", "landlord_database": "", "io_threads": 1,
            "hello_timeout_ms": 0, "tenant_wait_ms": 0, "heartbeat_ms": 0, "stall_timeout_ms": 0, "max_connections": 0,
            "max_connections_per_address": 0, "max_subscriptions": 0, "max_frame_bytes": 0, "client_queue_bytes": 0,
            "max_handshakes_per_second": 0, "max_messages_per_second": 0, "max_failed_tokens": 0, "allowed_hosts": [],
            "compression_level": 1, "compression_min_bytes": 1024,
            "sandbox": "off", "memory_limit_bytes": 0, "postgres_socket": "", "allowed_origins": ["https://app.example"],
        }))
        .expect("config");
        match decide(&request, true, &config) {
            Decision::Refuse(answer) => String::from_utf8_lossy(&answer.encode()[9..12]).into_owned(),
            Decision::Plain => "plain".to_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn requests_name_their_connection_and_their_number_plainly() {
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(status(&format!("GET /poll?connection={id}"), ""), "Poll { connection: ConnectionId, n: None }");
        assert_eq!(
            status(&format!("GET /poll?connection={id}&n=0"), ""),
            "Poll { connection: ConnectionId, n: Some(0) }"
        );
        assert_eq!(status(&format!("POST /send?connection={id}&n=7"), ""), "Send { connection: ConnectionId, n: 7 }");
        let max = u64::MAX;
        assert!(status(&format!("POST /send?connection={id}&n={max}"), "").contains("n: 1844"));
        for query in [
            "",
            "?n=1",
            "?connection=&n=0",
            "?connection=0123&n=0",
            "?connection=%30123456789abcdef0123456789abcde&n=0",
        ] {
            assert_eq!(status(&format!("POST /send{query}"), ""), "400", "{query}");
        }
        for n in ["", "-1", "+1", "1.0", "0x1", "%201", "18446744073709551616", "%C3%A9"] {
            assert_eq!(status(&format!("POST /send?connection={id}&n={n}"), ""), "400", "{n}");
            assert_eq!(status(&format!("GET /poll?connection={id}&n={n}"), ""), "400", "{n}");
        }
    }

    #[test]
    fn methods_and_origins_are_checked_before_anything_is_opened() {
        for (line, headers, expected) in [
            ("POST /events", "", "405"),
            ("PUT /poll", "", "405"),
            ("GET /send", "", "405"),
            ("OPTIONS /send", "", "plain"),
            ("GET /eventsx", "", "plain"),
            ("GET /events", "Origin: https://evil.example\r\n", "403"),
            ("POST /poll", "Origin: null\r\n", "403"),
            ("POST /send?connection=0&n=0", "Origin: https://evil.example\r\n", "403"),
            ("GET /poll?connection=0", "Origin: https://evil.example\r\n", "403"),
            ("GET /events", "Sec-Fetch-Site: cross-site\r\n", "403"),
        ] {
            assert_eq!(status(line, headers), expected, "{line} {headers}");
        }
        for headers in
            ["", "Origin: https://app.example\r\nSec-Fetch-Site: cross-site\r\n", "Origin: http://localhost\r\n"]
        {
            assert!(status("GET /events", headers).starts_with("Open { transport: Events"), "{headers}");
            assert!(status("POST /poll", headers).starts_with("Open { transport: Poll"), "{headers}");
        }
    }
}
