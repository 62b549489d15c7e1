//! The body of a request: its length is known and bounded before any of it is kept. The caller bounds the time. I/O
//! threads.

use super::request::Request;
use std::io;
use tokio::net::TcpStream;

/// Room for one read.
const READ: usize = 16 * 1024;

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    Gone,
    /// To be answered with this status.
    Bad(u16),
}

/// The length that a request says of its body. One that comes in chunks says none, and two lengths are one too many:
/// a proxy would have seen another request end elsewhere.
pub fn length(request: &Request, limit: u64) -> Result<usize, BodyError> {
    let mut lengths = request.headers("content-length");
    let (length, second) = (lengths.next(), lengths.next());
    let chunked = request.header("transfer-encoding").is_some();
    let length = match (length, second, chunked) {
        (Some(length), None, false) => length.trim(),
        (None, None, true) => return Err(BodyError::Bad(411)),
        (None, None, false) if request.method == "POST" => return Err(BodyError::Bad(411)),
        (None, None, false) => "0",
        _ => return Err(BodyError::Bad(400)),
    };
    // No sign: `parse` would take one.
    if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BodyError::Bad(400));
    }
    match length.parse::<u64>() {
        Ok(length) if length <= limit => usize::try_from(length).map_err(|_| BodyError::Bad(413)),
        _ => Err(BodyError::Bad(413)),
    }
}

/// Reads a body of this length, of which `body` came with the head. Memory is what has come, not what was announced.
pub async fn read(stream: &TcpStream, mut body: Vec<u8>, length: usize) -> Result<Vec<u8>, BodyError> {
    let mut chunk = vec![0; READ.min(length.saturating_sub(body.len()).max(1))];
    while body.len() < length {
        stream.readable().await.map_err(|_| BodyError::Gone)?;
        match stream.try_read(&mut chunk) {
            Ok(0) => return Err(BodyError::Gone),
            Ok(n) => body.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(BodyError::Gone),
        }
    }
    // One request per connection: what comes behind it is not looked at.
    body.truncate(length);
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::super::request::parse;
    use super::*;

    fn length_of(headers: &str) -> Result<usize, BodyError> {
        let text = format!("POST /send HTTP/1.1\r\n{headers}\r\n\r\n");
        length(&parse(text.as_bytes()).expect("parse").expect("whole").request, 1000)
    }

    #[test]
    fn a_length_is_one_plain_number_within_the_bound() {
        assert_eq!(length_of("Content-Length: 0"), Ok(0));
        assert_eq!(length_of("content-length:  1000 "), Ok(1000));
        for (headers, status) in [
            ("Content-Length: 1001", 413),
            ("Content-Length: 99999999999999999999999999", 413),
            ("Content-Length: +5", 400),
            ("Content-Length: -5", 400),
            ("Content-Length: 5, 5", 400),
            ("Content-Length: 0x5", 400),
            ("Content-Length:", 400),
            ("Content-Length: 5\r\nContent-Length: 5", 400),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
            ("Transfer-Encoding: chunked", 411),
            ("X: y", 411),
        ] {
            assert_eq!(length_of(headers), Err(BodyError::Bad(status)), "{headers}");
        }
    }
}
