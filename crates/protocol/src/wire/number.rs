//! Whether the numbers of a JSON text survive being read as a double. A condition compares exact values, so a parameter that would be
//! changed on the way is an error, not another number. Pure.

/// The first number of a JSON text that is not what it is read as.
pub(super) fn inexact(json: &str) -> Option<&str> {
    let bytes = json.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = end_of_string(bytes, at + 1),
            b'-' | b'0'..=b'9' => {
                let is_part = |b: &u8| matches!(b, b'+' | b'-' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let end = bytes[at..].iter().position(|b| !is_part(b)).map_or(bytes.len(), |n| at + n);
                let number = &json[at..end];
                if !is_exact(number) {
                    return Some(number);
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    None
}

fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// Integers of 64 bits are kept as they are; other numbers as the double nearest to them, which is written with as few digits as
/// tell it from others.
fn is_exact(number: &str) -> bool {
    if number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok() {
        return true;
    }
    match number.parse::<f64>() {
        Ok(double) => decimal(number) == decimal(&format!("{double:e}")),
        Err(_) => false,
    }
}

/// Sign, digits without zeros around them, and the power of ten of the last digit.
fn decimal(number: &str) -> Option<(bool, String, i64)> {
    let (negative, number) = number.strip_prefix('-').map_or((false, number), |rest| (true, rest));
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (number, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_end_matches('0');
    if significant.trim_start_matches('0').is_empty() {
        return Some((negative, String::new(), 0));
    }
    let trailing = i64::try_from(digits.len() - significant.len()).ok()?;
    let scale = i64::try_from(fraction.len()).ok()?;
    Some((
        negative,
        significant.trim_start_matches('0').to_owned(),
        exponent.checked_sub(scale)?.checked_add(trailing)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_double_would_change_is_found() {
        for json in [
            "1",
            "-9223372036854775808",
            "18446744073709551615",
            "0.1",
            "0.30000000000000004",
            "1.10",
            "1e2",
            "100E-2",
            "-0.0",
            "0e5",
            "1.7976931348623157e308",
            "12000000000000000000000",
            r#"["0.1000000000000000055511", {"a\"1e999": [1.5, null]}]"#,
        ] {
            assert_eq!(inexact(json), None, "{json}");
        }
        for (json, number) in [
            ("0.1000000000000000055511", "0.1000000000000000055511"),
            ("12345678901234567890123", "12345678901234567890123"),
            ("[1, -18446744073709551617]", "-18446744073709551617"),
            (r#"{"a": [1e-400]}"#, "1e-400"),
            ("9007199254740993.0", "9007199254740993.0"),
        ] {
            assert_eq!(inexact(json), Some(number), "{json}");
        }
    }
}
