//! The connection to the gateway: frames in and out over a Unix socket that never blocks.

use super::timeout::Pause;
use super::wait::wait_in_job;
use crate::guc;
use crate::worker::socket::connect_nonblocking;
use pgrx::pg_sys;
use rte_protocol::bridge::{JobId, ToWorker, frame};
use serde::Serialize;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Largest frame that a gateway may send: a job of some thousand subscriptions.
const MAX_INCOMING: usize = 1 << 20;
/// Read at once.
const READ: usize = 16 * 1024;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("the gateway closed it")]
    Gone,
    #[error("the gateway took nothing for {0} ms")]
    Stalled(u64),
    // What a peer wrote is not repeated in the log.
    #[error("a frame is not one of the bridge's")]
    Frame(#[from] frame::FrameError),
    #[error("a frame of {0} bytes is over the limit for jobs")]
    TooLarge(usize),
    #[error("a job came before the last one ended")]
    Overlap,
    #[error("the role that this worker is to connect as has changed")]
    Outdated,
    #[error("{0}")]
    Io(io::Error),
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

/// What a gateway may say.
pub(super) enum Incoming {
    /// A job's blob, and those of others that wait for the same rows.
    Job {
        job: JobId,
        blob: Vec<u8>,
        others: Vec<(JobId, Vec<u8>)>,
    },
    Word {
        job: JobId,
        word: Word,
    },
}

/// What may be said about a job that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// Nobody waits for it any more.
    Cancel,
    /// Of a verification: its snapshot is to be taken now.
    Export,
    /// A tick has its snapshot.
    Adopted,
    /// No tick could have it.
    Again,
}

pub(super) struct Link {
    stream: UnixStream,
    /// Received, not yet a whole frame or not yet looked at.
    inbox: Vec<u8>,
    /// The frame that is being sent, and how much of it is. After an error in the middle, the next frame
    /// follows the rest of this one.
    outbox: Vec<u8>,
    sent: usize,
}

impl Link {
    /// Connects without waiting; a gateway whose backlog is full counts as absent.
    pub(super) fn connect(path: &str) -> io::Result<Self> {
        let stream = connect_nonblocking(path)?;
        Ok(Self { stream, inbox: Vec::new(), outbox: Vec::new(), sent: 0 })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// The next frame, if a whole one has come.
    pub(super) fn receive(&mut self) -> Result<Option<Incoming>, LinkError> {
        loop {
            if let Some(len) = frame::frame_len(&self.inbox)? {
                if len > MAX_INCOMING {
                    return Err(LinkError::TooLarge(len));
                }
                if self.inbox.len() >= len {
                    return self.take(len).map(Some);
                }
            }
            let mut part = [0; READ];
            match self.stream.read(&mut part) {
                Ok(0) => return Err(LinkError::Gone),
                Ok(n) => self.inbox.extend_from_slice(&part[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn take(&mut self, len: usize) -> Result<Incoming, LinkError> {
        let bytes = &self.inbox[..len];
        let (head, body) = frame::read::<ToWorker>(bytes)?;
        let incoming = match head {
            ToWorker::Job { job, others } => {
                let (mut blobs, mut rest) = (Vec::with_capacity(others.len()), &bytes[body]);
                // From the end: what is left is the job's own.
                for (other, len) in others.into_iter().rev() {
                    let at = rest.len().checked_sub(len as usize).ok_or(frame::FrameError::Head)?;
                    blobs.push((other, rest[at..].to_vec()));
                    rest = &rest[..at];
                }
                Incoming::Job { job, blob: rest.to_vec(), others: blobs }
            }
            ToWorker::Cancel { job } => Incoming::Word { job, word: Word::Cancel },
            ToWorker::Export { job } => Incoming::Word { job, word: Word::Export },
            ToWorker::Adopted { job } => Incoming::Word { job, word: Word::Adopted },
            ToWorker::Again { job } => Incoming::Word { job, word: Word::Again },
        };
        self.inbox.drain(..len);
        Ok(incoming)
    }

    /// Whether the job in progress is no longer wanted. Does not wait.
    pub(super) fn is_cancelled(&mut self, current: JobId) -> Result<bool, LinkError> {
        loop {
            match self.receive()? {
                Some(Incoming::Word { job, word: Word::Cancel }) if job == current => return Ok(true),
                // About a job that has ended, or too late.
                Some(Incoming::Word { .. }) => {}
                Some(Incoming::Job { .. }) => return Err(LinkError::Overlap),
                None => return Ok(false),
            }
        }
    }

    /// Waits for a word about the job in progress; none comes in time where nothing is answered. Interrupts are raised as
    /// errors.
    pub(super) fn word(&mut self, current: JobId, patience: Duration) -> Result<Option<Word>, LinkError> {
        let _clock = Pause::begin();
        let deadline = Instant::now() + patience;
        loop {
            match self.receive()? {
                Some(Incoming::Word { job, word }) if job == current => return Ok(Some(word)),
                Some(Incoming::Word { .. }) => continue,
                Some(Incoming::Job { .. }) => return Err(LinkError::Overlap),
                None => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            wait_in_job(self.fd(), pg_sys::WL_SOCKET_READABLE, super::millis(left));
        }
    }

    /// Sends a frame, waiting where the gateway does not keep up, but only for as long as it takes a byte now
    /// and then. Interrupts of this process are raised as errors.
    pub(super) fn send<T: Serialize>(&mut self, head: &T, body: &[u8]) -> Result<(), LinkError> {
        let _clock = Pause::begin();
        self.outbox.drain(..self.sent);
        self.sent = 0;
        frame::write(&mut self.outbox, head, &[body])?;
        let stall = guc::stall_timeout_ms();
        let mut deadline = Instant::now() + Duration::from_millis(stall);
        while self.sent < self.outbox.len() {
            match self.stream.write(&self.outbox[self.sent..]) {
                Ok(0) => return Err(LinkError::Gone),
                Ok(n) => {
                    self.sent += n;
                    deadline = Instant::now() + Duration::from_millis(stall);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(LinkError::Stalled(stall));
                    }
                    wait_in_job(self.fd(), pg_sys::WL_SOCKET_WRITEABLE, super::millis(left));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        // A row of many megabytes is no reason to hold on to them.
        if self.outbox.capacity() > 8 * super::rows::CHUNK {
            self.outbox = Vec::new();
            self.sent = 0;
        }
        Ok(())
    }
}
