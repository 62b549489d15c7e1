//! What a client may name: functions, operators, types. Everything else is refused before the catalogs are asked
//! for it, so that what exists and may not be used looks like what does not exist. Pure.
//!
//! A function or operator is in these lists if it is immutable (or depends on nothing but the time zone, see
//! [`ONLY_TIME_ZONE`]), runs no other user's code, and on any input takes time in proportion to its input and gives a
//! result not much larger than it. That is why these are not in them: regular expressions and JSON paths (time beyond any
//! bound), `repeat`, `lpad`, `replace`, `encode`, `format` (small input, huge result), `power`, `exp`, `factorial`,
//! `gcd` (numeric: time far beyond their input), full-text search (dictionaries are files), `to_char` and its like
//! (locale). Those of them that are worse than linear, but bounded by the product of their inputs, are in [`COSTLY`]
//! and counted.

/// Functions by name. `substring` with a pattern and `timezone` with a zone that is not constant are refused later.
pub(super) const FUNCTIONS: &[&str] = &[
    "abs",
    "age",
    "array_length",
    "array_lower",
    "array_ndims",
    "array_position",
    "array_upper",
    "ascii",
    "bit_length",
    "btrim",
    "cardinality",
    "ceil",
    "ceiling",
    "char_length",
    "character_length",
    "date",
    "date_bin",
    "date_part",
    "date_trunc",
    "daterange",
    "div",
    "extract",
    "family",
    "floor",
    "host",
    "initcap",
    "int4range",
    "int8range",
    "isempty",
    "isfinite",
    "json_array_length",
    "json_typeof",
    "jsonb_array_length",
    "jsonb_typeof",
    "justify_days",
    "justify_hours",
    "justify_interval",
    "left",
    "length",
    "like_escape",
    "lower",
    "lower_inc",
    "lower_inf",
    "ltrim",
    "make_date",
    "make_time",
    "make_timestamp",
    "masklen",
    "mod",
    "network",
    "numrange",
    "octet_length",
    "overlaps",
    "position",
    "range_merge",
    "reverse",
    "right",
    "round",
    "rtrim",
    "scale",
    "sign",
    "split_part",
    "starts_with",
    "strpos",
    "substr",
    "substring",
    "timezone",
    "to_timestamp",
    "trim_scale",
    "trunc",
    "tsrange",
    "tstzrange",
    "upper",
    "upper_inc",
    "upper_inf",
];

/// Functions whose result is that of a clock, a session or a random source: refused like others, with a hint of their own.
pub(super) const NOT_CONSTANT: &[&str] = &[
    "clock_timestamp",
    "current_setting",
    "current_user",
    "now",
    "random",
    "session_user",
    "statement_timestamp",
    "timeofday",
    "transaction_timestamp",
    "version",
];

/// Operators by name.
pub(super) const OPERATORS: &[&str] = &[
    "=", "<>", "!=", "<", ">", "<=", ">=", "+", "-", "*", "/", "%", "||", "~~", "!~~", "~~*", "!~~*", "^@", "@>", "<@",
    "&&", "->", "->>", "#>", "#>>", "?", "?|", "?&", "<<", ">>", "<<=", ">>=", "&<", "&>", "-|-", "&", "|", "#",
];

/// Built-in functions (also those of operators, by the function's own name) that take time in proportion to the product
/// of their inputs, or whose result is as large as both of them together.
pub(super) const COSTLY: &[&str] = &[
    "array_append",
    "array_cat",
    "array_prepend",
    "arraycontained",
    "arraycontains",
    "arrayoverlap",
    "bitcat",
    "bpchariclike",
    "bpcharicnlike",
    "bpcharlike",
    "bpcharnlike",
    "btrim",
    "bytealike",
    "byteacat",
    "byteanlike",
    "div",
    "jsonb_concat",
    "jsonb_contained",
    "jsonb_contains",
    "ltrim",
    "mod",
    "nameiclike",
    "nameicnlike",
    "namelike",
    "namenlike",
    "numeric_div",
    "numeric_mod",
    "numeric_mul",
    "position",
    "rtrim",
    "split_part",
    "strpos",
    "textcat",
    "texticlike",
    "texticnlike",
    "textlike",
    "textnlike",
];

/// Those whose time grows with the square of the digits of a `numeric`. `'1e100000'` has a hundred thousand, in eight bytes that
/// anybody may have written into a text or a JSON document.
pub(super) const LONG_NUMBERS: &[&str] = &["div", "mod", "numeric_div", "numeric_mod", "numeric_mul"];

