//! JSON strings from UTF-8. Escapes as Postgres' `escape_json` does.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pgrx::prelude::*;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends UTF-8 text as a JSON string.
pub fn append_json_string(out: &mut Vec<u8>, text: &[u8]) {
    reserve(out, text.len() + 2);
    out.push(b'"');
    let mut rest = text;
    loop {
        let clean = clean_prefix(rest);
        append(out, &rest[..clean]);
        let Some(byte) = rest.get(clean) else { break };
        append_escape(out, *byte);
        rest = &rest[clean + 1..];
    }
    out.push(b'"');
}

/// Appends ASCII that needs no escapes in quotes.
pub(super) fn append_quoted(out: &mut Vec<u8>, text: &[u8]) {
    reserve(out, text.len() + 2);
    out.push(b'"');
    out.extend_from_slice(text);
    out.push(b'"');
}

/// Appends bytes as base64 (standard alphabet, padded, one line) in quotes.
pub(super) fn append_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = bytes.len().div_ceil(3) * 4;
    reserve(out, len + 2);
    out.push(b'"');
    let start = out.len();
    out.resize(start + len, b'=');
    // The buffer is exactly as long as the text, so this cannot fail.
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
    out.push(b'"');
}

/// Appends a uuid in quotes.
pub(super) fn append_uuid(out: &mut Vec<u8>, bytes: &[u8; 16]) {
    let mut text = *b"\"00000000-0000-0000-0000-000000000000\"";
    let mut at = 1;
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 15)];
        at += 2;
    }
    out.extend_from_slice(&text);
}

/// Length of the part before the first byte that JSON wants escaped. Eight bytes at a time.
fn clean_prefix(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    const QUOTES: u64 = ONES * b'"' as u64;
    const BACKSLASHES: u64 = ONES * b'\\' as u64;
    const SPACES: u64 = ONES * b' ' as u64;
    let (words, tail) = text.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // A borrow can only mark a byte above one that is marked rightly, and the lowest mark counts.
        let control = word.wrapping_sub(SPACES) & !word;
        let quote = (word ^ QUOTES).wrapping_sub(ONES) & !(word ^ QUOTES);
        let backslash = (word ^ BACKSLASHES).wrapping_sub(ONES) & !(word ^ BACKSLASHES);
        let marks = (control | quote | backslash) & HIGH;
        if marks != 0 {
            return i * 8 + marks.trailing_zeros() as usize / 8;
        }
    }
    let clean = tail.iter().position(|b| matches!(b, 0..=0x1f | b'"' | b'\\')).unwrap_or(tail.len());
    words.len() * 8 + clean
}

fn append_escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0c => b'f',
        b'\r' => b'r',
        _ => {
            let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            return append(out, &[b'\\', b'u', b'0', b'0', digits[0], digits[1]]);
        }
    };
    append(out, &[b'\\', short]);
}

pub(super) fn append(out: &mut Vec<u8>, bytes: &[u8]) {
    reserve(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Makes room, or raises an error: a `Vec` that cannot grow would end the process, and with it the server.
fn reserve(out: &mut Vec<u8>, more: usize) {
    if out.try_reserve(more).is_err() {
        ereport!(ERROR, PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY, "out of memory for a value's JSON");
    }
}
