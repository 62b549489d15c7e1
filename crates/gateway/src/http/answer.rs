//! Answers: status, headers and body, before they are bytes, and which pages of other origins may read them. Pure.

use super::request::Request;
use crate::limits::{Permit, Refusal};
use crate::page;
use crate::upgrade::origin_allowed;
use bytes::Bytes;
use rte_protocol::bridge::GatewayConfig;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// A header of an answer.
pub type Header = (&'static str, String);

/// An answer before it is bytes.
#[derive(Debug)]
pub struct Answer {
    status: u16,
    content_type: &'static str,
    headers: Vec<Header>,
    body: Bytes,
}

impl Answer {
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, headers: Vec::new(), body: body.into() }
    }

    pub fn empty(status: u16) -> Self {
        Self::new(status, "text/plain", Bytes::new())
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    pub fn page(page: &'static str) -> Self {
        Self::new(200, "text/html; charset=utf-8", page)
            .with("Content-Security-Policy", page::POLICY)
            .with("Referrer-Policy", "no-referrer")
    }

    /// A header more.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
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
        Self::later(status, message)
    }

    /// A refusal that need not last.
    pub fn later(status: u16, message: &str) -> Self {
        Self::error(status, message, Some("try again later")).with("Retry-After", "5")
    }

    /// To who names a connection that is not there.
    pub fn unknown_connection(permit: &Permit, config: &GatewayConfig) -> Self {
        if permit.named_in_vain(config) {
            Self::error(404, "there is no such connection", Some("open another"))
        } else {
            Self::refusal(Refusal::TooOften)
        }
    }

    /// Lets pages of allowed origins read it.
    pub fn cors(mut self, request: &Request, config: &GatewayConfig) -> Self {
        // What is for everybody says so itself.
        if !self.headers.iter().any(|(name, _)| *name == ALLOW_ORIGIN) {
            self.headers.extend(cors(request, config));
        }
        self
    }

    pub fn encode(&self) -> Vec<u8> {
        // What has no body by its status says no length either: it would be that of another answer.
        let length = (!matches!(self.status, 204 | 304)).then_some(self.body.len());
        let mut out = head(self.status, self.content_type, &self.headers, length).into_bytes();
        out.extend_from_slice(&self.body);
        out
    }
}

const ALLOW_ORIGIN: &str = "Access-Control-Allow-Origin";

/// Headers that let the request's page read the answer, where its origin is allowed.
pub fn cors(request: &Request, config: &GatewayConfig) -> Vec<Header> {
    let Some(origin) = request.header("origin").filter(|_| origin_allowed(request, config)) else {
        return Vec::new();
    };
    let mut headers = vec![(ALLOW_ORIGIN, origin.to_owned()), ("Vary", "Origin".to_owned())];
    if request.method == "OPTIONS" {
        headers.push(("Access-Control-Allow-Methods", "GET, POST".to_owned()));
        headers.push(("Access-Control-Allow-Headers", "authorization, content-type".to_owned()));
        headers.push(("Access-Control-Max-Age", "600".to_owned()));
    }
    headers
}

/// The head of an answer. Without a length the body ends with the connection. Nothing is to be kept by caches, unless the headers
/// say otherwise.
pub fn head(status: u16, content_type: &str, headers: &[Header], length: Option<usize>) -> String {
    let mut head = format!("HTTP/1.1 {status} {}\r\nContent-Type: {content_type}\r\n", reason(status));
    if let Some(length) = length {
        let _ = write!(head, "Content-Length: {length}\r\n");
    }
    head.push_str("Connection: close\r\nX-Content-Type-Options: nosniff\r\n");
    if !headers.iter().any(|(name, _)| *name == "Cache-Control") {
        head.push_str("Cache-Control: no-store\r\n");
    }
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head.push_str("\r\n");
    head
}

const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        _ => "Service Unavailable",
    }
}
