//! What waits to be written to one connection: shared frames in order, and how many bytes they are.
//!
//! Decides nothing about limits. Invariant: frames leave whole and in order; a frame that was begun is finished. I/O
//! threads only (`Rc`).

use crate::flow::Credit;
use bytes::Bytes;
use rte_core::session::Frame;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use tokio::net::TcpStream;

/// Slices in one write.
const SLICES: usize = 96;

/// An encoded WebSocket frame in up to three pieces, so that rows and changes are never copied.
#[derive(Debug, Default)]
pub struct Encoded {
    head: Bytes,
    body: Bytes,
    tail: Bytes,
    /// Changes in it, for figures.
    pub changes: u32,
    /// Comes back to the reader that the rows came from, once they are written.
    _credit: Option<Credit>,
}

/// A handle to an encoded frame; shared by all connections of a thread.
#[derive(Debug, Clone)]
pub struct OutFrame(Rc<Encoded>);

impl OutFrame {
    /// A text frame around a payload that is shared with others.
    pub fn text(payload: Bytes, changes: u32) -> Self {
        let head = Bytes::copy_from_slice(header(0x81, payload.len()).as_slice());
        Self(Rc::new(Encoded { head, body: payload, changes, ..Encoded::default() }))
    }

    /// A text frame of a small payload in pieces, which are put together.
    pub fn text_of(pieces: &[&[u8]]) -> Self {
        let header = header(0x81, pieces.iter().map(|p| p.len()).sum());
        let mut bytes = Vec::with_capacity(header.len + pieces.iter().map(|p| p.len()).sum::<usize>());
        bytes.extend_from_slice(header.as_slice());
        pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        Self::raw(bytes.into())
    }

    /// A text frame of three parts.
    pub fn text_parts(before: &[u8], body: Bytes, after: Vec<u8>, credit: Option<Credit>) -> Self {
        let ws = header(0x81, before.len() + body.len() + after.len());
        let head = Bytes::from([ws.as_slice(), before].concat());
        Self(Rc::new(Encoded { head, body, tail: after.into(), changes: 0, _credit: credit }))
    }

    pub fn ping() -> Self {
        Self::raw(Bytes::from_static(&[0x89, 0]))
    }

    pub fn close(code: u16) -> Self {
        let [a, b] = code.to_be_bytes();
        Self::raw(Bytes::copy_from_slice(&[0x88, 2, a, b]))
    }

    /// Bytes that are frames already.
    pub fn raw(bytes: Bytes) -> Self {
        Self(Rc::new(Encoded { head: bytes, ..Encoded::default() }))
    }

    /// What a socket will be given.
    #[cfg(test)]
    pub fn all(&self) -> Vec<u8> {
        [&self.0.head[..], &self.0.body, &self.0.tail].concat()
    }

    pub fn changes(&self) -> u32 {
        self.0.changes
    }
}

impl Frame for OutFrame {
    fn bytes(&self) -> usize {
        self.0.head.len() + self.0.body.len() + self.0.tail.len()
    }
}

struct Header {
    bytes: [u8; 10],
    len: usize,
}

impl Header {
    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The header of an unmasked, unfragmented frame.
#[allow(clippy::cast_possible_truncation, reason = "each arm has checked the range")]
fn header(first: u8, payload: usize) -> Header {
    let mut bytes = [0; 10];
    bytes[0] = first;
    let len = match payload {
        0..=125 => {
            bytes[1] = payload as u8;
            2
        }
        126..=0xffff => {
            bytes[1] = 126;
            bytes[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
            4
        }
        _ => {
            bytes[1] = 127;
            bytes[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
            10
        }
    };
    Header { bytes, len }
}

#[derive(Debug)]
struct Item {
    frame: OutFrame,
    /// Whether it counts toward the bound of slow consumers. What is paced does not.
    counted: bool,
}

/// The queue of one connection. Takes no memory while empty and young.
#[derive(Debug, Default)]
pub struct OutQueue {
    items: VecDeque<Item>,
    /// Bytes of the first item that are written.
    written: usize,
    counted: usize,
    total: usize,
    /// Items that are paced.
    paced: usize,
}

/// What a write came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub bytes: usize,
    /// The socket takes no more for now.
    pub blocked: bool,
}

impl OutQueue {
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes that count toward the bound.
    pub fn counted(&self) -> usize {
        self.counted
    }

    /// All bytes.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Whether a part of a snapshot or a catch-up waits.
    pub fn has_paced(&self) -> bool {
        self.paced > 0
    }

    pub fn push(&mut self, frame: OutFrame) {
        self.push_item(frame, true);
    }

    /// For snapshots and catch-ups, which are bounded where they are read.
    pub fn push_paced(&mut self, frame: OutFrame) {
        self.paced += 1;
        self.push_item(frame, false);
    }

    fn push_item(&mut self, frame: OutFrame, counted: bool) {
        let bytes = frame.bytes();
        self.total += bytes;
        if counted {
            self.counted += bytes;
        }
        self.items.push_back(Item { frame, counted });
    }

    /// Drops everything but a frame that was begun.
    pub fn clear(&mut self) {
        let begun = if self.written > 0 { self.items.pop_front() } else { None };
        let written = self.written;
        *self = Self::default();
        if let Some(begun) = begun {
            self.written = written;
            self.push_item(begun.frame, true);
            self.total -= written;
        }
    }

    /// Writes as much as the socket takes.
    ///
    /// # Errors
    /// Those of the socket; the connection is gone.
    pub fn write_to(&mut self, stream: &TcpStream) -> io::Result<Written> {
        let mut bytes = 0;
        while !self.items.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut used = 0;
            let mut skip = self.written;
            'items: for item in &self.items {
                for part in [&item.frame.0.head, &item.frame.0.body, &item.frame.0.tail] {
                    if part.len() <= skip {
                        skip -= part.len();
                        continue;
                    }
                    if used == SLICES {
                        break 'items;
                    }
                    slices[used] = IoSlice::new(&part[skip..]);
                    skip = 0;
                    used += 1;
                }
            }
            match stream.try_write_vectored(&slices[..used]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    bytes += n;
                    self.advance(n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Written { bytes, blocked: true }),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if self.items.capacity() > 64 {
            self.items = VecDeque::new();
        }
        Ok(Written { bytes, blocked: false })
    }

    fn advance(&mut self, n: usize) {
        self.total -= n;
        let mut left = self.written + n;
        while let Some(first) = self.items.front() {
            let size = first.frame.bytes();
            if left < size {
                break;
            }
            left -= size;
            if first.counted {
                self.counted -= size;
            } else {
                self.paced = self.paced.saturating_sub(1);
            }
            self.items.pop_front();
        }
        self.written = left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_take_the_shortest_form() {
        assert_eq!(header(0x81, 125).as_slice(), [0x81, 125]);
        assert_eq!(header(0x81, 126).as_slice(), [0x81, 126, 0, 126]);
        assert_eq!(header(0x81, 0x1_0000).as_slice(), [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_frame_that_was_begun_survives_clear() {
        let mut q = OutQueue::default();
        q.push(OutFrame::text(Bytes::from_static(b"hello"), 0));
        q.push(OutFrame::text(Bytes::from_static(b"world"), 0));
        q.advance(3);
        q.clear();
        assert_eq!((q.items.len(), q.written, q.total()), (1, 3, 4));
        q.advance(4);
        assert!(q.is_empty() && q.total() == 0 && q.counted() == 0);
    }
}
