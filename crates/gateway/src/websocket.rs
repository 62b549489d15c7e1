//! The reading half of a WebSocket: bytes that came from the socket in, messages and answers out.
//!
//! tungstenite decides what is a valid frame and answers pings and closes; it never touches the socket. I/O threads.

use std::io::{self, Read, Write};
use tungstenite::error::{CapacityError, Error};
use tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

/// What came in.
#[derive(Debug)]
pub enum Incoming {
    Text(String),
    Binary,
    /// A ping or a pong, which is dealt with.
    Control,
    /// The client closes; the answer is in the output.
    Close,
    /// A frame or message over the limit.
    TooLarge,
    /// Not WebSocket.
    Violation,
}

/// The state of one connection's reading half.
#[derive(Debug)]
pub struct WebSocketIn {
    context: Box<WebSocketContext>,
    /// A frame whose end has not come. tungstenite reserves a frame's length as soon as it reads its header, so
    /// it gets whole frames only: memory is what a client has sent, not what it has announced.
    part: Vec<u8>,
    max_frame: usize,
}

struct Memory<'i, 'a> {
    input: &'a mut &'i [u8],
    output: &'a mut Vec<u8>,
}

impl Read for Memory<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(buf)
    }
}

impl Write for Memory<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WebSocketIn {
    pub fn new(max_frame: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(256)
            .write_buffer_size(0)
            .max_message_size(Some(max_frame))
            .max_frame_size(Some(max_frame));
        let context = Box::new(WebSocketContext::new(Role::Server, Some(config)));
        Self { context, part: Vec::new(), max_frame }
    }

    /// The next message, or none where more input is needed. `input` is advanced; frames to send back are appended
    /// to `output`.
    pub fn next(&mut self, input: &mut &[u8], output: &mut Vec<u8>) -> Option<Incoming> {
        loop {
            let known = if self.part.is_empty() { frame_len(input) } else { self.complete_header(input) };
            let Some(len) = known else {
                self.part.extend_from_slice(input);
                *input = &[];
                // An answer may wait to be written.
                return self.read(&[], output);
            };
            if len.payload > self.max_frame as u64 {
                return Some(Incoming::TooLarge);
            }
            let missing = len.whole - self.part.len();
            if input.len() < missing {
                self.part.extend_from_slice(input);
                *input = &[];
                return self.read(&[], output);
            }
            let (rest_of_frame, rest) = input.split_at(missing);
            *input = rest;
            let incoming = if self.part.is_empty() {
                self.read(rest_of_frame, output)
            } else {
                let mut frame = std::mem::take(&mut self.part);
                frame.extend_from_slice(rest_of_frame);
                self.read(&frame, output)
            };
            if incoming.is_some() {
                return incoming;
            }
        }
    }

    /// The length of the frame that was begun, with as much more of its header as that takes.
    fn complete_header(&mut self, input: &mut &[u8]) -> Option<FrameLen> {
        loop {
            if let Some(len) = frame_len(&self.part) {
                return Some(len);
            }
            let (first, rest) = input.split_first()?;
            self.part.push(*first);
            *input = rest;
        }
    }

    /// Reads a whole frame, or nothing.
    fn read(&mut self, mut frame: &[u8], output: &mut Vec<u8>) -> Option<Incoming> {
        let mut memory = Memory { input: &mut frame, output };
        match self.context.read(&mut memory) {
            Ok(Message::Text(text)) => Some(Incoming::Text(text.as_str().to_owned())),
            Ok(Message::Binary(_)) => Some(Incoming::Binary),
            // The answer is written by the next call, which comes at once.
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Some(Incoming::Control),
            Ok(Message::Close(_)) => {
                // Writes the answer.
                let _ = self.context.flush(&mut memory);
                Some(Incoming::Close)
            }
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => None,
            Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => Some(Incoming::TooLarge),
            Err(Error::ConnectionClosed | Error::AlreadyClosed) => Some(Incoming::Close),
            Err(_) => Some(Incoming::Violation),
        }
    }
}

