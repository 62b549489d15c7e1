//! Compression of WebSocket messages (permessage-deflate, RFC 7692) without memory from one message to the next: so what
//! is compressed once serves every connection that has agreed to it, and an idle one costs nothing.
//!
//! Decides what pays, how a message is put together, and how far one is inflated. Who may be sent it is
//! [`offer`]'s. Invariant: of a shared body the same bytes go to everybody. I/O threads only, but for [`Shared`].

mod inflate;
pub mod offer;

pub use inflate::{InflateError, Inflater};

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};
use std::sync::{Arc, OnceLock};

/// What ends each message on the wire's other side: the last flush of each message is cut by it.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// The largest stored block.
const STORED: usize = 0xffff;
/// Larger messages, which are single rows of that size, go out as they are: compressing one would hold up all other connections of
/// the thread for more than some 10 ms.
const MAX: usize = 4 << 20;
/// A message that is smaller by less than one part in so many goes out as it is: inflating it costs its readers more.
const WORTH: usize = 8;

/// Compressed bodies of a tick's frames, shared by the threads: whoever needs one first makes it. None: it does not pay.
pub type Shared = Arc<[OnceLock<Option<Bytes>>]>;

/// Room for the compressed bodies of so many frames.
pub fn shared(frames: usize) -> Shared {
    (0..frames).map(|_| OnceLock::new()).collect()
}

/// Compresses for one thread.
#[derive(Debug)]
pub struct Deflater {
    level: u32,
    min: usize,
    /// Made when something is compressed first: it takes a quarter of a megabyte.
    state: Option<Compress>,
    /// The last body and what it came to: a snapshot's part goes to all who wait for it one after another, each time within
    /// another message.
    last: Option<(Bytes, Option<Bytes>)>,
    scratch: Vec<u8>,
}

impl Deflater {
    /// `level`: 1 (fast) to 9, 0 compresses nothing. `min`: bytes below which a message goes out as it is.
    pub fn new(level: u32, min: u32) -> Self {
        Self { level: level.min(9), min: min as usize, state: None, last: None, scratch: Vec::new() }
    }

    /// The settings were read again.
    pub fn set(&mut self, level: u32, min: u32) {
        if self.level != level.min(9) {
            self.state = None;
        }
        (self.level, self.min) = (level.min(9), min as usize);
        self.last = None;
    }

    /// Forgets the last body. To be called now and then, so that a large one is not kept for nothing.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// A message of three parts as the payload of a compressed frame, in three parts too: what is around the body is
    /// stored, so that the body's bytes are the same in every message. None where it does not pay.
    pub fn message(&mut self, before: &[u8], body: &Bytes, after: &[u8], shared: Option<&Place>) -> Option<[Bytes; 3]> {
        let size = before.len() + body.len() + after.len();
        if self.level == 0 || size < self.min || size > MAX {
            return None;
        }
        // What is small throughout, or all around nothing, is compressed in one piece.
        if body.is_empty() {
            let whole = self.body(&[before, after].concat())?;
            return Some([Bytes::new(), without_tail(&whole), Bytes::new()]);
        }
        let deflated = match shared {
            Some(place) => place.0[place.1].get_or_init(|| self.body(body)).clone(),
            None => self.recent(body),
        }?;
        let mut begin = Vec::with_capacity(before.len() + 5);
        stored(before, &mut begin);
        if after.is_empty() {
            return Some([begin.into(), without_tail(&deflated), Bytes::new()]);
        }
        let mut end = Vec::with_capacity(after.len() + 6);
        stored(after, &mut end);
        // The beginning of an empty block, of which the reader adds the rest.
        end.push(0);
        Some([begin.into(), deflated, end.into()])
    }

    fn recent(&mut self, body: &Bytes) -> Option<Bytes> {
        if let Some((last, deflated)) = &self.last
            && last.as_ptr() == body.as_ptr()
            && last.len() == body.len()
        {
            return deflated.clone();
        }
        let deflated = self.body(body);
        self.last = Some((body.clone(), deflated.clone()));
        deflated
    }

    /// Whole blocks that end at a byte; none where they are not much smaller.
    fn body(&mut self, body: &[u8]) -> Option<Bytes> {
        let level = Compression::new(self.level);
        let state = self.state.get_or_insert_with(|| Compress::new(level, false));
        state.reset();
        self.scratch.clear();
        let limit = body.len() - body.len() / WORTH;
        loop {
            if self.scratch.len() == self.scratch.capacity() {
                self.scratch.reserve((body.len() / 4).max(256));
            }
            let read = usize::try_from(state.total_in()).unwrap_or(usize::MAX);
            let status = state.compress_vec(body.get(read..)?, &mut self.scratch, FlushCompress::Sync);
            if self.scratch.len() >= limit || status.is_err() {
                return None;
            }
            let all_read = state.total_in() == body.len() as u64;
            // With room to spare it has nothing more to say.
            if all_read && (self.scratch.len() < self.scratch.capacity() || matches!(status, Ok(Status::BufError))) {
                break;
            }
        }
        let deflated = Bytes::copy_from_slice(&self.scratch);
        self.scratch.shrink_to(256 * 1024);
        Some(deflated)
    }
}

/// Blocks without what the reader adds.
fn without_tail(blocks: &Bytes) -> Bytes {
    blocks.slice(..blocks.len() - TAIL.len())
}

/// Where in a [`Shared`] a frame's body belongs.
#[derive(Debug, Clone)]
pub struct Place(pub Shared, pub usize);

