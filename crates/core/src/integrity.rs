//! The integrity hash: what the rows of a copy come to, whatever their order.
//!
//! Server and client compute it of the same wire text, so it is defined by what JavaScript's `JSON.parse` makes of it: numbers
//! are doubles, of double keys the last counts. A row is written canonically (RFC 8785) and hashed in two lanes; a set of
//! rows comes to the sum of each lane. A row belongs to one of so many parts by its key. It tells copies apart that
//! differ by accident; against somebody who chooses rows on purpose it is no proof. Both sides test
//! `crates/core/tests/hash_vectors.json`. Pure, any thread.

use std::fmt;

/// Seeds of the two lanes.
const SEEDS: [u32; 2] = [0x9747_b28c, 0x85eb_ca6b];
/// Integers of up to this many digits are exact as doubles, and are written as they are.
const EXACT_DIGITS: usize = 15;

/// The text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not JSON at byte {0}")]
pub struct NotJson(usize);

/// What a set of rows comes to; shown as sixteen hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetHash {
    lanes: [u32; 2],
    rows: u64,
}

impl SetHash {
    /// One more row, in its canonical form.
    pub fn add(&mut self, canonical_row: &[u8]) {
        for (lane, seed) in self.lanes.iter_mut().zip(SEEDS) {
            *lane = lane.wrapping_add(murmur3(canonical_row, seed));
        }
        self.rows += 1;
    }

    /// The rows of another set, too.
    pub fn merge(&mut self, other: &Self) {
        for (lane, other) in self.lanes.iter_mut().zip(other.lanes) {
            *lane = lane.wrapping_add(other);
        }
        self.rows += other.rows;
    }

    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// The number that is shown.
    #[must_use]
    pub const fn number(&self) -> u64 {
        (self.lanes[0] as u64) << 32 | self.lanes[1] as u64
    }
}

impl fmt::Display for SetHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{:08x}", self.lanes[0], self.lanes[1])
    }
}

/// The part of so many that a row belongs to, by the canonical array of its key's values.
#[must_use]
pub fn part_of(canonical_key: &[u8], parts: u32) -> u32 {
    murmur3(canonical_key, 0) % parts.max(1)
}

/// `MurmurHash3_x86_32`.
#[must_use]
pub fn murmur3(bytes: &[u8], seed: u32) -> u32 {
    let mix = |k: u32| k.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let (blocks, tail) = bytes.as_chunks::<4>();
    let mut hash = seed;
    for block in blocks {
        hash = (hash ^ mix(u32::from_le_bytes(*block))).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    if !tail.is_empty() {
        let last = tail.iter().rev().fold(0, |k, byte| k << 8 | u32::from(*byte));
        hash ^= mix(last);
    }
    #[allow(clippy::cast_possible_truncation, reason = "the algorithm counts modulo 2^32")]
    let mut hash = hash ^ bytes.len() as u32;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

/// Appends the canonical array of values that are canonical already.
pub fn append_array<'a>(out: &mut Vec<u8>, values: impl IntoIterator<Item = &'a [u8]>) {
    out.push(b'[');
    for (place, value) in values.into_iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.extend_from_slice(value);
    }
    out.push(b']');
}

/// Writes JSON canonically. Keeps its memory between texts; takes as many steps as the text has bytes, and no stack,
/// however deep it is.
#[derive(Debug, Default)]
pub struct Canonical {
    nodes: Vec<Node>,
    /// Canonical texts of scalars and keys.
    texts: Vec<u8>,
    open: Vec<Open>,
    members: Vec<Member>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Scalar,
    Array,
    Object,
}

/// A value. `key` is empty but for members of objects.
#[derive(Debug, Clone)]
struct Node {
    kind: Kind,
    key: (usize, usize),
    text: (usize, usize),
    first: Option<usize>,
    next: Option<usize>,
}

/// A container that is not closed yet.
#[derive(Debug)]
struct Open {
    node: usize,
    last: Option<usize>,
    /// Where its members begin.
    members: usize,
}