/// How long a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrameLen {
    payload: u64,
    /// With its header.
    whole: usize,
}

/// The length that a header announces; none where it is not whole. Whether it is valid is not looked at.
fn frame_len(bytes: &[u8]) -> Option<FrameLen> {
    let second = *bytes.get(1)?;
    let (size, payload) = match second & 0x7f {
        126 => (4, u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
        len => (2, u64::from(len)),
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let whole = usize::try_from(payload).unwrap_or(usize::MAX).saturating_add(size + mask);
    Some(FrameLen { payload, whole })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A masked frame.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            len @ 0..126 => out.push(0x80 | len as u8),
            len @ 126..0x1_0000 => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(&[1, 2, 3, 4]);
        out.extend(payload.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out
    }

    /// What comes of bytes that arrive in pieces of a size; texts by their length.
    fn read(bytes: &[u8], size: usize) -> (Vec<String>, Vec<u8>) {
        let (mut ws, mut output, mut seen) = (WebSocketIn::new(100_000), Vec::new(), Vec::new());
        for mut piece in bytes.chunks(size) {
            while let Some(incoming) = ws.next(&mut piece, &mut output) {
                match incoming {
                    Incoming::Text(text) => seen.push(format!("{} of {}", text.len(), &text[..1])),
                    Incoming::TooLarge | Incoming::Violation | Incoming::Close => {
                        seen.push(format!("{incoming:?}"));
                        return (seen, output);
                    }
                    other => seen.push(format!("{other:?}")),
                }
            }
            assert!(ws.part.capacity() <= 2 * (ws.part.len() + 16).max(size), "{} bytes", ws.part.capacity());
        }
        (seen, output)
    }

    #[test]
    fn frames_are_the_same_however_they_arrive() {
        let mut bytes = Vec::new();
        for (first, len, byte) in [(0x81, 5, b'a'), (0x81, 125, b'b'), (0x81, 126, b'c'), (0x81, 70_000, b'd')] {
            bytes.extend(frame(first, &vec![byte; len]));
        }
        bytes.extend(frame(0x89, b"ping"));
        // A text in three fragments, with a ping between them.
        for (first, text) in [(0x01, &b"ee"[..]), (0x89, b""), (0x00, b"e"), (0x80, b"eee")] {
            bytes.extend(frame(first, text));
        }
        bytes.extend(frame(0x82, b"x"));
        bytes.extend(frame(0x88, b"\x03\xe8"));
        let whole = read(&bytes, bytes.len());
        let texts = ["5 of a", "125 of b", "126 of c", "70000 of d", "Control", "Control", "6 of e", "Binary", "Close"];
        assert_eq!(whole.0, texts);
        // Two pongs and a close.
        assert_eq!(whole.1, [&b"\x8a\x04ping"[..], b"\x8a\x00", b"\x88\x02\x03\xe8"].concat());
        for size in [1, 2, 3, 7, 64, 1000, 16_384] {
            assert_eq!(read(&bytes, size), whole, "in pieces of {size}");
        }
    }

    #[test]
    fn a_length_is_refused_before_it_is_believed() {
        for (len, size) in [(50_000_000_u64, 1), (100_001, 3), (u64::MAX, 14)] {
            let header = [&[0x81, 0xff][..], &len.to_be_bytes(), &[0; 4]].concat();
            assert_eq!(read(&header, size).0, ["TooLarge"], "{len}");
        }
        // Fragments add up.
        let mut bytes = frame(0x01, &[b'x'; 60_000]);
        bytes.extend(frame(0x80, &[b'x'; 60_000]));
        assert_eq!(read(&bytes, 1000).0, ["TooLarge"]);
        assert_eq!(read(b"\x81\x05hello", 3).0, ["Violation"]);
    }
}
