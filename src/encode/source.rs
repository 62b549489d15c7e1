//! Text from the server's encoding to the wire's, UTF-8.
//!
//! What has no equivalent is shown as U+FFFD: JSON has no way to carry it, and an error would stop the feed of
//! the whole table for one value.

use super::string;
use core::ffi::{CStr, c_int};
use pgrx::pg_sys;

/// `PG_UTF8` as the conversion functions take it.
const UTF8: c_int = pg_sys::pg_enc::PG_UTF8 as c_int;
/// `MAX_CONVERSION_GROWTH`: a byte becomes at most so many.
const GROWTH: usize = 4;
/// Bytes that are converted at once, so that what is allocated stays small.
const PART: usize = 256 * 1024;

/// Where text comes from: what must be done to have it in UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The database's encoding is UTF-8, and Postgres has checked the text when it was stored.
    Utf8,
    /// `SQL_ASCII`, or an encoding without a conversion: bytes that are taken for UTF-8.
    Unknown,
    /// Another encoding, and the function that converts it.
    Other { encoding: c_int, function: pg_sys::Oid },
}

impl Source {
    /// That of the database; it cannot change while the process lives.
    pub(super) fn of_server() -> Self {
        // SAFETY: reads a setting of the process and a catalog, as the module may.
        let (encoding, function) = unsafe {
            let encoding = pg_sys::GetDatabaseEncoding();
            match encoding as u32 {
                pg_sys::pg_enc::PG_UTF8 => return Self::Utf8,
                pg_sys::pg_enc::PG_SQL_ASCII => return Self::Unknown,
                _ => (encoding, pg_sys::FindDefaultConversionProc(encoding, UTF8)),
            }
        };
        if function == pg_sys::InvalidOid { Self::Unknown } else { Self::Other { encoding, function } }
    }

    pub(super) fn append_string(self, out: &mut Vec<u8>, text: &[u8]) {
        self.converted(text, |utf8| string::append_json_string(out, utf8));
    }

    /// Appends text that is JSON already.
    pub(super) fn append_verbatim(self, out: &mut Vec<u8>, json: &[u8]) {
        self.converted(json, |utf8| string::append(out, utf8));
    }

    fn converted(self, text: &[u8], use_it: impl FnOnce(&[u8])) {
        match self {
            Self::Utf8 => use_it(text),
            _ if text.is_ascii() => use_it(text),
            Self::Unknown => use_it(String::from_utf8_lossy(text).as_bytes()),
            Self::Other { encoding, function } => use_it(&convert(encoding, function, text)),
        }
    }
}

fn convert(encoding: c_int, function: pg_sys::Oid, text: &[u8]) -> Vec<u8> {
    let mut utf8 = Vec::new();
    let mut buffer = vec![0_u8; text.len().min(PART) * GROWTH + 1];
    let mut rest = text;
    while !rest.is_empty() {
        let part = &rest[..rest.len().min(PART)];
        // SAFETY: the function converts from `encoding` to UTF-8, only reads the source although its type does
        // not say so, and ends what it writes with NUL; the buffer is as large as it asks for.
        let (read, written) = unsafe {
            let read = pg_sys::pg_do_encoding_conversion_buf(
                function,
                encoding,
                UTF8,
                part.as_ptr().cast_mut(),
                part.len() as c_int,
                buffer.as_mut_ptr(),
                buffer.len() as c_int,
                true,
            );
            (read, CStr::from_ptr(buffer.as_ptr().cast()).to_bytes())
        };
        string::append(&mut utf8, written);
        let read = usize::try_from(read).unwrap_or(0).min(part.len());
        rest = &rest[read..];
        // A part may end within a character, which starts the next one; where nothing was read, the
        // character has no equivalent.
        if read == 0 {
            string::append(&mut utf8, "\u{fffd}".as_bytes());
            // SAFETY: reads the character's first byte, and not its others in the server's encodings.
            let len = unsafe { pg_sys::pg_encoding_mblen(encoding, rest.as_ptr().cast()) };
            rest = &rest[usize::try_from(len).unwrap_or(1).clamp(1, rest.len())..];
        }
    }
    utf8
}