/// Appends blocks that hold bytes as they are.
#[allow(clippy::cast_possible_truncation, reason = "chunks are bounded")]
fn stored(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.chunks(STORED) {
        let len = chunk.len() as u16;
        out.push(0);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: usize) -> String {
        (0..count)
            .map(|n| format!("[{n},\"item {}\",{},\"2026-11-21T12:{:02}:24Z\"],", n * 7 % 31, n * 13, n % 60))
            .collect()
    }

    #[test]
    fn a_message_inflates_to_itself_whatever_its_parts() {
        let (mut deflater, mut inflater) = (Deflater::new(1, 0), Inflater::default());
        let long = rows(5_000);
        for (before, body, after) in [
            ("", "", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            ("{\"type\":\"snapshot\",\"rows\":[", &rows(50)[..], "],\"done\":false}"),
            ("", &rows(20)[..], ""),
            ("x", &long, ""),
            (&long, &long, &long),
            (&long, "", &long),
        ] {
            let whole = [before, body, after].concat();
            for level in 1..=9 {
                deflater.set(level, 0);
                let body = Bytes::copy_from_slice(body.as_bytes());
                let message = deflater.message(before.as_bytes(), &body, after.as_bytes(), None).expect("pays");
                let inflated = inflater.inflate(&message.concat(), whole.len()).expect("inflates");
                assert_eq!(inflated, whole.as_bytes());
                assert!(inflater.inflate(&message.concat(), whole.len() - 1) == Err(InflateError::TooLarge));
            }
        }
    }

    #[test]
    fn what_does_not_pay_goes_out_as_it_is() {
        let mut deflater = Deflater::new(1, 1024);
        let mut bytes = vec![0; 100_000];
        getrandom::fill(&mut bytes).expect("chance");
        assert!(deflater.message(b"", &bytes.into(), b"", None).is_none());
        let text = Bytes::from(rows(100));
        assert!(deflater.message(b"", &text.slice(..1023), b"", None).is_none());
        assert!(deflater.message(b"", &text.slice(..1024), b"", None).is_some());
        assert!(deflater.message(b"", &vec![b' '; MAX + 1].into(), b"", None).is_none());
        deflater.set(0, 0);
        assert!(deflater.message(b"", &text, b"", None).is_none());
    }

    #[test]
    fn a_body_is_compressed_once_whoever_asks_and_in_whatever_message() {
        let mut deflaters = [Deflater::new(1, 0), Deflater::new(1, 0)];
        let body = Bytes::from(rows(100));
        let shared = shared(1);
        let parts = deflaters.each_mut().map(|deflater| {
            let [_, body, _] = deflater.message(b"", &body, b"", Some(&Place(shared.clone(), 0))).expect("pays");
            body
        });
        assert_eq!(parts[0].as_ptr(), parts[1].as_ptr());
        let [one, other] = [&b"for one"[..], b"for another"]
            .map(|before| deflaters[0].message(before, &body, b"}", None).expect("pays"));
        assert_eq!(one[1].as_ptr(), other[1].as_ptr());
        assert_ne!(one[0], other[0]);
    }

    /// Run by hand, in release: `cargo test --release -p rte-gateway --lib compression -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn compression_costs_and_saves() {
        let change = |n: usize| {
            format!(
                "{{\"op\":\"update\",\"key\":[{n}],\"set\":{{\"status\":\"{}\",\"amount\":\"{}.{:02}\",\"note\":\"{:x}\",\
                 \"changed_at\":\"2026-11-21T12:{:02}:{:02}.{:06}+00:00\"}}}}",
                ["open", "packed", "sent"][n % 3],
                n * 37 % 1000,
                n % 100,
                (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15),
                n / 60 % 60,
                n % 60,
                n * 7919 % 1_000_000
            )
        };
        let changes = |count: usize| {
            let all: Vec<_> = (0..count).map(|n| change(n * 17)).collect();
            format!("{{\"type\":\"changes\",\"shape\":\"s12\",\"changes\":[{}]}}", all.join(","))
        };
        let snapshot = format!("{{\"type\":\"snapshot\",\"rows\":[{}]", rows(2_000));
        println!("{:>10} {:>6} {:>8} {:>7} {:>9} {:>9}", "what", "level", "bytes", "ratio", "us/frame", "MB/s");
        for (name, text) in [
            ("1 change", changes(1)),
            ("4", changes(4)),
            ("16", changes(16)),
            ("100", changes(100)),
            ("1000", changes(1000)),
            ("snapshot", snapshot),
        ] {
            let body = Bytes::from(text);
            for level in [1, 2, 3, 4, 6] {
                let mut deflater = Deflater::new(level, 0);
                let Some(_) = deflater.body(&body) else { continue };
                let rounds = (40_000_000 / body.len() / 4).clamp(10, 20_000);
                let start = std::time::Instant::now();
                let mut size = 0;
                for _ in 0..rounds {
                    size = deflater.body(&body).map_or(0, |b| b.len());
                }
                let each = start.elapsed().as_secs_f64() / rounds as f64;
                let mut inflater = Inflater::default();
                let message = [deflater.body(&body).expect("pays").to_vec(), vec![0]].concat();
                let start = std::time::Instant::now();
                for _ in 0..rounds {
                    inflater.inflate(&message, body.len()).expect("inflates");
                }
                let back = start.elapsed().as_secs_f64() / rounds as f64;
                println!(
                    "{name:>10} {level:>6} {:>8} {:>7.2} {:>9.1} {:>9.0} inflate {:>6.1} us",
                    body.len(),
                    body.len() as f64 / size as f64,
                    each * 1e6,
                    body.len() as f64 / each / 1e6,
                    back * 1e6
                );
            }
        }
    }
}
