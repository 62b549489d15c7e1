//! A client's place, opaque to it: `base64url(payload ‖ mac)`.
//!
//! The payload is what is needed to go on exactly: format version, system identifier, database,
//! timeline, the server start it was made in, the flushed LSN and the snapshot of its tick. The MAC is HMAC-SHA-256,
//! cut to 16 bytes, under a key that lives in the database (and so on its standbys), hence a cursor that was
//! altered, or made by another database, is told from a good one. Pure.

use crate::snapshot::{Snapshot, Xid};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

const VERSION: u8 = 1;
const MAC_LEN: usize = 16;
/// Longer texts are refused unread. A cursor with 10,000 transactions in progress is half of it.
pub const MAX_TEXT: usize = 64 * 1024;

/// What a cursor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// `pg_control_system()`: the cluster and its physical standbys.
    pub system_identifier: u64,
    /// Oid of the database.
    pub database: u32,
    pub timeline: u32,
    /// Identifies the start of the server in which the tick was made.
    pub start: u64,
    /// Flushed WAL position at the tick.
    pub lsn: u64,
    pub snapshot: Snapshot,
}

/// Why a text is not a cursor of this database. Nothing tells the two apart, on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    #[error("cursor is not valid here")]
    Invalid,
}

impl Cursor {
    /// The text that clients hold.
    #[must_use]
    pub fn encode(&self, key: &[u8]) -> String {
        let mut out = Vec::with_capacity(64);
        out.push(VERSION);
        out.extend_from_slice(&self.system_identifier.to_be_bytes());
        out.extend_from_slice(&self.database.to_be_bytes());
        out.extend_from_slice(&self.timeline.to_be_bytes());
        out.extend_from_slice(&self.start.to_be_bytes());
        out.extend_from_slice(&self.lsn.to_be_bytes());
        let xmax = self.snapshot.xmax();
        varint(&mut out, xmax);
        varint(&mut out, self.snapshot.in_progress().len() as u64);
        for xid in self.snapshot.in_progress() {
            varint(&mut out, xmax - xid);
        }
        let tag = mac(key, &out);
        out.extend_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(out)
    }

    /// Reads a text that came from a client.
    ///
    /// # Errors
    /// [`CursorError::Invalid`] for anything that [`Cursor::encode`] did not make under this key.
    pub fn decode(text: &str, key: &[u8]) -> Result<Self, CursorError> {
        if text.len() > MAX_TEXT {
            return Err(CursorError::Invalid);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Invalid)?;
        let split = bytes.len().checked_sub(MAC_LEN).ok_or(CursorError::Invalid)?;
        let (payload, tag) = bytes.split_at(split);
        Hmac::<Sha256>::new_from_slice(key)
            .map_err(|_| CursorError::Invalid)?
            .chain_update(payload)
            .verify_truncated_left(tag)
            .map_err(|_| CursorError::Invalid)?;
        read(payload).ok_or(CursorError::Invalid)
    }
}

fn mac(key: &[u8], payload: &[u8]) -> [u8; MAC_LEN] {
    let mut tag = [0; MAC_LEN];
    // HMAC takes keys of any length.
    if let Ok(mac) = Hmac::<Sha256>::new_from_slice(key) {
        tag.copy_from_slice(&mac.chain_update(payload).finalize().into_bytes()[..MAC_LEN]);
    }
    tag
}

/// Signs a blob that passes through the gateway (a snapshot job): `blob ‖ mac`.
#[must_use]
pub fn sign(key: &[u8], mut blob: Vec<u8>) -> Vec<u8> {
    let tag = mac(key, &blob);
    blob.extend_from_slice(&tag);
    blob
}

/// The blob that [`sign`] signed under this key.
///
/// # Errors
/// [`CursorError::Invalid`].
pub fn verify<'a>(key: &[u8], signed: &'a [u8]) -> Result<&'a [u8], CursorError> {
    let split = signed.len().checked_sub(MAC_LEN).ok_or(CursorError::Invalid)?;
    let (blob, tag) = signed.split_at(split);
    Hmac::<Sha256>::new_from_slice(key)
        .map_err(|_| CursorError::Invalid)?
        .chain_update(blob)
        .verify_truncated_left(tag)
        .map_err(|_| CursorError::Invalid)?;
    Ok(blob)
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn read(payload: &[u8]) -> Option<Cursor> {
    let mut rest = payload;
    let mut fixed = |n: usize| {
        let (head, tail) = rest.split_at_checked(n)?;
        rest = tail;
        Some(head.iter().fold(0_u64, |acc, b| acc << 8 | u64::from(*b)))
    };
    if fixed(1)? != u64::from(VERSION) {
        return None;
    }
    let system_identifier = fixed(8)?;
    let database = u32::try_from(fixed(4)?).ok()?;
    let timeline = u32::try_from(fixed(4)?).ok()?;
    let start = fixed(8)?;
    let lsn = fixed(8)?;
    let mut number = || {
        let mut n = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, tail) = rest.split_first()?;
            rest = tail;
            n |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    };
    let xmax: Xid = number()?;
    let count = usize::try_from(number()?).ok().filter(|n| *n <= MAX_TEXT)?;
    let mut xip = Vec::with_capacity(count);
    for _ in 0..count {
        xip.push(xmax.checked_sub(number()?)?);
    }
    rest.is_empty().then(|| Cursor {
        system_identifier,
        database,
        timeline,
        start,
        lsn,
        snapshot: Snapshot::new(xmax, xip),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor() -> Cursor {
        Cursor {
            system_identifier: 7_123_456_789_012_345_678,
            database: 16_384,
            timeline: 3,
            start: 42,
            lsn: 0x16_B374_D848,
            snapshot: Snapshot::new(5_000_000_123, vec![4_999_999_999, 5_000_000_100]),
        }
    }

    #[test]
    fn a_cursor_reads_back() {
        let text = cursor().encode(b"key");
        assert_eq!(Cursor::decode(&text, b"key"), Ok(cursor()));
    }

    #[test]
    fn forged_truncated_and_foreign_cursors_are_refused() {
        let text = cursor().encode(b"key");
        assert_eq!(Cursor::decode(&text, b"other"), Err(CursorError::Invalid));
        for end in 0..text.len() {
            assert_eq!(Cursor::decode(&text[..end], b"key"), Err(CursorError::Invalid));
        }
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).expect("ascii");
            assert_eq!(Cursor::decode(&forged, b"key"), Err(CursorError::Invalid), "byte {at}");
        }
        assert_eq!(Cursor::decode(&"A".repeat(MAX_TEXT + 1), b"key"), Err(CursorError::Invalid));
    }

    #[test]
    fn a_signed_blob_verifies_and_an_altered_one_does_not() {
        let mut signed = sign(b"key", b"job".to_vec());
        assert_eq!(verify(b"key", &signed), Ok(b"job".as_slice()));
        signed[0] ^= 1;
        assert_eq!(verify(b"key", &signed), Err(CursorError::Invalid));
        assert_eq!(verify(b"key", b"short"), Err(CursorError::Invalid));
    }
}