#[derive(Debug)]
struct Member {
    name: Vec<u16>,
    node: usize,
}

impl Canonical {
    /// Appends the canonical text of a JSON text.
    ///
    /// # Errors
    /// [`NotJson`]; nothing was appended.
    pub fn append(&mut self, json: &[u8], out: &mut Vec<u8>) -> Result<(), NotJson> {
        let mut text = Text { json, at: 0 };
        text.blanks();
        if let Some(scalar) = text.plain_scalar() {
            out.extend_from_slice(scalar);
            return Ok(());
        }
        self.nodes.clear();
        self.texts.clear();
        self.open.clear();
        self.members.clear();
        self.parse(&mut text)?;
        self.write(out);
        Ok(())
    }

    fn parse(&mut self, text: &mut Text<'_>) -> Result<(), NotJson> {
        loop {
            let key = self.key(text)?;
            let node = self.value(text, key)?;
            let opened = self.nodes[node].kind != Kind::Scalar;
            if opened {
                let close = if self.nodes[node].kind == Kind::Array { b']' } else { b'}' };
                self.open.push(Open { node, last: None, members: self.members.len() });
                if !text.takes(close) {
                    continue;
                }
                self.close();
            }
            // Behind a value: what is next, and what is closed by it.
            loop {
                let Some(open) = self.open.last() else {
                    text.blanks();
                    return if text.at == text.json.len() { Ok(()) } else { Err(text.wrong()) };
                };
                if text.takes(b',') {
                    break;
                }
                let close = if self.nodes[open.node].kind == Kind::Array { b']' } else { b'}' };
                if !text.takes(close) {
                    return Err(text.wrong());
                }
                self.close();
            }
        }
    }

    /// The key of the next value, where it is a member.
    fn key(&mut self, text: &mut Text<'_>) -> Result<Option<Vec<u16>>, NotJson> {
        let in_object = self.open.last().is_some_and(|open| self.nodes[open.node].kind == Kind::Object);
        if !in_object {
            return Ok(None);
        }
        text.blanks();
        let name = units(text.string()?).ok_or(text.wrong())?;
        if text.takes(b':') { Ok(Some(name)) } else { Err(text.wrong()) }
    }

    /// Reads a value, or the beginning of a container, and hangs it under the container that is open.
    fn value(&mut self, text: &mut Text<'_>, key: Option<Vec<u16>>) -> Result<usize, NotJson> {
        text.blanks();
        let start = self.texts.len();
        let kind = match text.peek() {
            Some(b'[') => Kind::Array,
            Some(b'{') => Kind::Object,
            _ => Kind::Scalar,
        };
        if kind == Kind::Scalar {
            text.scalar(&mut self.texts)?;
        } else {
            text.at += 1;
        }
        let end = self.texts.len();
        if let Some(name) = &key {
            append_string(&mut self.texts, name);
        }
        let node = self.nodes.len();
        self.nodes.push(Node { kind, key: (end, self.texts.len()), text: (start, end), first: None, next: None });
        match (key, self.open.last_mut()) {
            (Some(name), _) => self.members.push(Member { name, node }),
            (None, Some(open)) => match open.last.replace(node) {
                Some(last) => self.nodes[last].next = Some(node),
                None => self.nodes[open.node].first = Some(node),
            },
            (None, None) => {}
        }
        Ok(node)
    }

