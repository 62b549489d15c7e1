//! The feeder's connection to the gateway: never waits, in either direction.

use crate::worker::socket;
use pgrx::pg_sys;
use rte_protocol::bridge::{Attach, FromFeeder, ToFeeder, frame};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;

/// A gateway that takes nothing for this many bytes is not served any more: its clients come back.
const MAX_OUTGOING: usize = 512 << 20;
/// Largest frame that a gateway may send: a client's message, which the gateway bounds, and some room.
const MAX_INCOMING: usize = 64 << 20;
const READ: usize = 64 * 1024;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the gateway closed it")]
    Gone,
    #[error("the gateway does not take what it is sent")]
    Stalled,
    #[error("a frame of {0} bytes is over the limit")]
    TooLarge(usize),
    #[error("{0}")]
    Frame(#[from] frame::FrameError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

pub struct Link {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    sent: usize,
}

impl Link {
    pub fn connect(path: &str, database: pg_sys::Oid, name: &str) -> Result<Self, LinkError> {
        let stream = socket::connect_nonblocking(path)?;
        let mut link = Self { stream, inbox: Vec::new(), outbox: Vec::new(), sent: 0 };
        let attach = Attach::Feeder { database: database.to_u32(), name: name.to_owned(), pid: std::process::id() };
        frame::write(&mut link.outbox, &attach, &[])?;
        Ok(link)
    }

    pub fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Queues a message.
    pub fn queue(&mut self, head: &FromFeeder, body: &[&[u8]]) -> Result<(), LinkError> {
        frame::write(&mut self.outbox, head, body)?;
        Ok(())
    }

    /// Whether something waits to be sent.
    pub fn has_output(&self) -> bool {
        self.sent < self.outbox.len()
    }

    /// Sends what the socket takes.
    pub fn flush(&mut self) -> Result<(), LinkError> {
        while self.has_output() {
            match self.stream.write(&self.outbox[self.sent..]) {
                Ok(0) => return Err(LinkError::Gone),
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.outbox.len() - self.sent > MAX_OUTGOING {
                        return Err(LinkError::Stalled);
                    }
                    if self.sent > self.outbox.len() / 2 {
                        self.outbox.drain(..self.sent);
                        self.sent = 0;
                    }
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    return Err(LinkError::Gone);
                }
                Err(e) => return Err(e.into()),
            }
        }
        self.sent = 0;
        self.outbox.clear();
        // A burst is no reason to hold on to its memory.
        self.outbox.shrink_to(1 << 20);
        Ok(())
    }

    /// Takes all whole messages that have come.
    pub fn receive(&mut self, messages: &mut Vec<ToFeeder>) -> Result<(), LinkError> {
        let mut part = [0; READ];
        loop {
            match self.stream.read(&mut part) {
                Ok(0) => return Err(LinkError::Gone),
                Ok(n) => self.inbox.extend_from_slice(&part[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(LinkError::Gone),
                Err(e) => return Err(e.into()),
            }
        }
        let mut at = 0;
        while let Some(len) = frame::frame_len(&self.inbox[at..])? {
            if len > MAX_INCOMING {
                return Err(LinkError::TooLarge(len));
            }
            let Some(bytes) = self.inbox.get(at..at + len) else { break };
            messages.push(frame::read(bytes)?.0);
            at += len;
        }
        self.inbox.drain(..at);
        Ok(())
    }
}
