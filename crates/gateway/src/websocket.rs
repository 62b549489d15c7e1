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
pub struct WebSocketIn(Box<WebSocketContext>);

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
        Self(Box::new(WebSocketContext::new(Role::Server, Some(config))))
    }

    /// The next message, or none where more input is needed. `input` is advanced; frames to send back are appended
    /// to `output`.
    pub fn next(&mut self, input: &mut &[u8], output: &mut Vec<u8>) -> Option<Incoming> {
        let mut memory = Memory { input, output };
        match self.0.read(&mut memory) {
            Ok(Message::Text(text)) => Some(Incoming::Text(text.as_str().to_owned())),
            Ok(Message::Binary(_)) => Some(Incoming::Binary),
            // The answer is written by the next call, which comes at once.
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Some(Incoming::Control),
            Ok(Message::Close(_)) => {
                // Writes the answer.
                let _ = self.0.flush(&mut memory);
                Some(Incoming::Close)
            }
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => None,
            Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => Some(Incoming::TooLarge),
            Err(Error::ConnectionClosed | Error::AlreadyClosed) => Some(Incoming::Close),
            Err(_) => Some(Incoming::Violation),
        }
    }
}
