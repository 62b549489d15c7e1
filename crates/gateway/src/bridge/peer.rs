//! A worker's bridge connection: whole frames in, a queue of frames out.

use bytes::{Bytes, BytesMut};
use rte_protocol::bridge::frame;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

/// What may wait for a peer before it counts as dead.
const MAX_QUEUE: usize = 64 << 20;
/// Room for one read.
const READ: usize = 64 * 1024;
/// Bodies up to this are copied, or a small frame that waits for one slow client would hold a whole read buffer.
const COPY: usize = 16 * 1024;

/// The reading half.
#[derive(Debug)]
pub struct FrameReader {
    stream: OwnedReadHalf,
    buffer: BytesMut,
}

/// A whole frame.
#[derive(Debug)]
pub struct BridgeFrame(Bytes);

impl BridgeFrame {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Its head and body.
    pub fn read<T: DeserializeOwned>(&self) -> Result<(T, Bytes), frame::FrameError> {
        let (head, range): (T, Range<usize>) = frame::read(&self.0)?;
        let body = if range.len() <= COPY { Bytes::copy_from_slice(&self.0[range]) } else { self.0.slice(range) };
        Ok((head, body))
    }
}

impl FrameReader {
    pub fn new(stream: OwnedReadHalf) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    /// The next frame; none when the peer is gone or sends nonsense. Safe to be cancelled.
    pub async fn next(&mut self) -> Option<BridgeFrame> {
        loop {
            let missing = match frame::frame_len(&self.buffer).ok()? {
                Some(len) if self.buffer.len() >= len => {
                    return Some(BridgeFrame(self.buffer.split_to(len).freeze()));
                }
                Some(len) => len - self.buffer.len(),
                None => 0,
            };
            self.buffer.reserve(missing.max(READ));
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }
}

/// The queue of the writing half.
#[derive(Debug, Default)]
pub struct PeerOut {
    buffer: RefCell<Vec<u8>>,
    more: Notify,
    closed: Cell<bool>,
    gone: Notify,
    /// Bytes of clients' messages between their I/O threads and the socket. Whoever sends them adds them.
    pub under_way: Arc<AtomicUsize>,
    /// The part of them that is in the buffer.
    weighed: Cell<usize>,
}

impl PeerOut {
    /// Queues a frame. A peer that takes nothing is given up.
    pub fn send<T: Serialize>(&self, head: &T, body: &[u8]) {
        let mut buffer = self.buffer.borrow_mut();
        if self.closed.get() {
            return;
        }
        if frame::write(&mut buffer, head, &[body]).is_err() || buffer.len() > MAX_QUEUE {
            drop(buffer);
            self.close();
            return;
        }
        self.more.notify_one();
    }

    /// So many of the bytes under way have come into the buffer.
    pub fn weigh(&self, bytes: usize) {
        self.weighed.set(self.weighed.get() + bytes);
    }

    /// Gives the peer up.
    pub fn close(&self) {
        self.closed.set(true);
        self.buffer.borrow_mut().clear();
        self.more.notify_one();
        self.gone.notify_one();
    }

    /// Waits until the peer is given up.
    pub async fn gone(&self) {
        if !self.closed.get() {
            self.gone.notified().await;
        }
    }

    /// Writes the queue until the peer is given up or gone.
    pub async fn write_to(&self, mut stream: OwnedWriteHalf) {
        let mut writing = Vec::new();
        while !self.closed.get() {
            std::mem::swap(&mut writing, &mut *self.buffer.borrow_mut());
            if writing.is_empty() {
                self.more.notified().await;
                continue;
            }
            let weighed = self.weighed.take();
            if stream.write_all(&writing).await.is_err() {
                self.close();
            }
            self.under_way.fetch_sub(weighed, Ordering::Relaxed);
            writing.clear();
            writing.shrink_to(READ);
        }
    }
}
