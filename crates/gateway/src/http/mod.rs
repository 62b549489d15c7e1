//! Plain HTTP on the socket port: health, figures, the pages and the client's code. One request per connection, bounded in
//! size and time.
//!
//! What shows more than health is answered to this host only, or to whom the database says that he may see it (that is asked
//! elsewhere). I/O threads.

pub mod answer;
pub mod body;
mod bundle;
pub mod request;

pub use answer::Answer;
pub use request::Request;

use crate::metrics::Metrics;
use crate::page;
use crate::upgrade::origin_allowed;
use rte_protocol::bridge::GatewayConfig;
use serde_json::json;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpStream;

/// Time for the peer to take the last answer.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// Whether a request asks for the tenants to be read again, and its answer where it may not. Pages of other origins may not: a
/// visitor's browser on this host would ask for them.
pub fn reload_of_tenants(
    request: &Request,
    peer: SocketAddr,
    config: &GatewayConfig,
) -> Option<Result<Answer, Answer>> {
    if request.path != "/api/tenants/reload" || request.method == "OPTIONS" {
        return None;
    }
    Some(if request.method != "POST" {
        Err(Answer::error(405, "only POST is answered here", None))
    } else if !is_trusted(request, peer) || !origin_allowed(request, config) {
        Err(Answer::error(403, "tenants are reloaded from this host only", Some("call rte.reload_tenants()")))
    } else {
        Ok(Answer::json(202, &json!({"status": "accepted"})))
    })
}

/// Whether a request comes from this host. A proxy on it speaks for others, and says so.
pub fn is_trusted(request: &Request, peer: SocketAddr) -> bool {
    let forwarded = ["forwarded", "x-forwarded-for", "x-real-ip", "via"].iter().any(|h| request.header(h).is_some());
    peer.ip().to_canonical().is_loopback() && !forwarded
}

/// Whether a request asks for figures.
pub fn is_of_figures(request: &Request) -> bool {
    request.method == "GET" && matches!(request.path.as_str(), "/stats" | "/metrics")
}

/// Answers a request that is not for a WebSocket.
///
/// `sees`: whether who asks may see the figures.
pub fn answer(request: &Request, sees: bool, config: &GatewayConfig, metrics: &Metrics) -> Answer {
    match request.method.as_str() {
        "GET" => {}
        "OPTIONS" => return Answer::empty(204),
        _ => return Answer::error(405, "only GET is answered here", None),
    }
    match request.path.as_str() {
        "/health" => health(metrics),
        "/metrics" | "/stats" if !sees => {
            let hint = "ask from the database host, or with a token of a role that is a member of pg_monitor";
            Answer::error(403, "figures are shown to this host, or to whom the database lets see them", Some(hint))
        }
        "/metrics" => Answer::new(200, "text/plain; version=0.0.4", metrics.prometheus()),
        "/stats" => Answer::json(200, &metrics.json(&config.server)),
        "/ws" => Answer::error(426, "this is a WebSocket endpoint", Some("connect with the subprotocol rte.v1")),
        path => page::at(path)
            .map(Answer::page)
            .or_else(|| bundle::at(path, request))
            .unwrap_or_else(|| Answer::error(404, "there is nothing here", None)),
    }
}

fn health(metrics: &Metrics) -> Answer {
    if metrics.figures.feeders.load(Ordering::Relaxed) > 0 {
        Answer::json(200, &json!({"status": "ok"}))
    } else {
        Answer::json(503, &json!({"status": "starting"}))
    }
}

/// Writes everything; the caller bounds the time.
pub async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes the last answer and closes, so that the peer can read it before the reset. Takes bounded time.
pub async fn finish(stream: &TcpStream, bytes: &[u8]) {
    let _ = tokio::time::timeout(LAST_ANSWER, say_and_close(stream, bytes)).await;
}

async fn say_and_close(stream: &TcpStream, bytes: &[u8]) {
    if write_all(stream, bytes).await.is_err() {
        return;
    }
    let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write);
    let mut rest = [0; 1024];
    let mut budget = 64 * 1024;
    while budget > 0 && stream.readable().await.is_ok() {
        match stream.try_read(&mut rest) {
            Ok(n) if n > 0 => budget -= n.min(budget),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}
