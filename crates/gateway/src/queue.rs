//! What waits to be written to one connection: shared frames in order, and how many bytes they are.
//!
//! Decides nothing about limits. Invariant: frames leave whole and in order; a frame that was begun is finished. I/O
//! threads only (`Rc`).

use crate::frame::{Form, OutFrame};
use bytes::Bytes;
use rte_core::session::Frame as _;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use tokio::net::TcpStream;

/// Slices in one write.
const SLICES: usize = 96;
/// What waits is put together for one write up to so many bytes: the kernel takes one piece more cheaply than several.
const TOGETHER: usize = 2048;
/// Items that an idle queue keeps room for.
const ROOM: usize = 8;

#[derive(Debug)]
struct Item {
    frame: OutFrame,
    /// Whether it counts toward the bound of slow consumers. What is paced does not.
    counted: bool,
}

/// The queue of one connection. Takes no memory while empty and young.
#[derive(Debug, Default)]
pub struct OutQueue {
    /// The form of what is put into it.
    form: Form,
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
    pub fn new(form: Form) -> Self {
        Self { form, ..Self::default() }
    }

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
        let frame = frame.into_form(&self.form);
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
        *self = Self::new(self.form.clone());
        if let Some(begun) = begun {
            self.written = written;
            self.push_item(begun.frame, true);
            self.total -= written;
        }
    }

    /// Drops what is paced and matches, but for a frame that was begun.
    pub fn drop_paced(&mut self, matches: impl Fn(&OutFrame) -> bool) {
        let mut begun = self.written > 0;
        let (total, paced) = (&mut self.total, &mut self.paced);
        self.items.retain(|item| {
            let stays = std::mem::take(&mut begun) || item.counted || !matches(&item.frame);
            if !stays {
                *total -= item.frame.bytes();
                *paced -= 1;
            }
            stays
        });
    }

    /// Writes as much as the socket takes.
    ///
    /// # Errors
    /// Those of the socket; the connection is gone.
    pub fn write_to(&mut self, stream: &TcpStream) -> io::Result<Written> {
        let mut bytes = 0;
        while !self.items.is_empty() {
            let tried = if self.total <= TOGETHER { self.try_together(stream) } else { self.try_slices(stream) };
            match tried {
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
        Ok(Written { bytes, blocked: false })
    }

    fn try_together(&self, stream: &TcpStream) -> io::Result<usize> {
        let mut together = [0; TOGETHER];
        let mut used = 0;
        for piece in self.rest() {
            let Some(room) = together.get_mut(used..used + piece.len()) else { break };
            room.copy_from_slice(piece);
            used += piece.len();
        }
        stream.try_write(&together[..used])
    }

    fn try_slices(&self, stream: &TcpStream) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut used = 0;
        for piece in self.rest().take(SLICES) {
            slices[used] = IoSlice::new(piece);
            used += 1;
        }
        stream.try_write_vectored(&slices[..used])
    }

    /// What is not written, in pieces.
    fn rest(&self) -> impl Iterator<Item = &[u8]> {
        let mut skip = self.written;
        self.items.iter().flat_map(|item| item.frame.pieces()).filter_map(move |piece| {
            let skipped = skip.min(piece.len());
            skip -= skipped;
            (skipped < piece.len()).then(|| &piece[skipped..])
        })
    }

    /// Gives memory back that a busy time has left. To be called now and then.
    pub fn trim(&mut self) {
        if self.items.is_empty() && self.items.capacity() > ROOM {
            self.items = VecDeque::new();
        }
    }

    /// Moves what waits to another queue, with commas between: about so many bytes, but at least one message. Nothing may
    /// have been written of it.
    pub fn take_into(&mut self, out: &mut Self, limit: usize) {
        let comma = OutFrame::raw(Bytes::from_static(b","));
        while let Some(item) = self.items.front() {
            let bytes = item.frame.bytes();
            if out.total > 0 && out.total + bytes > limit {
                break;
            }
            if out.total > 0 {
                out.push(comma.clone());
            }
            self.total -= bytes;
            if item.counted {
                self.counted -= bytes;
            } else {
                self.paced -= 1;
                out.paced += 1;
            }
            if let Some(item) = self.items.pop_front() {
                out.push_item(item.frame, item.counted);
            }
        }
    }

    /// Puts all of another queue behind this one.
    pub fn append(&mut self, mut other: Self) {
        self.items.append(&mut other.items);
        self.counted += other.counted;
        self.total += other.total;
        self.paced += other.paced;
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

    fn text(text: &'static str) -> OutFrame {
        OutFrame::text(Bytes::from_static(text.as_bytes()), 0)
    }

    #[test]
    fn a_frame_that_was_begun_survives_clear() {
        let mut q = OutQueue::new(Form::Frame);
        q.push(text("hello"));
        q.push(text("world"));
        q.advance(3);
        q.clear();
        assert_eq!((q.items.len(), q.written, q.total()), (1, 3, 4));
        q.advance(4);
        assert!(q.is_empty() && q.total() == 0 && q.counted() == 0);
    }

    #[test]
    fn an_answer_takes_whole_messages_in_order_and_leaves_the_rest() {
        let mut q = OutQueue::new(Form::Bare);
        q.push(text("[1]"));
        q.push_paced(text("[2,2]"));
        q.push(text("[3]"));
        let all = |q: &OutQueue| q.items.iter().flat_map(|item| item.frame.all()).collect::<Vec<_>>();
        let mut answer = OutQueue::default();
        q.take_into(&mut answer, 9);
        assert_eq!(all(&answer), b"[1],[2,2]");
        assert_eq!((answer.total(), answer.has_paced()), (9, true));
        assert_eq!((all(&q).as_slice(), q.total(), q.counted(), q.has_paced()), (&b"[3]"[..], 3, 3, false));
        let mut next = OutQueue::default();
        // One that is larger than the bound goes alone.
        q.take_into(&mut next, 1);
        assert!(q.is_empty() && q.total() == 0);
        answer.append(next);
        assert_eq!((all(&answer).as_slice(), answer.total()), (&b"[1],[2,2][3]"[..], 12));
    }
}
