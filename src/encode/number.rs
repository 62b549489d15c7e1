//! Integers and floats. Floats are written by the routine of the server that their output functions use,
//! because its choice of digits and exponents is its own; it does not look at `extra_float_digits`.

use core::ffi::{c_char, c_int};

// From common/shortest_dec.h, the same in all versions that are supported.
unsafe extern "C" {
    fn double_to_shortest_decimal_buf(value: f64, result: *mut c_char) -> c_int;
    fn float_to_shortest_decimal_buf(value: f32, result: *mut c_char) -> c_int;
}

/// `DOUBLE_SHORTEST_DECIMAL_LEN` is 25, that of float is 16.
const SHORTEST_LEN: usize = 32;

pub(super) fn append_int(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

pub(super) fn append_quoted_int(out: &mut Vec<u8>, value: i64) {
    out.push(b'"');
    append_int(out, value);
    out.push(b'"');
}

pub(super) fn append_float8(out: &mut Vec<u8>, value: f64) {
    let mut text = [0_u8; SHORTEST_LEN];
    // SAFETY: writes a C string of less than DOUBLE_SHORTEST_DECIMAL_LEN bytes, returns its length and
    // never raises an error.
    let len = unsafe { double_to_shortest_decimal_buf(value, text.as_mut_ptr().cast()) };
    append_float(out, &text, len, value.is_finite());
}

pub(super) fn append_float4(out: &mut Vec<u8>, value: f32) {
    let mut text = [0_u8; SHORTEST_LEN];
    // SAFETY: as above, with FLOAT_SHORTEST_DECIMAL_LEN.
    let len = unsafe { float_to_shortest_decimal_buf(value, text.as_mut_ptr().cast()) };
    append_float(out, &text, len, value.is_finite());
}

/// JSON has no infinities and no NaN: these are strings.
fn append_float(out: &mut Vec<u8>, text: &[u8; SHORTEST_LEN], len: c_int, finite: bool) {
    let text = &text[..len as usize];
    if finite {
        out.extend_from_slice(text);
    } else {
        super::string::append_quoted(out, text);
    }
}