    /// The innermost container ends: members come in the order of their names' UTF-16, of equal ones the last counts.
    fn close(&mut self) {
        let Some(Open { node, members, .. }) = self.open.pop() else { return };
        if self.nodes[node].kind != Kind::Object {
            return;
        }
        let mut own = self.members.split_off(members);
        own.sort_by(|a, b| a.name.cmp(&b.name));
        let mut next = None;
        let mut follower: Option<Vec<u16>> = None;
        for member in own.into_iter().rev() {
            if follower.as_ref() != Some(&member.name) {
                self.nodes[member.node].next = next;
                next = Some(member.node);
                follower = Some(member.name);
            }
        }
        self.nodes[node].first = next;
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut above: Vec<usize> = Vec::new();
        let mut at = Some(0);
        loop {
            let Some(index) = at else {
                let Some(parent) = above.pop() else { return };
                out.push(if self.nodes[parent].kind == Kind::Array { b']' } else { b'}' });
                at = self.follow(parent, &above, out);
                continue;
            };
            let node = &self.nodes[index];
            if node.key.0 < node.key.1 {
                out.extend_from_slice(&self.texts[node.key.0..node.key.1]);
                out.push(b':');
            }
            match node.kind {
                Kind::Scalar => {
                    out.extend_from_slice(&self.texts[node.text.0..node.text.1]);
                    at = self.follow(index, &above, out);
                }
                Kind::Array | Kind::Object => {
                    out.push(if node.kind == Kind::Array { b'[' } else { b'{' });
                    above.push(index);
                    at = node.first;
                }
            }
        }
    }

    /// The value behind this one; where there is one, with the comma before it.
    fn follow(&self, node: usize, above: &[usize], out: &mut Vec<u8>) -> Option<usize> {
        let next = self.nodes[node].next.filter(|_| !above.is_empty());
        if next.is_some() {
            out.push(b',');
        }
        next
    }
}

