//! What a connection held at a commit: the part of a client's cursor that names its live subscriptions.
//!
//! The text that a client stores is `<cursor>.<held>`. The cursor is the tick's and the same for everybody; the held
//! part lists the digests of the subscriptions that were live in this connection at this commit, so that a client that
//! comes back goes on with exactly those, and gets a snapshot of every other. With more than [`LISTED`] of them it has
//! one sum in place of the list: all of them go on, or none does.
//!
//! Authenticity of the cursor is its own (HMAC, [`crate::cursor`]). The held part has a checksum over both, which is
//! no secret: it finds a text that was cut or damaged, or whose halves come from two cursors. Who makes up a held part
//! harms the own copy only. It claims rows that the client does not have, so that it is sent too little; what it is
//! sent is decided anew, by what its session may see now, whatever the text says. Hence no key, and the gateway, which
//! is trusted with no key, can write it. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use std::hash::{Hash, Hasher};

/// Digests that are listed one by one; with more, they are summed.
pub const LISTED: usize = 32;

/// Bytes of checksum and form: a multiple of three, so that the text of the list does not depend on it.
const HEAD: usize = 9;
/// Their text, and the dot before it.
const HEAD_TEXT: usize = 1 + HEAD / 3 * 4;
const FORM_LISTED: u8 = 1;
const FORM_SUMMED: u8 = 2;

/// Why a text has no held part to go by. The client gets snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeldError {
    #[error("cursor does not say what its connection held")]
    Missing,
    #[error("cursor was altered or cut")]
    Altered,
}

/// The live subscriptions of a connection, by their digests.
///
/// Equal ones hold the same; hashing one costs nothing, however long its list.
#[derive(Debug, Clone)]
pub struct Held {
    form: Form,
    /// Of form and list; the checksum's share.
    hash: u64,
    /// The list as it stands in the text.
    tail: Box<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// Sorted.
    Listed(Box<[u64]>),
    Summed(Sum),
}

/// A set too large to be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sum {
    count: u32,
    /// Of the members' hashes, so that their order does not matter.
    sum: u128,
}

impl Default for Held {
    /// Nothing is live.
    fn default() -> Self {
        Self::of([])
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.form == other.form
    }
}

impl Eq for Held {}

impl Hash for Held {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

/// The digest of a subscription: what it reads, in parts. Equal parts have equal digests in every version.
#[must_use]
pub fn digest(parts: &[&[u8]]) -> u64 {
    let mut hash = <sha2::Sha256 as sha2::Digest>::new();
    for part in parts {
        sha2::Digest::update(&mut hash, (part.len() as u64).to_be_bytes());
        sha2::Digest::update(&mut hash, part);
    }
    let bytes = sha2::Digest::finalize(hash);
    bytes.iter().take(8).fold(0, |digest, byte| digest << 8 | u64::from(*byte))
}

impl Held {
    /// The held part of a connection whose live subscriptions have these digests, in any order.
    #[must_use]
    pub fn of(digests: impl IntoIterator<Item = u64>) -> Self {
        let mut digests: Vec<u64> = digests.into_iter().collect();
        if digests.len() > LISTED {
            return Self::from_form(Form::Summed(Sum::of(&digests)));
        }
        digests.sort_unstable();
        Self::from_form(Form::Listed(digests.into()))
    }

    fn from_form(form: Form) -> Self {
        let mut bytes = Vec::with_capacity(LISTED * 8);
        let tag = match &form {
            Form::Listed(digests) => {
                digests.iter().for_each(|d| bytes.extend_from_slice(&d.to_be_bytes()));
                FORM_LISTED
            }
            Form::Summed(Sum { count, sum }) => {
                bytes.extend_from_slice(&count.to_be_bytes());
                bytes.extend_from_slice(&sum.to_be_bytes());
                FORM_SUMMED
            }
        };
        let hash = hash(&[&[tag], &bytes]);
        Self { form, hash, tail: URL_SAFE_NO_PAD.encode(bytes).into() }
    }

    fn tag(&self) -> u8 {
        match self.form {
            Form::Listed(_) => FORM_LISTED,
            Form::Summed(_) => FORM_SUMMED,
        }
    }

    /// Whether a subscription of this digest was live, where that is known of each. A sum tells of none.
    #[must_use]
    pub fn holds(&self, digest: u64) -> bool {
        match &self.form {
            Form::Listed(digests) => digests.binary_search(&digest).is_ok(),
            Form::Summed(_) => false,
        }
    }

