//! The way back: one compressed message of a client's, bounded by what it may come to. I/O threads only.

use super::TAIL;
use flate2::{Decompress, FlushDecompress, Status};

/// Room that a message begins with.
const ROOM: usize = 1024;

/// Why there is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    #[error("message is larger than it may be")]
    TooLarge,
    #[error("message is not compressed as agreed")]
    Bad,
}

/// Inflates for one thread. Clients keep nothing from one message to the next, so one serves them all.
#[derive(Debug, Default)]
pub struct Inflater {
    /// Made for the first message.
    state: Option<Decompress>,
}

impl Inflater {
    /// The message of a compressed payload.
    ///
    /// # Errors
    /// What is not compressed so, or would be larger than `limit` bytes: no more than that is ever made of it.
    pub fn inflate(&mut self, payload: &[u8], limit: usize) -> Result<Vec<u8>, InflateError> {
        let state = self.state.get_or_insert_with(|| Decompress::new(false));
        state.reset(false);
        let mut out = Vec::new();
        for mut input in [payload, &TAIL] {
            loop {
                if out.len() == out.capacity() {
                    if out.len() > limit {
                        return Err(InflateError::TooLarge);
                    }
                    // One byte more than it may have, to see that it would.
                    let more = out.len().max(ROOM).min(limit + 1 - out.len());
                    out.reserve_exact(more);
                }
                let before = (state.total_in(), out.len());
                let status = state.decompress_vec(input, &mut out, FlushDecompress::Sync);
                let status = status.map_err(|_| InflateError::Bad)?;
                let read = usize::try_from(state.total_in() - before.0).map_err(|_| InflateError::Bad)?;
                input = input.get(read..).ok_or(InflateError::Bad)?;
                let full = out.len() == out.capacity();
                if status == Status::StreamEnd {
                    // Writers that cannot flush end each message with a last block; what follows begins anew.
                    state.reset(false);
                } else if read == 0 && out.len() == before.1 && !full {
                    break;
                }
                if input.is_empty() && !full {
                    break;
                }
            }
        }
        if out.len() > limit { Err(InflateError::TooLarge) } else { Ok(out) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_inflate() {
        let mut inflater = Inflater::default();
        for payload in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            // Stored.
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            // A last block.
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            // Two blocks.
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        ] {
            assert_eq!(inflater.inflate(payload, 5).as_deref(), Ok(&b"Hello"[..]));
            assert_eq!(inflater.inflate(payload, 4), Err(InflateError::TooLarge));
        }
        assert_eq!(inflater.inflate(&[0], 0).as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn a_message_that_would_fill_memory_is_given_up_at_its_bound() {
        let mut deflater = super::super::Deflater::new(9, 0);
        let bomb = deflater.message(b"", &vec![b' '; 4 << 20].into(), b"", None).expect("pays").concat();
        assert!(bomb.len() < 10_000);
        let mut inflater = Inflater::default();
        for limit in [0, 1, 1000, 1 << 20] {
            assert_eq!(inflater.inflate(&bomb, limit), Err(InflateError::TooLarge));
        }
    }

    #[test]
    fn whatever_comes_is_inflated_or_refused() {
        let mut inflater = Inflater::default();
        let mut deflater = super::super::Deflater::new(6, 0);
        let text = "{\"type\":\"subscribe\",\"id\":\"a\"} ".repeat(40);
        let good = deflater.message(b"", &text.clone().into(), b"", None).expect("pays").concat();
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        let mut chance = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..20_000 {
            let mut payload = good.clone();
            match chance() % 3 {
                0 => payload.truncate(chance() as usize % payload.len()),
                1 => {
                    for _ in 0..=chance() % 4 {
                        let at = chance() as usize % payload.len();
                        payload[at] = chance() as u8;
                    }
                }
                _ => payload = (0..chance() % 100).map(|_| chance() as u8).collect(),
            }
            if let Ok(out) = inflater.inflate(&payload, 10_000) {
                assert!(out.len() <= 10_000);
            }
        }
        // One that was bad harms no other.
        assert_eq!(inflater.inflate(&good, text.len()).as_deref(), Ok(text.as_bytes()));
    }
}
