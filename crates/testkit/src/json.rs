//! JSON values in one canonical text, so that "structurally equal" is "equal text" and nothing is lost on
//! the way: number literals keep all their digits and objects their order and duplicate keys, which a
//! parsed tree would drop.

use std::fmt::Write as _;

/// The canonical text of a valid JSON text: no blanks, only the escapes that are needed, numbers by value.
///
/// # Panics
/// When the text ends inside a string, which a JSON parser has ruled out before.
#[must_use]
pub fn canonical(json: &str) -> Box<str> {
    let bytes = json.as_bytes();
    let mut out = String::with_capacity(json.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b' ' | b'\t' | b'\n' | b'\r' => at += 1,
            b'"' => {
                let end = string_end(bytes, at);
                string(&json[at..end], &mut out);
                at = end;
            }
            b'-' | b'0'..=b'9' => {
                let len =
                    bytes[at..].iter().take_while(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
                let end = at + len.count();
                number(&json[at..end], &mut out);
                at = end;
            }
            other => {
                out.push(char::from(other));
                at += 1;
            }
        }
    }
    out.into_boxed_str()
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

fn string(quoted: &str, out: &mut String) {
    if !quoted.contains('\\') {
        out.push_str(quoted);
        return;
    }
    match serde_json::from_str::<String>(quoted) {
        Ok(text) => out.push_str(&serde_json::to_string(&text).unwrap_or_default()),
        // A lone surrogate is legal in Postgres' json and no text in Rust: kept as it is written.
        Err(_) => out.push_str(&quoted.to_lowercase()),
    }
}

/// Integers of up to 18 digits stay as they are; all else becomes digits without trailing zeros and an exponent.
fn number(literal: &str, out: &mut String) {
    let plain = literal.len() <= 18 && literal.bytes().all(|b| b.is_ascii_digit() || b == b'-') && literal != "-0";
    if plain {
        out.push_str(literal);
        return;
    }
    let (sign, rest) = literal.strip_prefix('-').map_or(("", literal), |rest| ("-", rest));
    let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let mut exponent = exponent.parse::<i64>().unwrap_or(i64::MAX / 2) - fraction.len() as i64;
    let kept = digits.trim_end_matches('0');
    exponent += (digits.len() - kept.len()) as i64;
    let kept = kept.trim_start_matches('0');
    out.push_str(sign);
    if kept.is_empty() {
        out.push('0');
    } else if exponent >= 0 && kept.len() as i64 + exponent <= 18 {
        out.push_str(kept);
        out.extend(std::iter::repeat_n('0', exponent as usize));
    } else {
        let _ = write!(out, "{kept}e{exponent}");
    }
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn equal_values_have_equal_texts() {
        for (a, b) in [
            (r#"{"a": 1, "b" : [ true,null ]}"#, r#"{"a":1,"b":[true,null]}"#),
            (r#""\u00e9\/\u0001""#, "\"é/\\u0001\""),
            (r#""\ud83d\ude00""#, "\"😀\""),
            ("1.0", "1"),
            ("1e+16", "10000000000000000"),
            ("0.10", "1e-1"),
            ("1e400", "1E400"),
            ("1e19", "10000000000000000000"),
        ] {
            assert_eq!(canonical(a), canonical(b), "{a} {b}");
        }
    }

    #[test]
    fn different_values_have_different_texts() {
        for (a, b) in [
            ("9007199254740993", "9007199254740992"),
            ("0.1", "0.1000000000000000055511151231257827"),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            ("-0", "0"),
            (r#""1""#, "1"),
            (r#""a b""#, r#""ab""#),
        ] {
            assert_ne!(canonical(a), canonical(b), "{a} {b}");
        }
    }
}
