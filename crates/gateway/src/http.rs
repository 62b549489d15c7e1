//! Plain HTTP on the socket port: health, figures and the pages. One request per connection, bounded in size and time.
//!
//! What shows more than health is answered to loopback peers only, until there are tokens for it. I/O threads.

use crate::limits::Refusal;
use crate::metrics::Metrics;
use crate::page;
use crate::upgrade::origin_allowed;
use rte_protocol::bridge::GatewayConfig;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpStream;

/// Largest head of a request.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// Time for the peer to take the last answer.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// A request without its body, which nothing here has.
#[derive(Debug, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The host that the request is for, in lower case and without its port; none where it does not say. Two of
    /// them are an error: who decided on the one would act on the other.
    pub fn host(&self) -> Result<Option<String>, ()> {
        let mut hosts = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case("host"));
        let Some((_, host)) = hosts.next() else { return Ok(None) };
        if hosts.next().is_some() {
            return Err(());
        }
        let host = host.trim();
        // An address of IPv6 stands in brackets, or its colons would be a port's.
        let end = host.find(']').map_or(0, |at| at + 1);
        let port = host[end..].find(':').map_or(host.len(), |at| end + at);
        Ok(Some(host[..port].trim_end_matches('.').to_ascii_lowercase()))
    }

    /// Whether a comma-separated header has this token, in any case.
    pub fn header_has(&self, name: &str, token: &str) -> bool {
        self.headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .flat_map(|(_, v)| v.split(','))
            .any(|t| t.trim().eq_ignore_ascii_case(token))
    }

    /// A parameter of the query, decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.query.split('&').find_map(|pair| {
            let (n, v) = pair.split_once('=')?;
            (n == name).then(|| decode(v))
        })
    }
}

/// Percent-decoding; what is not valid stays as it is.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let Some((first, rest)) = bytes.split_first() {
        bytes = rest;
        match (first, rest) {
            (b'+', _) => out.push(b' '),
            (b'%', [a, b, after @ ..]) => {
                let digit = |c: u8| char::from(c).to_digit(16);
                if let (Some(a), Some(b)) = (digit(*a), digit(*b)) {
                    out.push((a * 16 + b) as u8);
                    bytes = after;
                } else {
                    out.push(b'%');
                }
            }
            _ => out.push(*first),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A request's head, and what came behind it.
#[derive(Debug)]
pub struct Head {
    pub request: Request,
    pub rest: Vec<u8>,
}

/// Why there is no request.
#[derive(Debug)]
pub enum HeadError {
    Gone,
    /// To be answered with this status.
    Bad(u16),
}

/// Reads the head of a request; the caller bounds the time.
pub async fn read_head(stream: &TcpStream) -> Result<Head, HeadError> {
    let mut buffer = Vec::new();
    loop {
        stream.readable().await.map_err(|_| HeadError::Gone)?;
        let mut chunk = [0; 2048];
        let before = buffer.len();
        match stream.try_read(&mut chunk) {
            Ok(0) => return Err(HeadError::Gone),
            Ok(n) => buffer.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(HeadError::Gone),
        }
        // A head ends with a line. Without this look, one that comes byte by byte would be read again at each.
        if buffer[before..].contains(&b'\n')
            && let Some(head) = parse(&buffer)?
        {
            return Ok(head);
        }
        if buffer.len() > MAX_HEAD {
            return Err(HeadError::Bad(431));
        }
    }
}

fn parse(buffer: &[u8]) -> Result<Option<Head>, HeadError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let len = match parsed.parse(buffer) {
        Ok(httparse::Status::Complete(len)) if len > MAX_HEAD => return Err(HeadError::Bad(431)),
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::Bad(431)),
        Err(_) => return Err(HeadError::Bad(400)),
    };
    let (path, query) = parsed.path.unwrap_or("/").split_once('?').unwrap_or((parsed.path.unwrap_or("/"), ""));
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: parsed
            .headers
            .iter()
            .map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned()))
            .collect(),
    };
    Ok(Some(Head { request, rest: buffer[len..].to_vec() }))
}

/// An answer before it is bytes.
#[derive(Debug)]
pub struct Answer {
    status: u16,
    content_type: &'static str,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Answer {
    fn new(status: u16, content_type: &'static str, body: String) -> Self {
        Self { status, content_type, headers: Vec::new(), body }
    }

    fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    fn page(page: &str) -> Self {
        let mut answer = Self::new(200, "text/html; charset=utf-8", page.to_owned());
        answer.headers.push(("Content-Security-Policy", page::POLICY.to_owned()));
        answer.headers.push(("Referrer-Policy", "no-referrer".to_owned()));
        answer
    }

