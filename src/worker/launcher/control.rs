//! What launcher and gateway say to each other over the socket pair that was made before the fork.

use super::sandbox;
use crate::guc;
use rte_protocol::bridge::{LogLevel, ToGateway, ToLauncher, frame};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;

/// Lines that a gateway may have in one go; it is not trusted.
const MAX_FRAME: usize = 64 * 1024;

/// What came of listening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    Nothing,
    Ended,
}

pub struct Control {
    stream: UnixStream,
    inbox: Vec<u8>,
}

impl Control {
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, inbox: Vec::new() })
    }

    pub fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Sends a message. A gateway that does not take all of it at once is stuck: the connection is closed, which ends it
    /// and starts another.
    pub fn send(&mut self, message: &ToGateway) {
        let mut out = Vec::new();
        if frame::write(&mut out, message, &[]).is_ok() && !matches!(self.stream.write(&out), Ok(n) if n == out.len()) {
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Handles all that the gateway has said.
    pub fn listen(&mut self) -> Said {
        let mut part = [0; 4096];
        loop {
            match self.stream.read(&mut part) {
                Ok(0) => return Said::Ended,
                Ok(n) => self.inbox.extend_from_slice(&part[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Said::Ended,
            }
        }
        let mut at = 0;
        loop {
            match frame::frame_len(&self.inbox[at..]) {
                Ok(Some(len)) if len <= MAX_FRAME => {
                    let Some(bytes) = self.inbox.get(at..at + len) else { break };
                    match frame::read(bytes) {
                        Ok((message, _)) => log(message),
                        Err(_) => return Said::Ended,
                    }
                    at += len;
                }
                Ok(None) => break,
                _ => return Said::Ended,
            }
        }
        self.inbox.drain(..at);
        Said::Nothing
    }
}

fn log(message: ToLauncher) {
    match message {
        ToLauncher::Listening { addresses } => {
            pgrx::log!("{} gateway listens on {}", guc::SERVER, addresses.join(", "));
        }
        ToLauncher::Sandboxed { report } => sandbox::log(&report),
        ToLauncher::Log { level: LogLevel::Debug, message } => pgrx::debug1!("whagons_rte gateway: {message}"),
        ToLauncher::Log { level: LogLevel::Log, message } => pgrx::log!("whagons_rte gateway: {message}"),
        ToLauncher::Log { level: LogLevel::Warning, message } => pgrx::warning!("whagons_rte gateway: {message}"),
    }
}
