//! The head of a request: read in bounded size, and what it says. The caller bounds the time. I/O threads.

use std::io;
use tokio::net::TcpStream;

/// Largest head of a request.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

/// A request without its body.
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
        let mut hosts = self.headers("host");
        let Some(host) = hosts.next() else { return Ok(None) };
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
        self.headers(name).flat_map(|v| v.split(',')).any(|t| t.trim().eq_ignore_ascii_case(token))
    }

    /// The values of the headers of this name.
    pub fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The token of `Authorization: Bearer`.
    pub fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
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

pub fn parse(buffer: &[u8]) -> Result<Option<Head>, HeadError> {
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

    #[test]
    fn no_bytes_whatever_make_the_parser_fail_otherwise_than_by_an_answer() {
        let text =
            b"POST /send?connection=%zz&n=+1&token=a%2 HTTP/1.1\r\nHost: [::1]:1\r\nAuthorization: Bearer  x \r\n\r\n";
        let mut seed = 1_u64;
        let mut next = |bound: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % bound
        };
        for _ in 0..20_000 {
            let mut bytes = text.to_vec();
            for _ in 0..=next(4) {
                let at = next(bytes.len());
                match next(3) {
                    0 => bytes[at] = next(256) as u8,
                    1 => drop(bytes.drain(at..(at + next(8)).min(bytes.len()))),
                    _ => bytes.insert(at, next(256) as u8),
                }
            }
            if let Ok(Some(head)) = parse(&bytes) {
                let _ = (head.request.host(), head.request.bearer(), head.request.header_has("host", "x"));
                let _ = (head.request.parameter("token"), head.request.parameter("connection"));
            }
        }
    }
}
