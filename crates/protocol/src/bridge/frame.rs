//! Frames of the bridge: `u32 rest, u32 head, head (JSON), body (bytes)`, integers little endian, where
//! `rest` counts everything behind itself and `head` the bytes of the JSON.

use serde::{Serialize, de::DeserializeOwned};

/// Bytes before the head.
pub const PREFIX: usize = 8;

/// Largest frame that is accepted. A captured row may be large (Postgres allows 1 GB), its JSON larger.
pub const MAX_FRAME: usize = 1 << 31;

/// What is wrong with the bytes of a peer. The connection to the peer is closed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("bridge frame of {0} bytes is over the limit")]
    TooLarge(usize),
    #[error("bridge frame's head is longer than the frame")]
    Head,
    #[error("bridge message does not parse: {0}")]
    Json(#[from] serde_json::Error),
}

/// Appends a frame to `out`.
///
/// # Errors
/// [`FrameError::TooLarge`] where head and body pass [`MAX_FRAME`].
pub fn write<T: Serialize>(out: &mut Vec<u8>, head: &T, body: &[&[u8]]) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    serde_json::to_writer(&mut *out, head)?;
    let head_len = out.len() - start - PREFIX;
    let body_len: usize = body.iter().map(|b| b.len()).sum();
    let rest = 4 + head_len + body_len;
    if rest > MAX_FRAME {
        out.truncate(start);
        return Err(FrameError::TooLarge(rest));
    }
    #[allow(clippy::cast_possible_truncation, reason = "MAX_FRAME fits u32")]
    {
        out[start..start + 4].copy_from_slice(&(rest as u32).to_le_bytes());
        out[start + 4..start + 8].copy_from_slice(&(head_len as u32).to_le_bytes());
    }
    for part in body {
        out.extend_from_slice(part);
    }
    Ok(())
}

/// Length of the first frame in `buf` with its prefix, or `None` where more bytes are needed to tell.
///
/// # Errors
/// [`FrameError::TooLarge`].
pub fn frame_len(buf: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some(prefix) = buf.first_chunk::<4>() else { return Ok(None) };
    let rest = u32::from_le_bytes(*prefix) as usize;
    if rest > MAX_FRAME {
        return Err(FrameError::TooLarge(rest));
    }
    Ok(Some(rest + 4))
}

/// Splits a whole frame (as [`frame_len`] measured it) into its head and the range of its body.
///
/// # Errors
/// [`FrameError::Head`] or [`FrameError::Json`].
pub fn read<T: DeserializeOwned>(frame: &[u8]) -> Result<(T, std::ops::Range<usize>), FrameError> {
    let head_len = frame.get(4..PREFIX).and_then(|b| b.first_chunk::<4>()).ok_or(FrameError::Head)?;
    let end = PREFIX + u32::from_le_bytes(*head_len) as usize;
    let head = frame.get(PREFIX..end).ok_or(FrameError::Head)?;
    Ok((serde_json::from_slice(head)?, end..frame.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_and_partial_ones_ask_for_more() {
        let mut out = Vec::new();
        write(&mut out, &serde_json::json!({"a": 1}), &[b"xy", b"z"]).expect("write");
        assert_eq!(frame_len(&out[..3]).expect("short"), None);
        assert_eq!(frame_len(&out).expect("len"), Some(out.len()));
        let (head, body): (serde_json::Value, _) = read(&out).expect("read");
        assert_eq!(head["a"], 1);
        assert_eq!(&out[body], b"xyz");
    }

    #[test]
    fn a_lying_length_is_an_error_not_a_panic() {
        assert!(frame_len(&u32::MAX.to_le_bytes()).is_err());
        let mut out = Vec::new();
        write(&mut out, &1, &[]).expect("write");
        out[4..8].copy_from_slice(&1000_u32.to_le_bytes());
        assert!(read::<i32>(&out).is_err());
    }
}