/// Stable built-in functions that depend on nothing but their arguments and the setting `TimeZone`, which feeders and query
/// workers pin to UTC (`encode/settings.rs`), so that both give the same result: by the name of their C function.
pub(super) const ONLY_TIME_ZONE: &[&str] = &[
    "date_eq_timestamptz",
    "date_ge_timestamptz",
    "date_gt_timestamptz",
    "date_le_timestamptz",
    "date_lt_timestamptz",
    "date_ne_timestamptz",
    "date_timestamptz",
    "extract_timestamptz",
    "timestamp_eq_timestamptz",
    "timestamp_ge_timestamptz",
    "timestamp_gt_timestamptz",
    "timestamp_le_timestamptz",
    "timestamp_lt_timestamptz",
    "timestamp_ne_timestamptz",
    "timestamp_timestamptz",
    "timestamptz_date",
    "timestamptz_eq_date",
    "timestamptz_eq_timestamp",
    "timestamptz_ge_date",
    "timestamptz_ge_timestamp",
    "timestamptz_gt_date",
    "timestamptz_gt_timestamp",
    "timestamptz_le_date",
    "timestamptz_le_timestamp",
    "timestamptz_lt_date",
    "timestamptz_lt_timestamp",
    "timestamptz_mi_interval",
    "timestamptz_ne_date",
    "timestamptz_ne_timestamp",
    "timestamptz_part",
    "timestamptz_pl_interval",
    "timestamptz_time",
    "timestamptz_timestamp",
    "timestamptz_trunc",
];

/// Words that a date or a time may be written with. The others that Postgres knows read the clock (`now`, `today`) or
/// name a time zone, and each zone that is named is kept in the memory of the process for good.
const DATE_WORDS: &[&str] = &[
    "ad",
    "am",
    "bc",
    "empty",
    "epoch",
    "gmt",
    "infinity",
    "null",
    "pm",
    "t",
    "utc",
    "z",
    "zulu",
    "jan",
    "january",
    "feb",
    "february",
    "mar",
    "march",
    "apr",
    "april",
    "may",
    "jun",
    "june",
    "jul",
    "july",
    "aug",
    "august",
    "sep",
    "sept",
    "september",
    "oct",
    "october",
    "nov",
    "november",
    "dec",
    "december",
    "mon",
    "monday",
    "tue",
    "tues",
    "tuesday",
    "wed",
    "wednesday",
    "thu",
    "thur",
    "thurs",
    "thursday",
    "fri",
    "friday",
    "sat",
    "saturday",
    "sun",
    "sunday",
];

/// Whether a date or time is written with nothing but digits, signs and words of the calendar.
pub(super) fn is_plain_date(text: &str) -> bool {
    text.is_ascii()
        && text
            .split(|c: char| !c.is_ascii_alphabetic())
            .filter(|word| !word.is_empty())
            .all(|word| DATE_WORDS.contains(&word.to_ascii_lowercase().as_str()))
}

/// Whether a text can only be the name of a time zone of the database of zones: a rule of POSIX's, of which there are as
/// many as anybody likes to write, has digits.
pub(super) fn is_zone_name(text: &str) -> bool {
    text.len() <= 64 && text.chars().all(|c| c.is_ascii_alphabetic() || matches!(c, '/' | '_' | '-'))
}

/// Whether numbers in a text are of a modest length: `1e100000` has six digits, and a hundred thousand as a `numeric`.
pub(super) fn has_modest_numbers(text: &str) -> bool {
    const DIGITS: usize = 1000;
    const EXPONENT: u32 = 1000;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        while at < bytes.len() && (bytes[at].is_ascii_digit() || matches!(bytes[at], b'.' | b'_')) {
            at += 1;
        }
        if at - start > DIGITS {
            return false;
        }
        if at > start && matches!(bytes.get(at), Some(b'e' | b'E')) {
            let exponent = text[at + 1..].trim_start_matches(['+', '-']);
            let end = exponent.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(exponent.len());
            if exponent[..end].replace('_', "").parse::<u32>().map_or(end > 0, |n| n > EXPONENT) {
                return false;
            }
        }
        at = at.max(start + 1);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_that_read_the_clock_or_name_a_zone_are_not_plain() {
        for text in [
            "2024-02-29T12:00:00.5+05:30",
            "-infinity",
            "epoch",
            "Feb 29, 2024 3 PM",
            "{2024-01-01,NULL}",
            "2024-01-01 BC",
        ] {
            assert!(is_plain_date(text), "{text}");
        }
        for text in [
            "now",
            "TODAY",
            "2024-01-01 tomorrow",
            "yesterday",
            "2024-01-01 00:00 Europe/Berlin",
            "2024-01-01 FOO5",
            "ñow",
        ] {
            assert!(!is_plain_date(text), "{text}");
        }
        assert!(is_zone_name("Europe/Berlin") && is_zone_name("UTC"));
        assert!(!is_zone_name("FOO5BAR") && !is_zone_name("../../etc/passwd"));
    }

    #[test]
    fn numbers_are_bounded_as_written_and_as_meant() {
        for text in ["1", "-1.5e308", "{1,2,3e10}", "x", "", "1e1000", "12é", "0x1E"] {
            assert!(has_modest_numbers(text), "{text}");
        }
        for text in ["1e1001", "1E+99999999999999", "{1,2e100000}", "1e1_001", &"9".repeat(1001)] {
            assert!(!has_modest_numbers(text), "{text}");
        }
    }
}
