//! As much of a WebSocket as reading fast needs: frames are cut out of the stream and handed on unparsed.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

/// Size of a read. Each connection of a crowd shares one such buffer.
pub const READ: usize = 256 * 1024;

/// Cuts frames out of what comes in pieces.
#[derive(Debug, Default)]
pub struct Frames {
    rest: Vec<u8>,
}

/// A whole frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    Text(&'a [u8]),
    Ping(&'a [u8]),
    Close(&'a [u8]),
}

impl Frames {
    /// Takes a piece and hands on the frames that are complete.
    pub fn take(&mut self, piece: &[u8], mut each: impl FnMut(Frame)) {
        let mut rest = std::mem::take(&mut self.rest);
        let mut bytes: &[u8] = if rest.is_empty() {
            piece
        } else {
            rest.extend_from_slice(piece);
            &rest
        };
        while let Some((opcode, payload, after)) = cut(bytes) {
            match opcode {
                // A frame in parts counts as so many frames.
                0..=2 => each(Frame::Text(payload)),
                8 => each(Frame::Close(payload)),
                9 => each(Frame::Ping(payload)),
                _ => {}
            }
            bytes = after;
        }
        let left = bytes.len();
        if rest.is_empty() {
            self.rest = bytes.to_vec();
        } else {
            rest.drain(..rest.len() - left);
            self.rest = rest;
        }
    }
}

fn cut(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[first, second], body) = bytes.split_first_chunk()?;
    let (length, body) = match second & 0x7f {
        126 => body.split_first_chunk().map(|(l, body)| (usize::from(u16::from_be_bytes(*l)), body))?,
        127 => body.split_first_chunk().map(|(l, body)| (u64::from_be_bytes(*l) as usize, body))?,
        short => (usize::from(short), body),
    };
    (body.len() >= length).then(|| (first & 0x0f, &body[..length], &body[length..]))
}

/// A client's frame, masked with zeroes: the contract asks for a mask, not for a good one.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..126 => out.push(0x80 | short as u8),
        long => match u16::try_from(long) {
            Ok(long) => {
                out.push(0x80 | 126);
                out.extend_from_slice(&long.to_be_bytes());
            }
            Err(_) => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(long as u64).to_be_bytes());
            }
        },
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out
}

/// What a client asks with.
pub fn request(port: u16, path: &str, protocol: Option<&str>) -> String {
    let protocol = protocol.map(|p| format!("Sec-WebSocket-Protocol: {p}\r\n")).unwrap_or_default();
    format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
    )
}

/// Connects to whagons and shakes hands.
pub fn connect(port: u16) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.write_all(request(port, "/ws", Some("rte.v1")).as_bytes())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if !head.starts_with(b"HTTP/1.1 101") {
        return Err(io::Error::new(ErrorKind::ConnectionRefused, String::from_utf8_lossy(&head).into_owned()));
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_they_came_in() {
        let long = vec![b'x'; 70_000];
        let mut stream = vec![0x81, 2, b'h', b'i', 0x89, 0, 0x81, 126, 1, 0];
        stream.extend_from_slice(&long[..256]);
        stream.extend_from_slice(&[0x81, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
        stream.extend_from_slice(&long);
        for size in [1, 3, 1000, stream.len()] {
            let (mut frames, mut seen) = (Frames::default(), Vec::new());
            for piece in stream.chunks(size) {
                frames.take(piece, |f| {
                    seen.push(match f {
                        Frame::Text(text) => text.len() as i64,
                        Frame::Ping(_) => -1,
                        Frame::Close(_) => -2,
                    });
                });
            }
            assert_eq!(seen, [2, -1, 256, 70_000]);
            assert!(frames.rest.is_empty());
        }
    }

    #[test]
    fn what_we_send_is_masked() {
        assert_eq!(frame(1, b"hi"), [0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
        assert_eq!(frame(1, &[0; 300])[..4], [0x81, 0xfe, 1, 44]);
        assert_eq!(frame(1, &[0; 70_000])[..10], [0x81, 0xff, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
    }
}