/// A JSON text that is being read.
struct Text<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Text<'a> {
    const fn wrong(&self) -> NotJson {
        NotJson(self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Takes this byte, behind blanks, where it is the next.
    fn takes(&mut self, byte: u8) -> bool {
        self.blanks();
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    /// The whole text, where it is a scalar that is canonical as it stands: most values are.
    fn plain_scalar(&self) -> Option<&'a [u8]> {
        let rest = &self.json[self.at..];
        let plain = match rest {
            b"true" | b"false" | b"null" => true,
            [b'"', inner @ .., b'"'] => !inner.iter().any(|b| matches!(b, b'\\' | b'"')),
            _ => is_exact_integer(rest),
        };
        plain.then_some(rest)
    }

    /// What stands between the quotes of the string that is next.
    fn string(&mut self) -> Result<&'a [u8], NotJson> {
        if self.peek() != Some(b'"') {
            return Err(self.wrong());
        }
        let start = self.at + 1;
        let mut at = start;
        loop {
            match self.json.get(at) {
                Some(b'"') => break,
                Some(b'\\') => at += 2,
                Some(_) => at += 1,
                None => return Err(self.wrong()),
            }
        }
        self.at = at + 1;
        Ok(&self.json[start..at])
    }

    /// Appends the canonical text of the scalar that is next.
    fn scalar(&mut self, out: &mut Vec<u8>) -> Result<(), NotJson> {
        match self.peek() {
            Some(b'"') => {
                let inner = self.string()?;
                if inner.contains(&b'\\') {
                    append_string(out, &units(inner).ok_or(self.wrong())?);
                } else {
                    out.push(b'"');
                    out.extend_from_slice(inner);
                    out.push(b'"');
                }
            }
            Some(b'-' | b'0'..=b'9') => {
                let rest = &self.json[self.at..];
                let end =
                    rest.iter().take_while(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')).count();
                append_number(out, &rest[..end]).ok_or(self.wrong())?;
                self.at += end;
            }
            _ => {
                let rest = &self.json[self.at..];
                let word = [&b"true"[..], b"false", b"null"].into_iter().find(|word| rest.starts_with(word));
                let word = word.ok_or(self.wrong())?;
                out.extend_from_slice(word);
                self.at += word.len();
            }
        }
        Ok(())
    }
}

fn is_exact_integer(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let first = if digits.len() == text.len() { b'0' } else { b'1' };
    match digits {
        [digit] => (first..=b'9').contains(digit),
        [b'1'..=b'9', rest @ ..] => rest.len() < EXACT_DIGITS && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// A number as ECMAScript writes the double that it reads; what is beyond the doubles is infinite, and written `null`.
fn append_number(out: &mut Vec<u8>, text: &[u8]) -> Option<()> {
    if is_exact_integer(text) {
        out.extend_from_slice(text);
        return Some(());
    }
    let number: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    if number.is_finite() {
        out.extend_from_slice(ryu_js::Buffer::new().format_finite(number).as_bytes());
    } else {
        out.extend_from_slice(b"null");
    }
    Some(())
}

/// The UTF-16 of a string's inside, in which halves of pairs may stand alone.
fn units(inner: &[u8]) -> Option<Vec<u16>> {
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner;
    loop {
        let plain = rest.iter().position(|b| *b == b'\\').unwrap_or(rest.len());
        out.extend(String::from_utf8_lossy(&rest[..plain]).encode_utf16());
        rest = &rest[plain..];
        let Some((_, escape)) = rest.split_first() else { return Some(out) };
        let (kind, behind) = escape.split_first()?;
        rest = behind;
        out.push(match kind {
            b'"' | b'\\' | b'/' => u16::from(*kind),
            b'b' => 8,
            b't' => 9,
            b'n' => 10,
            b'f' => 12,
            b'r' => 13,
            b'u' => {
                let (digits, behind) = rest.split_at_checked(4)?;
                rest = behind;
                u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            _ => return None,
        });
    }
}

/// A string as `JSON.stringify` writes it.
fn append_string(out: &mut Vec<u8>, units: &[u16]) {
    out.push(b'"');
    for unit in char::decode_utf16(units.iter().copied()) {
        match unit {
            Ok(c @ ('"' | '\\')) => out.extend_from_slice(&[b'\\', c as u8]),
            Ok('\u{8}') => out.extend_from_slice(b"\\b"),
            Ok('\t') => out.extend_from_slice(b"\\t"),
            Ok('\n') => out.extend_from_slice(b"\\n"),
            Ok('\u{c}') => out.extend_from_slice(b"\\f"),
            Ok('\r') => out.extend_from_slice(b"\\r"),
            Ok(c) if c < ' ' => out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes()),
            Ok(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(lone) => out.extend_from_slice(format!("\\u{:04x}", lone.unpaired_surrogate()).as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(json: &str) -> String {
        let mut out = Vec::new();
        Canonical::default().append(json.as_bytes(), &mut out).expect("JSON");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn the_hash_is_murmur3() {
        // Of the reference implementation.
        for (text, seed, hash) in [
            ("", 0, 0),
            ("", 1, 0x514e_28b7),
            ("", 0xffff_ffff, 0x81f1_6f39),
            ("test", 0x9747_b28c, 0x704b_81dc),
            ("Hello, world!", 0x9747_b28c, 0x2488_4cba),
            ("The quick brown fox jumps over the lazy dog", 0x9747_b28c, 0x2fa8_26cd),
            ("a", 0x9747_b28c, 0x7fa0_9ea6),
            ("aa", 0x9747_b28c, 0x5d21_1726),
            ("aaa", 0x9747_b28c, 0x283e_0130),
        ] {
            assert_eq!(murmur3(text.as_bytes(), seed), hash, "{text} {seed:x}");
        }
    }

    #[test]
    fn numbers_are_written_as_ecmascript_writes_them() {
        for (json, expected) in [
            ("0", "0"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("-7", "-7"),
            ("1.50", "1.5"),
            ("100", "100"),
            ("1E2", "100"),
            ("1e21", "1e+21"),
            ("123456789012345678901234567890", "1.2345678901234568e+29"),
            ("999999999999999", "999999999999999"),
            ("9007199254740993", "9007199254740992"),
            ("0.000001", "0.000001"),
            ("1e-7", "1e-7"),
            ("333333333.33333329", "333333333.3333333"),
            ("4.50", "4.5"),
            ("2e-3", "0.002"),
            ("0.000000000000000000000000001", "1e-27"),
            ("5e-324", "5e-324"),
            ("1e-400", "0"),
            ("1e400", "null"),
            ("-1e400", "null"),
        ] {
            assert_eq!(canonical(json), expected, "{json}");
            assert_eq!(canonical(&format!("[{json}]")), format!("[{expected}]"));
        }
    }

    #[test]
    fn strings_are_written_as_json_stringify_writes_them() {
        for (json, expected) in [
            (r#""plain é \u0041""#, r#""plain é A""#),
            (r#""\"\\\/\b\f\n\r\t""#, r#""\"\\/\b\f\n\r\t""#),
            (r#""\u0000\u001F\u007f""#, "\"\\u0000\\u001f\u{7f}\""),
            (r#""\ud83d\ude00""#, "\"😀\""),
            (r#""\uD83D x \uDE00""#, r#""\ud83d x \ude00""#),
            ("\"\u{2028}\"", "\"\u{2028}\""),
            (r#""""#, r#""""#),
        ] {
            assert_eq!(canonical(json), expected, "{json}");
        }
    }

    #[test]
    fn members_are_sorted_by_utf16_and_the_last_of_equal_ones_counts() {
        for (json, expected) in [
            (r#"{"b": 1, "a" : {"d":[ ], "c":{ }}}"#, r#"{"a":{"c":{},"d":[]},"b":1}"#),
            (r#"{"a":1,"b":2,"a":3}"#, r#"{"a":3,"b":2}"#),
            (r#"{"\u0061":1,"a":2}"#, r#"{"a":2}"#),
            ("{\"\u{fb33}\":1,\"\u{1f600}\":2,\"\u{e9}\":3}", "{\"\u{e9}\":3,\"\u{1f600}\":2,\"\u{fb33}\":1}"),
            (r#"{"10":1,"9":2,"":3}"#, r#"{"":3,"10":1,"9":2}"#),
            (r#"[1,[2,{"x":[3]}],"y",null,true]"#, r#"[1,[2,{"x":[3]}],"y",null,true]"#),
            (r#"{"a":{"z":1,"y":2},"a":[{"q":1,"p":2},3]}"#, r#"{"a":[{"p":2,"q":1},3]}"#),
        ] {
            assert_eq!(canonical(json), expected, "{json}");
        }
    }

    #[test]
    fn depth_takes_no_stack() {
        let deep = format!("{}1{}", "[{\"a\":".repeat(200_000), "}]".repeat(200_000));
        assert_eq!(canonical(&deep), deep);
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for json in [
            "",
            "[",
            "[1",
            "[1,",
            "{\"a\"}",
            "{\"a\":}",
            "{1:2}",
            "nul",
            "\"a",
            r#""\x""#,
            r#""\u12""#,
            "[1}",
            "1 2",
            "--1",
        ] {
            assert!(Canonical::default().append(json.as_bytes(), &mut Vec::new()).is_err(), "{json}");
        }
    }

    #[test]
    fn a_set_does_not_depend_on_the_order_and_its_parts_add_up() {
        let rows: Vec<String> = (0..1000).map(|i| format!("[{i},\"r{i}\"]")).collect();
        let hash = |rows: &mut dyn Iterator<Item = &String>| {
            let mut set = SetHash::default();
            rows.for_each(|row| set.add(row.as_bytes()));
            set
        };
        let whole = hash(&mut rows.iter());
        assert_eq!(whole, hash(&mut rows.iter().rev()));
        assert_ne!(whole, hash(&mut rows.iter().skip(1)));
        let mut parts = vec![SetHash::default(); 16];
        for (i, row) in rows.iter().enumerate() {
            parts[part_of(format!("[{i}]").as_bytes(), 16) as usize].add(row.as_bytes());
        }
        assert!(parts.iter().all(|p| (20..=120).contains(&p.rows())), "{parts:?}");
        let mut sum = SetHash::default();
        parts.iter().for_each(|part| sum.merge(part));
        assert_eq!((sum, sum.rows()), (whole, 1000));
        assert_eq!(SetHash::default().to_string(), "0000000000000000");
    }
}