    pub fn error(status: u16, message: &str, hint: Option<&str>) -> Self {
        let mut body = json!({"error": message});
        if let Some(hint) = hint {
            body["hint"] = hint.into();
        }
        Self::json(status, &body)
    }

    pub fn refusal(refusal: Refusal) -> Self {
        let (status, message) = match refusal {
            Refusal::Full => (503, "too many connections"),
            Refusal::AddressFull => (429, "too many connections from this address"),
            Refusal::TooOften => (429, "too many requests from this address"),
        };
        let mut answer = Self::error(status, message, Some("try again later"));
        answer.headers.push(("Retry-After", "5".to_owned()));
        answer
    }

    /// Lets pages of allowed origins read it.
    pub fn cors(mut self, request: &Request, config: &GatewayConfig) -> Self {
        if let Some(origin) = request.header("origin")
            && origin_allowed(request, config)
        {
            self.headers.push(("Access-Control-Allow-Origin", origin.to_owned()));
            self.headers.push(("Vary", "Origin".to_owned()));
            if request.method == "OPTIONS" {
                self.headers.push(("Access-Control-Allow-Methods", "GET".to_owned()));
                self.headers.push(("Access-Control-Allow-Headers", "authorization".to_owned()));
            }
        }
        self
    }

    pub fn encode(&self) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            202 => "Accepted",
            204 => "No Content",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            421 => "Misdirected Request",
            426 => "Upgrade Required",
            429 => "Too Many Requests",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        let mut head = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n",
            self.status,
            self.content_type,
            self.body.len()
        );
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        head.push_str(&self.body);
        head.into_bytes()
    }
}

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
fn is_trusted(request: &Request, peer: SocketAddr) -> bool {
    let forwarded = ["forwarded", "x-forwarded-for", "x-real-ip", "via"].iter().any(|h| request.header(h).is_some());
    peer.ip().to_canonical().is_loopback() && !forwarded
}

/// Answers a request that is not for a WebSocket.
pub fn answer(request: &Request, peer: SocketAddr, config: &GatewayConfig, metrics: &Metrics) -> Answer {
    match request.method.as_str() {
        "GET" => {}
        "OPTIONS" => return Answer::new(204, "text/plain", String::new()),
        _ => return Answer::error(405, "only GET is answered here", None),
    }
    let trusted = is_trusted(request, peer);
    match request.path.as_str() {
        "/health" => health(metrics),
        "/metrics" | "/stats" if !trusted => {
            Answer::error(403, "figures are shown to this host only", Some("ask from the database host"))
        }
        "/metrics" => Answer::new(200, "text/plain; version=0.0.4", metrics.prometheus()),
        "/stats" => Answer::json(200, &metrics.json(&config.server)),
        "/ws" => Answer::error(426, "this is a WebSocket endpoint", Some("connect with the subprotocol rte.v1")),
        path => match page::at(path) {
            Some(page) => Answer::page(page),
            None => Answer::error(404, "there is nothing here", None),
        },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_parses_and_a_half_one_waits() {
        let text = b"GET /ws?token=a%20b&x=1 HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\n\r\nrest";
        assert!(parse(&text[..40]).expect("half").is_none());
        let head = parse(text).expect("parse").expect("whole");
        assert_eq!(head.request.parameter("token").as_deref(), Some("a b"));
        assert!(head.request.header_has("connection", "upgrade"));
        assert_eq!(head.rest, b"rest");
        assert!(matches!(parse(b"\x00\x01\r\n\r\n"), Err(HeadError::Bad(400))));
    }

    #[test]
    fn a_host_is_read_without_port_and_case() {
        let host = |headers: &str| {
            let text = format!("GET / HTTP/1.1\r\n{headers}\r\n\r\n");
            parse(text.as_bytes()).expect("parse").expect("whole").request.host()
        };
        for (header, is) in [
            ("Host: LocalHost:8082", "localhost"),
            ("Host: shop.example", "shop.example"),
            ("Host: shop.example.:80", "shop.example"),
            ("Host: [::1]:8082", "[::1]"),
            ("Host: [::1]", "[::1]"),
            ("Host: ::1", ""),
            ("Host:", ""),
        ] {
            assert_eq!(host(header), Ok(Some(is.to_owned())), "{header}");
        }
        assert_eq!(host("X: y"), Ok(None));
        assert_eq!(host("Host: a\r\nHost: a"), Err(()));
    }
}
