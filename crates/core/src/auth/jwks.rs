//! A JWKS document (RFC 7517): which of its keys verify signatures, each with which algorithms. Keys that others put
//! into the same document for other uses are left out, with a line that says why. Pure.

use super::key::{Key, KeyError, check_secret, hmac_algorithms};
use super::strict::Strict;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

/// Most keys of a document: a token may have to be tried with each.
pub const MAX_KEYS: usize = 100;
/// RSA moduli, bits. Shorter ones can be factored; longer ones cost too much to check.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
const RSA_EXPONENTS: std::ops::RangeInclusive<u64> = 3..=u32::MAX as u64;
/// How much of a key's id is shown in a log.
const SHOWN: usize = 64;

type Object = Map<String, Value>;

/// The document's keys, and a line for each that is not used.
pub(super) fn read(document: &[u8]) -> Result<(Vec<Key>, Vec<String>), KeyError> {
    let Ok(Strict(Value::Object(document))) = serde_json::from_slice(document) else {
        return Err(KeyError::Document);
    };
    let list = document.get("keys").and_then(Value::as_array).ok_or(KeyError::Document)?;
    if list.len() > MAX_KEYS {
        return Err(KeyError::TooMany);
    }
    let (mut keys, mut unused) = (Vec::new(), Vec::new());
    for (i, entry) in list.iter().enumerate() {
        let entry = entry.as_object().ok_or(KeyError::Document)?;
        match key(entry) {
            Ok(key) => keys.push(key),
            Err(why) => {
                let id: String = member(entry, "kid").unwrap_or("without kid").chars().take(SHOWN).collect();
                unused.push(format!("key {} ({}): {why}", i + 1, id.escape_debug()));
            }
        }
    }
    if keys.is_empty() {
        let why = if unused.is_empty() { "it is empty".to_owned() } else { unused.join("; ") };
        return Err(KeyError::NoneUsable(why));
    }
    Ok((keys, unused))
}

fn member<'a>(key: &'a Object, name: &str) -> Option<&'a str> {
    key.get(name).and_then(Value::as_str)
}

fn bytes(key: &Object, name: &str) -> Result<Vec<u8>, &'static str> {
    let text = member(key, name).ok_or("a member that its type needs is missing")?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "a member is not base64url")
}

fn key(entry: &Object) -> Result<Key, &'static str> {
    let id = match entry.get("kid") {
        None => None,
        Some(Value::String(id)) => Some(id.clone()),
        Some(_) => return Err("\"kid\" is not a text"),
    };
    if entry.get("use").is_some_and(|u| u != "sig") {
        return Err("\"use\" is not \"sig\"");
    }
    if let Some(operations) = entry.get("key_ops") {
        let verify = operations.as_array().is_some_and(|o| o.iter().any(|o| o == "verify"));
        if !verify {
            return Err("\"key_ops\" does not have \"verify\"");
        }
    }
    let (material, possible) = material(entry)?;
    let algorithms = match entry.get("alg") {
        None => possible,
        Some(named) => {
            let named = named.as_str().and_then(algorithm).ok_or("\"alg\" is not supported")?;
            if !possible.contains(&named) {
                return Err("\"alg\" does not fit the key's type, curve or length");
            }
            vec![named]
        }
    };
    let key = Key { id, algorithms, material };
    if key.is_sound() { Ok(key) } else { Err("its numbers are not a valid key") }
}

/// The key's numbers and the algorithms of its type.
fn material(entry: &Object) -> Result<(DecodingKey, Vec<Algorithm>), &'static str> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    match (member(entry, "kty"), member(entry, "crv")) {
        (Some("RSA"), _) => {
            let (n, e) = (bytes(entry, "n")?, bytes(entry, "e")?);
            let n = n.iter().position(|b| *b != 0).map_or(&[][..], |start| &n[start..]);
            let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
            if !RSA_BITS.contains(&bits) {
                return Err("an RSA key must have 2048 to 4096 bits");
            }
            // With an exponent of one, a signature would be the message; an even number is no key's.
            let exponent = e.iter().try_fold(0_u64, |sum, b| (sum < 1 << 32).then(|| sum << 8 | u64::from(*b)));
            let odd = n.last().is_some_and(|last| last % 2 == 1);
            if !odd || !exponent.is_some_and(|e| RSA_EXPONENTS.contains(&e) && e % 2 == 1) {
                return Err("its numbers are not a valid key");
            }
            Ok((DecodingKey::from_rsa_raw_components(n, &e), vec![RS256, RS384, RS512, PS256, PS384, PS512]))
        }
        (Some("EC"), Some("P-256")) => point(entry, 32).map(|key| (key, vec![ES256])),
        (Some("EC"), Some("P-384")) => point(entry, 48).map(|key| (key, vec![ES384])),
        (Some("OKP"), Some("Ed25519")) => {
            let x = bytes(entry, "x")?;
            // The library takes the first 32 of longer ones, and panics with shorter ones.
            if x.len() != 32 {
                return Err("its coordinate has the wrong length");
            }
            Ok((DecodingKey::from_ed_der(&x), vec![EdDSA]))
        }
        (Some("oct"), _) => {
            let secret = bytes(entry, "k")?;
            check_secret(&secret).map_err(|_| "its secret is too short or can be guessed")?;
            Ok((DecodingKey::from_secret(&secret), hmac_algorithms(secret.len())))
        }
        (Some("EC" | "OKP"), _) => Err("its curve is not supported"),
        (Some(_), _) => Err("its type (kty) is not supported"),
        (None, _) => Err("it has no type (kty)"),
    }
}

/// An uncompressed point with coordinates of `len` bytes.
fn point(entry: &Object, len: usize) -> Result<DecodingKey, &'static str> {
    let (x, y) = (bytes(entry, "x")?, bytes(entry, "y")?);
    if x.len() != len || y.len() != len {
        return Err("its coordinates have the wrong length");
    }
    Ok(DecodingKey::from_ec_der(&[&[4], x.as_slice(), y.as_slice()].concat()))
}

/// An algorithm by its name in `alg`.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    // The newer name of the same (RFC 9864).
    if name == "Ed25519" { Some(Algorithm::EdDSA) } else { name.parse().ok() }
}