    /// Whether these, in any order, were the live ones: all of them and no other.
    #[must_use]
    pub fn holds_exactly(&self, digests: &[u64]) -> bool {
        match &self.form {
            Form::Listed(listed) => {
                let mut digests = digests.to_vec();
                digests.sort_unstable();
                **listed == *digests
            }
            Form::Summed(sum) => *sum == Sum::of(digests),
        }
    }

    /// Whether each is known ([`Held::holds`]), or only all of them together ([`Held::holds_exactly`]).
    #[must_use]
    pub const fn is_listed(&self) -> bool {
        matches!(self.form, Form::Listed(_))
    }
}

impl Sum {
    fn of(digests: &[u64]) -> Self {
        let sum = digests.iter().fold(0_u128, |sum, digest| {
            let hash = Sha256::digest(digest.to_be_bytes());
            let (wide, _) = hash.split_first_chunk().unwrap_or((&[0; 16], &[]));
            sum.wrapping_add(u128::from_be_bytes(*wide))
        });
        Self { count: u32::try_from(digests.len()).unwrap_or(u32::MAX), sum }
    }
}

/// A tick's cursor, ready to be given the held parts of many connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stem {
    cursor: Box<str>,
    hash: u64,
}

impl Stem {
    #[must_use]
    pub fn new(cursor: &str) -> Self {
        Self { cursor: cursor.into(), hash: hash(&[cursor.as_bytes()]) }
    }

    /// The tick's cursor alone.
    #[must_use]
    pub fn cursor(&self) -> &str {
        &self.cursor
    }

    /// The text for a connection that holds this.
    #[must_use]
    pub fn with(&self, held: &Held) -> String {
        let (head, tail) = self.parts(held);
        let mut out = String::with_capacity(self.cursor.len() + HEAD_TEXT + tail.len());
        out.push_str(&self.cursor);
        out.extend(head.iter().map(|b| char::from(*b)));
        out.push_str(tail);
        out
    }

    /// What follows the tick's cursor in that text, in two pieces, for those who write very many.
    #[must_use]
    pub fn parts<'a>(&self, held: &'a Held) -> ([u8; HEAD_TEXT], &'a str) {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&self.checksum(held).to_be_bytes());
        head[8] = held.tag();
        let mut text = [b'.'; HEAD_TEXT];
        // The room is what the bytes take.
        let _ = URL_SAFE_NO_PAD.encode_slice(head, &mut text[1..]);
        (text, &held.tail)
    }

    /// The halves are hashed apart, so that neither is hashed again for each commit of each connection. One of them is
    /// turned, or their order would not count.
    const fn checksum(&self, held: &Held) -> u64 {
        self.hash.rotate_left(1).wrapping_add(held.hash)
    }
}

/// The text for a client: the tick's cursor and what its connection holds.
#[must_use]
pub fn append(cursor: &str, held: &Held) -> String {
    Stem::new(cursor).with(held)
}

/// The cursor of a client's text, and what its connection held. The cursor is still to be authenticated.
///
/// # Errors
/// [`HeldError`] for anything that [`append`] did not write.
pub fn split(text: &str) -> Result<(&str, Held), HeldError> {
    let (cursor, part) = text.rsplit_once('.').ok_or(HeldError::Missing)?;
    if part.len() > (HEAD + LISTED * 8).div_ceil(3) * 4 {
        return Err(HeldError::Altered);
    }
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| HeldError::Altered)?;
    let (checksum, rest) = bytes.split_first_chunk::<8>().ok_or(HeldError::Altered)?;
    let form = read(rest).ok_or(HeldError::Altered)?;
    let held = Held::from_form(form);
    if Stem::new(cursor).checksum(&held) != u64::from_be_bytes(*checksum) {
        return Err(HeldError::Altered);
    }
    Ok((cursor, held))
}

fn read(bytes: &[u8]) -> Option<Form> {
    let (form, list) = bytes.split_first()?;
    match *form {
        FORM_LISTED => {
            let (digests, []) = list.as_chunks::<8>() else { return None };
            let digests: Box<[u64]> = digests.iter().map(|d| u64::from_be_bytes(*d)).collect();
            (digests.len() <= LISTED && digests.is_sorted()).then_some(Form::Listed(digests))
        }
        FORM_SUMMED => {
            let (count, sum) = list.split_first_chunk()?;
            let sum = u128::from_be_bytes(sum.try_into().ok()?);
            let count = u32::from_be_bytes(*count);
            (count as usize > LISTED).then_some(Form::Summed(Sum { count, sum }))
        }
        _ => None,
    }
}

fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURSOR: &str = "AWsBiMwBAAAAAQAAAAEtZm9v";

    fn many() -> Vec<u64> {
        (0..100_u64).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect()
    }

    #[test]
    fn what_was_appended_reads_back_in_any_order_of_the_digests() {
        for digests in [vec![], vec![7], vec![u64::MAX, 0, 5], (0..LISTED as u64).rev().collect(), many()] {
            let held = Held::of(digests.iter().copied());
            let text = append(CURSOR, &held);
            let reversed = Held::of(digests.iter().rev().copied());
            assert_eq!(append(CURSOR, &reversed), text);
            let (cursor, read) = split(&text).expect("split");
            assert_eq!((cursor, &read), (CURSOR, &held));
            assert!(read.holds_exactly(&digests));
            assert_eq!(read.is_listed(), digests.len() <= LISTED);
            assert_eq!(digests.iter().all(|d| read.holds(*d)), read.is_listed());
            assert_eq!(Stem::new(CURSOR).with(&read), text);
        }
    }

    #[test]
    fn only_what_was_held_counts_as_held() {
        let listed = Held::of([1, 2, 3]);
        assert!(!listed.holds(4) && !Held::default().holds(0));
        for other in [&[1, 2][..], &[1, 2, 3, 4], &[1, 2, 4], &[]] {
            assert!(!listed.holds_exactly(other), "{other:?}");
        }
        let summed = Held::of(many());
        let (mut fewer, mut more, mut others) = (many(), many(), many());
        fewer.pop();
        more.push(1);
        others[7] += 1;
        for other in [fewer, more, others, vec![]] {
            assert!(!summed.holds_exactly(&other));
        }
        assert!(!many().into_iter().any(|d| summed.holds(d)), "a sum tells of none by itself");
    }

    #[test]
    fn a_cursor_without_its_held_part_is_an_error() {
        assert_eq!(split(CURSOR), Err(HeldError::Missing));
        assert_eq!(split(""), Err(HeldError::Missing));
        assert_eq!(split(&format!("{CURSOR}.")), Err(HeldError::Altered));
    }

    #[test]
    fn no_cut_text_is_taken_for_whole() {
        for held in [Held::default(), Held::of([1]), Held::of(0..32), Held::of(many())] {
            let text = append(CURSOR, &held);
            for end in 0..text.len() {
                assert!(split(&text[..end]).is_err(), "cut at {end}");
                assert!(split(&text[text.len() - end..]).is_err(), "the last {end}");
            }
            assert!(split(&format!("{text}A")).is_err());
            assert!(split(&format!("{text}AAAA")).is_err());
            assert!(split(&format!("A{text}")).is_err());
        }
    }

    #[test]
    fn no_single_byte_can_be_altered() {
        for held in [Held::default(), Held::of([1, 2]), Held::of(many())] {
            let text = append(CURSOR, &held);
            for at in 0..text.len() {
                for byte in (0..0x80).filter(|b| *b != text.as_bytes()[at]) {
                    let mut altered = text.clone().into_bytes();
                    altered[at] = byte;
                    let altered = String::from_utf8(altered).expect("ascii");
                    assert!(split(&altered).is_err(), "byte {at} as {byte}: {altered}");
                }
            }
        }
    }

    #[test]
    fn halves_of_two_texts_do_not_fit() {
        let (one, other) = (append("one", &Held::of([1])), append("two", &Held::of([2])));
        let (cursor, _) = one.split_once('.').expect("dot");
        let (_, held) = other.split_once('.').expect("dot");
        assert_eq!(split(&format!("{cursor}.{held}")), Err(HeldError::Altered));
    }

    #[test]
    fn what_append_never_writes_is_refused_with_a_fitting_checksum_too() {
        let write = |rest: &[u8]| {
            let checksum = Stem::new(CURSOR).hash.rotate_left(1).wrapping_add(hash(&[&rest[..1], &rest[1..]]));
            let bytes = [&checksum.to_be_bytes(), rest].concat();
            format!("{CURSOR}.{}", URL_SAFE_NO_PAD.encode(bytes))
        };
        assert!(split(&write(&[FORM_LISTED])).is_ok());
        let unsorted = [[FORM_LISTED].as_slice(), &2_u64.to_be_bytes(), &1_u64.to_be_bytes()].concat();
        let too_few = [[FORM_SUMMED].as_slice(), &(LISTED as u32).to_be_bytes(), &[0; 16]].concat();
        let too_many = [[FORM_LISTED].as_slice(), &[0; 8 * (LISTED + 1)]].concat();
        for bytes in [
            &[0][..],
            &[3, 1],
            &[FORM_LISTED, 1],
            &[FORM_SUMMED; 20],
            &[FORM_SUMMED; 22],
            &unsorted,
            &too_few,
            &too_many,
        ] {
            assert_eq!(split(&write(bytes)), Err(HeldError::Altered), "{bytes:?}");
        }
    }
}
